"""The transport of a TCP connection in an event loop.

Responsible for: what asyncio.Transport promises a protocol, flow control among it, over a non-blocking socket of a
stack. Not for: making connections (connect.py, server.py), TLS (asyncio's own SSLProtocol, between this and the
protocol).
"""

from __future__ import annotations

import asyncio
import collections
import errno
import itertools
import socket
import warnings
from asyncio import constants, transports
from collections.abc import Callable
from typing import Any

from ..socket import Socket
from .reactor import READ, WRITE, Reactor

_MOST = 1 << 18  # bytes that one callback of the protocol gets
_PIECES = 64
_QUIET = (BrokenPipeError, ConnectionResetError, ConnectionAbortedError, TimeoutError)
_CALLS_AFTER_THE_END = 5


class StreamTransport(transports._FlowControlMixin):
    """A connection. Made by this package; protocols get it in connection_made().

    The base class, which is asyncio.Transport with the limits of the write buffer, is what loop.sendfile() wants.
    """

    __slots__ = (
        "__weakref__",
        "_after",
        "_buffer",
        "_closing",
        "_eof",
        "_fills",
        "_names",
        "_protocol",
        "_reactor",
        "_reading",
        "_registered",
        "_server",
        "_size",
        "_sock",
        "_want",
    )
    _loop: asyncio.AbstractEventLoop
    _protocol_paused: bool
    _start_tls_compatible = True
    _sendfile_compatible = constants._SendfileMode.FALLBACK

    def __init__(self, reactor: Reactor, sock: Socket, protocol: Any, waiter: Any = None, server: Any = None) -> None:
        self._reactor = reactor
        self._loop = reactor.loop
        self._sock: Socket = sock
        self._server = server
        self._buffer: collections.deque[Any] | None = None
        self._size = 0
        self._protocol_paused = False
        self._set_write_buffer_limits()  # type: ignore[attr-defined]
        self._closing = self._eof = self._registered = False
        self._reading = True
        self._after = 0
        self._want = 0
        self._names: tuple[Any, Any] | None = None
        self.set_protocol(protocol)
        if server is not None:
            server._attach(self)
        self._loop.call_soon(self._start, waiter)

    def _start(self, waiter: asyncio.Future[Any] | None) -> None:
        self.get_extra_info("peername")  # is to be told after the connection's end, too
        try:
            self._protocol.connection_made(self)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._report(error, "protocol.connection_made() failed")
        if not self._closing:
            try:
                self._update(self._want | READ if self._reading else self._want)  # it may have written already
            except OSError as error:
                self._fail(error, "the connection ended at once")
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def __repr__(self) -> str:
        state = "closed" if self._sock._closed else "closing" if self._closing else "open"
        return f"<{type(self).__name__} {state} {self._sock!r}>"

    def __del__(self) -> None:
        sock = getattr(self, "_sock", None)
        if sock is not None and not sock._closed:
            warnings.warn(f"unclosed transport {self!r}", ResourceWarning, stacklevel=2, source=self)
            sock.close()

    # -- what a program asks of it

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """One of "socket", "sockname", "peername"."""
        if name == "socket":
            return self._sock
        if name in ("sockname", "peername"):
            if self._names is None:
                try:
                    self._names = self._sock._names()
                except OSError:
                    return default
            return self._names[name == "peername"]
        return default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Whom to tell from now on."""
        self._protocol: Any = protocol
        self._fills = isinstance(protocol, asyncio.BufferedProtocol)

    def get_protocol(self) -> Any:
        """The protocol."""
        return self._protocol

    def is_closing(self) -> bool:
        """Whether it is closed, or about to be."""
        return self._closing

    def is_reading(self) -> bool:
        """Whether the protocol is told of data."""
        return self._reading and not self._closing

    def pause_reading(self) -> None:
        """Tell the protocol of no more data: the peer is held back by the window."""
        if self._reading and not self._closing:
            self._reading = False
            self._update(self._want & ~READ)

    def resume_reading(self) -> None:
        """Tell the protocol of data again."""
        if not self._reading and not self._closing:
            self._reading = True
            self._update(self._want | READ)

    def get_write_buffer_size(self) -> int:
        """Bytes that the socket has not taken yet."""
        return self._size

    def can_write_eof(self) -> bool:
        """True: TCP has half-close."""
        return True

    # -- reading

    def _update(self, want: int) -> None:
        if not self._registered:
            if want:
                self._reactor.register(self._sock, want, self)
                self._registered = True
        elif want != self._want:
            self._reactor.modify(self._sock, want, self)
        self._want = want

    def _ready(self, events: int) -> None:
        if events & READ and self._want & READ:
            self._read()
        if events & WRITE and self._want & WRITE:
            self._flush()

    def _read(self) -> None:
        try:
            if self._fills:
                room = self._protocol.get_buffer(-1)
                if not len(room):
                    raise RuntimeError("get_buffer() returned an empty buffer")
                data: Any = self._sock.recv_into(room)
            else:
                data = self._sock.recv(_MOST)
        except (BlockingIOError, InterruptedError):
            return
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._fail(error, "reading failed")
            return
        try:
            if not data:
                self._end_of_stream()
            elif self._fills:
                self._protocol.buffer_updated(data)
            else:
                self._protocol.data_received(data)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._fail(error, "the protocol failed")

    def _end_of_stream(self) -> None:
        if self._protocol.eof_received():
            self._update(self._want & ~READ)  # the protocol has more to say
        else:
            self.close()

    # -- writing

    def _may_write(self, data: Any = b"") -> bool:
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if self._eof:
            raise RuntimeError("Cannot call write() after write_eof()")
        if self._after:
            self._after += 1
            return False
        return True

    def write(self, data: Any) -> None:
        """Send, or keep what the socket does not take until it does."""
        if not self._may_write(data) or not len(data):
            return
        if self._buffer:
            self._keep((data,), 0)
            return
        sent = self._attempt(self._sock.send, data)
        if sent is not None and sent < (data.nbytes if isinstance(data, memoryview) else len(data)):
            self._keep((data,), sent)

    def writelines(self, list_of_data: Any) -> None:
        """write() of several pieces, in one call of the socket."""
        pieces = [piece for piece in list_of_data if len(piece)]
        for piece in pieces:
            if not self._may_write(piece):
                return
        if self._buffer or len(pieces) > _PIECES:
            self._keep(pieces, 0)
            if len(pieces) == len(self._buffer or ()):
                self._flush()
            return
        if not pieces:
            return
        sent = self._attempt(self._sock.sendmsg, pieces)
        if sent is not None:
            self._keep(pieces, sent)

    def _attempt(self, send: Callable[[Any], int], data: Any) -> int | None:
        """The bytes that the socket took; None: the connection is over."""
        try:
            return send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._fail(error, "writing failed")
            return None

    def _keep(self, pieces: Any, sent: int) -> None:
        """Remember the pieces less their first `sent` bytes."""
        if self._buffer is None:
            self._buffer = collections.deque()
        for piece in pieces:
            octets = memoryview(piece).cast("B")
            if sent >= len(octets):
                sent -= len(octets)
                continue
            rest = bytes(octets[sent:])
            sent = 0
            self._buffer.append(rest)
            self._size += len(rest)
        if self._buffer:
            self._update(self._want | WRITE)
            self._maybe_pause_protocol()  # type: ignore[attr-defined]

    def _flush(self) -> None:
        buffer = self._buffer
        if not buffer:
            return
        sent = self._attempt(self._sock.sendmsg, list(itertools.islice(buffer, _PIECES)))
        if not sent:
            return
        self._size -= sent
        while sent:
            first = buffer[0]
            if sent < len(first):
                buffer[0] = memoryview(first)[sent:]
                break
            sent -= len(first)
            buffer.popleft()
        self._maybe_resume_protocol()  # type: ignore[attr-defined]
        if buffer or self._buffer is None:
            return
        self._update(self._want & ~WRITE)
        if self._closing:
            self._finish(None)
        elif self._eof:
            self._sock.shutdown(socket.SHUT_WR)

    def write_eof(self) -> None:
        """Close this side of the connection once all is sent."""
        if self._closing or self._eof:
            return
        self._eof = True
        if not self._buffer:
            self._sock.shutdown(socket.SHUT_WR)

    # -- the end

    def close(self) -> None:
        """Close the connection once all is sent."""
        if self._closing:
            return
        self._closing = True
        self._update(self._want & ~READ)
        if not self._buffer:
            self._finish(None)

    def abort(self) -> None:
        """Close the connection now."""
        self._force_close(None)

    def _abandoned(self) -> None:
        self._force_close(ConnectionAbortedError(errno.ECONNABORTED, "the stack was closed"))

    def _fail(self, error: BaseException, message: str) -> None:
        if not isinstance(error, _QUIET) and not isinstance(error, OSError):
            self._report(error, message)
        self._force_close(error)

    def _report(self, error: BaseException, message: str) -> None:
        self._loop.call_exception_handler(
            {"message": message, "exception": error, "transport": self, "protocol": self._protocol}
        )

    def _force_close(self, error: BaseException | None) -> None:
        if self._after:
            return
        self._buffer = None
        self._size = 0
        self._closing = True
        self._finish(error)

    def _finish(self, error: BaseException | None) -> None:
        self._after += 1
        if self._registered:
            self._registered = False
            self._want = 0
            self._reactor.unregister(self._sock)
        self._loop.call_soon(self._lost, error)

    def _lost(self, error: BaseException | None) -> None:
        try:
            self._protocol.connection_lost(error)
        finally:
            self._sock.close()
            self._protocol = None
            server, self._server = self._server, None
            if server is not None:
                server._detach(self)
