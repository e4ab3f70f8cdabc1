"""What a stack finds out about itself: the part of ustack.Stack that begins to talk to configuration servers.

Responsible for: the clients' life with their stack's, one set of learnt name servers. Not for: protocols (dhcp.py,
dhcp6.py, resolver.py). All of it is off until it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ustack_ext.sockets import inspect

from . import dns
from .dhcp import Dhcp
from .dhcp6 import Dhcp6
from .dhcp_client import ROUTERS, Client, learn_names
from .linklocal import LinkLocal
from .linktalk import LinkTalker
from .llmnr import Llmnr
from .mdns import Mdns
from .resolver import Resolver

if TYPE_CHECKING:
    from .stack import Stack

_Talker = TypeVar("_Talker", bound=LinkTalker)


def _name(raw: bytes) -> str:
    try:
        return dns.decode_name(raw, 0)[0].rstrip(".")
    except dns.DnsError:
        return ""


class SelfConfiguring:
    """A base class of ustack.Stack."""

    def _start_nothing(self) -> None:
        """Before anything else: nothing is asked for yet."""
        self._clients: list[Client[Any] | LinkLocal | LinkTalker] = []
        # Of clients, in their order: (servers, search list); and the resolver made of them.
        self._learnt_names: dict[object, tuple[tuple[str, ...], tuple[str, ...]]] = {}
        self._learnt_resolver: Resolver | None = None

    def _end_clients(self, politely: bool) -> None:
        for client in self._clients:
            client.release() if politely else client.close()
        self._clients.clear()

    def use_dns(self, servers: Iterable[str], **options: Any) -> Resolver:
        """Ask these DNS servers for names from now on -> the Resolver, which is `resolver`, too.

        servers: addresses, in order; options: search, ndots, timeout, attempts, cache_size, port, mix_case: see
        ustack.Resolver. Raises ValueError.
        """
        stack = cast("Stack", self)
        made = Resolver(stack, servers, **options)
        stack.resolver = made
        return made

    def dhcp(self, interface: str, **options: Any) -> Dhcp:
        """Configure an Ethernet interface by DHCPv4, from now on -> Dhcp, whose wait() waits for the lease.

        options: hostname, client_id, previous (an address to ask for again), dns (False: DNS servers are not used),
        on_event (called with "bound", "renewed", "expired", "refused", "conflict" or "released", and the Lease).
        Closing the stack releases the lease. Raises ValueError (no Ethernet), OSError: ENODEV, EADDRINUSE.
        """
        return self._add_client(Dhcp(cast("Stack", self), interface, **options))

    def dhcp6(self, interface: str, **options: Any) -> Dhcp6:
        """Configure an Ethernet interface by DHCPv6 (RFC 8415), from now on -> Dhcp6, whose wait() waits for a lease.

        options:
        mode: "auto", as router advertisements say (M: addresses; O: name servers and the rest only); "stateful" or
        "stateless" without waiting for them.
        prefix: the length of the prefix that is to be delegated, 0: any; it is in lease.prefixes. assign: {interface:
        number of the subnet}: that /64's first address goes to that interface.
        duid (bytes; made of the MAC), hostname, previous (addresses and prefixes to ask for again), rapid_commit, dns
        (False: DNS servers are not used), on_event (called with "bound", "renewed", "informed", "expired", "refused",
        "conflict" or "released", and the Lease6).
        The interface listens to routers from now on, as by attach(autoconf=True), if it has no link-local address yet.
        Closing the stack releases the lease. Raises ValueError (no Ethernet), OSError: ENODEV, EADDRINUSE.
        """
        return self._add_client(Dhcp6(cast("Stack", self), interface, **options))

    def link_local(self, interface: str, **options: Any) -> LinkLocal:
        """Give an Ethernet interface an IPv4 address of 169.254/16 that nobody else has (RFC 3927) -> LinkLocal.

        It is probed for, defended once against somebody who uses it, too, and given up for another one then.
        options: on_event (called with "bound", "conflict" or "lost", and the address). Raises ValueError (no Ethernet),
        OSError: ENODEV.
        """
        return self._add_client(LinkLocal(cast("Stack", self), interface, **options))

    def mdns(self, interface: str | None = None, *, hostname: str | None = None) -> Mdns:
        """Multicast DNS on an Ethernet interface (RFC 6762) -> Mdns: publish(), browse(), resolve().

        interface: None for the first that there is. hostname: without ".local"; made of the MAC otherwise. Names that
        end in ".local" are looked up this way from now on. Raises ValueError, OSError: ENODEV, EADDRINUSE, EOPNOTSUPP
        (a driver that does not run by itself).
        """
        stack = cast("Stack", self)
        first = next((one.name for one in stack.interfaces() if one.medium == "ethernet"), "")
        return self._add_client(Mdns(stack, interface or first, hostname=hostname))

    def _current_resolver(self) -> Callable[[str], Iterable[str]] | None:
        """`resolver`, made anew if what routers say of DNS (RFC 8106) has changed, or its time is over."""
        stack = cast("Stack", self)
        if stack.resolver is None or stack.resolver is self._learnt_resolver:
            servers, suffixes = inspect.router_names(stack)
            search = [name for name in map(_name, suffixes) if name]
            known = self._learnt_names.get(ROUTERS, ((), ()))
            if known != (tuple(servers), tuple(search) if servers else ()):
                learn_names(stack, ROUTERS, servers, search)
        return stack.resolver

    def llmnr(self, interface: str | None = None, *, hostname: str | None = None) -> Llmnr:
        """Link-local multicast name resolution on an Ethernet interface (RFC 4795) -> Llmnr.

        interface: None for the first that there is. hostname: of one label, which is answered for unless somebody else
        has it; made of the MAC otherwise. Names of one label that DNS does not know are looked up this way from now on.
        Raises ValueError, OSError: ENODEV, EADDRINUSE, EOPNOTSUPP (a driver that does not run by itself).
        """
        stack = cast("Stack", self)
        first = next((one.name for one in stack.interfaces() if one.medium == "ethernet"), "")
        return self._add_client(Llmnr(stack, interface or first, hostname=hostname))

    def _link_names(self, kind: type[_Talker]) -> list[_Talker]:
        """Those that know names that end in ".local" (Mdns), or have one label (Llmnr)."""
        return [one for one in self._clients if isinstance(one, kind) and one.state != "STOPPED"]

    def _asks_for_names(self) -> bool:
        """Whether looking up a name may take a while."""
        return self._current_resolver() is not None or bool(self._link_names(LinkTalker))  # type: ignore[type-abstract]

    def _add_client(self, client: Any) -> Any:
        self._clients = [one for one in self._clients if one.state != "STOPPED"]
        self._clients.append(client)
        return client
