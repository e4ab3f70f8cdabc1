"""Stack.dhcp(): an interface gets its address, routes and DNS servers from a DHCPv4 server.

Responsible for: the socket, looking whether the address is free (by probes of RFC 5227, which net/arp.pyx sends), what
of a lease becomes the configuration. Not for: how a client runs (ustack/dhcp_client.py), the states of the protocol
(ustack/dhcp_machine.py) and messages (ustack/dhcp_wire.py).
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ustack_ext.sockets import config

from . import clock
from .dhcp_client import RUNNING, Client, find_interface, learn_names
from .dhcp_machine import Action, Check, Drop, Lease, Machine, Send, Use
from .dhcp_wire import DhcpError, parse

if TYPE_CHECKING:
    from .stack import Stack

_CLIENT_PORT, _SERVER_PORT = 68, 67
_IP_PKTINFO = getattr(socket, "IP_PKTINFO", 8)
_SO_BINDTODEVICE = getattr(socket, "SO_BINDTODEVICE", 25)
_ROOM = socket.CMSG_SPACE(12)

Listener = Callable[[str, Lease], object]


class Dhcp(Client[Lease]):
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
        found = find_interface(stack, interface)
        super().__init__(stack, found, on_event)
        mac = bytes.fromhex(str(found.mac).replace(":", ""))
        rng = clock.random_source(stack, f"dhcp {interface}")
        self._machine = Machine(mac, rng, hostname=hostname, client_id=client_id, previous=previous)
        self._sets_dns = dns
        self._routes: list[tuple[str, str | None]] = []
        self._begin()

    def __repr__(self) -> str:
        address = f" {self._in_use.address}" if self._in_use else ""
        return f"<ustack.Dhcp {self._interface} {self.state}{address}>"

    # -- packets

    def _open(self, stack: Stack) -> Any:
        sock = stack.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sock.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, self._interface.encode())
            sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
            sock.bind(("", _CLIENT_PORT))
        except BaseException:
            sock.close()
            raise
        return sock

    def _receive(self, sock: Any) -> tuple[Any, ...]:
        data, ancillary, _, peer = sock.recvmsg(4096, _ROOM)
        return data, ancillary, peer

    def _take(self, stack: Stack, *datagram: Any) -> None:
        data, ancillary, peer = datagram
        index = next((int.from_bytes(raw[:4], sys.byteorder) for _, _, raw in ancillary), self._index)
        if peer is None or peer[1] != _SERVER_PORT or index != self._index:
            return
        with contextlib.suppress(DhcpError):
            self._do(stack, self._machine.receive(parse(data), clock.now(stack)))

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
        state = self._address_state(stack, lease.address)
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
        if self._sets_dns:
            learn_names(stack, self, lease.dns_servers, lease.search)

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
        if drop.event != "released" or stack._driver.kind not in RUNNING:
            return
        deadline = clock.now(stack) + self._patience
        while clock.now(stack) < deadline and any(one.state == "INCOMPLETE" for one in stack.neighbors()):
            self._never.wait(0.005)

    def _drop(self, stack: Stack, lease: Lease) -> None:
        self._in_use = self._checking = None
        self._remove_routes(stack)
        with contextlib.suppress(OSError):
            stack.remove_address(self._interface, lease.address)
        learn_names(stack, self, (), ())
