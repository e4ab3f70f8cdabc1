"""LLMNR of one interface (RFC 4795): no socket, no clock, no thread.

Responsible for: whether the host's name is its own (§4), which queries are answered and how, which responses are
believed, when a query is repeated. Not for: sockets (ustack/llmnr.py), the layout of messages (ustack/dns.py). Time
comes in with every call, in seconds. What is kept is bounded, whatever is said on the link.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from . import dns
from .dns import AAAA, ANY, PTR, A, Record

PORT = 5355
CONFLICT, TRUNCATED, TENTATIVE = 0x0400, 0x0200, 0x0100  # §2.1.1: C, TC, T
TIMEOUT, JITTER, TRIES = 1.0, 0.1, 3  # §2.7, §7
TTL = 30  # s, §2.8
_UDP_LEAST, _UDP_MOST = 512, 1432  # bytes of a response; what EDNS0 may ask for (§2.1)
_OPCODE = 0x7800
_MOST_ASKED = 256
_MOST_ADDRESSES = 64
_MOST_TOLD = 12  # records in a query with the C bit: it is one datagram

Peer = tuple[Any, ...]


@dataclass(frozen=True)
class Packet:
    """Send this to everybody, or (to) to one."""

    data: bytes
    to: Peer | None = None


@dataclass
class Question:
    """What is asked of the link. addresses: what was answered; truncated: who has more to say, by TCP; settled: nobody
    else is waited for."""

    name: str
    type: int
    id: int
    data: bytes
    at: float  # when it is sent (again)
    tries: int = 0
    answered: bool = False
    settled: bool = False
    records: list[Record] = field(default_factory=list)
    responders: set[tuple[bool, str]] = field(default_factory=set)
    addresses: list[str] = field(default_factory=list)
    truncated: Peer | None = None

    @property
    def over(self) -> bool:
        """Whether it was answered, or nobody is going to."""
        return self.settled or self.tries > TRIES

    @property
    def disputed(self) -> bool:
        """Whether several hosts say that the name is theirs. One that has both families answers by each."""
        return any(sum(six is one for six, _ in self.responders) > 1 for one in (False, True))


class Machine:
    """One interface's responder and sender. label: the host's name; addresses: its own, as they are now; is_ours:
    whether an address is the host's own, on any interface.

    state: "verifying" that nobody has the name, "unique", or "conflict": somebody has it, and queries for it are left
    to that host.
    """

    def __init__(
        self,
        rng: random.Random,
        label: str,
        addresses: Callable[[], list[str]],
        is_ours: Callable[[str], bool] = lambda address: False,
    ) -> None:
        self._rng, self.label, self._addresses, self._is_ours = rng, label, addresses, is_ours
        self.state = "verifying"
        self._asked: dict[int, Question] = {}
        self._own: Question | None = None

    # -- time

    def verify(self, now: float) -> None:
        """Ask whether somebody has the name (§4.1). A name that was found unique before stays so meanwhile: else
        whoever sends queries with the C bit could take it away."""
        self.drop(self._own)
        if self.state != "unique":
            self.state = "verifying"
        self._own = self.ask(self.label, ANY, now)

    @property
    def deadline(self) -> float | None:
        """When timer() is due."""
        return min((one.at for one in self._asked.values() if not one.over), default=None)

    def timer(self, now: float) -> list[Packet]:
        """What is due by now."""
        packets = []
        for one in [q for q in self._asked.values() if not q.over and q.at <= now]:
            if one.answered:  # §2.7: others had the time to answer as well
                one.settled = True
                packets += self._dispute(one)
                continue
            one.tries += 1
            one.at = now + TIMEOUT
            if not one.over:
                packets.append(Packet(one.data))
        if self._own is not None and self._own.over:
            self.drop(self._own)
            self._own = None
            if self.state == "verifying":
                self.state = "unique"
        return packets

    def _dispute(self, one: Question) -> list[Packet]:
        """§4.2: those who have answered for one name are told, once, with what they said."""
        if not one.disputed:
            return []
        id = self._rng.randrange(1 << 16)
        return [Packet(dns.build(id, CONFLICT, [(one.name, one.type, dns.IN)], additional=one.records[:_MOST_TOLD]))]

    # -- asking

    def ask(self, name: str, type: int, now: float) -> Question:
        """A question; timer() sends it, until it is over. drop() it then."""
        while True:
            id = self._rng.randrange(1 << 16)
            if id not in self._asked:
                break
        data = dns.build(id, 0, [(name, type, dns.IN)])
        made = Question(name, type, id, data, now + self._rng.random() * JITTER)
        if len(self._asked) >= _MOST_ASKED:
            self._asked.pop(next(iter(self._asked)))
        self._asked[id] = made
        return made

    def drop(self, question: Question | None) -> None:
        """Listen to answers no longer."""
        if question is not None and self._asked.get(question.id) is question:
            del self._asked[question.id]

    # -- what comes

    def receive(
        self, data: bytes, peer: Peer, now: float, stream: bool = False, to_all: bool = True
    ) -> list[Packet]:
        """A message came from the link; stream: by TCP; to_all: to the group. What is none, or asks for what is not
        ours, changes nothing."""
        try:
            message = dns.parse(data)
        except dns.DnsError:
            return []
        if message.flags & _OPCODE or len(message.questions) != 1:
            return []
        if message.flags & dns.QR:
            self.believe(message, peer, now)
            return []
        if message.answers or message.authority or self.state == "conflict":
            return []
        if not (stream or to_all):  # §2.4: asked of one host by UDP
            return []
        return self._answer(message, peer, now, stream)

    def believe(self, message: dns.Message, peer: Peer, now: float) -> Question | None:
        """A response, if it is one to a question of ours."""
        name, type, _ = message.questions[0]
        asked = self._asked.get(message.id)
        if asked is None or asked.type != type or not dns.same_name(name, asked.name) or message.flags & 15:
            return None
        if asked is self._own:
            self._compare(message, peer)
            return asked
        if message.flags & TRUNCATED:
            asked.truncated = peer
            return asked
        if not message.flags & TENTATIVE:  # §2.1.1: whose name that is, is not known yet
            if not asked.answered:
                asked.answered, asked.at = True, now + JITTER
            self._note(asked, message, peer)
        return asked

    def _note(self, asked: Question, message: dns.Message, peer: Peer) -> None:
        found = [r for r in message.answers if r.type == asked.type and dns.same_name(r.name, asked.name)]
        for one in found:
            if len(asked.addresses) < _MOST_ADDRESSES and str(one.data) not in asked.addresses:
                asked.addresses.append(str(one.data))
                asked.records.append(Record(asked.name, asked.type, TTL, one.data))
        # §2.1.1: whoever sets C knows that it is not the only one
        if found and not message.flags & CONFLICT and len(asked.responders) < _MOST_ADDRESSES:
            asked.responders.add((":" in peer[0], str(peer[0]).partition("%")[0]))

    def _compare(self, message: dns.Message, peer: Peer) -> None:
        """§4.1: somebody has the name, or wants it as well, or has it like us: the lower address has it then."""
        if self._is_ours(str(peer[0])):
            return
        theirs = ipaddress.ip_address(str(peer[0]).partition("%")[0])
        if message.flags & TENTATIVE or self.state == "unique":
            own = [one for one in map(ipaddress.ip_address, self._addresses()) if one.version == theirs.version]
            alike = [one for one in own if one.is_link_local == theirs.is_link_local] or own
            if alike and int(min(alike)) < int(theirs):
                return
        self.state = "conflict"
        self.drop(self._own)
        self._own = None

    def _answer(self, message: dns.Message, peer: Peer, now: float, stream: bool) -> list[Packet]:
        name, type, cls = message.questions[0]
        if cls not in (dns.IN, 255):
            return []
        own = dns.same_name(name, self.label)
        if own:
            near = ipaddress.ip_address(str(peer[0]).partition("%")[0]).is_link_local
            ordered = sorted(self._addresses(), key=lambda one: ipaddress.ip_address(one).is_link_local != near)  # §2.6
            records = [Record(name, AAAA if ":" in one else A, TTL, one) for one in ordered]
        else:
            mine = {ipaddress.ip_address(one).reverse_pointer for one in self._addresses()}
            if name.rstrip(".").lower() not in mine or type not in (PTR, ANY):
                return []
            records = [Record(name, PTR, TTL, self.label)]
        if own and message.flags & CONFLICT:  # §4.2: several have answered: it is looked again whose it is
            self.verify(now)
            return []
        wanted = [one for one in records if type in (one.type, ANY)]
        flags = dns.QR | (TENTATIVE if self.state == "verifying" else 0)
        most = 65535 if stream else _room(message)
        answer = dns.build(message.id, flags, message.questions, wanted)
        while wanted and len(answer) > most:
            wanted.pop()
            answer = dns.build(message.id, flags | TRUNCATED, message.questions, wanted)
        return [Packet(answer, peer)]


def _room(message: dns.Message) -> int:
    """Bytes that whoever asks takes by UDP (RFC 6891 §6.2.3)."""
    offered = next((int(one.data) for one in message.additional if one.type == dns.OPT), 0)
    return min(max(offered, _UDP_LEAST), _UDP_MOST)
