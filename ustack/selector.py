"""ustack.Selector: the standard library's selector interface, without a descriptor for each socket.

Responsible for: keys, and descriptors of the kernel beside the stack's sockets. Not for: the waiting itself
(ustack_ext.sockets.select).
"""

from __future__ import annotations

import selectors
import time
from collections.abc import Iterator, Mapping
from selectors import EVENT_READ, EVENT_WRITE, SelectorKey
from typing import TYPE_CHECKING, Any

from ustack_ext.sockets.select import SelectorCore

from .socket import Socket

if TYPE_CHECKING:
    from .stack import Stack


# For the stack's own sockets: an urgent pointer came, and what it names was not read.
EVENT_URGENT = 32


class _Map(Mapping[Any, SelectorKey]):
    """What get_map() returns: the stack's sockets by themselves, everything else by its descriptor."""

    def __init__(self, selector: Selector) -> None:
        self._selector = selector

    def __len__(self) -> int:
        return len(self._selector._keys or ()) + self._selector._in_kernel

    def __getitem__(self, fileobj: Any) -> SelectorKey:
        return self._selector._key_of(fileobj)

    def __iter__(self) -> Iterator[Any]:
        yield from self._selector._keys or ()
        for fd, key in (self._selector._kernel.get_map() or {}).items():
            if key.data is not self._selector:
                yield fd


class Selector(selectors.BaseSelector):
    """A selector of one stack (Stack.selector() makes it), used as those of the selectors module are.

    Sockets of its stack are waited for in the stack itself, level-triggered: no descriptor, no system call to register
    one. Their keys' `fd` is -1. Anything else with a descriptor, sockets of other stacks among them, is waited for by
    the kernel at the same time. A closed socket is told of no more; unregister it all the same.
    """

    def __init__(self, stack: Stack) -> None:
        self._stack: Stack | None = stack
        self._core = SelectorCore(stack)
        self._keys: dict[Socket, SelectorKey] | None = {}
        self._kernel = selectors.DefaultSelector()
        self._in_kernel = 0

    def _is_own(self, fileobj: Any) -> bool:
        return isinstance(fileobj, Socket) and fileobj.stack is self._stack

    def _key_of(self, fileobj: Any) -> SelectorKey:
        if self._keys is None:
            raise RuntimeError("Selector is closed")
        if self._is_own(fileobj):
            try:
                return self._keys[fileobj]
            except KeyError:
                raise KeyError(f"{fileobj!r} is not registered") from None
        return self._kernel.get_key(fileobj)

    def register(self, fileobj: Any, events: int, data: Any = None) -> SelectorKey:
        """Register a socket or descriptor for EVENT_READ, EVENT_WRITE or both. Raises ValueError, KeyError, OSError.

        A TCP socket of the stack also for EVENT_URGENT: true from the arrival of an urgent pointer (RFC 9293 §3.8.5),
        whether or not the data is here, until recv(MSG_OOB) has the octet or reading passes the mark.
        """
        if self._keys is None:
            raise RuntimeError("Selector is closed")
        if not self._is_own(fileobj):
            key = self._kernel.register(fileobj, events, data)
            self._in_kernel += 1
            if self._in_kernel == 1:
                self._kernel.register(self._core._fd(), EVENT_READ, self)
            return key
        _check_events(events)
        if fileobj in self._keys:
            raise KeyError(f"{fileobj!r} is already registered")
        if fileobj._closed:
            raise ValueError(f"Invalid file object: {fileobj!r}")
        key = SelectorKey(fileobj, -1, events, data)
        self._core._register(fileobj, events, key)
        self._keys[fileobj] = key
        return key

    def unregister(self, fileobj: Any) -> SelectorKey:
        """Forget a socket or descriptor -> its key. Raises KeyError."""
        key = self._key_of(fileobj)
        if key.fd == -1:
            assert self._keys is not None
            self._core._unregister(fileobj)
            del self._keys[fileobj]
            return key
        self._kernel.unregister(fileobj)
        self._in_kernel -= 1
        if self._in_kernel == 0:
            self._kernel.unregister(self._core._fd())
        return key

    def modify(self, fileobj: Any, events: int, data: Any = None) -> SelectorKey:
        """Change what a registered socket or descriptor is waited for, or its data -> the new key."""
        key = self._key_of(fileobj)
        if key.fd != -1:
            return self._kernel.modify(fileobj, events, data)
        _check_events(events)
        assert self._keys is not None
        key = key._replace(events=events, data=data)
        self._core._modify(fileobj, events, key)
        self._keys[fileobj] = key
        return key

    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        """[(key, events), ...] of what is ready, after at most `timeout` seconds (None: when something is).

        With the manual driver sockets of the stack are never waited for.
        """
        if self._keys is None:
            raise RuntimeError("Selector is closed")
        if not self._in_kernel:
            return self._core._wait(timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            found = self._core._ready()
            for key, events in self._kernel.select(0 if found else timeout):
                if key.data is not self:
                    found.append((key, events))
            if found or (timeout is not None and timeout <= 0):
                return found
            found = self._core._ready()
            if found:
                return found
            if deadline is not None:
                timeout = deadline - time.monotonic()
                if timeout <= 0:
                    return found

    def close(self) -> None:
        """Forget everything. Can be called again."""
        if self._keys is not None:
            self._keys = None
            self._kernel.close()
            self._core._close()
            self._stack = None

    def get_key(self, fileobj: Any) -> SelectorKey:
        """The key of something registered. Raises KeyError."""
        return self._key_of(fileobj)

    def get_map(self) -> Mapping[Any, SelectorKey] | None:  # type: ignore[override]
        """What is registered: the stack's sockets, and descriptors, with their keys. None once closed."""
        return None if self._keys is None else _Map(self)


def _check_events(events: int) -> None:
    if not events or events & ~(EVENT_READ | EVENT_WRITE | EVENT_URGENT):
        raise ValueError(f"Invalid events: {events!r}")
