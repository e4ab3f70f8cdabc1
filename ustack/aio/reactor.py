"""Between a stack and an event loop: which sockets the loop's transports wait on, and telling them.

Responsible for: one set of sockets for each stack and loop. A stack that the loop itself drives (driver="asyncio")
tells it by a call; one that runs in a thread of its own wakes it by one descriptor, however many sockets there are.
Not for: what a transport does then.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

from ustack_ext.sockets.select import SelectorCore

from ..socket import Socket

if TYPE_CHECKING:
    from ..stack import Stack

READ, WRITE = 1, 2


class Waiting(Protocol):
    """Who waits on a socket."""

    def _ready(self, events: int) -> None: ...

    def _abandoned(self) -> None: ...  # the stack was closed


class Reactor:
    """The sockets of one stack that one event loop waits on. Made by of()."""

    def __init__(self, stack: Stack, loop: asyncio.AbstractEventLoop) -> None:
        self.stack = stack
        self.loop = loop
        self._core: SelectorCore | None = None
        self._driver: Any = stack._driver
        self._scheduled = False
        self._waiting = 0
        self.waits: dict[Socket, Any] = {}  # of calls.py
        self._is_told = self._driver.kind in ("asyncio", "virtual")
        self._open()

    def _open(self) -> SelectorCore:
        if self._driver.kind == "asyncio":
            self._driver.bind(self.loop)
        core = SelectorCore(self.stack)
        if self._is_told:
            core._announce(self._notice)
        else:
            self.loop.add_reader(core._fd(), self._dispatch)
        self._core = core
        return core

    @staticmethod
    def of(stack: Stack, loop: asyncio.AbstractEventLoop) -> Reactor:
        """The stack's for this loop. Raises RuntimeError if the stack is driven by another loop."""
        found = stack._reactors.get(loop)
        if found is None:
            for other in [one for one in stack._reactors if one.is_closed()]:
                stack._reactors.pop(other).close()
            found = stack._reactors[loop] = Reactor(stack, loop)
        return found

    def register(self, sock: Socket, events: int, who: Waiting) -> None:
        """Call who._ready(events) while the socket is ready. Raises OSError on a closed socket; RuntimeError:
        somebody waits on it already."""
        (self._core or self._open())._register(sock, events, who)
        self._waiting += 1

    def modify(self, sock: Socket, events: int, who: Waiting) -> None:
        """Wait for other events, or for none (0)."""
        if self._core is not None:
            self._core._modify(sock, events, who)

    def unregister(self, sock: Socket) -> None:
        """Wait no more."""
        if self._core is None:
            return
        self._core._unregister(sock)
        self._waiting -= 1
        if self._waiting or self._is_told:
            return
        if self.loop.is_closed():
            self.close()
        else:
            self.loop.call_soon(self._rest)  # most go on waiting

    def _rest(self) -> None:
        """The loop should not keep a stack that nobody uses."""
        if not self._waiting:
            self.close()

    def abandon(self) -> None:
        """The stack is closed: everybody who waits is told, in the loop's thread."""
        if self._core is None or self.loop.is_closed():
            return
        who = self._core._keys()
        if self.loop.is_running() and asyncio._get_running_loop() is not self.loop:
            self.loop.call_soon_threadsafe(_tell_all, who)
        else:
            _tell_all(who)

    def close(self) -> None:
        """Forget every socket. Who registers one again begins anew."""
        core, self._core = self._core, None
        self._waiting = 0
        self.waits.clear()
        if core is None:
            return
        if not self._is_told and not self.loop.is_closed():
            self.loop.remove_reader(core._fd())
        core._close()

    def _notice(self) -> None:
        """Some socket may be ready."""
        core = self._core
        if self._scheduled or core is None or not core._listed or self.loop.is_closed():
            return
        self._scheduled = True
        if getattr(self._driver, "turning", False):
            self._dispatch()
        else:
            self.loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._scheduled = self._is_told
        core = self._core
        found = core._ready() if core is not None else []
        for who, events in found:
            try:
                who._ready(events)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                self.loop.call_exception_handler({"message": f"error in {who!r}", "exception": error})
        if not self._is_told:
            return
        # What is still ready is told again, after the loop's other callbacks.
        if found and not self.loop.is_closed():
            self.loop.call_soon(self._dispatch)
        else:
            self._scheduled = False


def _tell_all(who: list[Waiting]) -> None:
    for one in who:
        one._abandoned()
