"""ustack.Stack: one TCP/IP stack, its links, its sockets and what can be asked and told about it.

Responsible for: reading addresses, choosing the driver, the order of opening and closing things. Not for: what a
socket does (ustack.socket), devices (ustack_ext.link), packets (the engine).
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import time
from collections.abc import Callable, Iterable
from socket import AF_INET, AF_INET6, IPPROTO_IPV6, IPV6_V6ONLY, SO_REUSEADDR, SOCK_STREAM, SOL_SOCKET
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ustack_ext.driver.loop import LoopDriver
from ustack_ext.driver.manual import ManualDriver
from ustack_ext.driver.thread import ThreadDriver
from ustack_ext.link.link import Link
from ustack_ext.sockets import config, inspect

from . import addresses as numbers
from . import connect, records, resolve
from .capture import Capturing
from .forward import Forwarder, Handler
from .links import Layered, Settings
from .nat import Nat
from .patch import Patched
from .records import Connection, Interface, Neighbor
from .routing import Routing
from .selector import Selector
from .selfconf import SelfConfiguring
from .service import Service
from .socket import Socket
from .socketmodule import module_for
from .sysctl import Sysctl

if TYPE_CHECKING:
    from .aio import Aio, EventLoop

_CLOSE_PATIENCE = 1.0  # s
_CLOSE_STEP = 0.002
_NO_TIMEOUT: Any = object()


class _Closes(Protocol):
    """What is closed with its stack."""

    @property
    def closed(self) -> bool: ...

    def close(self) -> Any: ...


_Part = TypeVar("_Part", bound=_Closes)


class Stack(SelfConfiguring, Routing, Capturing, Layered):
    """A TCP/IP stack. As many as wanted may live in one process; each shares nothing with the others.

    driver: "thread" (a background thread without the GIL reads links and runs timers), "asyncio" (no thread: the event
        loop that is running, or else the first that uses the stack, does), "manual" (nothing happens but in poll() and
        socket calls; sockets do not block), or a driver object (ustack.sim makes those of virtual time).
    seed: 32 bytes from which all the stack's random numbers come, None for the operating system's randomness. The
        same seed and the same packets at the same times give the same answers.
    memory: bytes of packet memory at most; None: 256 MiB. At the limit packets are dropped and counted.
    Raises ValueError, TypeError; MemoryError.
    """

    def __init__(self, driver: Any = "thread", seed: bytes | None = None, memory: int | None = None) -> None:
        self._links: list[Link] = []
        self._services: list[_Closes] = []
        self._no_captures()
        self._start_nothing()
        self._detached: dict[int, Socket] = {}
        # Names that the stack's getaddrinfo() knows, in lower case, and their addresses.
        self.hosts: dict[str, str | list[str]] = {}
        # Asked for other names: name -> addresses, empty for none; use_dns() sets it.
        self.resolver: Callable[[str], Iterable[str]] | None = None
        self._reactors: dict[Any, Any] = {}  # by event loop
        self._is_closed = True
        self._start(_make_driver(driver, seed, memory))
        self._is_closed = False

    # -- life

    def close(self, timeout: float = _CLOSE_PATIENCE) -> None:
        """Close the stack: sockets are taken away (peers get RST, blocked calls ECONNABORTED), links are closed.

        timeout: seconds to wait before that, with a driver that runs by itself, for connections whose sockets were
        closed and whose last bytes the peer has not acknowledged yet.
        """
        if self._is_closed:
            return
        self._is_closed = True
        try:
            self._end_clients(politely=self._driver.kind == "thread")
            if self._driver.kind == "thread" and not self._driver.closed:
                self._let_data_out(time.monotonic() + timeout)
        finally:
            self._take_down()

    def _let_data_out(self, deadline: float) -> None:
        while inspect.undelivered(self) and time.monotonic() < deadline:
            time.sleep(_CLOSE_STEP)

    def _take_down(self) -> None:
        for service in self._services:
            service.close()
        self._services.clear()
        self._abort_sockets()
        for reactor in self._reactors.values():
            reactor.abandon()
            reactor.close()
        self._reactors.clear()
        for sock in self._detached.values():
            sock.close()
        self._detached.clear()
        self._driver.close()
        self._end_captures()
        for link in self._links:
            link.close()
        self._links.clear()

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._is_closed

    def __enter__(self) -> Stack:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def aclose(self, timeout: float = _CLOSE_PATIENCE) -> None:
        """close() for a stack in an event loop: waits, without blocking it, for what closed sockets have to deliver."""
        import asyncio

        deadline = time.monotonic() + timeout
        while not self._is_closed and inspect.undelivered(self) and time.monotonic() < deadline:
            await asyncio.sleep(_CLOSE_STEP)
        self.close(timeout=0)

    async def __aenter__(self) -> Stack:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if not getattr(self, "_is_closed", True):
            with contextlib.suppress(Exception):
                self.close(timeout=0)

    def __repr__(self) -> str:
        if self._is_closed:
            return "<ustack.Stack closed>"
        addresses = ", ".join(str(a) for i in self.interfaces() if i.medium != "loopback" for a in i.addresses)
        return f"<ustack.Stack {self._driver.kind} {addresses or 'without addresses'}>"

    # -- the manual driver

    def poll(self, now_ns: int | None = None) -> Any:
        """Manual driver: read the links and run what is due.

        now_ns: the time in nanoseconds, never going back; None: the monotonic clock's.
        """
        return self._manual().poll(now_ns)

    def next_deadline(self) -> int | None:
        """Manual driver: when poll() is due at the latest, in ns of its clock; None: not before a packet comes."""
        deadline: int | None = self._manual().next_deadline()
        return deadline

    def _manual(self) -> Any:
        if not hasattr(self._driver, "next_deadline"):
            raise RuntimeError(f'the driver {self._driver.kind!r} runs by itself: make the stack with driver="manual"')
        return self._driver

    # -- links, addresses, routes

    def attach(
        self,
        link: Link,
        addresses: Iterable[str] = (),
        gateway: str | Iterable[str] | None = None,
        *,
        mtu: int | None = None,
        name: str | None = None,
        probe: bool = False,
        autoconf: bool = False,
    ) -> str:
        """Put an interface on a link -> its name. The link belongs to the stack from here on and is closed with it.

        addresses: "10.9.0.2/24", "fd09::2/64", …; without a prefix length, a host address. An IPv6 one brings a
        link-local address with it. gateway: of the default route; one of each family may be given. mtu: bytes of IP,
        None for the link's. name: of the interface, None for the link's. probe: ask first whether somebody has the
        address (RFC 5227, RFC 4862; takes seconds). autoconf: IPv6 addresses and routes as routers say (RFC 4862).
        Raises ValueError, OSError.
        """
        if not isinstance(link, Link):
            raise TypeError(f"link: {link!r} is no link (Tap, Tun, Callback, an end of a pipe, …)")
        wanted = Settings(addresses, gateway, mtu=mtu, probe=probe, autoconf=autoconf)
        chosen = name or self._free_name(link.name or "net")
        config.attach(self, link, chosen)
        try:
            wanted.give(self, chosen)
        except BaseException:
            config.detach(self, link)
            raise
        self._links.append(link)
        return chosen

    def detach(self, link: Link) -> None:
        """Take a link's interface away, with its addresses and routes. The link stays open, the caller's again."""
        config.detach(self, link)
        self._links = [one for one in self._links if one is not link]

    def _free_name(self, wanted: str) -> str:
        taken = {one.name for one in self.interfaces()}
        short = wanted[:12]
        if wanted[:15] not in taken:
            return wanted[:15]
        return next(f"{short}{n}" for n in range(100) if f"{short}{n}" not in taken)

    def add_address(self, interface: str, address: str, *, probe: bool = False) -> None:
        """Give an interface one more address, "10.9.0.3/24". Raises ValueError, OSError."""
        value, length = numbers.interface_address(address)
        config.add_address(self, interface, value, length, probe)

    def remove_address(self, interface: str, address: str) -> None:
        """Take an address from an interface. Raises ValueError, OSError: EADDRNOTAVAIL."""
        config.remove_address(self, interface, numbers.address(address.split("/")[0]))

    def add_neighbor(self, interface: str, address: str, mac: bytes | str) -> None:
        """Make a neighbour's link address permanent: it is never asked for and never ages, as `ip neigh replace`.

        mac: 6 bytes, or "02:00:00:00:00:01". Raises ValueError, OSError: ENODEV, EINVAL (no Ethernet).
        """
        config.change_neighbor(self, interface, numbers.address(address), numbers.mac(mac))

    def del_neighbor(self, interface: str, address: str) -> None:
        """Forget a neighbour, permanent or learnt. Raises ValueError, OSError: ENODEV, ENOENT."""
        config.change_neighbor(self, interface, numbers.address(address), None)

    @property
    def nat(self) -> Nat:
        """Network address translation between this stack's interfaces."""
        return Nat(self)

    # -- sockets

    def socket(
        self, family: int = AF_INET, type: int = SOCK_STREAM, proto: int = 0, fileno: int | None = None
    ) -> Socket:
        """A new socket: as socket.socket. family: AF_INET or AF_INET6, or AF_PACKET for frames of the stack's own
        interfaces (packet(7)). proto IPPROTO_ICMP, or IPPROTO_ICMPV6 for AF_INET6, with SOCK_DGRAM is a ping socket
        (icmp(7)). SOCK_RAW with a proto is a raw socket (raw(7)). No privilege is asked for.

        fileno: what detach() of a socket of this stack returned, to go on with that one. Raises OSError.
        """
        if fileno is not None:
            try:
                return self._detached.pop(fileno)
            except KeyError:
                raise OSError(errno.EBADF, "Bad file descriptor: not of a detached socket of this stack") from None
        return Socket(self, family, type, proto)

    def create_connection(
        self,
        address: tuple[str, int],
        timeout: float | None = _NO_TIMEOUT,
        source_address: tuple[str, int] | None = None,
    ) -> Socket:
        """A connected TCP socket: as socket.create_connection. timeout in seconds.

        An IPv6 address may have its zone with it ("fe80::1%ust0"). A name's addresses are tried a quarter of a second
        apart, the best first (RFC 6724 §6), the families in turns, until one answers (RFC 8305). Raises OSError,
        TimeoutError, socket.gaierror.
        """
        family = AF_INET6 if isinstance(address[0], str) and ":" in address[0] else AF_INET
        if resolve.is_name(address[0]):
            wait = None if timeout is _NO_TIMEOUT else timeout
            infos = connect.in_turns(self.getaddrinfo(*address[:2], 0, SOCK_STREAM))
            if len(infos) > 1 and self._driver.kind in ("thread", "virtual") and wait != 0:
                sock = connect.race(self, infos, wait, source_address)
                sock.settimeout(wait)
                return sock
            family, _, _, _, address = infos[0]
        sock = self.socket(family)
        try:
            if timeout is not _NO_TIMEOUT:
                sock.settimeout(timeout)
            if source_address:
                sock.bind(source_address)
            sock.connect(address)
        except BaseException:
            sock.close()
            raise
        return sock

    def getaddrinfo(
        self, host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> list[resolve.AddressInfo]:
        """As socket.getaddrinfo, by `hosts`, then `resolver`. Raises socket.gaierror."""
        return resolve.getaddrinfo(self, host, port, family, type, proto, flags)

    def gethostbyname(self, host: str) -> str:
        """As socket.gethostbyname: a name's first IPv4 address. Raises socket.gaierror."""
        return resolve.gethostbyname(self, host)

    def create_server(
        self,
        address: tuple[str, int],
        *,
        family: int = AF_INET,
        backlog: int | None = None,
        reuse_port: bool = False,
        dualstack_ipv6: bool = False,
    ) -> Socket:
        """A listening TCP socket: as socket.create_server. Raises OSError: EADDRINUSE, EADDRNOTAVAIL; ValueError."""
        if reuse_port:
            raise ValueError("SO_REUSEPORT not supported on this platform")
        if dualstack_ipv6 and family != AF_INET6:
            raise ValueError("dualstack_ipv6 requires AF_INET6 family")
        sock = self.socket(family)
        try:
            sock.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
            if family == AF_INET6:
                sock.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, not dualstack_ipv6)
            sock.bind(address)
            if backlog is None:
                sock.listen()
            else:
                sock.listen(backlog)
        except BaseException:
            sock.close()
            raise
        return sock

    def start_service(self, address: tuple[str, int], kind: str, **options: Any) -> Service:
        """Start a TCP service that the data plane answers by itself, without Python -> Service.

        address: (host, port); "" is any, port 0 a free one. kind and its options:
        "echo" (RFC 862): what comes goes back.
        "discard" (RFC 863): what comes is thrown away; report=True: when the peer has closed its side, how many bytes
        it was, as 8 bytes, big-endian.
        "chargen" (RFC 864): a pattern of 65,536 bytes, again and again, until the peer closes.
        "answer": answer (bytes, up to 65,536) to each request. end: the bytes, up to 64, a request ends with, within 16
        KiB, or the connection is reset; b"": whatever came. close=True: close the connection after the answer.
        "http": the same with HTTP's end, and an answer made of body (bytes or str), content_type, close.
        All take backlog: connections that may wait to be accepted.
        Raises OSError: EADDRINUSE, EADDRNOTAVAIL, EBADF; ValueError, TypeError.
        """
        return self._kept(Service(self._driver, address, kind, **options))

    def forward_tcp(self, handler: Handler, *, backlog: int = 4096, timeout: float = 30.0) -> Forwarder:
        """Take connections to any destination, of either family, that no listener of this stack takes -> Forwarder.

        handler: called with a ForwardRequest for each, before its SYN is answered; it accepts, resets, refuses or drops
        it, or hands it to somebody who does. It runs in whatever thread runs the stack and must not wait; a coroutine
        function runs as a task in the event loop that is running now. backlog: requests that may be undecided at a
        time, and accepted ones whose handshake is not done; beyond that the oldest request is forgotten. timeout:
        seconds until a request that nobody decides is. Raises OSError: EBUSY (there is one); ValueError.
        """
        return self._kept(Forwarder(self, "tcp", handler, backlog, timeout))

    def forward_udp(
        self, handler: Handler, *, backlog: int = 4096, timeout: float = 30.0, pings: bool = False
    ) -> Forwarder:
        """The same for datagrams: the first of each flow makes a request, and waits in it with a few that follow.

        pings: echo requests to foreign addresses are asked about, too (ForwardRequest.protocol is "ping"); otherwise
        nobody answers them.
        """
        return self._kept(Forwarder(self, "udp", handler, backlog, timeout, pings))

    def _kept(self, part: _Part) -> _Part:
        self._services = [*(one for one in self._services if not one.closed), part]
        return part

    def patched(self, scope: str = "process", outside: str = "refuse") -> Patched:
        """A context manager (and decorator): the socket module, and all that is built on it, runs on this stack.

        scope: who is concerned: "process", every thread; "thread", the one that enters; "context", the context that
        enters (contextvars: a task of asyncio and those it starts). May be entered again, and within another.
        outside: addresses that the stack has no route to: "refuse" (ENETUNREACH), or "kernel": they are left to the
        kernel's network. Sockets of other families and socketpair() are the kernel's in any case.
        """
        return Patched(self, scope, outside)

    @property
    def socket_module(self) -> ModuleType:
        """A module with all of the socket module's names, whose sockets are this stack's. Made anew each time."""
        return module_for(self)

    def reaches(self, address: str) -> bool:
        """Whether the stack has a route to a numeric address, or has it itself. Raises ValueError."""
        wanted = ipaddress.ip_address(address or "0.0.0.0")
        if wanted.is_loopback or wanted.is_unspecified:
            return True
        return any(
            wanted.version == network.version and wanted in network
            for network in (ipaddress.ip_network(route.destination) for route in self.routes())
        )

    # -- asyncio

    @property
    def aio(self) -> Aio:
        """The event loop's methods for this stack, in any loop: create_connection, create_server, …; see ustack.aio."""
        from .aio import Aio

        return Aio(self)

    async def open_connection(self, host: Any = None, port: Any = None, **keywords: Any) -> tuple[Any, Any]:
        """(reader, writer): as asyncio.open_connection. Raises OSError, ssl.SSLError."""
        return await self.aio.open_connection(host, port, **keywords)

    async def start_server(self, client_connected: Any, host: Any = None, port: Any = None, **keywords: Any) -> Any:
        """As asyncio.start_server. Raises OSError."""
        return await self.aio.start_server(client_connected, host, port, **keywords)

    async def create_datagram_endpoint(self, protocol_factory: Any, *arguments: Any, **keywords: Any) -> Any:
        """(transport, protocol): as the event loop's method. Raises OSError."""
        return await self.aio.create_datagram_endpoint(protocol_factory, *arguments, **keywords)

    def loop_factory(self) -> EventLoop:
        """A new asyncio event loop of which all connections are this stack's: asyncio.Runner(loop_factory=…)."""
        from .aio import EventLoop

        return EventLoop(self)

    def selector(self) -> Selector:
        """A selector as those of the selectors module, which needs no descriptors for this stack's sockets."""
        return Selector(self)

    # -- what it knows

    @property
    def sysctl(self) -> Sysctl:
        """The knobs by Linux's names, to read and to write: stack.sysctl["net.ipv4.tcp_sack"] = 0."""
        # Made anew each time: kept, it would make a cycle, and a stack that is dropped would wait for the collector.
        return Sysctl(self)

    def connections(self) -> list[Connection]:
        """Every TCP connection (also those in SYN-RECEIVED and TIME-WAIT), listener and datagram socket."""
        return [records.connection(row) for row in inspect.connections(self)]

    def interfaces(self) -> list[Interface]:
        """Every interface, `lo` among them."""
        return [records.interface(row) for row in inspect.interfaces(self)]

    def neighbors(self) -> list[Neighbor]:
        """The neighbour table: what ARP and Neighbor Discovery found out."""
        return [Neighbor(*row) for row in inspect.neighbors(self)]

    def counters(self) -> dict[str, int]:
        """Every counter by Linux's name (/proc/net/snmp, with its prefix, and netstat); drops by reason (Drop…)."""
        found: dict[str, int] = inspect.counters(self)
        return found

    def live(self) -> dict[str, int]:
        """How many objects of each kind there are now: sockets, tcbs, timewaits, buffers, timers, … For leak tests."""
        found: dict[str, int] = inspect.live(self)
        return found


def _make_driver(driver: Any, seed: bytes | None, memory: int | None) -> Any:
    if not isinstance(driver, str):
        if seed is not None or memory is not None:
            raise TypeError("seed and memory are given to the driver object when it is made")
        return driver
    if seed is not None and len(seed) != 32:
        raise ValueError(f"seed: 32 bytes are needed, not {len(seed)}")
    if driver == "thread":
        return ThreadDriver(seed, memory or 0)
    if driver == "asyncio":
        return _loop_driver(seed, memory)
    if driver == "manual":
        return ManualDriver(seed, memory or 0)
    raise ValueError(f'driver: {driver!r} is neither "thread" nor "asyncio" nor "manual"')


def _loop_driver(seed: bytes | None, memory: int | None) -> LoopDriver:
    """A driver for the event loop that is running; else the first one that uses the stack binds it."""
    import asyncio

    made = LoopDriver(seed, memory or 0)
    try:
        made.bind(asyncio.get_running_loop())
    except RuntimeError:
        pass
    return made
