"""What a stack makes of its links: what an interface gets, and interfaces that stand on others.

    stack.add_vlan("ust0", 5, addresses=["10.5.0.2/24"])                    # ust0.5
    stack.add_bridge("br0", ["ust1", "ust2"], addresses=["10.6.0.2/24"])

Responsible for: addresses, default routes and MTU of a new interface; VLANs (IEEE 802.1Q) and bridges. Not for: links,
or what becomes of frames (ustack_ext/net/vlan.pyx, bridge.pyx).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ustack_ext.sockets import config, inspect, linkconfig
from ustack_ext.sockets.stackcore import StackCore

from . import addresses as numbers
from .records import Station

_NAME_LIMIT = 15


class Settings:
    """What a new interface is to have; read, and found good, before there is one. Parameters: Stack.attach()."""

    def __init__(
        self,
        addresses: Iterable[str] = (),
        gateway: str | Iterable[str] | None = None,
        *,
        mtu: int | None = None,
        probe: bool = False,
        autoconf: bool = False,
    ) -> None:
        texts = [addresses] if isinstance(addresses, str) else addresses
        self._addresses = [numbers.interface_address(text) for text in texts]
        self._gateways = numbers.gateways(gateway)
        if mtu is not None:
            numbers.check_mtu(mtu)
        self._mtu, self._probe, self._autoconf = mtu, probe, autoconf

    def give(self, stack: StackCore, name: str) -> None:
        """Raises ValueError, OSError."""
        if self._mtu is not None:
            config.set_mtu(stack, name, self._mtu)
        for address, length in self._addresses:
            config.add_address(stack, name, address, length, self._probe)
        for via, prefix, length in self._gateways:
            config.change_route(stack, True, prefix, length, via, name, 0, 0, 0)
        if self._autoconf:
            config.autoconf(stack, name)


class Layered(StackCore):
    """The part of ustack.Stack that makes interfaces out of interfaces."""

    def add_vlan(
        self, interface: str, vlan: int, *, name: str | None = None, priority: int = 0, **settings: Any
    ) -> str:
        """Add the interface of a VLAN that comes tagged (802.1Q) over another interface -> its name.

        vlan: the id, 1 to 4094. name: None for "INTERFACE.ID". priority: PCP of what is sent, 0 to 7. settings:
        addresses, gateway, mtu (no more than the interface's, whose frames are then 4 bytes longer), probe, autoconf as
        in attach(). It has the interface's MAC address, and goes with it.
        Raises ValueError; OSError: ENODEV, EEXIST (the id, or the name), EINVAL (no Ethernet, or a VLAN), ENFILE.
        """
        if not 1 <= vlan <= 4094:
            raise ValueError(f"vlan: {vlan} is not between 1 and 4094")
        if not 0 <= priority <= 7:
            raise ValueError(f"priority: {priority} is not between 0 and 7")
        wanted = Settings(**settings)
        suffix = f".{vlan}"
        chosen = name or interface[: _NAME_LIMIT - len(suffix)] + suffix
        linkconfig.add_vlan(self, interface, chosen, vlan, priority)
        return self._furnish(chosen, wanted)

    def add_bridge(
        self,
        name: str,
        ports: Iterable[str],
        *,
        mac: bytes | str | None = None,
        ageing_time: float = 300.0,
        **settings: Any,
    ) -> str:
        """Join Ethernet interfaces, of links or VLANs, to one network (802.1D), of which the stack is a part -> name.

        name: of the interface by which the stack itself is in it. ports: names of interfaces, without addresses.
        mac: of the new interface, None for the first port's. ageing_time: seconds until a station that is not heard of
        is looked for everywhere. settings: addresses, gateway, mtu (no more than the least of the ports'), probe,
        autoconf as in attach(). There is no spanning tree: two ports on one network make a loop, and a storm.
        Raises ValueError; OSError: ENODEV, EBUSY (a port of another bridge), EINVAL (a port has an address, or is no
        Ethernet), ELOOP (a bridge, or the VLAN of one), EEXIST, ENFILE.
        """
        if not 0 <= ageing_time <= 1e6:
            raise ValueError(f"ageing_time: {ageing_time} seconds is not between 0 and 1000000")
        wanted = Settings(**settings)
        own = None if mac is None else numbers.mac(mac)
        names = [ports] if isinstance(ports, str) else list(ports)
        linkconfig.add_bridge(self, name, names, own, round(ageing_time * 1e9))
        return self._furnish(name, wanted)

    def _furnish(self, name: str, wanted: Settings) -> str:
        try:
            wanted.give(self, name)
        except BaseException:
            linkconfig.remove(self, name)
            raise
        return name

    def remove_interface(self, name: str) -> None:
        """Take a VLAN or a bridge away, with its addresses, routes, and the VLANs on it; detach() is for links.

        Raises OSError: ENODEV, EINVAL (it is a link's).
        """
        linkconfig.remove(self, name)

    def stations(self, bridge: str) -> list[Station]:
        """The link addresses that a bridge has seen, latest first at each port. Raises ValueError."""
        found = inspect.stations(self, bridge)
        if found is None:
            raise ValueError(f"{bridge!r} is no bridge of this stack")
        return [Station(*row) for row in found]
