"""The socket module for a stack: its class `socket`, and its functions, with the stack's sockets and names behind them.

Responsible for: which calls are the stack's and which the kernel's. AF_INET and AF_INET6 are the stack's; all other
families, descriptors of the kernel and socketpair() are the kernel's. Not for: putting it in place of the standard
library's (ustack/patch.py), what the stack's sockets do (ustack/socket.py).
"""

from __future__ import annotations

import socket
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from . import resolve
from .outside import EitherSocket, or_kernel
from .socket import AF_PACKET, Socket

if TYPE_CHECKING:
    from .stack import Stack

_KernelSocket = socket.socket
_INTERNET = (-1, socket.AF_INET, socket.AF_INET6)
_OURS = (*_INTERNET, AF_PACKET)  # a packet socket is one of the stack's interfaces
_RESOLVER = ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr", "getnameinfo")
_KERNELS = {name: getattr(socket, name) for name in (*_RESOLVER, "if_nameindex", "if_nametoindex", "if_indextoname")}


class Scope(NamedTuple):
    """Whose sockets are made: the stack's, and the kernel's for addresses the stack has no route to, if so said."""

    stack: Stack
    outside: str  # "refuse" or "kernel"


Pick = Callable[[], "Scope | None"]


def open_socket(scope: Scope | None, family: int, type: int, proto: int, fileno: int | None) -> Any:
    """A socket as socket.socket(family, type, proto, fileno) makes one."""
    if scope is None or (fileno is None and family not in _OURS):
        return _KernelSocket(family, type, proto, fileno)
    if fileno is not None:
        if fileno in scope.stack._detached:
            return scope.stack.socket(fileno=fileno)
        return _KernelSocket(family, type, proto, fileno)
    family = socket.AF_INET if family == -1 else family
    type = socket.SOCK_STREAM if type == -1 else type
    kind = EitherSocket if scope.outside == "kernel" and family != AF_PACKET else Socket
    return kind(scope.stack, family, type, max(proto, 0))


def socket_class(pick: Pick) -> Any:
    """The class `socket` of a socket module: calling it makes a socket of whoever `pick` says.

    isinstance() says yes to sockets of both kinds. A class derived from it makes the stack's sockets.
    """

    class Derived(Socket):
        """What classes derived from socket.socket are really derived from."""

        __slots__ = ()

        def __init__(self, family: int = -1, type: int = -1, proto: int = -1, fileno: int | None = None) -> None:
            scope = pick()
            if scope is None or fileno is not None or family not in _OURS:
                raise OSError("a class derived from the stack's socket.socket makes AF_INET sockets of a stack only")
            family = socket.AF_INET if family == -1 else family
            super().__init__(scope.stack, family, socket.SOCK_STREAM if type == -1 else type, max(proto, 0))

    class Meta(type):
        def __new__(mcs, name: str, bases: tuple[Any, ...], namespace: dict[str, Any], **keywords: Any) -> Any:
            if not any(isinstance(base, mcs) for base in bases):
                return super().__new__(mcs, name, bases, namespace, **keywords)
            bases = tuple(Derived if isinstance(base, mcs) else base for base in bases)
            return types.new_class(name, bases, keywords, lambda body: body.update(namespace))

        def __call__(cls, family: int = -1, type: int = -1, proto: int = -1, fileno: int | None = None) -> Any:
            return open_socket(pick(), family, type, proto, fileno)

        def __instancecheck__(cls, instance: Any) -> bool:
            return isinstance(instance, (_KernelSocket, Socket, EitherSocket))

        def __subclasscheck__(cls, subclass: Any) -> bool:
            return issubclass(subclass, (_KernelSocket, Socket, EitherSocket))

    body = {"__slots__": (), "__module__": "socket", "__doc__": _KernelSocket.__doc__}
    return Meta("socket", (_KernelSocket,), body)


def _interfaces(stack: Stack) -> list[tuple[int, str]]:
    return [(one.index, one.name) for one in stack.interfaces()]


def _if_nametoindex(stack: Stack, name: str) -> int:
    for index, known in _interfaces(stack):
        if known == name:
            return index
    raise OSError("no interface with this name")


def _if_indextoname(stack: Stack, index: int) -> str:
    for known, name in _interfaces(stack):
        if known == index:
            return name
    raise OSError(6, "No such device or address")


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(resolve, name) for name in _RESOLVER},
    "if_nameindex": _interfaces,
    "if_nametoindex": _if_nametoindex,
    "if_indextoname": _if_indextoname,
}


def _dispatched(name: str, pick: Pick) -> Callable[..., Any]:
    function, theirs = _FUNCTIONS[name], _KERNELS[name]

    def call(*arguments: Any, **keywords: Any) -> Any:
        scope = pick()
        if scope is None:
            return theirs(*arguments, **keywords)
        own = types.MethodType(function, scope.stack)
        if scope.outside == "kernel" and name in _RESOLVER:
            own = or_kernel(own, theirs)  # type: ignore[assignment]
        return own(*arguments, **keywords)

    call.__name__ = call.__qualname__ = name
    call.__doc__ = theirs.__doc__
    call.__module__ = "socket"
    return call


def replacements(pick: Pick) -> dict[str, Any]:
    """What differs from the standard library's socket module, by name.

    Its functions written in Python (create_connection, create_server, getfqdn, …) look these up by name.
    """
    return {"socket": socket_class(pick), **{name: _dispatched(name, pick) for name in _FUNCTIONS}}


def module_for(stack: Stack) -> types.ModuleType:
    """A module with everything that `socket` has, whose sockets are the stack's."""
    scope = Scope(stack, "refuse")
    made = types.ModuleType("socket", socket.__doc__)
    made.__dict__.update({name: value for name, value in vars(socket).items() if not name.startswith("__")})
    for name, value in list(vars(made).items()):
        if isinstance(value, types.FunctionType) and value.__module__ == "socket":
            own = types.FunctionType(value.__code__, made.__dict__, name, value.__defaults__, value.__closure__)
            own.__kwdefaults__ = value.__kwdefaults__
            own.__doc__ = value.__doc__
            setattr(made, name, own)
    made.__dict__.update(replacements(lambda: scope))
    made.__dict__["__all__"] = socket.__all__
    return made
