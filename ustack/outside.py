"""A socket of which the first address decides whether it is the stack's or the kernel's.

Responsible for: what `Stack.patched(outside="kernel")` hands out. Not for: routes (Stack.reaches says), patching.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .socket import Socket

if TYPE_CHECKING:
    from .stack import Stack

_KernelSocket = socket.socket


class EitherSocket:
    """A socket.socket for programs; `chosen` is the stack's socket, or the kernel's once an address is not the stack's.

    Options and the timeout that were set before are the other socket's, too.
    """

    __slots__ = ("__weakref__", "_arguments", "_options", "_stack", "chosen")

    def __init__(self, stack: Stack, family: int, type: int, proto: int) -> None:
        self._stack: Stack | None = stack
        self._arguments = (family, type, proto)
        self._options: list[tuple[Any, ...]] = []
        self.chosen: Any = Socket(stack, family, type, proto)

    def _decide(self, address: Any) -> None:
        stack = self._stack
        if stack is None:
            return
        if isinstance(address, tuple) and address and isinstance(address[0], str):
            if stack.reaches(address[0]):
                self._stack = None
            else:
                self._leave()

    def _leave(self) -> None:
        """The kernel's from here on."""
        other = _KernelSocket(*self._arguments)
        try:
            other.settimeout(self.chosen.gettimeout())
            for arguments in self._options:
                other.setsockopt(*arguments)
        except BaseException:
            other.close()
            raise
        self.chosen.close()
        self.chosen, self._stack = other, None

    def setsockopt(self, *arguments: Any) -> None:
        """As socket.socket.setsockopt."""
        self.chosen.setsockopt(*arguments)
        if self._stack is not None:
            self._options.append(arguments)

    def connect(self, address: Any) -> None:
        """As socket.socket.connect."""
        self._decide(address)
        self.chosen.connect(address)

    def connect_ex(self, address: Any) -> int:
        """As socket.socket.connect_ex."""
        self._decide(address)
        code: int = self.chosen.connect_ex(address)
        return code

    def bind(self, address: Any) -> None:
        """As socket.socket.bind. The kernel's if the address is one and not the stack's own."""
        self._decide(address)
        self.chosen.bind(address)

    def sendto(self, data: Any, *arguments: Any) -> int:
        """As socket.socket.sendto."""
        if arguments:
            self._decide(arguments[-1])
        sent: int = self.chosen.sendto(data, *arguments)
        return sent

    def sendmsg(self, buffers: Any, ancdata: Any = (), flags: int = 0, address: Any = None) -> int:
        """As socket.socket.sendmsg."""
        if address is not None:
            self._decide(address)
        sent: int = self.chosen.sendmsg(buffers, ancdata, flags, address)
        return sent

    def __getattr__(self, name: str) -> Any:
        return getattr(self.chosen, name)

    def __enter__(self) -> EitherSocket:
        return self

    def __exit__(self, *exc: object) -> None:
        self.chosen.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.chosen!r}>"


def plain(sock: Any) -> Any:
    """The socket itself, of the stack or the kernel, where it is one that could have been either."""
    return sock.chosen if isinstance(sock, EitherSocket) else sock


def or_kernel(function: Callable[..., Any], theirs: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, and the kernel's resolver for what it knows nothing of."""

    def ask(*arguments: Any, **keywords: Any) -> Any:
        try:
            return function(*arguments, **keywords)
        except (socket.gaierror, socket.herror):
            return theirs(*arguments, **keywords)

    return ask
