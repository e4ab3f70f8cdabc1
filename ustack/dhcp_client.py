"""What the DHCPv4 and the DHCPv6 client of an interface have in common.

Responsible for: the socket's and the machine's life, the thread (or the task in virtual time), waiting for a lease,
name servers that several clients learn of. Not for: the states of a protocol (dhcp_machine.py, dhcp6_machine.py), what
of a lease becomes the configuration (dhcp.py, dhcp6.py).
"""

from __future__ import annotations

import abc
import contextlib
import errno
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ustack_ext.driver.world import Flag

from . import clock
from .records import Interface

if TYPE_CHECKING:
    from .stack import Stack

PATIENCE = 0.5  # s for a release to leave, and to be answered
ROUTERS = "routers"  # who tells of name servers, of learn_names, where it is no client
RUNNING = ("thread", "virtual")  # drivers that run by themselves
_LEAST = 1e-6  # s; less would be no time at all
_LOOK_AGAIN = 0.05  # s between two looks at an address that is being probed

Lease = TypeVar("Lease")
_Self = TypeVar("_Self", bound="Client[Any]")


class Client(abc.ABC, Generic[Lease]):
    """A client of one interface. Runs until release(), close(), or its stack is closed.

    With the thread driver it has a thread, in a simulated network a task. With the manual and asyncio drivers poll() is
    to be called when something came, and by next_deadline().
    """

    _name = "dhcp"
    _machine: Any

    def __init__(self, stack: Stack, interface: Interface, on_event: Callable[[str, Lease], object] | None) -> None:
        self._stack = stack
        self._interface, self._index = interface.name, interface.index
        self._on_event = on_event
        self._checking: Lease | None = None
        self._in_use: Lease | None = None
        self._patience = 0.0
        virtual = clock.is_virtual(stack)
        # Tasks of virtual time take turns only where they wait; one that waited for a lock would stop them all.
        self._lock: Any = contextlib.nullcontext() if virtual else threading.RLock()
        self._changed: Any = Flag(stack._driver.world) if virtual else threading.Event()
        self._never: Any = Flag(stack._driver.world) if virtual else threading.Event()
        self._sock: Any = None

    def _begin(self) -> None:
        """Open the socket and run."""
        stack = self._stack
        self._sock = self._open(stack)
        self._do(stack, self._machine.start(clock.now(stack)))
        self._go()

    def _go(self) -> None:
        stack = self._stack
        if stack._driver.kind == "thread":
            threading.Thread(target=self._run, name=f"ustack-{self._name}-{self._interface}", daemon=True).start()
        elif clock.is_virtual(stack):
            stack._driver.world.spawn(self._run, (), f"{self._name} {self._interface}")

    # -- what can be asked and told

    @property
    def interface(self) -> str:
        """The interface's name."""
        return self._interface

    @property
    def state(self) -> str:
        """The RFC's name of the state: "BOUND", "RENEWING", …; "STOPPED"."""
        return str(self._machine.state.value)

    @property
    def lease(self) -> Lease | None:
        """What is in use now, or None."""
        return self._in_use

    def wait(self, timeout: float | None = None) -> Lease:
        """Wait until there is a lease -> that. timeout in seconds. Raises TimeoutError; OSError (EBADF) once closed."""
        stack = self._stack
        deadline = None if timeout is None else clock.now(stack) + timeout
        while True:
            with self._lock:
                if self._in_use is not None:
                    return self._in_use
                if self._machine.stopped:
                    raise OSError(errno.EBADF, "the DHCP client is closed")
                self._changed.clear()
            left = None if deadline is None else deadline - clock.now(stack)
            if left is not None and left <= _LEAST:
                raise TimeoutError(f"no DHCP server gave {self._interface} an address")
            self._changed.wait(left)

    def renew(self) -> None:
        """Ask for more time now. Nothing happens but while BOUND."""
        stack = self._stack
        with self._lock:
            if self._machine.stopped:
                return
            self._wake()
            self._do(stack, self._machine.renew(clock.now(stack)))

    def release(self) -> None:
        """Give back what was granted, take it from the interface, and end. Can be called again."""
        self._end(True)

    def close(self) -> None:
        """End without a word to the server; what was granted is taken from the interface. Can be called again."""
        self._end(False)

    def poll(self) -> None:
        """Manual and asyncio drivers: take what came, and do what is due."""
        with self._lock:
            if not self._machine.stopped:
                self._sock.settimeout(0)
                with contextlib.suppress(OSError):
                    while True:
                        self._take(self._stack, *self._receive(self._sock))
                self._due(self._stack)

    def next_deadline(self) -> float | None:
        """When poll() is due at the latest, in seconds of the stack's clock; None: not before something comes."""
        if self._checking is not None:
            return clock.now(self._stack) + _LOOK_AGAIN
        deadline: float | None = self._machine.deadline
        return deadline

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()

    # -- what a protocol has to say

    @abc.abstractmethod
    def _open(self, stack: Stack) -> Any:
        """A socket, bound."""

    @abc.abstractmethod
    def _receive(self, sock: Any) -> tuple[Any, ...]:
        """Wait for a datagram -> the arguments of _take. Raises OSError."""

    @abc.abstractmethod
    def _take(self, stack: Stack, *datagram: Any) -> None:
        """A datagram came."""

    @abc.abstractmethod
    def _look(self, stack: Stack, lease: Lease) -> None:
        """Has the check of its addresses come to an end?"""

    @abc.abstractmethod
    def _do(self, stack: Stack, actions: list[Any]) -> None:
        """Do what the machine says."""

    # -- running

    def _run(self) -> None:
        with contextlib.suppress(OSError):  # the stack was closed
            while True:
                stack = self._stack
                with self._lock:
                    if self._machine.stopped or stack.closed:
                        return
                    sock = self._sock
                deadline = self.next_deadline()
                sock.settimeout(None if deadline is None else max(deadline - clock.now(stack), _LEAST))
                self._wait_and_turn(sock)

    def _wait_and_turn(self, sock: Any) -> None:
        with contextlib.suppress(OSError):
            datagram = self._receive(sock)
            with self._lock:
                self._take(self._stack, *datagram)
        with self._lock:
            self._due(self._stack)

    def _due(self, stack: Stack) -> None:
        if self._checking is not None:
            self._look(stack, self._checking)
        self._do(stack, self._machine.timer(clock.now(stack)))
        if self._machine.stopped:
            self._changed.set()

    def _wake(self) -> None:
        """Whoever waits on the socket is to look at the deadline again: it finds another socket."""
        if self._stack._driver.kind in RUNNING:
            self._sock.close()
            self._sock = self._open(self._stack)

    def _end(self, release: bool) -> None:
        with self._lock:
            stack = self._stack
            if self._machine.stopped:
                return
            self._patience = PATIENCE if release else 0.0
            with contextlib.suppress(OSError):
                self._do(stack, self._machine.stop(clock.now(stack), release))
                if not self._machine.stopped:
                    self._wake()
        self._let_end(stack)
        with self._lock:
            self._machine.stop(clock.now(stack), False)
            self._sock.close()
            self._changed.set()

    def _let_end(self, stack: Stack) -> None:
        """A release may have to be repeated until it is answered, for a while."""
        deadline = clock.now(stack) + self._patience
        while not self._machine.stopped and stack._driver.kind in RUNNING:
            self._changed.clear()
            left = deadline - clock.now(stack)
            if left <= _LEAST:
                return
            if not self._machine.stopped:
                self._changed.wait(left)

    def _tell(self, event: str, lease: Lease) -> None:
        self._changed.set()
        if self._on_event is not None:
            self._on_event(event, lease)

    def _address_state(self, stack: Stack, address: str) -> str:
        """What became of the probes for an address."""
        mine = (one for one in stack.interfaces() if one.name == self._interface)
        return next((a.state for one in mine for a in one.addresses if a.address == address), "CONFLICT")


def find_interface(stack: Stack, name: str) -> Interface:
    """An Ethernet interface. Raises ValueError; OSError: ENODEV."""
    found = next((one for one in stack.interfaces() if one.name == name), None)
    if found is None:
        raise OSError(errno.ENODEV, f"No such device: {name}")
    if found.medium != "ethernet" or found.mac is None:
        raise ValueError(f"{name}: DHCP needs an Ethernet interface")
    return found


def learn_names(stack: Stack, who: object, servers: Sequence[str], search: Sequence[str]) -> None:
    """One client's name servers, in place of what it knew before; all clients' are asked, in the clients' order, and
    routers' behind them (RFC 8106 §5.3.1).

    A resolver that the program has set itself stays.
    """
    learnt = stack._learnt_names
    if servers:
        learnt[who] = (tuple(servers), tuple(search))
    else:
        learnt.pop(who, None)
    if stack.resolver is not None and stack.resolver is not stack._learnt_resolver:
        return
    stack.resolver = stack._learnt_resolver = None
    if learnt:
        in_order = [known for who, known in sorted(learnt.items(), key=lambda item: item[0] is ROUTERS)]
        every = dict.fromkeys(one for known, _ in in_order for one in known)
        domains = dict.fromkeys(one for _, known in in_order for one in known)
        with contextlib.suppress(ValueError):  # a search list that is none
            stack._learnt_resolver = stack.use_dns(every, search=domains)
