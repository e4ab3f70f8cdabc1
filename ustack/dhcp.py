"""Stack.dhcp(): an interface gets its address, routes and DNS servers from a DHCPv4 server.

Responsible for: the socket, the thread (or the task in virtual time), looking whether the address is free (by probes
of RFC 5227, which net/arp.pyx sends), what of a lease becomes the configuration. Not for: the states of the protocol
(ustack/dhcp_machine.py) and messages (ustack/dhcp_wire.py).
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ustack_ext.driver.world import Flag
from ustack_ext.sockets import config

from . import clock
from .dhcp_machine import Action, Check, Drop, Lease, Machine, Send, State, Use
from .dhcp_wire import DhcpError, parse
from .resolver import Resolver

if TYPE_CHECKING:
    from .stack import Stack

_CLIENT_PORT, _SERVER_PORT = 68, 67
_IP_PKTINFO = getattr(socket, "IP_PKTINFO", 8)
_LOOK_AGAIN = 0.05  # s between two looks at an address that is being probed
_ROOM = socket.CMSG_SPACE(12)
_PATIENCE = 0.5  # s for a RELEASE to leave
_RUNNING = ("thread", "virtual")  # drivers that run by themselves
_LEAST = 1e-6  # s; less would be no time at all

Listener = Callable[[str, Lease], object]


class Dhcp:
    """A DHCPv4 client of one interface; made by Stack.dhcp(). Runs until release(), close(), or its stack is closed.

    With the thread driver it has a thread, in a simulated network a task. With the manual and asyncio drivers poll() is
    to be called when something came, and by next_deadline().
    """

    def __init__(
        self,
        stack: Stack,
        interface: str,
        *,
        hostname: str | None = None,
        client_id: bytes | None = None,
        previous: str | None = None,
        dns: bool = True,
        on_event: Listener | None = None,
    ) -> None:
        found = next((one for one in stack.interfaces() if one.name == interface), None)
        if found is None:
            raise OSError(errno.ENODEV, f"No such device: {interface}")
        if found.medium != "ethernet" or found.mac is None:
            raise ValueError(f"{interface}: DHCP needs an Ethernet interface")
        first = next(one for one in stack.interfaces() if one.medium != "loopback")
        if first.name != interface:
            raise OSError(
                errno.EOPNOTSUPP, f"{interface}: broadcasts leave by {first.name}, so that DHCP works there only"
            )
        mac = bytes.fromhex(found.mac.replace(":", ""))
        rng = clock.random_source(stack, f"dhcp {interface}")
        self._stack = stack
        self._interface, self._index = interface, found.index
        self._machine = Machine(mac, rng, hostname=hostname, client_id=client_id, previous=previous)
        self._sets_dns = dns
        self._own_resolver: Resolver | None = None
        self._on_event = on_event
        self._checking: Lease | None = None
        self._in_use: Lease | None = None
        self._routes: list[tuple[str, str | None]] = []
        self._patience = 0.0
        virtual = clock.is_virtual(stack)
        # Tasks of virtual time take turns only where they wait; one that waited for a lock would stop them all.
        self._lock: Any = contextlib.nullcontext() if virtual else threading.RLock()
        self._changed: Any = Flag(stack._driver.world) if virtual else threading.Event()
        self._never: Any = Flag(stack._driver.world) if virtual else threading.Event()
        self._sock: Any = None
        self._open(stack)
        self._do(stack, self._machine.start(clock.now(stack)))
        if stack._driver.kind == "thread":
            threading.Thread(target=self._run, name=f"ustack-dhcp-{interface}", daemon=True).start()
        elif virtual:
            stack._driver.world.spawn(self._run, (), f"dhcp {interface}")

    # -- what can be asked and told

    @property
    def interface(self) -> str:
        """The interface's name."""
        return self._interface

    @property
    def state(self) -> str:
        """RFC 2131's name of the state: "SELECTING", "BOUND", …"""
        return self._machine.state.value

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
                if self._machine.state is State.STOPPED:
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
            if self._machine.state is State.STOPPED:
                return
            self._wake()
            self._do(stack, self._machine.renew(clock.now(stack)))

    def release(self) -> None:
        """Give the address back, take it from the interface, and end. Can be called again."""
        self._end(True)

    def close(self) -> None:
        """End without a word to the server; the address is taken from the interface. Can be called again."""
        self._end(False)

    def poll(self) -> None:
        """Manual and asyncio drivers: take what came, and do what is due."""
        with self._lock:
            if self._machine.state is not State.STOPPED:
                self._sock.settimeout(0)
                self._turn(self._stack, self._sock)

    def next_deadline(self) -> float | None:
        """When poll() is due at the latest, in seconds of the stack's clock; None: not before something comes."""
        if self._checking is not None:
            return clock.now(self._stack) + _LOOK_AGAIN
        return self._machine.deadline

    def __enter__(self) -> Dhcp:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()

    def __repr__(self) -> str:
        address = f" {self._in_use.address}" if self._in_use else ""
        return f"<ustack.Dhcp {self._interface} {self.state}{address}>"

    # -- running

    def _open(self, stack: Stack) -> None:
        sock = stack.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
            sock.bind(("", _CLIENT_PORT))
        except BaseException:
            sock.close()
            raise
        self._sock = sock

    def _run(self) -> None:
        with contextlib.suppress(OSError):  # the stack was closed
            while True:
                stack = self._stack
                with self._lock:
                    if self._machine.state is State.STOPPED or stack.closed:
                        return
                    sock = self._sock
                deadline = self.next_deadline()
                sock.settimeout(None if deadline is None else max(deadline - clock.now(stack), _LEAST))
                self._wait_and_turn(sock)

    def _wait_and_turn(self, sock: Any) -> None:
        with contextlib.suppress(OSError):
            data, ancillary, _, peer = sock.recvmsg(4096, _ROOM)
            stack = self._stack
            with self._lock:
                self._take(stack, data, ancillary, peer)
        stack = self._stack
        with self._lock:
            self._due(stack)

    def _turn(self, stack: Stack, sock: Any) -> None:
        with contextlib.suppress(OSError):
            while True:
                data, ancillary, _, peer = sock.recvmsg(4096, _ROOM)
                self._take(stack, data, ancillary, peer)
        self._due(stack)

    def _take(self, stack: Stack, data: bytes, ancillary: list[tuple[int, int, bytes]], peer: Any) -> None:
        index = next((int.from_bytes(raw[:4], sys.byteorder) for _, _, raw in ancillary), self._index)
        if peer is None or peer[1] != _SERVER_PORT or index != self._index:
            return
        with contextlib.suppress(DhcpError):
            self._do(stack, self._machine.receive(parse(data), clock.now(stack)))

    def _due(self, stack: Stack) -> None:
        if self._checking is not None:
            self._look(stack, self._checking)
        self._do(stack, self._machine.timer(clock.now(stack)))

    def _wake(self) -> None:
        """Whoever waits on the socket is to look at the deadline again: it finds another socket."""
        if self._stack._driver.kind in _RUNNING:
            self._sock.close()
            self._open(self._stack)

    def _end(self, release: bool) -> None:
        with self._lock:
            stack = self._stack
            if self._machine.state is State.STOPPED:
                return
            self._patience = _PATIENCE if release else 0.0
            with contextlib.suppress(OSError):
                self._do(stack, self._machine.stop(clock.now(stack), release))
            self._sock.close()
            self._changed.set()

    # -- doing what the machine says

    def _do(self, stack: Stack, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Send):
                with contextlib.suppress(OSError):  # lost, as on the wire: it is sent again
                    self._sock.sendto(action.data, (action.to or "255.255.255.255", _SERVER_PORT))
            elif isinstance(action, Check):
                self._begin_check(stack, action.lease)
            elif isinstance(action, Use):
                self._use(stack, action.lease)
                self._tell(action.event, action.lease)
            else:
                self._let_out(stack, action)
                self._drop(stack, action.lease)
                self._tell(action.event, action.lease)

    def _tell(self, event: str, lease: Lease) -> None:
        self._changed.set()
        if self._on_event is not None:
            self._on_event(event, lease)

    def _begin_check(self, stack: Stack, lease: Lease) -> None:
        """RFC 5227 §2.1: the address is probed for before it is used."""
        self._checking = lease
        try:
            stack.add_address(self._interface, f"{lease.address}/{lease.prefix_length}", probe=True)
        except OSError as error:
            if error.errno != errno.EEXIST:  # somebody gave it to the interface by hand: it is ours
                self._checking = None
                self._do(stack, self._machine.checked(False, clock.now(stack)))

    def _look(self, stack: Stack, lease: Lease) -> None:
        state = next(
            (a.state for i in stack.interfaces() if i.name == self._interface for a in i.addresses
             if a.address == lease.address), "CONFLICT",
        )  # fmt: skip
        if state != "TENTATIVE":
            self._checking = None
            self._do(stack, self._machine.checked(state == "PREFERRED", clock.now(stack)))

    def _use(self, stack: Stack, lease: Lease) -> None:
        before, self._in_use = self._in_use, lease
        if before is not None and (before.routes, before.dns_servers, before.search) == (
            lease.routes, lease.dns_servers, lease.search,
        ):  # fmt: skip
            return
        self._remove_routes(stack)
        network = ipaddress.ip_network(f"{lease.address}/{lease.prefix_length}", strict=False)
        # The default route last: a router may be reached by one of the others.
        for to, via in sorted(lease.routes, key=lambda one: one[0] == "0.0.0.0/0"):
            gateway = None if via == "0.0.0.0" else via
            if gateway is not None and ipaddress.ip_address(gateway) not in network and lease.prefix_length == 32:
                self._add_route(stack, f"{gateway}/32", None, lease)
            self._add_route(stack, to, gateway, lease)
        if lease.mtu is not None:
            with contextlib.suppress(ValueError, OSError):  # more than the link takes
                config.set_mtu(stack, self._interface, lease.mtu)
        if self._sets_dns and lease.dns_servers and stack.resolver in (None, self._own_resolver):
            with contextlib.suppress(ValueError):
                self._own_resolver = stack.use_dns(lease.dns_servers, search=lease.search)

    def _add_route(self, stack: Stack, to: str, gateway: str | None, lease: Lease) -> None:
        with contextlib.suppress(OSError, ValueError):  # a router out of reach, or a route that is there already
            stack.add_route(to, gateway, self._interface, source=lease.address)
            self._routes.append((to, gateway))

    def _remove_routes(self, stack: Stack) -> None:
        for to, gateway in self._routes:
            with contextlib.suppress(OSError):
                stack.del_route(to, gateway, self._interface)
        self._routes.clear()

    def _let_out(self, stack: Stack, drop: Drop) -> None:
        """A RELEASE may have to wait for the server's link address, and needs ours for that."""
        if drop.event != "released" or stack._driver.kind not in _RUNNING:
            return
        deadline = clock.now(stack) + self._patience
        while clock.now(stack) < deadline and any(one.state == "INCOMPLETE" for one in stack.neighbors()):
            self._never.wait(0.005)

    def _drop(self, stack: Stack, lease: Lease) -> None:
        self._in_use = self._checking = None
        self._remove_routes(stack)
        with contextlib.suppress(OSError):
            stack.remove_address(self._interface, lease.address)
        if self._own_resolver is not None and stack.resolver is self._own_resolver:
            stack.resolver = None
        self._own_resolver = None
