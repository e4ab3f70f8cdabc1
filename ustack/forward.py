"""Forwarders: flows to any destination that arrive on a stack's links, and who decides what becomes of them.

Responsible for: asking the handler, in the thread that runs the stack or in an event loop; the decisions by name. Not
for: keeping SYNs and first datagrams until then (the engine), what is done with a flow that was accepted.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import math
import sys
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ustack_ext.sockets.forward import ForwardCore

from .socket import Socket

if TYPE_CHECKING:
    from .stack import Stack

Handler = Callable[["ForwardRequest"], Any]  # a function, or a coroutine function

_DROP, _RESET, _UNREACHABLE = range(3)
_NS = 1_000_000_000
_BACKLOG = 4096
_BACKLOG_MAX = 65535
_PATIENCE = 30.0  # s

# RFC 792 and RFC 1812 §5.2.7.1; RFC 4443 §3.1.
_CODES4 = {"net": 0, "host": 1, "protocol": 2, "port": 3, "admin": 13}
_CODES6 = {"net": 0, "host": 3, "port": 4, "admin": 1}
_LAST4, _LAST6 = 15, 7


class ForwardRequest:
    """Somebody wants to open a flow to a destination that nobody here listens on.

    protocol: "tcp", "udp" or "ping". source, destination: (host, port), for IPv6 (host, port, 0, scope), as the sender
    wrote them; of a ping the source's port is its identifier, the destination's 0. Exactly one of accept(), reset(),
    unreachable() and drop() decides; the handler may call it, or whoever it hands the request to, from any thread.
    Nothing has been answered before.
    """

    __slots__ = ("_forwarder", "_identity", "_is_decided", "destination", "protocol", "source")

    def __init__(self, forwarder: Forwarder, identity: bytes, source: Any, destination: Any) -> None:
        self._forwarder = forwarder
        self._identity = identity
        self._is_decided = False
        # Nothing but a ping is to port 0.
        self.protocol = forwarder.protocol if destination[1] else "ping"
        self.source = source
        self.destination = destination

    @property
    def decided(self) -> bool:
        """Whether a decision was made."""
        return self._is_decided

    def _decide(self) -> None:
        if self._is_decided:
            raise RuntimeError(f"{self!r} was decided before")
        self._is_decided = True

    def accept(self, idle_timeout: float | None = None) -> Socket:
        """Take the flow -> a socket whose getsockname() is the destination and whose getpeername() is the source.

        TCP: the SYN is answered; the socket can be used at once, and waits in send() and recv() until the handshake is
        done. UDP: a connected socket that has received the first datagrams; idle_timeout: seconds without a datagram,
        either way, after which it fails with ETIMEDOUT; None: never. A ping's datagrams are whole ICMP messages, as a
        ping socket's: requests come, answers (type 0, for IPv6 129) are sent.
        Raises OSError: ENOENT (the request was withdrawn, or waited too long), ENOBUFS (too many handshakes are not
        done), ECONNABORTED (the stack is closed); RuntimeError: decided before.
        """
        if idle_timeout is not None and not idle_timeout > 0:
            raise ValueError(f"idle_timeout: {idle_timeout!r} is no number of seconds above 0")
        self._decide()
        return self._forwarder._make_socket(self._identity, idle_timeout)

    def reset(self) -> None:
        """Refuse it as a host does where nobody listens: RST for TCP, ICMP port unreachable for UDP; host unreachable
        for a ping."""
        if self.protocol == "tcp":
            self._refuse(_RESET, 0)
        else:
            self.unreachable("port" if self.protocol == "udp" else "host")

    def unreachable(self, reason: str | int = "host") -> None:
        """Refuse it with an ICMP or ICMPv6 destination unreachable, within the stack's limits for those.

        reason: "net", "host", "port", "admin" (prohibited), "protocol" (IPv4 only), or the code itself. "port" is said
        by the destination, the others by the stack's own address, if it has one. Raises ValueError.
        """
        six = ":" in self.destination[0]
        codes, last = (_CODES6, _LAST6) if six else (_CODES4, _LAST4)
        code = codes.get(reason) if isinstance(reason, str) else reason
        if code is None or not 0 <= code <= last:
            raise ValueError(f"reason: {reason!r} is none of {', '.join(codes)} and no code up to {last}")
        self._refuse(_UNREACHABLE, code)

    def drop(self) -> None:
        """Say nothing. A client that tries again makes a new request."""
        self._refuse(_DROP, 0)

    def _refuse(self, how: int, code: int) -> None:
        self._decide()
        self._forwarder._refuse(self._identity, how, code)

    def __repr__(self) -> str:
        return f"<ustack.ForwardRequest {self.protocol} {self.source[:2]} -> {self.destination[:2]}>"


class Forwarder(ForwardCore):
    """What Stack.forward_tcp() and Stack.forward_udp() return: a context manager that closes it.

    It goes on until it or its stack is closed, whether or not this object is kept.
    """

    def __init__(
        self,
        stack: Stack,
        protocol: str,
        handler: Handler,
        backlog: int = _BACKLOG,
        timeout: float = _PATIENCE,
        pings: bool = False,
    ) -> None:
        if not callable(handler):
            raise TypeError("handler: a function is needed")
        if not 1 <= backlog <= _BACKLOG_MAX:
            raise ValueError(f"backlog: {backlog} is not between 1 and {_BACKLOG_MAX}")
        if not (timeout > 0 and math.isfinite(timeout)):
            raise ValueError(f"timeout: {timeout!r} is no number of seconds above 0")
        self.protocol = protocol
        self._stack = weakref.ref(stack)
        self._handler = handler
        self._is_coroutine = inspect.iscoroutinefunction(handler)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_busy = False
        self._is_due = False
        if self._is_coroutine:
            with contextlib.suppress(RuntimeError):
                self._loop = asyncio.get_running_loop()
            if self._loop is None:
                raise RuntimeError("a coroutine as handler needs a running event loop")
        self._open(stack, protocol == "tcp", backlog, int(timeout * _NS), pings, self._dispatch)

    def _dispatch(self) -> None:
        """Ask the handler about every request nobody has seen. One thread does it at a time; another that comes
        meanwhile leaves it the work."""
        self._is_due = True
        while self._is_due and not self._is_busy:
            self._is_busy = True
            self._is_due = False
            try:
                while rows := self._take():
                    for row in rows:
                        self._ask(ForwardRequest(self, *row))
            finally:
                self._is_busy = False

    def _ask(self, request: ForwardRequest) -> None:
        if self._is_coroutine:
            assert self._loop is not None
            try:
                # The loop may be another thread's than the one that runs the stack.
                self._loop.call_soon_threadsafe(self._start, request)
            except RuntimeError:  # it is closed: there is nobody to ask any more
                request.drop()
            return
        try:
            self._handler(request)
        except BaseException:
            self._failed(request)
            sys.excepthook(*sys.exc_info())

    def _start(self, request: ForwardRequest) -> None:
        task = asyncio.ensure_future(self._run(request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, request: ForwardRequest) -> None:
        try:
            await self._handler(request)
        except asyncio.CancelledError:
            self._failed(request)
            raise
        except Exception as error:
            self._failed(request)
            asyncio.get_running_loop().call_exception_handler(
                {"message": f"the handler failed for {request!r}", "exception": error}
            )

    @staticmethod
    def _failed(request: ForwardRequest) -> None:
        if not request.decided:
            request.drop()

    def _make_socket(self, identity: bytes, idle: float | None) -> Socket:
        stack = self._stack()
        if stack is None:
            raise ConnectionAbortedError("the stack is closed")
        made: Socket = self._accept(stack, Socket, identity, 0 if idle is None else int(idle * _NS))
        return made

    def close(self) -> None:
        """Take no more flows; those that are undecided are forgotten, handlers that run in an event loop cancelled.

        Flows that were accepted go on. Can be called again.
        """
        super().close()
        if self._tasks and self._loop is not None and not self._loop.is_closed():
            for task in list(self._tasks):
                self._loop.call_soon_threadsafe(task.cancel)

    def __enter__(self) -> Forwarder:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<ustack.Forwarder {self.protocol}{' closed' if self.closed else ''}>"
