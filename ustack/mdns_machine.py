"""Multicast DNS of one interface (RFC 6762) and its services (RFC 6763): no socket, no clock, no thread.

Responsible for: whose a name is (probing, conflicts, renaming), announcements and goodbyes, which questions are
answered how and when, what is remembered of others. Not for: packets (ustack/mdns.py), the layout of messages
(ustack/dns.py). Time comes in with every call, in seconds; `deadline` says when the next call of timer() is due. What
is remembered is bounded, whatever is said on the link.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from . import dns
from .dns import AAAA, ANY, PTR, SRV, TXT, A, Record

PORT = 5353
SERVICES = "_services._dns-sd._udp.local"  # RFC 6763 §9
_HOST_TTL, _OTHER_TTL = 120, 4500  # s; RFC 6762 §10
_LEGACY_TTL = 10  # §6.7
_PROBES, _PROBE_WAIT = 3, 0.25  # §8.1
_ANNOUNCEMENTS, _ANNOUNCE_WAIT = 2, 1.0  # §8.3
_LOST_TIEBREAK = 1.0  # §8.2
_MANY_CONFLICTS, _CONFLICT_PAUSE = 15, 5.0  # §8.1
_SHARED_DELAY = (0.02, 0.12)  # §6
_ONCE_A = 1.0  # s between two times that a record is sent to all; §6
_MOST_REMEMBERED, _MOST_OF_ONE = 1000, 100  # records; of one name and type
_MOST_QUESTIONS = 64  # of a message
_MOST_TTL = 75 * 60
_FLUSH_AFTER = 1.0  # §10.2
_MOST_BYTES = 1400  # of a message

Key = tuple[str, int]


@dataclass(frozen=True)
class Packet:
    """Send this to everybody, or (to) to one."""

    data: bytes
    to: tuple[Any, ...] | None = None


@dataclass
class Name:
    """A name that is to be ours alone, and the records under it and beside it.

    label: what may be changed by a conflict; unique: records that nobody else may have; shared: those that point here.
    """

    label: str
    rest: str
    unique: Callable[[str], list[Record]]
    shared: Callable[[str], list[Record]]
    told: Callable[[str], object]
    state: str = "probing"  # "announcing", "ours"
    sent: int = 0
    at: float = 0.0
    conflicts: int = 0
    last_said: list[Record] = field(default_factory=list)

    @property
    def full(self) -> str:
        """The whole name."""
        return f"{self.label}.{self.rest}"

    def records(self) -> list[Record]:
        """All that it says."""
        return self.unique(self.full) + self.shared(self.full)


@dataclass
class Known:
    """What somebody else said, until when it holds."""

    record: Record
    until: float
    since: float


def key(record: Record) -> Key:
    """Name and type, whatever the name's case."""
    return record.name.rstrip(".").lower(), record.type


def same(one: Record, other: Record) -> bool:
    """Whether two records say the same."""
    return key(one) == key(other) and dns.encode_data(one).lower() == dns.encode_data(other).lower()


def escaped(label: str) -> str:
    """One label of a name, as dns.encode_name takes it, from a person's words (UTF-8; RFC 6763 §4.1.1)."""
    return "".join(chr(b) if (chr(b).isalnum() and b < 128) or b in b"-_" else f"\\{b:03}" for b in label.encode())


def plain(label: str) -> str:
    """The words of a label as dns.decode_name gives it."""
    return b"".join(dns._labels(label)).decode("utf-8", "replace")


class Machine:
    """One interface's responder and querier. rng: where delays come from."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._names: list[Name] = []
        self._known: OrderedDict[Key, list[Known]] = OrderedDict()
        self._count = 0
        self._answers: list[tuple[float, Record]] = []  # shared ones, which wait a moment
        self._multicast: dict[tuple[Key, bytes], float] = {}  # when last sent to all

    # -- names of our own

    def add(self, name: Name, now: float) -> list[Packet]:
        """Begin to claim a name."""
        self._names.append(name)
        self._probe_from(name, now + self._rng.random() * _PROBE_WAIT)
        return []

    def remove(self, name: Name) -> list[Packet]:
        """Let a name go: a goodbye (§10.1)."""
        if name not in self._names:
            return []
        self._names.remove(name)
        if name.state == "probing":
            return []
        left = [other for one in self._names for other in one.records()]
        return self._say([replace(r, ttl=0) for r in name.records() if not any(same(r, other) for other in left)])

    def is_ours(self, name: Name) -> bool:
        """Whether it has been probed for."""
        return name in self._names and name.state != "probing"

    def refresh(self, name: Name, now: float) -> list[Packet]:
        """What is under a name has changed: it is announced, and what is gone is taken back (§8.4)."""
        if name.state == "probing":
            return []
        fresh = name.records()
        gone = [one for one in name.last_said if not any(same(one, other) for other in fresh)]
        if not gone and len(fresh) == len(name.last_said):
            return []
        name.state, name.sent, name.at = "announcing", 0, now
        return self._say([replace(one, ttl=0) for one in gone])

    def _probe_from(self, name: Name, at: float) -> None:
        name.state, name.sent, name.at = "probing", 0, at

    def _conflict(self, name: Name, now: float) -> None:
        """Somebody else has it: another label (§9)."""
        name.conflicts += 1
        stem, _, number = name.label.rpartition("-")
        name.label = f"{stem}-{int(number) + 1}" if stem and number.isdigit() else f"{name.label}-2"
        pause = _CONFLICT_PAUSE if name.conflicts >= _MANY_CONFLICTS else _PROBE_WAIT
        self._probe_from(name, now + pause)

    # -- time

    @property
    def deadline(self) -> float | None:
        """When timer() is due."""
        times = [one.at for one in self._names if one.state != "ours"] + [at for at, _ in self._answers]
        return min(times, default=None)

    def timer(self, now: float) -> list[Packet]:
        """What is due by now."""
        packets = []
        for name in self._names:
            if name.state == "ours" or now < name.at:
                continue
            if name.state == "probing" and name.sent < _PROBES:
                packets.append(self._probe(name, now))
                continue
            if name.state == "probing":
                name.state, name.sent, name.conflicts = "announcing", 0, 0
                name.told(name.label)
            packets += self._announce(name, now)
        due = [record for at, record in self._answers if at <= now]
        self._answers = [one for one in self._answers if one[0] > now]
        return packets + self._say([one for one in due if self._may_say(one, now)])

    def _probe(self, name: Name, now: float) -> Packet:
        name.sent += 1
        name.at = now + _PROBE_WAIT
        proposed = [replace(one, flush=False) for one in name.unique(name.full)]
        cls = dns.IN | (dns.TOP_BIT if name.sent == 1 else 0)  # §8.1: answers by unicast, at first
        return Packet(dns.build(0, 0, [(name.full, ANY, cls)], authority=proposed))

    def _announce(self, name: Name, now: float) -> list[Packet]:
        name.sent += 1
        name.last_said = name.records()
        if name.sent >= _ANNOUNCEMENTS:
            name.state = "ours"
        name.at = now + _ANNOUNCE_WAIT
        for one in name.last_said:
            self._may_say(one, now)
        return self._say(name.last_said)

    def _say(self, records: list[Record], additional: Iterable[Record] = ()) -> list[Packet]:
        """Records to all, in as few messages as hold them."""
        packets: list[Packet] = []
        here: list[Record] = []
        size = 12
        for one in records:
            length = len(dns.encode_name(one.name)) + 10 + len(dns.encode_data(one))
            if here and size + length > _MOST_BYTES:
                packets.append(Packet(dns.build(0, dns.QR | dns.AA, answers=here)))
                here, size = [], 12
            here.append(one)
            size += length
        if here:
            packets.append(Packet(dns.build(0, dns.QR | dns.AA, answers=here, additional=additional)))
        return packets

    def _may_say(self, record: Record, now: float) -> bool:
        """§6: a record goes to all once a second at most."""
        mark = key(record), dns.encode_data(record)
        if now - self._multicast.get(mark, -_ONCE_A) < _ONCE_A:
            return False
        if len(self._multicast) >= _MOST_REMEMBERED:
            self._multicast.clear()
        self._multicast[mark] = now
        return True

    # -- what comes

    def receive(self, data: bytes, peer: tuple[Any, ...], now: float) -> list[Packet]:
        """A message came from the link. What is none changes nothing."""
        try:
            message = dns.parse(data, multicast=True)
        except dns.DnsError:
            return []
        if message.flags & 0x780F:  # §18.3, §18.11: other opcodes, and response codes, are not listened to
            return []
        if message.flags & dns.QR:
            if peer[1] == PORT:  # §6
                self._hear(message, now)
            return []
        return self._asked(message, peer, now)

    def _hear(self, message: dns.Message, now: float) -> None:
        for record in message.answers + message.additional:
            for name in self._names:
                if not dns.same_name(record.name, name.full):
                    continue
                mine = name.unique(name.full)
                if record.ttl == 0 or any(same(record, one) for one in mine):
                    continue
                if any(one.type == record.type for one in mine) or name.state == "probing":
                    if name.state == "probing":
                        self._conflict(name, now)
                    else:  # §9: somebody says otherwise: it is looked whose it is
                        self._probe_from(name, now)
            if record.type in (A, AAAA, PTR, SRV, TXT):
                self._remember(record, now)

    def _asked(self, message: dns.Message, peer: tuple[Any, ...], now: float) -> list[Packet]:
        self._tie(message, now)
        legacy = peer[1] != PORT
        alone: list[Record] = []
        at_once: list[Record] = []
        for name, type, cls in message.questions[:_MOST_QUESTIONS]:
            if cls & ~dns.TOP_BIT not in (dns.IN, 255):
                continue
            found = [one for one in self._matching(name, type) if not _is_known(one, message.answers)]
            if legacy or (cls & dns.TOP_BIT and not any(self._is_stale(one, now) for one in found)):
                alone += [one for one in found if one not in alone]
            else:
                at_once += [one for one in found if one.flush and one not in at_once]
                wait = now + self._rng.uniform(*_SHARED_DELAY)
                waiting = [record for _, record in self._answers]
                self._answers += [(wait, one) for one in found if not one.flush and one not in waiting]
        packets = self._say([one for one in at_once if self._may_say(one, now)], self._beside(at_once))
        if alone and legacy:
            told = [replace(one, ttl=min(one.ttl, _LEGACY_TTL), flush=False) for one in alone]
            packets.append(Packet(dns.build(message.id, dns.QR | dns.AA, message.questions, told), peer))
        elif alone:
            packets.append(Packet(dns.build(0, dns.QR | dns.AA, answers=alone, additional=self._beside(alone)), peer))
        return packets

    def _is_stale(self, record: Record, now: float) -> bool:
        """§5.4: what has not been told to all for a quarter of its life is told to all."""
        last = self._multicast.get((key(record), dns.encode_data(record)))
        return last is None or now - last > record.ttl / 4

    def _matching(self, name: str, type: int) -> list[Record]:
        every = [record for one in self._names if one.state != "probing" for record in one.records()]
        found = [one for one in every if dns.same_name(one.name, name) and type in (one.type, ANY)]
        return [one for n, one in enumerate(found) if not any(same(one, before) for before in found[:n])]

    def _beside(self, answers: list[Record]) -> list[Record]:
        """RFC 6763 §12: what whoever asks for these is going to ask for next."""
        added: list[Record] = []
        for one in answers:
            targets = [one.data] if one.type == PTR else [one.data[3]] if one.type == SRV else []
            for target in targets:
                wanted = (SRV, TXT) if one.type == PTR else (A, AAAA)
                more = [r for type in wanted for r in self._matching(target, type)]
                added += [r for r in more if r not in added and r not in answers]
        return added

    def _tie(self, message: dns.Message, now: float) -> None:
        """§8.2: two that probe for one name at the same time; the one whose records come later in order has it."""
        for name in self._names:
            if name.state != "probing" or not name.sent:
                continue
            theirs = [one for one in message.authority if dns.same_name(one.name, name.full)]
            if not theirs:
                continue
            if _in_order(name.unique(name.full)) < _in_order(theirs):
                self._probe_from(name, now + _LOST_TIEBREAK)

    # -- what others said

    def _remember(self, record: Record, now: float) -> None:
        here = self._known.setdefault(key(record), [])
        if record.flush:  # §10.2: what is older than a second and not in this set is gone soon
            for one in here:
                if now - one.since > _FLUSH_AFTER and not same(one.record, record):
                    one.until = min(one.until, now + _FLUSH_AFTER)
        old = next((one for one in here if same(one.record, record)), None)
        until = now + (_FLUSH_AFTER if record.ttl == 0 else min(record.ttl, _MOST_TTL))
        if old is not None:
            old.until, old.since = until, now
        elif record.ttl:
            if len(here) >= _MOST_OF_ONE:
                here.pop(0)
                self._count -= 1
            here.append(Known(record, until, now))
            self._count += 1
        self._known.move_to_end(key(record))
        while self._count > _MOST_REMEMBERED:
            _, dropped = self._known.popitem(last=False)
            self._count -= len(dropped)

    def known(self, name: str, type: int, now: float) -> list[Record]:
        """What others (or this machine itself) say of a name, with the time it still holds."""
        mark = name.rstrip(".").lower(), type
        here = self._known.get(mark, [])
        left = [one for one in here if one.until > now]
        self._count -= len(here) - len(left)
        if left:
            self._known[mark] = left
        else:
            self._known.pop(mark, None)
        own = self._matching(name, type)
        return own + [replace(one.record, ttl=int(one.until - now)) for one in left]

    def question(self, questions: list[Key], now: float, unicast: bool) -> Packet:
        """Ask, with what is known already (§7.1)."""
        cls = dns.IN | (dns.TOP_BIT if unicast else 0)
        told: list[Record] = []
        for name, type in questions:
            held = [one for one in self._known.get((name.rstrip(".").lower(), type), []) if one.until > now]
            young = [one for one in held if one.until - now > one.record.ttl / 2]
            told += [replace(one.record, ttl=int(one.until - now), flush=False) for one in young]
        while told and len(dns.build(0, 0, answers=told)) > _MOST_BYTES // 2:
            told.pop()
        return Packet(dns.build(0, 0, [(name, type, cls) for name, type in questions], told))


def _is_known(record: Record, answers: tuple[Record, ...]) -> bool:
    """§7.1: whoever asks knows it, for at least half its life."""
    return any(same(record, one) and one.ttl >= record.ttl / 2 for one in answers)


def _in_order(records: list[Record]) -> list[tuple[int, bytes]]:
    """§8.2.1: what is compared of two sets of records; the class is the same in all."""
    return sorted((one.type, dns.encode_data(one)) for one in records)


def host_records(addresses: Callable[[], list[str]]) -> Callable[[str], list[Record]]:
    """A host's addresses, as records of its name."""

    def records(name: str) -> list[Record]:
        return [Record(name, AAAA if ":" in one else A, _HOST_TTL, one, True) for one in addresses()]

    return records


def service_records(
    type: str, host: Callable[[], str], port: int, texts: bytes
) -> tuple[Callable[[str], list[Record]], Callable[[str], list[Record]]]:
    """A service's records (RFC 6763 §4, §5, §6): those of the instance's name, and those that point there."""

    def unique(name: str) -> list[Record]:
        where = Record(name, SRV, _HOST_TTL, (0, 0, port, host()), True)
        return [where, Record(name, TXT, _OTHER_TTL, texts, True)]

    def shared(name: str) -> list[Record]:
        return [Record(type, PTR, _OTHER_TTL, name), Record(SERVICES, PTR, _OTHER_TTL, type)]

    return unique, shared
