"""Stack.link_local(): an IPv4 address without a server (RFC 3927).

Responsible for: which address is tried, when the next one is, how often. Not for: probes, announcements and the one
defence of an address that somebody else uses (net/arp.pyx; RFC 5227).
"""

from __future__ import annotations

import contextlib
import ipaddress
import random
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ustack_ext.driver.world import Flag

from . import clock
from .dhcp_client import find_interface

if TYPE_CHECKING:
    from .stack import Stack

_FIRST, _LAST = int(ipaddress.IPv4Address("169.254.1.0")), int(ipaddress.IPv4Address("169.254.254.255"))
_MAX_CONFLICTS, _RATE_LIMIT = 10, 60.0  # s; §9
_LOOK_PROBING, _LOOK = 0.1, 1.0  # s between two looks at the address
_LEAST = 1e-6

LinkLocalListener = Callable[[str, str], object]


class LinkLocal:
    """An interface's IPv4 link-local address; made by Stack.link_local(). Runs until close(), or its stack is closed.

    With the thread driver it has a thread, in a simulated network a task. With the manual and asyncio drivers poll() is
    to be called by next_deadline().
    """

    def __init__(self, stack: Stack, interface: str, *, on_event: LinkLocalListener | None = None) -> None:
        found = find_interface(stack, interface)
        self._stack = stack
        self._interface = interface
        self._on_event = on_event
        # §2.1: of the MAC, so that a host comes back to the address it had, and two hosts to two.
        self._rng = random.Random(found.mac)
        self._trying: str | None = None
        self._address: str | None = None
        self._conflicts = 0
        self._next = clock.now(stack)
        self._closed = False
        virtual = clock.is_virtual(stack)
        self._lock: Any = contextlib.nullcontext() if virtual else threading.RLock()
        self._changed: Any = Flag(stack._driver.world) if virtual else threading.Event()
        self._nap: Any = Flag(stack._driver.world) if virtual else threading.Event()
        if stack._driver.kind == "thread":
            threading.Thread(target=self._run, name=f"ustack-linklocal-{interface}", daemon=True).start()
        elif virtual:
            stack._driver.world.spawn(self._run, (), f"linklocal {interface}")

    @property
    def interface(self) -> str:
        """The interface's name."""
        return self._interface

    @property
    def address(self) -> str | None:
        """The address in use, or None."""
        return self._address

    @property
    def state(self) -> str:
        """ "PROBING", "BOUND", "STOPPED"."""
        return "STOPPED" if self._closed else "BOUND" if self._address else "PROBING"

    def wait(self, timeout: float | None = None) -> str:
        """Wait for the address -> that. timeout in seconds; it takes six when all goes well. Raises TimeoutError."""
        deadline = None if timeout is None else clock.now(self._stack) + timeout
        while True:
            with self._lock:
                if self._address is not None:
                    return self._address
                self._changed.clear()
            left = None if deadline is None else deadline - clock.now(self._stack)
            if self._closed or (left is not None and left <= _LEAST):
                raise TimeoutError(f"{self._interface} has no link-local address")
            self._changed.wait(left)

    def close(self) -> None:
        """Take the address from the interface, and end. Can be called again."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._remove()
            self._nap.set()
            self._changed.set()

    def release(self) -> None:
        """As close(): there is nobody to give an address back to."""
        self.close()

    def poll(self) -> None:
        """Manual and asyncio drivers: do what is due."""
        with self._lock:
            if not self._closed and clock.now(self._stack) >= self._next:
                self._turn()

    def next_deadline(self) -> float | None:
        """When poll() is due at the latest, in seconds of the stack's clock."""
        return None if self._closed else self._next

    def __enter__(self) -> LinkLocal:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<ustack.LinkLocal {self._interface} {self.state} {self._address or ''}".rstrip() + ">"

    # -- running

    def _run(self) -> None:
        with contextlib.suppress(OSError):  # the stack was closed
            while not self._closed and not self._stack.closed:
                self.poll()
                self._nap.wait(max(self._next - clock.now(self._stack), _LEAST))

    def _turn(self) -> None:
        now = clock.now(self._stack)
        if self._trying is None:
            self._trying = str(ipaddress.IPv4Address(self._rng.randint(_FIRST, _LAST)))
            self._stack.add_address(self._interface, f"{self._trying}/16", probe=True)
            self._next = now + _LOOK_PROBING
            return
        mine = (one for one in self._stack.interfaces() if one.name == self._interface)
        state = next((a.state for one in mine for a in one.addresses if a.address == self._trying), "CONFLICT")
        if state == "CONFLICT":
            self._conflicts += 1
            lost, had = self._trying, self._address is not None
            self._remove()
            # §2.2.1: after many, one attempt a minute
            self._next = now + (_RATE_LIMIT if self._conflicts >= _MAX_CONFLICTS else 0.0)
            self._tell("lost" if had else "conflict", lost)
        elif state == "PREFERRED":
            self._next = now + _LOOK
            if self._address is None:
                self._address = self._trying
                self._tell("bound", self._trying)
        else:
            self._next = now + _LOOK_PROBING

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            if self._trying is not None:
                self._stack.remove_address(self._interface, self._trying)
        self._trying = self._address = None

    def _tell(self, event: str, address: str) -> None:
        self._changed.set()
        if self._on_event is not None:
            self._on_event(event, address)
