"""The DHCPv4 client's state machine (RFC 2131 §4.4): no socket, no clock, no thread.

Responsible for: which message is sent when, which answers are believed, T1, T2, the end of a lease. Not for: sending,
looking whether an address is free, giving it to an interface (ustack/dhcp.py does what the actions say). Time comes in
with every call, in seconds; `deadline` says when the next call of timer() is due.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network

from . import dhcp_wire as wire
from .dhcp_wire import Message

_FIRST_RETRY, _LAST_RETRY, _JITTER = 4.0, 64.0, 1.0  # s; RFC 2131 §4.1
_REQUESTS = 4  # of one offer, then it begins anew
_REBOOT_REQUESTS = 2
_DESYNC = 1.0  # s at most before the first message; RFC 2131 §4.4.1 allows up to ten
_AFTER_DECLINE = 10.0  # §3.1, 5
_LEAST_RENEWAL = 60.0  # §4.4.5
_LEAST_LEASE = 10  # s
_MOST_ROUTES = 64
_MOST_SERVERS = 8
_WANTED = bytes(
    (
        wire.SUBNET_MASK,
        wire.ROUTES,
        wire.ROUTER,
        wire.DNS_SERVERS,
        wire.HOSTNAME,
        wire.DOMAIN,
        wire.MTU,
        wire.BROADCAST,
        wire.LEASE_TIME,
        wire.SERVER_ID,
        wire.T1,
        wire.T2,
        wire.SEARCH,
    )
)


class State(enum.Enum):
    """RFC 2131's figure 5; CHECKING: the address is granted, and it is looked whether it is free (RFC 5227)."""

    INIT = "INIT"
    INIT_REBOOT = "INIT-REBOOT"
    REBOOTING = "REBOOTING"
    SELECTING = "SELECTING"
    REQUESTING = "REQUESTING"
    CHECKING = "CHECKING"
    BOUND = "BOUND"
    RENEWING = "RENEWING"
    REBINDING = "REBINDING"
    STOPPED = "STOPPED"


@dataclass(frozen=True)
class Lease:
    """What a server granted. renew_at, rebind_at, expires_at: seconds of the stack's clock, None: never.

    routes: (destination, router), "0.0.0.0" for on-link; mtu: bytes, None for the link's.
    """

    address: str
    prefix_length: int
    server: str
    routes: tuple[tuple[str, str], ...] = ()
    dns_servers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    domain: str | None = None
    hostname: str | None = None
    mtu: int | None = None
    broadcast: str | None = None
    renew_at: float | None = None
    rebind_at: float | None = None
    expires_at: float | None = None


@dataclass(frozen=True)
class Send:
    """Send a message to a server's address, or (None) to everybody."""

    data: bytes
    to: str | None = None


@dataclass(frozen=True)
class Check:
    """Look whether nobody has the lease's address, and call checked()."""

    lease: Lease


@dataclass(frozen=True)
class Use:
    """Use this lease from now on; event: "bound" or "renewed"."""

    lease: Lease
    event: str


@dataclass(frozen=True)
class Drop:
    """Stop using the lease; event: "expired", "refused" (NAK), "conflict", "released"."""

    lease: Lease
    event: str


Action = Send | Check | Use | Drop


class Machine:
    """One interface's client.

    mac: 6 bytes. rng: where xids and jitter come from. hostname: sent as option 12; client_id: option 61, None: made of
    the MAC. previous: an address to ask for again (INIT-REBOOT).
    """

    def __init__(
        self,
        mac: bytes,
        rng: random.Random,
        *,
        hostname: str | None = None,
        client_id: bytes | None = None,
        previous: str | None = None,
    ) -> None:
        self._mac = mac
        self._rng = rng
        self._base: dict[int, bytes] = {wire.CLIENT_ID: client_id or b"\x01" + mac}
        if hostname is not None:
            self._base[wire.HOSTNAME] = hostname.encode("ascii")
        if not 2 <= len(self._base[wire.CLIENT_ID]) <= 255 or not 0 < len(self._base.get(wire.HOSTNAME, b"x")) <= 255:
            raise ValueError("client_id or hostname: of a length that does not fit")
        self._previous = IPv4Address(previous) if previous is not None else None
        self._wanted: IPv4Address | None = None
        self._server: IPv4Address | None = None
        self._xid = 0
        self._tries = 0
        self._began = 0.0  # of the whole attempt
        self._asked = 0.0  # when the exchange's first REQUEST was sent: a lease counts from there (§4.4.1)
        self.state = State.STOPPED
        self.lease: Lease | None = None
        self.deadline: float | None = None

    @property
    def stopped(self) -> bool:
        """Whether it is over."""
        return self.state is State.STOPPED

    # -- what happens

    def start(self, now: float) -> list[Action]:
        """Begin, with INIT-REBOOT where an address is to be asked for again."""
        self._begin(now, self._rng.random() * _DESYNC)
        if self._previous is not None:
            self.state = State.INIT_REBOOT
        return []

    def timer(self, now: float) -> list[Action]:
        """What is due by now."""
        if self.deadline is None or now < self.deadline:
            return []
        if self.state in (State.INIT, State.INIT_REBOOT):
            return self._first(now)
        if self.state is State.SELECTING:
            return [self._discover(now)]
        if self.state in (State.REQUESTING, State.REBOOTING):
            if self._tries >= (_REQUESTS if self.state is State.REQUESTING else _REBOOT_REQUESTS):
                self._begin(now, 0.0)
                return self._first(now)
            return [self._request(now)]
        if self.state in (State.BOUND, State.RENEWING, State.REBINDING):
            return self._extend(now)
        return []

    def receive(self, message: Message, now: float) -> list[Action]:
        """A message came; what is not for us, not asked for or not believable changes nothing."""
        if message.op != wire.BOOTREPLY or message.xid != self._xid or message.chaddr != self._mac:
            return []
        if self.state is State.SELECTING and message.type == wire.OFFER:
            return self._offered(message, now)
        waiting = (State.REQUESTING, State.REBOOTING, State.RENEWING, State.REBINDING)
        if self.state not in waiting or not self._is_right_server(message):
            return []
        if message.type == wire.NAK:
            return self._refused(now)
        return self._granted(message, now) if message.type == wire.ACK else []

    def checked(self, free: bool, now: float) -> list[Action]:
        """The answer to Check."""
        if self.state is not State.CHECKING or self.lease is None:
            return []
        if free:
            return [self._bind(self.lease, "bound")]
        lease, self.lease = self.lease, None
        decline = self._message(wire.DECLINE, now, self._chosen(lease))
        self._previous = None
        self._begin(now, _AFTER_DECLINE)
        return [Send(wire.build(decline)), Drop(lease, "conflict")]

    def renew(self, now: float) -> list[Action]:
        """Ask for more time now, as if T1 had come."""
        if self.state is not State.BOUND:
            return []
        self.state = State.RENEWING
        self._exchange(now)
        return [self._request(now)]

    def stop(self, now: float, release: bool) -> list[Action]:
        """End; release: tell the server that the address is free (§4.4.6)."""
        lease, before = self.lease, self.state
        self.lease, self.state, self.deadline = None, State.STOPPED, None
        if lease is None or before is State.CHECKING:
            return [] if lease is None else [Drop(lease, "released")]
        self._exchange(now)
        told = {wire.SERVER_ID: IPv4Address(lease.server).packed}
        message = replace(self._message(wire.RELEASE, now, told), ciaddr=IPv4Address(lease.address), flags=0)
        sent: list[Action] = [Send(wire.build(message), lease.server)] if release else []
        return [*sent, Drop(lease, "released")]

    # -- the steps

    def _begin(self, now: float, after: float) -> None:
        self.state = State.INIT
        self.deadline = now + after
        self._began = now + after

    def _exchange(self, now: float) -> None:
        """A new transaction."""
        self._xid = self._rng.getrandbits(32)
        self._tries = 0
        self._asked = now

    def _first(self, now: float) -> list[Action]:
        self._exchange(now)
        if self.state is State.INIT_REBOOT:
            self.state, self._wanted, self._server = State.REBOOTING, self._previous, None
            return [self._request(now)]
        self.state, self._wanted, self._server = State.SELECTING, self._previous, None
        return [self._discover(now)]

    def _discover(self, now: float) -> Action:
        self._retry(now)
        wanted = {} if self._wanted is None else {wire.REQUESTED_ADDRESS: self._wanted.packed}
        return Send(wire.build(self._message(wire.DISCOVER, now, wanted)))

    def _offered(self, message: Message, now: float) -> list[Action]:
        """The first good offer is taken."""
        if self._read_lease(message, now) is None:
            return []
        self._wanted, self._server = message.yiaddr, message.address(wire.SERVER_ID)
        # The transaction's id stays; the tries and the time count anew.
        self.state, self._tries, self._asked = State.REQUESTING, 0, now
        return [self._request(now)]

    def _request(self, now: float) -> Action:
        """Table 5 of RFC 2131: which of ciaddr, option 50 and option 54 a REQUEST has in which state."""
        extends = self.state in (State.RENEWING, State.REBINDING)
        options: dict[int, bytes] = {}
        if not extends and self._wanted is not None:
            options[wire.REQUESTED_ADDRESS] = self._wanted.packed
        if self.state is State.REQUESTING and self._server is not None:
            options[wire.SERVER_ID] = self._server.packed
        message = self._message(wire.REQUEST, now, options)
        if extends and self.lease is not None:
            message = replace(message, ciaddr=IPv4Address(self.lease.address), flags=0)
            self._retry_extension(now, self.lease)
        else:
            self._retry(now)
        to = self.lease.server if self.state is State.RENEWING and self.lease is not None else None
        return Send(wire.build(message), to)

    def _granted(self, message: Message, now: float) -> list[Action]:
        lease = self._read_lease(message, self._asked)
        if lease is None:
            return []
        if self.state in (State.RENEWING, State.REBINDING):
            assert self.lease is not None
            if lease.address != self.lease.address:
                return []  # not what was asked for: the old lease runs on
            return [self._bind(lease, "renewed")]
        if message.yiaddr != self._wanted:
            return []
        self.lease, self.state, self.deadline = lease, State.CHECKING, None
        return [Check(lease)]

    def _bind(self, lease: Lease, event: str) -> Action:
        self.lease, self.state, self.deadline = lease, State.BOUND, lease.renew_at
        self._previous = IPv4Address(lease.address)
        return Use(lease, event)

    def _refused(self, now: float) -> list[Action]:
        lease, self.lease = self.lease, None
        self._previous = None
        self._begin(now, self._rng.random() * _DESYNC)
        return [] if lease is None else [Drop(lease, "refused")]

    def _extend(self, now: float) -> list[Action]:
        """T1, T2, the end, or a repetition between them (§4.4.5)."""
        lease = self.lease
        assert lease is not None
        assert lease.expires_at is not None
        assert lease.rebind_at is not None
        if now >= lease.expires_at:
            self.lease = None
            self._begin(now, 0.0)
            return [Drop(lease, "expired"), *self._first(now)]
        if now >= lease.rebind_at and self.state is not State.REBINDING:
            self.state = State.REBINDING
            self._exchange(now)
        elif self.state is State.BOUND:
            self.state = State.RENEWING
            self._exchange(now)
        return [self._request(now)]

    # -- when again

    def _retry(self, now: float) -> None:
        wait = min(_FIRST_RETRY * 2**self._tries, _LAST_RETRY)
        self._tries = min(self._tries + 1, 10)
        self.deadline = now + wait + self._rng.uniform(-_JITTER, _JITTER)

    def _retry_extension(self, now: float, lease: Lease) -> None:
        """Half of what is left until T2, or until the end; not more often than once a minute."""
        end = lease.rebind_at if self.state is State.RENEWING else lease.expires_at
        if end is None or lease.expires_at is None:
            self.deadline = None if lease.expires_at is None else now + _LEAST_RENEWAL
            return
        self.deadline = min(now + max((end - now) / 2, _LEAST_RENEWAL), max(end, now))

    # -- messages

    def _message(self, type: int, now: float, options: Mapping[int, bytes]) -> Message:
        every = {wire.MESSAGE_TYPE: bytes([type]), **self._base, **options}
        if type in (wire.DISCOVER, wire.REQUEST):
            every[wire.MAX_SIZE] = (1500).to_bytes(2, "big")
            every[wire.PARAMETERS] = _WANTED
        else:
            every.pop(wire.HOSTNAME, None)  # table 5
        secs = min(max(int(now - self._began), 0), 0xFFFF) if type in (wire.DISCOVER, wire.REQUEST) else 0
        # Without an address we hear nothing that is sent to one (§4.1).
        flags = wire.BROADCAST_FLAG if type in (wire.DISCOVER, wire.REQUEST) else 0
        return Message(wire.BOOTREQUEST, self._xid, self._mac, every, secs, flags)

    def _chosen(self, lease: Lease) -> dict[int, bytes]:
        return {
            wire.REQUESTED_ADDRESS: IPv4Address(lease.address).packed,
            wire.SERVER_ID: IPv4Address(lease.server).packed,
        }

    def _is_right_server(self, message: Message) -> bool:
        server = message.address(wire.SERVER_ID)
        if server is None or self.state is not State.REQUESTING:
            return server is not None
        return server == self._server

    def _read_lease(self, message: Message, since: float) -> Lease | None:
        """What an OFFER or ACK grants; None for what no host can use."""
        server, seconds = message.address(wire.SERVER_ID), message.number(wire.LEASE_TIME)
        address = message.yiaddr
        if server is None or seconds is None or seconds < _LEAST_LEASE or not _is_host(address) or not _is_host(server):
            return None
        length = message.prefix_length() or _classful(address)
        network = IPv4Network((address, length), strict=False)
        if length < 31 and address in (network.network_address, network.broadcast_address):
            return None
        mtu, domain = message.number(wire.MTU, 2), message.text(wire.DOMAIN)
        broadcast = message.address(wire.BROADCAST)
        return Lease(
            str(address),
            length,
            str(server),
            _routes(message),
            tuple(str(one) for one in message.addresses(wire.DNS_SERVERS)[:_MOST_SERVERS] if _is_host(one)),
            message.search() or ((domain,) if domain else ()),
            domain,
            message.text(wire.HOSTNAME),
            mtu if mtu is not None and mtu >= 576 else None,
            None if broadcast is None else str(broadcast),
            *_times(message, seconds, since),
        )


def _times(message: Message, seconds: int, since: float) -> tuple[float | None, float | None, float | None]:
    """T1, T2 and the end; the server's T1 and T2 where they are in order, else half and 7/8 (§4.4.5)."""
    if seconds == wire.FOREVER:
        return None, None, None
    t1, t2 = message.number(wire.T1) or seconds / 2, message.number(wire.T2) or seconds * 0.875
    if not 0 < t1 < t2 < seconds:
        t1, t2 = seconds / 2, seconds * 0.875
    return since + t1, since + t2, since + seconds


def _routes(message: Message) -> tuple[tuple[str, str], ...]:
    """Option 121's, which makes option 3 void (RFC 3442), or the default route by option 3's first router."""
    classless = message.routes()
    if classless is not None:
        return tuple((str(to), str(via)) for to, via in classless[:_MOST_ROUTES] if _is_host(via) or int(via) == 0)
    return tuple(("0.0.0.0/0", str(one)) for one in message.addresses(wire.ROUTER)[:1] if _is_host(one))


def _is_host(address: IPv4Address) -> bool:
    """Whether one host can have it: not 0/8, 127/8, 224/4, 240/4."""
    first = address.packed[0]
    return 0 < first < 224 and first != 127


def _classful(address: IPv4Address) -> int:
    """RFC 1122 §3.3.6's way, where a server says no mask."""
    first = address.packed[0]
    return 8 if first < 128 else 16 if first < 192 else 24
