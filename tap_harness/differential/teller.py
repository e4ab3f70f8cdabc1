"""Tells a story to the stack of a Lab and notes what it says, step by step.

What an RFC leaves free is not noted: initial sequence numbers (all numbers are relative), window sizes, how data is cut
into segments, when an acknowledgement is sent. Instead of the latter, every step ends with a question that each stack
answers at once: a segment below the window (RFC 9293 §3.10.7.4, first), whose answer says what was received. What is
sent again is passed over: time is real on one side.
"""

from __future__ import annotations

from dataclasses import dataclass

from scapy.layers.inet import TCP

from tap_harness.differential.story import Segment, Step, Story, Wait
from tap_harness.lab import Lab, Situation
from tap_harness.packets import payload
from tap_harness.segment import MODULUS, seq_diff

_BLOCKED = "BlockingIOError"


@dataclass(frozen=True)
class Seen:
    """What a stack said to a step. sent: new data, with the place it begins at; fin: the place of its FIN; others:
    flags and numbers of SYNs and RSTs; answer: flags, seq and ack of the answer to the question; result: of the call.
    """

    sent: tuple[int, bytes] | None
    fin: int | None
    others: tuple[tuple[str, int], ...]
    answer: tuple[str, int, int] | None
    result: str

    def __str__(self) -> str:
        words = [f"{self.result}"] if self.result else []
        if self.sent is not None:
            words.append(f"data {self.sent[0]}..{self.sent[0] + len(self.sent[1])}")
        if self.fin is not None:
            words.append(f"FIN at {self.fin}")
        words += [f"{flags} seq {seq}" for flags, seq in self.others]
        words.append("no answer" if self.answer is None else "answer {} seq {} ack {}".format(*self.answer))
        return ", ".join(words)


def tell(lab: Lab, story: Story) -> list[Seen | str]:
    """Tell it to a fresh connection of the lab -> what was seen after each step, and the state at the end."""
    situation = lab.reach(story.state)
    if situation.sock is not None:
        situation.sock.setblocking(False)
    lab.peer.discard()
    one = _Telling(lab, situation, story.state)
    try:
        seen: list[Seen | str] = [one.step(step) for step in story.steps]
        seen.append(lab.state_of(situation.flow))
        return seen
    finally:
        situation.state = "ESTABLISHED"  # whatever it is now, a RST ends it
        lab.tidy(situation)


def pattern(start: int, size: int) -> bytes:
    """The peer's data: each place of its stream has its byte, so that pieces that overlap agree."""
    return bytes((start + index) % 251 for index in range(size))


class _Telling:
    def __init__(self, lab: Lab, situation: Situation, state: str) -> None:
        self._lab = lab
        self._flow = situation.flow
        self._sock = situation.sock
        self._acked = situation.flow.rcv
        self._top = situation.flow.rcv  # of what the stack has sent
        closed = state in ("FIN-WAIT-1", "FIN-WAIT-2", "CLOSING", "LAST-ACK", "TIME-WAIT")
        self._fin = seq_diff(self._top - 1, situation.flow.irs) if closed else None
        self._win = 65535
        self._opened = state != "LISTEN"  # a SYN has been seen: what comes again is passed over

    def step(self, step: Step) -> Seen:
        result = ""
        if isinstance(step, Segment):
            self._inject(step)
        elif not isinstance(step, Wait):
            result = self._call(step.name, step.size)
        sent, fin, others = self._listen(step.seconds if isinstance(step, Wait) else 0.0)
        answer = self._question()
        return Seen(sent, fin, others, answer, result)

    def _inject(self, step: Segment) -> None:
        flow = self._flow
        seq = (flow.snd + step.seq) % MODULUS
        ack = (flow.rcv + step.ack) % MODULUS if "A" in step.flags else 0
        data = pattern(seq_diff(seq, flow.isn) - 1, step.size)
        flow.inject(step.flags, data, seq=seq, ack=ack, win=step.win, options=[])
        if "A" in step.flags and step.ack <= 0 and step.seq == 0:
            self._acked = ack if seq_diff(ack, self._acked) > 0 else self._acked
            self._win = step.win

    def _call(self, name: str, size: int) -> str:
        if self._sock is None:
            return "no socket"
        try:
            if name == "send":
                return f"sent {self._lab.write(self._sock, pattern(0, size))}"
            if name == "recv":
                data = bytes(self._sock.recv(1 << 16))
                self._lab.carrier.pump()
                return f"received {data.hex()}" if len(data) < 16 else f"received {len(data)} bytes"
            if name == "shutdown":
                self._lab.shutdown(self._sock)
            else:
                self._sock.close()
                self._lab.carrier.pump()
        except BlockingIOError:
            return _BLOCKED
        except OSError as error:
            return f"{type(error).__name__} {error.errno}"
        return name

    def _listen(self, seconds: float) -> tuple[tuple[int, bytes] | None, int | None, tuple[tuple[str, int], ...]]:
        """What comes within the time that is new."""
        flow, start, data = self._flow, self._top, bytearray()
        until = self._lab.carrier.now() + seconds
        fin: int | None = None
        others: list[tuple[str, int]] = []
        while (packet := flow.next(max(0.0, until - self._lab.carrier.now()))) is not None:
            tcp, flags, body = packet[TCP], str(packet[TCP].flags), payload(packet)
            if "S" in flags:
                flow.irs = tcp.seq
                flow.rcv = (tcp.seq + 1) % MODULUS
            if "S" in flags:
                if not self._opened:
                    others.append((flags, 0))
                self._opened, self._acked, self._top = True, flow.rcv, flow.rcv
                flow.snd = tcp.ack if "A" in flags else flow.snd
                continue
            if "R" in flags:
                others.append(("R", seq_diff(tcp.seq, flow.irs)) if tcp.seq else ("R without a number", 0))
                continue
            new = seq_diff(tcp.seq + len(body), self._top)
            if body and new > 0:
                data += body[len(body) - new :] if new < len(body) else body
                self._top = (self._top + new) % MODULUS
            if "F" in flags:
                fin = seq_diff(tcp.seq + len(body), flow.irs)
        first = fin if fin is not None and fin != self._fin else None
        self._fin = self._fin if first is None else first
        flow.rcv = (self._top + (self._fin is not None and seq_diff(self._top, flow.irs) == self._fin)) % MODULUS
        return (seq_diff(start, flow.irs), bytes(data)) if data else None, first, tuple(others)

    def _question(self) -> tuple[str, int, int] | None:
        """Ask what was received: an old segment, which changes nothing."""
        flow = self._flow
        flow.inject("A", seq=(flow.snd - 1) % MODULUS, ack=self._acked, win=self._win, options=[])
        last = None
        while (packet := flow.next(0)) is not None:
            if not payload(packet) and not {"S", "F"} & set(str(packet[TCP].flags)):  # sent again, not an answer
                last = packet
        if last is None:
            return None
        flags = str(last[TCP].flags).replace("P", "")
        ack = last[TCP].ack
        if flags == "A" and 0 <= seq_diff(ack, flow.snd) < 1 << 20:
            flow.snd = ack
        seq = seq_diff(last[TCP].seq, flow.irs)
        return ("R", seq, 0) if "R" in flags else (flags, seq, seq_diff(ack, flow.isn))
