"""Stack.dhcp6(): an interface gets addresses, delegated prefixes and name servers from a DHCPv6 server.

Responsible for: the socket, when it begins (as routers say, RFC 4861 §4.2), looking whether addresses are free (RFC
4862's probes, by net/), what of a lease becomes the configuration. Not for: how a client runs (ustack/dhcp_client.py),
the states of the protocol (ustack/dhcp6_machine.py) and messages (ustack/dhcp6_wire.py). Routes are the routers' to
tell, not DHCPv6's.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import zlib
from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv6Network
from typing import TYPE_CHECKING, Any

from ustack_ext.sockets import config

from . import clock
from .dhcp6_machine import Action, Check, Drop, Lease6, Machine, Send, Use
from .dhcp6_wire import Dhcp6Error, duid_ll, parse
from .dhcp_client import Client, find_interface, learn_names

if TYPE_CHECKING:
    from .stack import Stack

_CLIENT_PORT, _SERVER_PORT = 546, 547
_ALL_AGENTS = "ff02::1:2"  # All_DHCP_Relay_Agents_and_Servers
# s between two looks: at an address of ours, at what routers say until one of them says something, and then
_LOOK_SOON, _LOOK, _LOOK_LATER = 0.1, 0.5, 10.0
_SUBNET = 64

Listener6 = Callable[[str, Lease6], object]


class Dhcp6(Client[Lease6]):
    """A DHCPv6 client of one interface; made by Stack.dhcp6(). Runs until release(), close(), or its stack is closed.

    With the thread driver it has a thread, in a simulated network a task. With the manual and asyncio drivers poll() is
    to be called when something came, and by next_deadline().
    """

    _name = "dhcp6"

    def __init__(
        self,
        stack: Stack,
        interface: str,
        *,
        mode: str = "auto",
        prefix: int | None = None,
        assign: Mapping[str, int] | None = None,
        duid: bytes | None = None,
        hostname: str | None = None,
        previous: Iterable[str] = (),
        rapid_commit: bool = True,
        dns: bool = True,
        on_event: Listener6 | None = None,
    ) -> None:
        if mode not in ("auto", "stateful", "stateless"):
            raise ValueError(f'mode: {mode!r} is neither "auto" nor "stateful" nor "stateless"')
        found = find_interface(stack, interface)
        super().__init__(stack, found, on_event)
        mac = bytes.fromhex(str(found.mac).replace(":", ""))
        rng = clock.random_source(stack, f"dhcp6 {interface}")
        options = {"prefix": prefix, "previous": tuple(previous), "rapid_commit": rapid_commit, "hostname": hostname}
        # §12.1: the same after a restart; several interfaces of one client (DUID) differ.
        iaid = zlib.crc32(interface.encode())

        def make(addresses: bool) -> Machine:
            wanted = options if addresses else {**options, "prefix": None, "previous": ()}
            return Machine(duid or duid_ll(mac), iaid, rng, addresses=addresses, **wanted)  # type: ignore[arg-type]

        self._make = make
        self._machine = make(mode != "stateless")
        self._mode, self._sets_dns, self._assign = mode, dns, dict(assign or {})
        self._look_at: float | None = clock.now(stack)
        self._given: set[tuple[str, str]] = set()  # (interface, address with prefix length)
        if not any(a.address.startswith("fe80:") for a in found.addresses):
            config.autoconf(stack, interface)
        self._begin()

    def __repr__(self) -> str:
        what = " ".join(one.what for one in self._in_use.grants) if self._in_use else ""
        return f"<ustack.Dhcp6 {self._interface} {self.state} {what}".rstrip() + ">"

    # -- when

    def _begin(self) -> None:
        self._sock = self._open(self._stack)
        self._go()  # the machine waits, in INIT, for what _begin_when says

    def next_deadline(self) -> float | None:
        """When poll() is due at the latest, in seconds of the stack's clock; None: not before something comes."""
        deadline = super().next_deadline()
        if self._look_at is None:
            return deadline
        return self._look_at if deadline is None else min(deadline, self._look_at)

    def _due(self, stack: Stack) -> None:
        now = clock.now(stack)
        if self._look_at is not None and now >= self._look_at and not self._machine.stopped:
            after = self._begin_when(stack, now)
            self._look_at = None if after is None else now + after
        super()._due(stack)

    def _begin_when(self, stack: Stack, now: float) -> float | None:
        """Begin where it is time to -> seconds until that is to be looked at again.

        Not without a link-local address to send from; and in mode "auto" as routers say: addresses (M), or only the
        rest (O).
        """
        mine = next((one for one in stack.interfaces() if one.name == self._interface), None)
        if mine is None or not any(
            one.address.startswith("fe80:") and one.state == "PREFERRED" for one in mine.addresses
        ):
            return _LOOK_SOON
        waits = self._machine.state.value == "INIT" and self._machine.deadline is None
        if self._mode != "auto":
            self._do(stack, self._machine.start(now))
            return None
        if mine.managed and (waits or self._machine.is_stateless):
            self._change(stack, self._make(True), now)
        elif mine.other_config and waits:
            self._change(stack, self._make(False), now)
        return _LOOK if not mine.managed and not mine.other_config else _LOOK_LATER

    def _change(self, stack: Stack, machine: Machine, now: float) -> None:
        self._do(stack, self._machine.stop(now, False))
        self._machine = machine
        self._do(stack, machine.start(now))

    # -- packets

    def _open(self, stack: Stack) -> Any:
        sock = stack.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        try:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a client of another interface
            sock.bind(("::", _CLIENT_PORT))
        except BaseException:
            sock.close()
            raise
        return sock

    def _receive(self, sock: Any) -> tuple[Any, ...]:
        data, peer = sock.recvfrom(65535)
        return data, peer

    def _take(self, stack: Stack, *datagram: Any) -> None:
        data, peer = datagram
        if peer is None or peer[1] != _SERVER_PORT or (peer[3] and peer[3] != self._index):
            return
        with contextlib.suppress(Dhcp6Error):
            self._do(stack, self._machine.receive(parse(data), clock.now(stack)))

    # -- doing what the machine says

    def _do(self, stack: Stack, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Send):
                with contextlib.suppress(OSError):  # lost, as on the wire: it is sent again
                    self._sock.sendto(action.data, (_ALL_AGENTS, _SERVER_PORT, 0, self._index))
            elif isinstance(action, Check):
                self._begin_check(stack, action.lease)
            elif isinstance(action, Use):
                self._use(stack, action.lease)
                self._tell(action.event, action.lease)
            else:
                assert isinstance(action, Drop)
                self._drop(stack)
                self._tell(action.event, action.lease)

    def _begin_check(self, stack: Stack, lease: Lease6) -> None:
        self._checking = lease
        for one in lease.addresses:
            self._give(stack, self._interface, f"{one.what}/128", probe=True)

    def _look(self, stack: Stack, lease: Lease6) -> None:
        states = {one.what: self._address_state(stack, one.what) for one in lease.addresses}
        if "TENTATIVE" not in states.values():
            self._checking = None
            taken = tuple(what for what, state in states.items() if state == "CONFLICT")
            self._do(stack, self._machine.checked(taken, clock.now(stack)))

    def _use(self, stack: Stack, lease: Lease6) -> None:
        self._in_use = lease
        wanted = {(self._interface, f"{one.what}/128") for one in lease.addresses}
        wanted |= {(name, found) for name, subnet in self._assign.items() if (found := _inside(lease, subnet))}
        for interface, address in self._given - wanted:
            self._take_away(stack, interface, address)
        for interface, address in wanted - self._given:
            self._give(stack, interface, address, probe=False)
        if self._sets_dns:
            zone = f"%{self._interface}"
            servers = [one + (zone if one.startswith("fe80:") else "") for one in lease.dns_servers]
            learn_names(stack, self, servers, lease.search)

    def _give(self, stack: Stack, interface: str, address: str, probe: bool) -> None:
        try:
            stack.add_address(interface, address, probe=probe)
        except OSError as error:
            if error.errno == errno.EEXIST:  # somebody gave it to the interface by hand, and keeps it
                return
            if error.errno != errno.ENODEV and not probe:
                return
        self._given.add((interface, address))

    def _take_away(self, stack: Stack, interface: str, address: str) -> None:
        self._given.discard((interface, address))
        with contextlib.suppress(OSError):
            stack.remove_address(interface, address)

    def _drop(self, stack: Stack) -> None:
        self._in_use = self._checking = None
        for interface, address in list(self._given):
            self._take_away(stack, interface, address)
        learn_names(stack, self, (), ())


def _inside(lease: Lease6, subnet: int) -> str | None:
    """The first address of the /64 of that number in the first delegated prefix; None where it has not so many."""
    for one in lease.prefixes[:1]:
        network = IPv6Network(one.what)
        if network.prefixlen <= _SUBNET and 0 <= subnet < 1 << (_SUBNET - network.prefixlen):
            return f"{network.network_address + (subnet << _SUBNET) + 1}/{_SUBNET}"
    return None
