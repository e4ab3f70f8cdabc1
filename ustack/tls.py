"""TLS over the stack's sockets, by the standard library's ssl: its contexts, its errors, its SSLSocket interface.

Responsible for: moving records between an ssl.SSLObject and a stack's socket, with timeouts, several threads, and
non-blocking use as ssl.SSLSocket has them. Not for: TLS itself (OpenSSL, through ssl.SSLContext.wrap_bio).
There is no descriptor and no thread: what OpenSSL wants to send and to read goes through memory (ssl.MemoryBIO).
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Any

from .outside import plain
from .socket import Socket

_RECORD = 16384
_PIECE = 1 << 18
_HEADER = 5  # bytes before a record: its type, version, length (RFC 8446 §5.1)
_TYPES, _LONGEST = range(20, 25), 16384 + 2048


class TLSSocket(ssl.SSLSocket):
    """An ssl.SSLSocket over a ustack.Socket; wrap_socket() makes it.

    One thread may read while another writes.
    """

    _sslobj: Any
    _io_refs: int
    _closed: bool
    _sock: Socket
    _context: ssl.SSLContext
    _session: Any
    server_side: bool
    server_hostname: str | None
    do_handshake_on_connect: bool
    suppress_ragged_eofs: bool
    _connected: bool
    _incoming: ssl.MemoryBIO
    _outgoing: ssl.MemoryBIO
    _unsent: bytearray
    _fetches: int
    _header: bytes
    _missing: int
    _written: int | None
    _rest: bytes
    _lock: threading.Lock
    _read_lock: threading.Lock
    _send_lock: threading.Lock

    @classmethod
    def _over(
        cls,
        sock: Socket,
        context: ssl.SSLContext,
        server_side: bool,
        do_handshake_on_connect: bool,
        suppress_ragged_eofs: bool,
        server_hostname: str | None,
        session: Any,
    ) -> TLSSocket:
        self = cls.__new__(cls)
        self._io_refs = 0
        self._closed = False
        self._sock = sock
        self._context = context
        self._session = session
        self.server_side = server_side
        self.server_hostname = server_hostname
        self.do_handshake_on_connect = do_handshake_on_connect
        self.suppress_ragged_eofs = suppress_ragged_eofs
        self._sslobj = None
        self._connected = False
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._unsent = bytearray()
        self._fetches = 0
        self._header, self._missing = b"", _HEADER
        self._written = None
        self._rest = b""
        self._lock, self._read_lock, self._send_lock = threading.Lock(), threading.Lock(), threading.Lock()
        return self

    def _begin(self) -> None:
        """The socket is connected: TLS starts."""
        self._connected = True
        self._sslobj = self._context.wrap_bio(
            self._incoming, self._outgoing, self.server_side, self.server_hostname, self._session
        )

    # -- records

    def _step(self, operation: Callable[..., Any], *arguments: Any, reading: bool = False) -> Any:
        """Run an operation of the SSL object until it no longer wants to read."""
        while True:
            failure: ssl.SSLError | None = None
            result = None
            with self._lock:
                seen = self._fetches
                try:
                    result = operation(*arguments)
                except ssl.SSLError as error:
                    failure = error
                self._unsent += self._outgoing.read()
            if failure is not None and not isinstance(failure, ssl.SSLWantReadError):
                with contextlib.suppress(OSError):  # the alert, if it can be sent
                    self._flush(wait=False)
                raise failure
            if self._unsent and not self._flush(wait=not reading) and not reading:
                raise ssl.SSLWantWriteError(ssl.SSL_ERROR_WANT_WRITE, "The operation did not complete (write)")
            if failure is None:
                return result
            self._fetch(seen)

    def _flush(self, wait: bool = True) -> bool:
        """Send what the SSL object has produced; False: a non-blocking socket did not take it all.

        wait: for another thread that does the same. Who reads does not: that thread sends the rest, too, and may itself
        depend on somebody reading.
        """
        while self._unsent:
            if not self._send_lock.acquire(blocking=wait):
                return True
            try:
                while self._unsent:
                    with self._lock:
                        data = bytes(self._unsent)
                    sent = self._sock.send(data)
                    with self._lock:
                        del self._unsent[:sent]
            except BlockingIOError:
                return False
            except TimeoutError:
                raise TimeoutError("The write operation timed out") from None
            finally:
                self._send_lock.release()
        return True

    def _fetch(self, seen: int) -> None:
        """Read the rest of a record for the SSL object, unless another thread has read since it looked.

        No more: what follows is still the socket's to show, to programs that wait for its descriptor between records.
        """
        with self._read_lock:
            if self._fetches != seen:
                return
            while True:
                try:
                    data = self._sock.recv(self._missing)
                except BlockingIOError:
                    raise ssl.SSLWantReadError(
                        ssl.SSL_ERROR_WANT_READ, "The operation did not complete (read)"
                    ) from None
                except TimeoutError:
                    raise TimeoutError("The read operation timed out") from None
                with self._lock:
                    self._fetches += 1
                    if data:
                        self._incoming.write(data)
                    else:
                        self._incoming.write_eof()
                if not data or not self._goes_on(data):
                    return

    def _goes_on(self, data: bytes) -> bool:
        """Whether more of the record is to come after `data`; False, too, where the SSL object has to look at it."""
        if len(self._header) == _HEADER:
            self._missing -= len(data)
        else:
            self._header += data
            self._missing = _HEADER - len(self._header) or int.from_bytes(self._header[3:], "big")
        if len(self._header) == _HEADER and not self._missing:
            self._header, self._missing = b"", _HEADER
            return False
        return self._header[0] in _TYPES and self._header[1:2] in (b"", b"\3") and self._missing <= _LONGEST

    # -- data

    def read(self, len: int = 1024, buffer: Any = None) -> Any:
        """As ssl.SSLSocket.read. Raises ssl.SSLError, OSError."""
        self._checkClosed()  # type: ignore[attr-defined]
        tls = self._sslobj
        if tls is None:
            raise ValueError("Read on closed or unwrapped SSL socket.")
        try:
            where = (len,) if buffer is None else (len, buffer)
            return self._step(tls.read, *where, reading=True)
        except ssl.SSLError as error:
            if error.args[0] == ssl.SSL_ERROR_EOF and self.suppress_ragged_eofs:
                return b"" if buffer is None else 0
            raise

    def write(self, data: Any) -> int:
        """As ssl.SSLSocket.write: bytes taken, at most a piece where the socket does not block."""
        self._checkClosed()  # type: ignore[attr-defined]
        tls = self._sslobj
        if tls is None:
            raise ValueError("Write on closed or unwrapped SSL socket.")
        with memoryview(data) as view, view.cast("B") as octets:
            if self._written is not None:  # the same again, of which only sending was left
                if not self._flush():
                    raise ssl.SSLWantWriteError(ssl.SSL_ERROR_WANT_WRITE, "The operation did not complete (write)")
                taken, self._written = self._written, None
                return taken
            piece = octets[: _RECORD if self._sock.timeout == 0 else _PIECE]
            return self._write(tls, piece)

    def _write(self, tls: Any, piece: memoryview) -> int:
        taken = None

        def run() -> int:
            nonlocal taken
            taken = tls.write(piece)
            return taken

        try:
            return int(self._step(run))
        except ssl.SSLWantWriteError:
            self._written = taken
            raise

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """As ssl.SSLSocket.recv."""
        if self._sslobj is not None:
            _no_flags(flags, "recv")
            return bytes(self.read(buflen))
        if self._rest:
            data, self._rest = self._rest[:buflen], self._rest[buflen:]
            return data
        return self._sock.recv(buflen, flags)

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        """As ssl.SSLSocket.recv_into."""
        if self._sslobj is None:
            with memoryview(buffer) as view, view.cast("B") as octets:
                data = self.recv(nbytes or len(octets), flags)
                octets[: len(data)] = data
                return len(data)
        _no_flags(flags, "recv_into")
        if not nbytes:
            with memoryview(buffer) as view:
                nbytes = view.nbytes
            if not nbytes:
                return 0
        return int(self.read(nbytes, buffer))

    def send(self, data: Any, flags: int = 0) -> int:
        """As ssl.SSLSocket.send."""
        if self._sslobj is None:
            return self._sock.send(data, flags)
        _no_flags(flags, "send")
        return self.write(data)

    def sendall(self, data: Any, flags: int = 0) -> None:
        """As ssl.SSLSocket.sendall."""
        if self._sslobj is None:
            return self._sock.sendall(data, flags)
        _no_flags(flags, "sendall")
        with memoryview(data) as view, view.cast("B") as octets:
            sent = 0
            while sent < len(octets):
                sent += self.write(octets[sent:])
        return None

    def recvfrom(self, buflen: int = 1024, flags: int = 0) -> Any:
        """As ssl.SSLSocket.recvfrom: for a socket without TLS only."""
        if self._sslobj is not None:
            raise ValueError(f"recvfrom not allowed on instances of {type(self)}")
        return self._sock.recvfrom(buflen, flags)

    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        """As ssl.SSLSocket.sendfile: read and sent."""
        if self._sslobj is None:
            return self._sock.sendfile(file, offset, count)
        return int(self._sendfile_use_send(file, offset, count))  # type: ignore[attr-defined]

    # -- the session

    def do_handshake(self, block: bool = False) -> None:
        """As ssl.SSLSocket.do_handshake. Raises ssl.SSLError, OSError."""
        self._check_connected()  # type: ignore[attr-defined]
        before = self.gettimeout()
        if before == 0.0 and block:
            self.settimeout(None)
        try:
            self._step(self._sslobj.do_handshake)
        except TimeoutError:
            raise TimeoutError("_ssl.c: The handshake operation timed out") from None
        finally:
            if before == 0.0 and block:
                self.settimeout(before)

    def unwrap(self) -> TLSSocket:
        """As ssl.SSLSocket.unwrap: end TLS -> the socket, which goes on without it."""
        if self._sslobj is None:
            raise ValueError("No SSL wrapper around " + str(self))
        self._step(self._sslobj.unwrap)
        self._sslobj = None
        self._rest = self._incoming.read()
        return self

    def pending(self) -> int:
        """Decrypted bytes that can be read at once."""
        self._checkClosed()  # type: ignore[attr-defined]
        return int(self._sslobj.pending()) if self._sslobj is not None else 0

    # -- the socket below

    def connect(self, address: Any) -> None:
        """As ssl.SSLSocket.connect."""
        self._connect(address, False)

    def connect_ex(self, address: Any) -> int:
        """As ssl.SSLSocket.connect_ex."""
        return self._connect(address, True)

    def _connect(self, address: Any, ex: bool) -> int:
        if self.server_side:
            raise ValueError("can't connect in server-side mode")
        if self._connected or self._sslobj is not None:
            raise ValueError("attempt to connect already-connected SSLSocket!")
        code = 0
        if ex:
            code = self._sock.connect_ex(address)
        else:
            self._sock.connect(address)
        if not code:
            self._begin()
            if self.do_handshake_on_connect:
                self.do_handshake()
        return code

    def accept(self) -> tuple[Any, Any]:
        """As ssl.SSLSocket.accept."""
        sock, address = self._sock.accept()
        try:
            wrapped = wrap_socket(
                sock,
                self._context,
                server_side=True,
                do_handshake_on_connect=self.do_handshake_on_connect,
                suppress_ragged_eofs=self.suppress_ragged_eofs,
            )
        except BaseException:
            sock.close()
            raise
        return wrapped, address

    def shutdown(self, how: int) -> None:
        """As ssl.SSLSocket.shutdown: TLS is over."""
        self._checkClosed()  # type: ignore[attr-defined]
        self._sslobj = None
        self._sock.shutdown(how)

    def _real_close(self) -> None:
        self._sslobj = None
        self._sock.close()

    def detach(self) -> int:
        """As socket.detach: Stack.socket(fileno=…) goes on without TLS."""
        self._closed = True
        return self._sock.detach()

    def fileno(self) -> int:
        """A descriptor to wait on; see pending()."""
        return self._sock.fileno()

    def getsockname(self) -> Any:
        """The socket's own address."""
        return self._sock.getsockname()

    def getpeername(self) -> Any:
        """The peer's address."""
        return self._sock.getpeername()

    def bind(self, address: Any) -> None:
        """As socket.bind."""
        self._sock.bind(address)

    def listen(self, *backlog: int) -> None:
        """As socket.listen."""
        self._sock.listen(*backlog)

    def getsockopt(self, *arguments: Any) -> Any:
        """As socket.getsockopt."""
        return self._sock.getsockopt(*arguments)

    def setsockopt(self, *arguments: Any) -> None:
        """As socket.setsockopt."""
        self._sock.setsockopt(*arguments)

    def settimeout(self, value: float | None) -> None:
        """As socket.settimeout."""
        self._sock.settimeout(value)

    def gettimeout(self) -> float | None:
        """As socket.gettimeout."""
        return self._sock.gettimeout()

    def setblocking(self, flag: bool) -> None:
        """As socket.setblocking."""
        self._sock.setblocking(flag)

    def getblocking(self) -> bool:
        """As socket.getblocking."""
        return bool(self._sock.getblocking())

    timeout = property(gettimeout)
    family = property(lambda self: self._sock.family)
    type = property(lambda self: self._sock.type)
    proto = property(lambda self: self._sock.proto)

    def __repr__(self) -> str:
        return f"<ustack.tls.TLSSocket over {self._sock!r}>"


def _no_flags(flags: int, caller: str) -> None:
    if flags:
        raise ValueError(f"non-zero flags not allowed in calls to {caller}() on {TLSSocket}")


def wrap_socket(
    sock: Any,
    context: ssl.SSLContext,
    server_side: bool = False,
    do_handshake_on_connect: bool = True,
    suppress_ragged_eofs: bool = True,
    server_hostname: str | None = None,
    session: Any = None,
) -> TLSSocket:
    """TLS over a stack's socket: what context.wrap_socket(sock, …) is for a socket of the kernel.

    `sock` is closed as an object, as there; the connection is the returned socket's. Within Stack.patched() the
    context's own method does it. Raises ValueError, ssl.SSLError, OSError.
    """
    sock = plain(sock)
    if sock.type != socket.SOCK_STREAM:
        raise NotImplementedError("only stream sockets are supported")
    if server_side and server_hostname:
        raise ValueError("server_hostname can only be specified in client mode")
    if server_side and session is not None:
        raise ValueError("session can only be specified in client mode")
    if context.check_hostname and not server_hostname:
        raise ValueError("check_hostname requires server_hostname")
    moved = sock._split()
    sock._closed = True
    self = TLSSocket._over(
        moved, context, server_side, do_handshake_on_connect, suppress_ragged_eofs, server_hostname, session
    )
    try:
        moved.getpeername()
    except OSError:
        return self  # not connected yet, or a listener
    try:
        self._begin()
        if do_handshake_on_connect:
            if moved.timeout == 0:
                raise ValueError("do_handshake_on_connect should not be specified for non-blocking sockets")
            self.do_handshake()
    except BaseException:
        self.close()
        raise
    return self


class Chooser:
    """Stands for SSLContext.sslsocket_class while a stack is patched in: TLSSocket for the stack's sockets."""

    def __init__(self, theirs: Any) -> None:
        self._theirs = theirs

    def _create(self, sock: Any, *arguments: Any, **keywords: Any) -> Any:
        sock = plain(sock)
        if isinstance(sock, Socket):
            context = keywords.pop("context")
            return wrap_socket(sock, context, *arguments, **keywords)
        return self._theirs._create(sock, *arguments, **keywords)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._theirs, name)
