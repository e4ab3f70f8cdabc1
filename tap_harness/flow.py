"""One TCP conversation of a scripted peer with the stack: it keeps the sequence numbers, the test says what happens.

Not a TCP: it acknowledges, retransmits and closes only when the test tells it to.
"""

from collections.abc import Callable
from typing import Any, Protocol

from scapy.layers.inet import TCP
from scapy.packet import Packet, Raw

from tap_harness import segment
from tap_harness.diff import ANY, difference
from tap_harness.packets import Mismatch, describe, payload, valid

Options = list[tuple[str, object]]
SYN_OPTIONS: Options = [("MSS", 1460)]


class Neighbour(Protocol):
    """What a conversation needs of the peer that holds it (scapy_peer.Peer)."""

    def now(self) -> float:
        """The time at the stack in seconds."""

    def ip_header(self, **fields: Any) -> Packet:
        """An IP header from the peer to the stack."""

    def send(self, packet: Packet) -> None:
        """Send an IP packet."""

    def take(self, wanted: Callable[[Packet], bool], within: float) -> Packet | None:
        """The next packet that is wanted."""

    def put_back(self, packet: Packet) -> None:
        """Undo take()."""

    def failure(self, what: str, detail: str) -> str:
        """A failure message with the exchange so far."""


class Flow:
    """A TCP conversation between `peer` (port sport) and the stack (port dport).

    Attributes: snd, the next sequence number the peer sends; rcv, the next it expects from the stack; isn and irs,
    where both began; win, the window it announces (unscaled); options, put into every segment that does not say
    otherwise.
    """

    def __init__(self, peer: Neighbour, dport: int, sport: int, isn: int) -> None:
        self.peer = peer
        self.sport = sport
        self.dport = dport
        self.isn = isn
        self.snd = isn
        self.rcv = 0
        self.irs = 0
        self.win = 65535
        self.options: Options = []

    def build(
        self,
        flags: str,
        data: bytes = b"",
        *,
        seq: int | None = None,
        ack: int | None = None,
        win: int | None = None,
        options: Options | None = None,
        urgent: int = 0,
        **fields: Any,
    ) -> Packet:
        """The IP packet of a segment, by default the next of the conversation; `fields` override any of TCP's."""
        acked = (self.rcv if "A" in flags else 0) if ack is None else ack
        values: dict[str, Any] = {
            "sport": self.sport,
            "dport": self.dport,
            "flags": flags,
            "seq": (self.snd if seq is None else seq) % segment.MODULUS,
            "ack": acked % segment.MODULUS,
            "window": self.win if win is None else win,
            "urgptr": urgent,
            "options": self.options if options is None else options,
        }
        tcp = TCP(**{**values, **fields})
        packet = self.peer.ip_header() / tcp
        return packet / Raw(data) if data else packet

    def send(self, flags: str, data: bytes = b"", **fields: Any) -> None:
        """Send the next segment and move on: `snd` grows by data, SYN and FIN. For parameters see build()."""
        self.peer.send(self.build(flags, data, **fields))
        self.snd = (self.snd + len(data) + ("S" in flags) + ("F" in flags)) % segment.MODULUS

    def inject(self, flags: str, data: bytes = b"", **fields: Any) -> None:
        """Send a segment that the conversation does not know of: `snd` stays. For parameters see build()."""
        self.peer.send(self.build(flags, data, **fields))

    def next(self, within: float = 1.0) -> Packet | None:
        """The stack's next segment of this conversation, whatever it is; None after `within` seconds."""
        return self.peer.take(self._ours, within)

    def expect(
        self,
        flags: str = "A",
        within: float = 1.0,
        *,
        seq: object = None,
        ack: object = None,
        data: object = b"",
        win: object = ANY,
        options: object = ANY,
    ) -> Packet:
        """The next segment of the stack must be this one; `rcv` moves on if it is in order.

        flags: as scapy writes them, in any order; PSH is looked at only if named. seq, ack: absolute; by default what
        the conversation has come to. data: by default none. A value, a set, a range, a predicate or ANY each (see
        diff.matches). Raises scapy_peer.Mismatch with a table and the exchange so far.
        """
        packet = self.next(within)
        default_ack = self.snd if "A" in flags else ANY
        expected = {
            "flags": _flags(flags),
            "seq": self.rcv if seq is None else seq,
            "ack": default_ack if ack is None else ack,
            "data": data,
            "win": win,
            "options": options,
            "checksum": "right",
        }
        got = None if packet is None else self._fields(packet, push="P" in flags)
        if table := difference(expected, got):
            raise Mismatch(
                self.peer.failure(f"expected a segment within {within} s (snd {self.snd}, rcv {self.rcv})", table)
            )
        assert packet is not None
        self._advance(packet)
        return packet

    def expect_nothing(self, for_seconds: float = 0.0) -> None:
        """No segment of this conversation may come for so long. Raises scapy_peer.Mismatch."""
        packet = self.next(for_seconds)
        if packet is not None:
            raise Mismatch(self.peer.failure(f"expected no segment for {for_seconds} s", f"got: {describe(packet)}"))

    def collect(self, within: float = 1.0) -> list[Packet]:
        """All segments that come in `within` seconds, unjudged; `rcv` follows those in order."""
        found = []
        deadline = self.peer.now() + within
        while (packet := self.next(max(0.0, deadline - self.peer.now()))) is not None:
            self._advance(packet)
            found.append(packet)
        return found

    def read(self, size: int, within: float = 5.0, *, win: int | None = None) -> bytes:
        """At least the next `size` bytes of the stack's stream: segments in order are acknowledged, others ignored.

        Raises Mismatch when `within` seconds pass without any progress.
        """
        data = bytearray()
        while len(data) < size:
            start, deadline = self.rcv, self.peer.now() + within
            while self.rcv == start:
                packet = self.next(max(0.0, deadline - self.peer.now()))
                if packet is None:
                    raise Mismatch(self.peer.failure(f"{len(data)} of {size} bytes, then nothing for {within} s", ""))
                if packet[TCP].seq == self.rcv:
                    data += payload(packet)
                self._advance(packet)
            self.send("A", win=win)
        return bytes(data)

    def handshake(self, options: Options | None = None, *, win: int | None = None) -> Packet:
        """Open actively: SYN, SYN-ACK, ACK. Returns the stack's SYN-ACK."""
        self.send("S", options=SYN_OPTIONS if options is None else options, win=win)
        answer = self.expect("SA", seq=ANY)
        self.send("A", win=win)
        return answer

    def expect_syn(self, within: float = 1.0) -> Packet:
        """The stack connects: take its SYN (its port becomes this flow's if dport is 0). Returns it."""
        return self.expect("S", within, seq=ANY, ack=ANY)

    def accept(self, options: Options | None = None, *, within: float = 1.0) -> Packet:
        """Open passively: take the stack's SYN, answer SYN-ACK, take its ACK. Returns the SYN."""
        packet = self.expect_syn(within)
        self.send("SA", options=SYN_OPTIONS if options is None else options)
        self.expect("A")
        return packet

    def close(self, within: float = 1.0) -> None:
        """Close actively and take the stack's FIN, which may come with the acknowledgement or after it."""
        self.send("FA")
        packet = self.expect("FA", within) if self._next_has_fin(within) else None
        if packet is None:
            self.expect("A", within)
            self.expect("FA", within)
        self.send("A")

    def reset(self) -> None:
        """Abort: a RST that is exactly in order, which the stack does not answer."""
        self.inject("R", seq=self.snd, ack=0)

    def relative(self, packet: Packet) -> tuple[int, int]:
        """(seq, ack) of a packet from the stack, relative to where both sides began."""
        return segment.seq_diff(packet[TCP].seq, self.irs), segment.seq_diff(packet[TCP].ack, self.isn)

    def _next_has_fin(self, within: float) -> bool:
        packet = self.peer.take(self._ours, within)
        if packet is None:
            return False
        self.peer.put_back(packet)
        return "F" in str(packet[TCP].flags)

    def _ours(self, packet: Packet) -> bool:
        if TCP not in packet or not isinstance(packet.getlayer(TCP), TCP) or packet[TCP].dport != self.sport:
            return False
        if self.dport == 0:
            self.dport = packet[TCP].sport
        return bool(packet[TCP].sport == self.dport)

    def _fields(self, packet: Packet, *, push: bool) -> dict[str, object]:
        tcp = packet[TCP]
        flags = str(tcp.flags)
        return {
            "flags": _flags(flags if push else flags.replace("P", "")),
            "seq": tcp.seq,
            "ack": tcp.ack,
            "data": payload(packet),
            "win": tcp.window,
            "options": list(tcp.options),
            "checksum": "right" if valid(packet) else "wrong",
        }

    def _advance(self, packet: Packet) -> None:
        tcp = packet[TCP]
        flags = str(tcp.flags)
        if "S" in flags:
            self.irs = self.rcv = tcp.seq
        if tcp.seq == self.rcv and "R" not in flags:
            self.rcv = (tcp.seq + len(payload(packet)) + ("S" in flags) + ("F" in flags)) % segment.MODULUS


def _flags(text: str) -> str:
    return "".join(sorted(text))


def window_scale(shift: int, mss: int = 1460) -> Options:
    """SYN options with a window scale of `shift`."""
    return [("MSS", mss), ("NOP", None), ("WScale", shift)]
