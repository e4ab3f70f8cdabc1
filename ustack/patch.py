"""Stack.patched(): the standard socket module, and all that is built on it, on a stack, for a while.

Responsible for: who is concerned (the process, one thread, one context), what is replaced, and undoing it exactly. What
is replaced are names of the socket module, and SSLContext.sslsocket_class, so that TLS runs over the stack's sockets,
too. Whoever kept a replaced name for longer gets the kernel's sockets from it afterwards.
"""

from __future__ import annotations

import contextlib
import contextvars
import socket
import threading
from typing import TYPE_CHECKING, Any

from .socketmodule import Scope, replacements

if TYPE_CHECKING:
    from .stack import Stack

_lock = threading.RLock()
_everywhere: list[tuple[object, Scope]] = []
_here = threading.local()
_context: contextvars.ContextVar[tuple[Scope, ...]] = contextvars.ContextVar("ustack.patched", default=())
_users = 0
_ours: dict[str, Any] | None = None
_undo: list[tuple[Any, str, Any, Any]] = []


def current() -> Scope | None:
    """What is patched here: for this context, this thread, or the process, in this order; None: nothing."""
    in_context = _context.get()
    if in_context:
        return in_context[-1]
    in_thread = getattr(_here, "scopes", None)
    if in_thread:
        scope: Scope = in_thread[-1][1]
        return scope
    return _everywhere[-1][1] if _everywhere else None


def _install() -> None:
    """Put the replacements in place, once for everybody who wants them."""
    global _users, _ours
    with _lock:
        _users += 1
        if _users > 1:
            return
        targets: list[tuple[Any, str, Any]] = []
        with contextlib.suppress(ImportError):  # before: SSLSocket is to be derived from the real class
            import ssl

            from . import tls

            targets.append((ssl.SSLContext, "sslsocket_class", tls.Chooser(ssl.SSLContext.sslsocket_class)))
        if _ours is None:
            _ours = replacements(current)
        targets += [(socket, name, value) for name, value in _ours.items()]
        for owner, name, value in targets:
            _undo.append((owner, name, value, vars(owner)[name]))
            setattr(owner, name, value)


def _uninstall() -> None:
    global _users
    with _lock:
        _users -= 1
        if _users:
            return
        while _undo:
            owner, name, value, before = _undo.pop()
            if vars(owner).get(name) is value:  # somebody else's patch on top is his to undo
                setattr(owner, name, before)


class Patched(contextlib.ContextDecorator):
    """What Stack.patched() returns: a context manager, which may be entered again, and a decorator."""

    def __init__(self, stack: Stack, scope: str, outside: str) -> None:
        if scope not in ("process", "thread", "context"):
            raise ValueError(f'scope: {scope!r} is neither "process" nor "thread" nor "context"')
        if outside not in ("refuse", "kernel"):
            raise ValueError(f'outside: {outside!r} is neither "refuse" nor "kernel"')
        self._where = scope
        self._scope = Scope(stack, outside)

    def __enter__(self) -> Stack:
        _install()
        if self._where == "context":
            _context.set((*_context.get(), self._scope))
        elif self._where == "thread":
            if not hasattr(_here, "scopes"):
                _here.scopes = []
            _here.scopes.append((self, self._scope))
        else:
            with _lock:
                _everywhere.append((self, self._scope))
        return self._scope.stack

    def __exit__(self, *exc: object) -> None:
        if self._where == "context":
            scopes = list(_context.get())
            _remove_last(scopes, self._scope)
            _context.set(tuple(scopes))
        elif self._where == "thread":
            _remove_last(_here.scopes, (self, self._scope))
        else:
            with _lock:
                _remove_last(_everywhere, (self, self._scope))
        _uninstall()


def _remove_last(scopes: list[Any], one: Any) -> None:
    """Scopes need not end in the order they began."""
    for i in range(len(scopes) - 1, -1, -1):
        if scopes[i] == one:
            del scopes[i]
            return
    raise RuntimeError("patched() is left where it was not entered")
