"""Routes and rules of a stack: the part of ustack.Stack that says where packets go.

Responsible for: reading prefixes, table names and priorities. Not for: looking routes up (ustack_ext/net/route.pyx and
rule.pyx), forwarding (a knob: net.ipv4.ip_forward, net.ipv6.conf.all.forwarding).
"""

from __future__ import annotations

import errno
import ipaddress
from typing import TYPE_CHECKING, cast

from ustack_ext.sockets import config, inspect, routing

from . import addresses as numbers
from . import records
from .records import Route, Rule

if TYPE_CHECKING:
    from .stack import Stack

TABLES = {"local": 255, "main": 254, "default": 253}
_MAIN = TABLES["main"]
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Routing:
    """A base class of ustack.Stack."""

    def routes(self) -> list[Route]:
        """The routes of all tables, most specific first."""
        return [records.route(row) for row in inspect.routes(cast("Stack", self))]

    def add_route(
        self,
        destination: str,
        gateway: str | None = None,
        interface: str | None = None,
        *,
        metric: int = 0,
        mtu: int = 0,
        source: str | None = None,
        table: int | str = "main",
    ) -> None:
        """Add a route. destination: "192.0.2.0/24" or "default"; gateway or interface, or both; mtu: 0 for the
        interface's; table: a number, "main" or "default"; others are looked into where a rule says so.

        Raises ValueError, OSError: ENETUNREACH (no such gateway), EEXIST.
        """
        if gateway is None and interface is None:
            raise ValueError("a route needs a gateway, an interface, or both")
        six = any(":" in (text or "") for text in (gateway, source))
        network = numbers.network(destination, six)
        own = 0 if source is None else numbers.address(source)
        self._change_route(True, network, gateway, interface, metric, mtu, own, table_number(table))

    def del_route(
        self,
        destination: str,
        gateway: str | None = None,
        interface: str | None = None,
        *,
        table: int | str = "main",
    ) -> None:
        """Delete a table's route to `destination`, by that gateway and on that interface where given.

        Raises ValueError, OSError: ESRCH.
        """
        network = numbers.network(destination, ":" in (gateway or ""))
        number = table_number(table)
        for one in self.routes():
            via = (one.gateway or "").partition("%")[0] or None
            same_way = gateway in (None, one.gateway, via) and interface in (None, one.interface)
            if one.destination == str(network) and one.table == number and same_way:
                self._change_route(False, network, one.gateway, one.interface, 0, 0, 0, number)
                return
        raise OSError(errno.ESRCH, f"there is no route to {destination}")

    def _change_route(
        self,
        add: bool,
        network: _Network,
        gateway: str | None,
        interface: str | None,
        metric: int,
        mtu: int,
        source: int,
        table: int,
    ) -> None:
        stack, prefix = cast("Stack", self), numbers.number(network.network_address)
        via = 0 if gateway is None else numbers.address(gateway)
        config.change_route(stack, add, prefix, numbers.length(network), via, interface, metric, mtu, source, table)

    def rules(self) -> list[Rule]:
        """The rules of both families, the first to be asked first; those that Linux has from the start among them."""
        return sorted((Rule(*row) for row in routing.rules(cast("Stack", self))), key=lambda one: one.priority)

    def add_rule(
        self,
        from_: str | None = None,
        to: str | None = None,
        *,
        table: int | str,
        priority: int | None = None,
        iif: str | None = None,
        oif: str | None = None,
    ) -> None:
        """Look for the way of some packets in another table, as `ip rule add` (ip-rule(8)).

        from_, to: prefixes ("10.1.0.0/24", "::/0"), which say the family; without either it is IPv4. iif: the interface
        a packet came in by, "lo" for the stack's own; oif: the one a socket is bound to. priority: from 1 on, the least
        is asked first; None: before all others. At most 256. Raises ValueError, OSError: EEXIST, ENOBUFS.
        """
        self._change_rule(True, from_, to, table_number(table), priority, iif, oif)

    def del_rule(
        self,
        from_: str | None = None,
        to: str | None = None,
        *,
        table: int | str | None = None,
        priority: int | None = None,
        iif: str | None = None,
        oif: str | None = None,
    ) -> None:
        """Delete the first rule that is for the same packets. table, priority: None for any.

        Raises ValueError, OSError: ENOENT.
        """
        self._change_rule(False, from_, to, 0 if table is None else table_number(table), priority, iif, oif)

    def _change_rule(
        self,
        add: bool,
        from_: str | None,
        to: str | None,
        table: int,
        priority: int | None,
        iif: str | None,
        oif: str | None,
    ) -> None:
        six = any(":" in (text or "") for text in (from_, to))
        source, destination = (_selector(text, six) for text in (from_, to))
        if priority is not None and not 1 <= priority < 1 << 32:
            raise ValueError(f"priority: {priority} is not between 1 and {(1 << 32) - 1}")
        routing.change_rule(cast("Stack", self), add, priority or 0, table, six, source, destination, iif, oif)


def table_number(table: int | str) -> int:
    """The number of a table: a name of rt_tables(5), or the number itself, also as text. Raises ValueError."""
    found = TABLES.get(str(table), table)
    if isinstance(found, bool) or not str(found).isdecimal() or not 1 <= int(found) < 1 << 32:
        raise ValueError(f"table: {table!r} is neither a number nor one of {', '.join(TABLES)}")
    return int(found)


def table_name(table: int) -> str:
    """A table's name, or its number as text."""
    return next((name for name, known in TABLES.items() if known == table), str(table))


def _selector(text: str | None, six: bool) -> tuple[int, int]:
    """(number, prefix length in 128 bits), (0, 0) for any address."""
    if text is None or text in ("all", "any"):
        return 0, 0
    network = numbers.network(text, six)
    if (network.version == 6) != six:
        raise ValueError(f"{text} is of another family than the rest of the rule")
    return (numbers.number(network.network_address), numbers.length(network)) if network.prefixlen else (0, 0)
