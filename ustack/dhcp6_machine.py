"""The DHCPv6 client's state machine (RFC 8415 §18.2): no socket, no clock, no thread.

Responsible for: which message is sent when (§15), which answers are believed, T1, T2, the end of lifetimes. Not for:
sending, looking whether addresses are free, giving them to an interface (ustack/dhcp6.py does what the actions say).
Time comes in with every call, in seconds; `deadline` says when the next call of timer() is due. Every message goes to
all servers: the Server Unicast option is not listened to. RECONFIGURE is not accepted, as no message asks for it.
"""

from __future__ import annotations

import enum
import random
from dataclasses import dataclass, replace
from ipaddress import IPv6Address, IPv6Network

from . import dhcp6_wire as wire
from . import dns
from .dhcp6_wire import IA_NA, IA_PD, Association, Binding, Message

_DESYNC = 1.0  # s at most before the first message: SOL_MAX_DELAY, INF_MAX_DELAY
_HOUR = 3600.0
_MOST_SETBACK = 60.0
_REFRESH, _LEAST_REFRESH = 86400.0, 600.0  # IRT_DEFAULT, IRT_MINIMUM
_MOST_SERVERS = 8
_BEST = 255  # a preference to be taken at once (§18.2.9)
_WANTED = (wire.DNS_SERVERS, wire.SEARCH, wire.SOL_MAX_RT)
_WANTED_STATELESS = (wire.DNS_SERVERS, wire.SEARCH, wire.REFRESH_TIME, wire.INF_MAX_RT)


class State(enum.Enum):
    """CHECKING: addresses are granted, and it is looked whether they are free; INFORMED: stateless, and all is told."""

    INIT = "INIT"
    SOLICITING = "SOLICITING"
    REQUESTING = "REQUESTING"
    CHECKING = "CHECKING"
    BOUND = "BOUND"
    RENEWING = "RENEWING"
    REBINDING = "REBINDING"
    DECLINING = "DECLINING"
    RELEASING = "RELEASING"
    ASKING = "INFORMATION-REQUESTING"
    INFORMED = "INFORMED"
    STOPPED = "STOPPED"


@dataclass(frozen=True)
class _Retry:
    """How a message is repeated (§15): initial and greatest time in s, transmissions at most; 0: without limit."""

    type: int
    initial: float
    most: float = 0.0
    count: int = 0


# §7.6
_RETRIES = {
    State.SOLICITING: _Retry(wire.SOLICIT, 1.0, _HOUR),
    State.REQUESTING: _Retry(wire.REQUEST, 1.0, 30.0, 10),
    State.RENEWING: _Retry(wire.RENEW, 10.0, 600.0),
    State.REBINDING: _Retry(wire.REBIND, 10.0, 600.0),
    State.DECLINING: _Retry(wire.DECLINE, 1.0, count=4),
    State.RELEASING: _Retry(wire.RELEASE, 1.0, count=4),
    State.ASKING: _Retry(wire.INFORMATION_REQUEST, 1.0, _HOUR),
}


@dataclass(frozen=True)
class Grant:
    """One address ("2001:db8::5") or delegated prefix ("2001:db8:8000::/56").

    preferred_until, valid_until: seconds of the stack's clock, None: for ever.
    """

    what: str
    preferred_until: float | None
    valid_until: float | None


@dataclass(frozen=True)
class Lease6:
    """What a server granted, or (stateless) told. Times in seconds of the stack's clock, None: never.

    server: its DUID. expires_at: of what is valid longest.
    """

    server: bytes
    addresses: tuple[Grant, ...] = ()
    prefixes: tuple[Grant, ...] = ()
    dns_servers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    renew_at: float | None = None
    rebind_at: float | None = None

    @property
    def grants(self) -> tuple[Grant, ...]:
        """Addresses and prefixes."""
        return self.addresses + self.prefixes

    @property
    def expires_at(self) -> float | None:
        """The end of it all."""
        ends = [one.valid_until for one in self.grants]
        return None if not ends or None in ends else max(end for end in ends if end is not None)


@dataclass(frozen=True)
class Send:
    """Send a message to all servers and relays of the link."""

    data: bytes


@dataclass(frozen=True)
class Check:
    """Look whether nobody has the lease's addresses, and call checked()."""

    lease: Lease6


@dataclass(frozen=True)
class Use:
    """Use this lease from now on, and nothing that was in the last; event: "bound", "renewed", "informed"."""

    lease: Lease6
    event: str


@dataclass(frozen=True)
class Drop:
    """Stop using the lease; event: "expired", "refused", "conflict", "released"."""

    lease: Lease6
    event: str


Action = Send | Check | Use | Drop


class Machine:
    """One interface's client.

    duid: 3 to 130 bytes. iaid: of its associations. rng: where transaction ids and jitter come from. addresses: whether
    an address is wanted (IA_NA); prefix: the length of the prefix that is wanted (IA_PD), 0 for any, None for none.
    previous: addresses and prefixes to ask for again. Neither: stateless. hostname: sent as option 39.
    """

    def __init__(
        self,
        duid: bytes,
        iaid: int,
        rng: random.Random,
        *,
        addresses: bool = True,
        prefix: int | None = None,
        previous: tuple[str, ...] = (),
        rapid_commit: bool = True,
        hostname: str | None = None,
    ) -> None:
        if not 3 <= len(duid) <= 130 or not 0 <= iaid <= 0xFFFFFFFF:
            raise ValueError("duid: 3 to 130 bytes are needed; iaid: 32 bits")
        if prefix is not None and not 0 <= prefix <= 128:
            raise ValueError(f"prefix: {prefix} is no prefix length")
        self._iaid, self._rng, self._rapid = iaid, rng, rapid_commit
        self._base = {wire.CLIENT_ID: duid}
        if hostname is not None:  # RFC 4704 §4.2: a name without its end is one that is not fully qualified
            self._base[wire.CLIENT_NAME] = b"\0" + dns.encode_name(hostname)[: None if "." in hostname else -1]
        self._kinds = ((IA_NA,) if addresses else ()) + ((IA_PD,) if prefix is not None else ())
        self._hints = {kind: _hints(kind, previous, prefix) for kind in self._kinds}
        self._most = {State.SOLICITING: _HOUR, State.ASKING: _HOUR}  # SOL_MAX_RT, INF_MAX_RT: servers may change them
        self._offer: Message | None = None
        self._xid = self._tries = self._setbacks = 0
        self._rt = self._began = self._asked = 0.0
        self._server = b""
        self._refused: tuple[Grant, ...] = ()
        self.state = State.INIT
        self.lease: Lease6 | None = None
        self.deadline: float | None = None

    @property
    def stopped(self) -> bool:
        """Whether it is over."""
        return self.state is State.STOPPED

    @property
    def is_stateless(self) -> bool:
        """Whether nothing is asked for that has a lifetime."""
        return not self._kinds

    # -- what happens

    def start(self, now: float) -> list[Action]:
        """Begin."""
        self._begin(now, self._rng.random() * _DESYNC)
        return []

    def timer(self, now: float) -> list[Action]:
        """What is due by now."""
        if self.deadline is None or now < self.deadline:
            return []
        if self.state is State.INIT:
            return self._exchange(State.SOLICITING if self._kinds else State.ASKING, now)
        if self.state is State.INFORMED:
            return self._exchange(State.ASKING, now)
        if self.state in (State.BOUND, State.RENEWING, State.REBINDING):
            return self._extend(now)
        if self.state is State.SOLICITING and self._offer is not None:
            return self._exchange(State.REQUESTING, now)
        retry = _RETRIES.get(self.state)
        if retry is not None and retry.count and self._tries >= retry.count:
            return self._given_up(now)
        return [self._send(now)] if retry is not None else []

    def receive(self, message: Message, now: float) -> list[Action]:
        """A message came; what is not for us, not asked for or not believable changes nothing (§16)."""
        server = message.duid(wire.SERVER_ID)
        if message.xid != self._xid or server is None or message.duid(wire.CLIENT_ID) != self._base[wire.CLIENT_ID]:
            return []
        if self.state not in _RETRIES or message.type not in (wire.ADVERTISE, wire.REPLY):
            return []
        self._hear_limits(message)
        if message.type == wire.ADVERTISE:
            return self._advertised(message, now) if self.state is State.SOLICITING else []
        if self.state is State.SOLICITING:
            rapid = self._rapid and wire.RAPID_COMMIT in message.options
            return self._granted(message, server, now) if rapid else []
        if self.state is State.ASKING:
            return self._told(message, server, now)
        if self.state is State.REBINDING or server == self._server:
            return self._replied(message, server, now)
        return []

    def checked(self, taken: tuple[str, ...], now: float) -> list[Action]:
        """The answer to Check: the addresses that somebody else has."""
        if self.state is not State.CHECKING or self.lease is None:
            return []
        if not taken:
            return [self._bind(self.lease, "bound")]
        lease, self.lease = self.lease, None
        self._refused = tuple(one for one in lease.addresses if one.what in taken)
        self._server = lease.server
        self._hints = dict.fromkeys(self._kinds, ())
        self._setbacks += 1
        return [Drop(lease, "conflict"), *self._exchange(State.DECLINING, now)]

    def renew(self, now: float) -> list[Action]:
        """Ask for more time now, as if T1 had come; stateless: ask again."""
        if self.state is State.INFORMED:
            return self._exchange(State.ASKING, now)
        return self._exchange(State.RENEWING, now) if self.state is State.BOUND else []

    def stop(self, now: float, release: bool) -> list[Action]:
        """End; release: first tell the server that all is free (§18.2.7): timer() goes on until it has answered."""
        lease, self.lease = self.lease, None
        had = self.state in (State.BOUND, State.RENEWING, State.REBINDING)
        self.state, self.deadline = State.STOPPED, None
        dropped: list[Action] = [] if lease is None else [Drop(lease, "released")]
        if not release or lease is None or not had or not lease.grants:
            return dropped
        self._refused, self._server = lease.grants, lease.server
        return [*dropped, *self._exchange(State.RELEASING, now)]

    # -- answers

    def _advertised(self, message: Message, now: float) -> list[Action]:
        """§18.2.9: until the first time is over the best is looked for, afterwards the first is taken."""
        if message.status != wire.SUCCESS or not any(self._ours(message)):
            return []
        if self._offer is None or message.preference > self._offer.preference:
            self._offer = message
        if message.preference == _BEST or self._tries > 1:
            return self._exchange(State.REQUESTING, now)
        return []

    def _replied(self, message: Message, server: bytes, now: float) -> list[Action]:
        """A Reply to Request, Renew, Rebind, Release or Decline (§18.2.10)."""
        if self.state in (State.DECLINING, State.RELEASING):
            return self._given_up(now)
        if message.status in (wire.UNSPECIFIED, wire.USE_MULTICAST):
            return []  # ask again, at the same intervals
        statuses = {one.status for one in message.associations}
        if self.state in (State.RENEWING, State.REBINDING) and wire.NO_BINDING in statuses:
            assert self.lease is not None
            self._offer = message
            self._server = server
            return self._exchange(State.REQUESTING, now)
        if message.status == wire.NOT_ON_LINK or wire.NOT_ON_LINK in statuses:
            return self._refuse(now)
        return self._granted(message, server, now)

    def _granted(self, message: Message, server: bytes, now: float) -> list[Action]:
        lease, before = self._read(message, server), self.lease
        gone = self._withdrawn(message)
        if lease is None:
            useless = before is not None and gone >= {one.what for one in before.grants}
            return self._refuse(now) if useless or self.state is State.REQUESTING else []
        if before is not None:
            lease = _merged(before, lease, gone, now)
        known = {one.what for one in before.addresses} if before is not None else set()
        if any(one.what not in known for one in lease.addresses):
            self.lease, self.state, self.deadline = lease, State.CHECKING, None
            return [Check(lease)]
        return [self._bind(lease, "bound" if before is None else "renewed")]

    def _told(self, message: Message, server: bytes, now: float) -> list[Action]:
        if message.status != wire.SUCCESS:
            return []
        told = message.number(wire.REFRESH_TIME)
        self.lease = self._with_names(Lease6(server), message)
        self.state = State.INFORMED
        refresh = _REFRESH if told is None else max(float(told), _LEAST_REFRESH)
        self.deadline = None if told == wire.FOREVER else now + refresh
        return [Use(self.lease, "informed")]

    def _bind(self, lease: Lease6, event: str) -> Action:
        self.lease, self.state, self._setbacks = lease, State.BOUND, 0
        self._hints = {kind: _bindings(kind, lease.grants) for kind in self._kinds}
        self.deadline = _earliest(lease.renew_at, *(one.valid_until for one in lease.grants))
        return Use(lease, event)

    def _refuse(self, now: float) -> list[Action]:
        """The server will not have it: from the beginning, without asking for the same."""
        lease, self.lease = self.lease, None
        self._hints = dict.fromkeys(self._kinds, ())
        self._setbacks += 1
        self._begin(now, self._setback())
        return [] if lease is None else [Drop(lease, "refused")]

    def _setback(self) -> float:
        """Time to wait after what went wrong, in s: more each time, so that no server keeps us busy."""
        return min(2.0 ** min(self._setbacks - 1, 10), _MOST_SETBACK) + self._rng.random()

    def _given_up(self, now: float) -> list[Action]:
        """As often as may be asked, or a Reply to what wants no more than that."""
        if self.state is State.RELEASING:
            self.state, self.deadline = State.STOPPED, None
        elif self.state is State.DECLINING:
            self._begin(now, self._setback())
        elif self.lease is not None:  # a lease that was renewed and not known: as T2 would have it
            return self._exchange(State.REBINDING, now)
        else:
            self._begin(now, 0.0)
        return []

    def _extend(self, now: float) -> list[Action]:
        """T1, T2, the end of a lifetime, or a repetition between them (§18.2.4, §18.2.5)."""
        lease = self.lease
        assert lease is not None
        actions: list[Action] = []
        left = _unexpired(lease, now)
        if not left.grants:
            self.lease = None
            self._begin(now, 0.0)
            return [Drop(lease, "expired"), *self.timer(now)]
        if left != lease:
            self.lease = lease = left
            actions.append(Use(left, "renewed"))
        if lease.rebind_at is not None and now >= lease.rebind_at and self.state is not State.REBINDING:
            return [*actions, *self._exchange(State.REBINDING, now)]
        if self.state is State.BOUND:
            if lease.renew_at is not None and now >= lease.renew_at:
                return [*actions, *self._exchange(State.RENEWING, now)]
            self.deadline = _earliest(lease.renew_at, *(one.valid_until for one in lease.grants))
            return actions
        return [*actions, self._send(now)]

    # -- when again

    def _begin(self, now: float, after: float) -> None:
        self.state, self.deadline, self._offer = State.INIT, now + after, None

    def _exchange(self, state: State, now: float) -> list[Action]:
        """A new transaction, and its first message."""
        if state is State.RENEWING and self.lease is not None:
            self._server = self.lease.server
        elif state is State.REQUESTING and self._offer is not None:
            self._server = self._offer.duid(wire.SERVER_ID) or b""
        elif state is State.SOLICITING:
            self._offer = None
        self.state, self._tries, self._rt = state, 0, 0.0
        self._xid = self._rng.getrandbits(24)
        self._began = now
        return [self._send(now)]

    def _wait(self, now: float) -> float:
        """§15: the time until the next transmission."""
        retry = _RETRIES[self.state]
        most = self._most.get(self.state, retry.most)
        rand = self._rng.uniform(-0.1, 0.1)
        if self._rt == 0.0:
            if self.state is State.SOLICITING:
                rand = abs(rand) + 1e-3  # §18.2.1: more than 0, so that no server's offer comes too late
            self._rt = retry.initial * (1 + rand)
        else:
            self._rt *= 2 + rand
        if most and self._rt > most:
            self._rt = most * (1 + rand)
        return now + self._rt

    # -- messages

    def _send(self, now: float) -> Action:
        state = self.state
        options = dict(self._base)
        if state not in (State.SOLICITING, State.REBINDING, State.ASKING):
            options[wire.SERVER_ID] = self._server
        options[wire.ELAPSED] = min(int((now - self._began) * 100), 0xFFFF).to_bytes(2, "big")
        associations: tuple[Association, ...] = ()
        if state is State.ASKING:
            options[wire.REQUESTED] = wire.numbers(_WANTED_STATELESS)
        elif state in (State.DECLINING, State.RELEASING):
            options.pop(wire.CLIENT_NAME, None)
            kinds = (IA_NA,) if state is State.DECLINING else self._kinds
            associations = tuple(self._association(kind, _bindings(kind, self._refused)) for kind in kinds)
            associations = tuple(one for one in associations if one.bindings)
        else:
            options[wire.REQUESTED] = wire.numbers(_WANTED)
            if state is State.SOLICITING and self._rapid:
                options[wire.RAPID_COMMIT] = b""
            associations = tuple(self._association(kind, self._wanted(kind)) for kind in self._kinds)
        self._tries += 1
        self._asked = now
        self.deadline = self._wait(now)
        if state in (State.RENEWING, State.REBINDING) and self.lease is not None:
            ends = [one.valid_until for one in self.lease.grants]
            self.deadline = _earliest(
                self.deadline, self.lease.rebind_at if state is State.RENEWING else None, *ends
            )  # fmt: skip
        return Send(wire.build(Message(_RETRIES[state].type, self._xid, options, associations)))

    def _association(self, kind: int, bindings: tuple[Binding, ...]) -> Association:
        return Association(kind, self._iaid, bindings)

    def _wanted(self, kind: int) -> tuple[Binding, ...]:
        """What is in an association of ours; lifetimes are the server's to say."""
        if self.state is State.SOLICITING:
            return self._hints[kind]
        if self.state is State.REQUESTING and self._offer is not None:
            offered = next((one for one in self._ours(self._offer) if one.kind == kind), None)
            if offered is not None:
                return tuple(replace(one, preferred=0, valid=0) for one in offered.bindings)
        return _bindings(kind, self.lease.grants) if self.lease is not None else self._hints[kind]

    def _ours(self, message: Message) -> list[Association]:
        """The associations of a message that are for us and give something; T1 after T2 is none (§21.4)."""
        return [
            one
            for one in message.associations
            if one.kind in self._kinds and one.iaid == self._iaid and one.status == wire.SUCCESS
            and not (one.t1 > one.t2 > 0) and any(binding.valid for binding in one.bindings)
        ]  # fmt: skip

    def _withdrawn(self, message: Message) -> set[str]:
        """What has no life left (§18.2.10.1)."""
        mine = [one for one in message.associations if one.kind in self._kinds and one.iaid == self._iaid]
        return {binding.what for one in mine for binding in one.bindings if not binding.valid}

    def _read(self, message: Message, server: bytes) -> Lease6 | None:
        """What a Reply grants; None for nothing that can be used."""
        found = self._ours(message)
        grants: dict[int, list[Grant]] = {IA_NA: [], IA_PD: []}
        t1s, t2s = [], []
        for one in found:
            good = [b for b in one.bindings if b.valid and (one.kind == IA_PD or _is_host(b.what))]
            grants[one.kind] += [
                Grant(b.what, _until(self._asked, b.preferred), _until(self._asked, b.valid)) for b in good
            ]  # fmt: skip
            if good:
                shortest = min(b.preferred for b in good)
                # §14.2, §21.4: a server that says 0 leaves it to the client; half and four fifths are usual.
                t1s.append(one.t1 or (shortest if shortest == wire.FOREVER else shortest // 2))
                t2s.append(one.t2 or (shortest if shortest == wire.FOREVER else shortest * 4 // 5))
        if not t1s:
            return None
        made = Lease6(server, tuple(grants[IA_NA]), tuple(grants[IA_PD]))
        t1, t2 = min(t1s), min(t2s)
        t2 = max(t1, t2)
        return self._with_names(
            replace(made, renew_at=_until(self._asked, t1), rebind_at=_until(self._asked, t2)), message
        )

    def _with_names(self, lease: Lease6, message: Message) -> Lease6:
        servers = [one for one in message.addresses(wire.DNS_SERVERS) if not one.is_multicast and int(one) > 1]
        return replace(
            lease, dns_servers=tuple(str(one) for one in servers[:_MOST_SERVERS]), search=message.search()
        )  # fmt: skip

    def _hear_limits(self, message: Message) -> None:
        """§18.2.1, §18.2.6: SOL_MAX_RT and INF_MAX_RT, where they are between a minute and a day."""
        for number, state in ((wire.SOL_MAX_RT, State.SOLICITING), (wire.INF_MAX_RT, State.ASKING)):
            told = message.number(number)
            if told is not None and 60 <= told <= 86400:
                self._most[state] = float(told)


def _hints(kind: int, previous: tuple[str, ...], prefix: int | None) -> tuple[Binding, ...]:
    mine = [one for one in previous if ("/" in one) == (kind == IA_PD)]
    checked = [str(IPv6Network(one) if kind == IA_PD else IPv6Address(one)) for one in mine]
    if kind == IA_PD and not checked and prefix:
        checked = [f"::/{prefix}"]  # §18.2.1: a length alone
    return tuple(Binding(one, 0, 0) for one in checked)


def _bindings(kind: int, grants: tuple[Grant, ...]) -> tuple[Binding, ...]:
    return tuple(Binding(one.what, 0, 0) for one in grants if ("/" in one.what) == (kind == IA_PD))


def _until(since: float, seconds: int) -> float | None:
    return None if seconds == wire.FOREVER else since + seconds


def _earliest(*times: float | None) -> float | None:
    return min((one for one in times if one is not None), default=None)


def _is_host(address: str) -> bool:
    """Whether a host can have it, from a server: a unicast address that is not of this link or this host."""
    one = IPv6Address(address)
    mapped = one.ipv4_mapped is not None
    return not (one.is_multicast or one.is_loopback or one.is_unspecified or one.is_link_local or mapped)


def _unexpired(lease: Lease6, now: float) -> Lease6:
    def keep(grants: tuple[Grant, ...]) -> tuple[Grant, ...]:
        return tuple(one for one in grants if one.valid_until is None or one.valid_until > now)

    return replace(lease, addresses=keep(lease.addresses), prefixes=keep(lease.prefixes))


def _merged(before: Lease6, after: Lease6, gone: set[str], now: float) -> Lease6:
    """What a Reply says nothing of stays until it ends (§18.2.10.1)."""

    def both(old: tuple[Grant, ...], new: tuple[Grant, ...]) -> tuple[Grant, ...]:
        told = gone | {one.what for one in new}
        return new + tuple(one for one in old if one.what not in told)

    merged = replace(
        after, addresses=both(before.addresses, after.addresses), prefixes=both(before.prefixes, after.prefixes)
    )  # fmt: skip
    return _unexpired(merged, now)
