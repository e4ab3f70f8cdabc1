"""What a story is made of: a state to begin in, and steps: segments of the peer, calls of the application, time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Segment:
    """A segment of the peer. seq, ack: how far from what would be in order (the next number; all that came).

    size: bytes of data; win: the window.
    """

    flags: str
    seq: int = 0
    ack: int = 0
    size: int = 0
    win: int = 65535

    def __str__(self) -> str:
        return f"< {self.flags or '.'} seq {self.seq:+} ack {self.ack:+} len {self.size} win {self.win}"


@dataclass(frozen=True)
class Call:
    """A call of the stack's application: "send" (size bytes), "recv", "shutdown" or "close"."""

    name: str
    size: int = 0

    def __str__(self) -> str:
        return f"{self.name}({self.size or ''})"


@dataclass(frozen=True)
class Wait:
    """Time in which neither peer nor application does anything."""

    seconds: float

    def __str__(self) -> str:
        return f"wait {self.seconds} s"


Step = Segment | Call | Wait


@dataclass(frozen=True)
class Story:
    """A state of RFC 9293 figure 5 to begin in, whether timestamps are used, and what happens then."""

    state: str
    steps: tuple[Step, ...]

    def __str__(self) -> str:
        return "\n".join([f"in {self.state}:", *(f"  {step}" for step in self.steps)])
