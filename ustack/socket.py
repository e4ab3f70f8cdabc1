"""ustack.Socket: the standard library's socket object on a stack.

Responsible for: what socket.socket has beyond the plain calls (files, sendfile, messages with ancillary data, options,
detach, repr, the warning about a forgotten socket). Not for: the calls themselves (ustack_ext.sockets.core). Meanings
and exceptions are the socket module's; the errno is the one that Linux gives.
"""

from __future__ import annotations

import errno
import io
import mmap
import os
import socket
import stat
import time
import warnings
from collections.abc import Iterable, Sequence
from socket import AddressFamily, SocketKind
from typing import IO, Any

from ustack_ext.sockets import udpcalls
from ustack_ext.sockets.core import SocketCore

from . import ancillary, options

_SENDFILE_PIECE = 1 << 20
_MAPPED_PIECE = 4 << 20
_MSG_ERRQUEUE = getattr(socket, "MSG_ERRQUEUE", 0)
_SIOCATMARK = 0x8905
AF_PACKET = getattr(socket, "AF_PACKET", 17)


class Socket(SocketCore):
    """A TCP, UDP, ping, raw or packet socket; made by Stack.socket(), create_connection(), create_server(), accept().

    It is safe to use from several threads; closing it wakes whoever is blocked on it (OSError, EBADF).
    """

    __slots__ = ()

    # -- what it is

    @property
    def family(self) -> AddressFamily:
        """The address family: AF_INET, AF_INET6 or AF_PACKET."""
        if self._packet:
            return AddressFamily(AF_PACKET)
        return socket.AF_INET6 if self._six else socket.AF_INET

    @property
    def type(self) -> SocketKind:
        """SOCK_STREAM, SOCK_DGRAM or SOCK_RAW."""
        return SocketKind(self._type)

    @property
    def timeout(self) -> float | None:
        """The timeout in seconds; 0.0: non-blocking, None: blocking."""
        return self.gettimeout()

    def getsockname(self) -> tuple[str, int]:
        """The socket's own address. Raises OSError."""
        return self._names()[0]

    def getpeername(self) -> tuple[str, int]:
        """The peer's address. Raises OSError: ENOTCONN."""
        peer = self._names()[1]
        if self._packet:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        if peer is None:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        return peer

    def __repr__(self) -> str:
        closed = "" if not self._closed else " [closed]"
        what = f"family={self.family}, type={self.type}, proto={self.proto}"
        text = f"<{type(self).__module__}.{type(self).__qualname__}{closed} {what}"
        if not self._closed:
            try:
                own, peer = self._names()
            except OSError:
                return text + ">"
            text += f", laddr={own}" + (f", raddr={peer}" if peer else "")
        return text + ">"

    def __getstate__(self) -> None:
        raise TypeError(f"cannot pickle {type(self).__name__!r} object")

    def get_inheritable(self) -> bool:
        """False: another program could do nothing with the descriptor."""
        return False

    def set_inheritable(self, inheritable: bool) -> None:
        """Raises OSError (EOPNOTSUPP) for True: the connection lives in this process."""
        if inheritable:
            raise OSError(errno.EOPNOTSUPP, "a ustack socket lives in its process and cannot be inherited")

    # -- opening and closing

    def accept(self) -> tuple[Socket, tuple[str, int]]:
        """accept() -> (socket, address): as socket.socket.accept. Raises OSError, TimeoutError, BlockingIOError."""
        return self._accept()

    def close(self) -> None:
        """Close the socket; what makefile() made keeps the connection open until it is closed too."""
        self._closed = True
        if self._io_refs <= 0:
            self._close_now()

    def _decref_socketios(self) -> None:
        if self._io_refs > 0:
            self._io_refs -= 1
        if self._closed:
            self.close()

    def detach(self) -> int:
        """Close the object, not the connection -> what fileno() was; Stack.socket(fileno=...) takes it up again."""
        if self._closed:
            return -1
        fd = self.fileno()
        self.stack._detached[fd] = self._split()
        self._closed = True
        return fd

    def dup(self) -> Socket:
        """Not possible: one connection has one socket object. Raises OSError (EOPNOTSUPP)."""
        raise OSError(errno.EOPNOTSUPP, "a ustack socket cannot be duplicated")

    def __enter__(self) -> Socket:
        return self

    def __exit__(self, *exc: object) -> None:
        if not self._closed:
            self.close()

    def __del__(self) -> None:
        if not self._closed:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
            self._io_refs = 0
            self.close()

    # -- options

    def getsockopt(self, level: int, optname: int, buflen: int = 0, /) -> int | bytes:
        """getsockopt(level, name[, size]) -> int, or bytes when a size is given. Raises OSError: ENOPROTOOPT."""
        return options.get(self, level, optname, buflen)

    def setsockopt(self, level: int, optname: int, value: Any, optlen: int | None = None, /) -> None:
        """setsockopt(level, name, int | bytes). Raises OSError: ENOPROTOOPT, EINVAL."""
        options.put(self, level, optname, value, optlen)

    def ioctl(self, request: int, /) -> int:
        """ioctl(request): what ioctl(2) answers to SIOCINQ (FIONREAD), SIOCOUTQ, SIOCOUTQNSD, SIOCATMARK (tcp(7)).

        The descriptor of fileno() cannot be asked. Raises OSError: EINVAL, for a listener and for other requests.
        """
        return options.queued(self, request)

    def sockatmark(self) -> bool:
        """Whether all data before the urgent octet was read: sockatmark(3), RFC 9293 §3.8.5.

        Reads stop at the mark. The next passes over the octet, which recv(1, MSG_OOB) gives, or with SO_OOBINLINE
        begins with it. Raises OSError: EINVAL on a listener.
        """
        return bool(options.queued(self, _SIOCATMARK))

    # -- messages

    def recvmsg(
        self, bufsize: int, ancbufsize: int = 0, flags: int = 0, /
    ) -> tuple[bytes, list[tuple[int, int, bytes]], int, tuple[str, int] | None]:
        """recvmsg(size[, ancillary size[, flags]]) -> (data, ancillary data, flags, address): as socket.socket.recvmsg.

        Ancillary data of datagrams, where asked for with IP_RECVTTL, IP_RECVTOS, IP_PKTINFO, IP_RECVORIGDSTADDR,
        UDP_GRO: IP_TTL (int), IP_TOS (1 byte), IP_PKTINFO (struct in_pktinfo), IP_ORIGDSTADDR (struct sockaddr_in),
        UDP_GRO (int); with IPV6_RECVHOPLIMIT, IPV6_RECVTCLASS, IPV6_RECVPKTINFO: IPV6_HOPLIMIT, IPV6_TCLASS (int),
        IPV6_PKTINFO (struct in6_pktinfo). With MSG_ERRQUEUE: what IP_RECVERR or IPV6_RECVERR has kept, as struct
        sock_extended_err.
        """
        _check_ancillary_size(ancbufsize, "recvmsg")
        if flags & _MSG_ERRQUEUE and self.type != socket.SOCK_STREAM:
            return self._recvmsg_error(bufsize, ancbufsize)
        data, full, details, address = self._recvmsg(bufsize, flags)
        messages, message_flags = self._ancillary(details, ancbufsize)
        message_flags |= flags & socket.MSG_OOB if self.type == socket.SOCK_STREAM else 0
        return data, messages, message_flags | (socket.MSG_TRUNC if full > len(data) else 0), address

    def recvmsg_into(
        self, buffers: Iterable[Any], ancbufsize: int = 0, flags: int = 0, /
    ) -> tuple[int, list[tuple[int, int, bytes]], int, tuple[str, int] | None]:
        """recvmsg into several buffers, one after another -> (bytes, ancillary data, flags, address)."""
        _check_ancillary_size(ancbufsize, "recvmsg_into")
        count, full, details, address = self._recvmsg_into(buffers, flags)
        messages, message_flags = self._ancillary(details, ancbufsize)
        message_flags |= flags & socket.MSG_OOB if self.type == socket.SOCK_STREAM else 0
        return count, messages, message_flags | (socket.MSG_TRUNC if full > count else 0), address

    def _ancillary(
        self, details: tuple[int, int, int, int, bytes, int] | None, room: int
    ) -> tuple[list[tuple[int, int, bytes]], int]:
        wants = details[0] if details is not None else 0
        port = self._names()[0][1] if (wants | wants >> 8) & ancillary.ORIGDST else 0
        return ancillary.fitting(ancillary.received(details, port), room)

    def _recvmsg_error(
        self, size: int, room: int
    ) -> tuple[bytes, list[tuple[int, int, bytes]], int, tuple[str, int] | None]:
        data, full, details, offender, sent_to = udpcalls.recv_error(self, size)
        six = ":" in sent_to[0] and not sent_to[0].startswith("::ffff:")
        messages, flags = ancillary.fitting([ancillary.extended_error(details, offender, six)], room)
        flags |= _MSG_ERRQUEUE | (socket.MSG_TRUNC if full > len(data) else 0)
        return data, messages, flags, sent_to

    def recv_many(self, count: int, size: int = 65535, flags: int = 0) -> list[tuple[bytes, tuple[str, int]]]:
        """Datagrams that are there, at most `count` of them -> [(data, address), …]; waits for the first as recv().

        size: bytes of each at most; the rest of a longer one is lost. One call takes up to 256 at a time. flags:
        MSG_DONTWAIT. Raises as recv(); ValueError; OSError: EOPNOTSUPP for other flags and for streams.
        """
        return udpcalls.recv_many(self, count, size, flags)

    def send_many(self, messages: Sequence[Any], flags: int = 0) -> int:
        """Send datagrams -> how many were sent. messages: each data, or (data, address).

        Stops at the first that cannot be sent: its error is raised if it is the first of all. Raises as sendto();
        OSError: EOPNOTSUPP for flags but MSG_DONTWAIT and for streams.
        """
        return udpcalls.send_many(self, messages, flags)

    def sendmsg(
        self,
        buffers: Iterable[Any],
        ancdata: Iterable[tuple[int, int, Any]] = (),
        flags: int = 0,
        address: tuple[str, int] | None = None,
        /,
    ) -> int:
        """sendmsg(buffers[, ancillary data[, flags[, address]]]) -> bytes sent: as socket.socket.sendmsg.

        Ancillary data may give a datagram's IP_TTL, IP_TOS and IP_PKTINFO (its source and interface), IPV6_HOPLIMIT,
        IPV6_TCLASS, IPV6_PKTINFO and IPV6_DONTFRAG, and UDP_SEGMENT; anything else of IPPROTO_IP, or of IPPROTO_IPV6 on
        an AF_INET6 socket, is OSError (EINVAL).
        """
        how = ancillary.sending(self, ancdata)
        return self._sendmsg(
            buffers, flags, address, how.ttl, how.tos, how.source, how.index, how.segment, how.dont_frag
        )

    def sendmsg_afalg(self, *arguments: Any, **keywords: Any) -> int:
        """For sockets of the kernel's crypto interface only. Raises OSError."""
        raise OSError("algset is only supported for AF_ALG")

    # -- files

    def makefile(
        self,
        mode: str = "r",
        buffering: int | None = None,
        *,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> IO[Any]:
        """A file over the socket: as socket.socket.makefile, made of the same socket.SocketIO and io classes."""
        if not set(mode) <= {"r", "w", "b"}:
            raise ValueError(f"invalid mode {mode!r} (only r, w, b allowed)")
        writing = "w" in mode
        reading = "r" in mode or not writing
        raw = socket.SocketIO(self, ("r" if reading else "") + ("w" if writing else ""))  # type: ignore[arg-type]
        self._io_refs += 1
        if buffering is None or buffering < 0:
            buffering = io.DEFAULT_BUFFER_SIZE
        if buffering == 0:
            if "b" not in mode:
                raise ValueError("unbuffered streams must be binary")
            return raw  # type: ignore[return-value]
        buffer: io.BufferedRWPair | io.BufferedReader | io.BufferedWriter
        if reading and writing:
            buffer = io.BufferedRWPair(raw, raw, buffering)
        elif reading:
            buffer = io.BufferedReader(raw, buffering)
        else:
            buffer = io.BufferedWriter(raw, buffering)
        if "b" in mode:
            return buffer  # type: ignore[return-value]
        text = io.TextIOWrapper(buffer, encoding, errors, newline)  # type: ignore[type-var]
        text.mode = mode  # type: ignore[misc]
        return text

    def sendfile(self, file: IO[bytes], offset: int = 0, count: int | None = None, *, zerocopy: bool = False) -> int:
        """Send a file opened in binary mode, from `offset`, to its end or `count` bytes -> bytes sent.

        The file's position is left behind what was sent. zerocopy: send from a mapping of the file rather than read it,
        where it can be mapped. It must not be cut short before the peer has acknowledged it all: the process would end
        with SIGBUS; and what is written to it meanwhile may be sent. Raises OSError; ValueError: non-blocking socket,
        text file, no stream.
        """
        _check_sendfile(self, file, offset, count)
        deadline = None if self.timeout is None else time.monotonic() + (self.timeout or 0)
        mapped = _mapped(file, offset, count) if zerocopy else None
        if mapped is not None:
            return self._send_mapped(file, mapped, offset, deadline)
        if offset or is_regular(file):  # where sendfile(2) works, its offset counts from the start; else from here
            file.seek(offset)
        sent = 0
        piece = memoryview(bytearray(_SENDFILE_PIECE if count is None else min(_SENDFILE_PIECE, count)))
        read_into = getattr(file, "readinto", None)
        try:
            while count is None or sent < count:
                want = len(piece) if count is None else min(len(piece), count - sent)
                if read_into is not None:
                    got = read_into(piece[:want])
                    data = piece[: got or 0]
                else:
                    data = memoryview(file.read(want))
                if not data:
                    break
                while data:
                    taken = self.send(data)
                    sent += taken
                    data = data[taken:]
                    if deadline is not None and data and time.monotonic() > deadline:
                        raise TimeoutError("timed out")
        finally:
            if sent > 0 and hasattr(file, "seek"):
                file.seek(offset + sent)
        return sent

    def _send_mapped(self, file: IO[bytes], data: memoryview, offset: int, deadline: float | None) -> int:
        sent = 0
        try:
            while sent < len(data):
                # The mapping stays as long as a Completion holds a piece of it.
                sent += self.send_zerocopy(data[sent : sent + _MAPPED_PIECE]).nbytes
                if deadline is not None and sent < len(data) and time.monotonic() > deadline:
                    raise TimeoutError("timed out")
        finally:
            if sent > 0:
                file.seek(offset + sent)
        return sent


def _mapped(file: IO[bytes], offset: int, count: int | None) -> memoryview | None:
    """The bytes of a file that sendfile() sends, mapped; None where that can't be done."""
    if not is_regular(file):
        return None
    fd = file.fileno()
    size = os.fstat(fd).st_size - offset
    size = size if count is None else min(size, count)
    if size <= 0:
        return None
    skip = offset % mmap.ALLOCATIONGRANULARITY
    try:
        return memoryview(mmap.mmap(fd, skip + size, access=mmap.ACCESS_READ, offset=offset - skip))[skip:]
    except (OSError, ValueError):
        return None


def is_regular(file: IO[bytes]) -> bool:
    """Whether it is a file that sendfile(2) takes."""
    try:
        return stat.S_ISREG(os.fstat(file.fileno()).st_mode)
    except (AttributeError, OSError):
        return False


def _check_sendfile(sock: Socket, file: IO[bytes], offset: int, count: int | None) -> None:
    """socket.socket.sendfile's own checks."""
    if "b" not in getattr(file, "mode", "b"):
        raise ValueError("file should be opened in binary mode")
    if sock.type != socket.SOCK_STREAM:
        raise ValueError("only SOCK_STREAM type sockets are supported")
    if sock.timeout == 0:
        raise ValueError("non-blocking sockets are not supported")
    if count is not None:
        if not isinstance(count, int):
            raise TypeError(f"count must be a positive integer (got {count!r})")
        if count <= 0:
            raise ValueError(f"count must be a positive integer (got {count!r})")


def _check_ancillary_size(size: int, caller: str) -> None:
    if size < 0:
        raise ValueError(f"invalid ancillary data buffer length in {caller}()")
