"""What a script says, as values: events with a time and something that is done or expected then."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

TcpOption = tuple[Any, ...]


class SyntaxFault(Exception):
    """The text is not a script: file:line:column and a sentence."""

    def __init__(self, name: str, line: int, column: int, sentence: str) -> None:
        super().__init__(f"{name}:{line}:{column}: {sentence}")
        self.line = line
        self.column = column


class Unsupported(Exception):
    """The script asks for something that this runner or this stack does not have."""


class Any_(Enum):
    """The `...` of the language: whatever there is."""

    ANY = "..."


ANY = Any_.ANY


@dataclass(frozen=True)
class When:
    """A time in ns. relative: to the event before. end: of a time range (start is its beginning). start None: `*`."""

    start: int | None
    relative: bool = False
    end: int | None = None


@dataclass(frozen=True)
class Tcp:
    """A TCP segment. seq and ack as the script counts them; options None: any; ack, win, ecn None: not looked at.

    port: of the scripted peer, None for the script's main connection.
    """

    inbound: bool
    flags: str
    seq: int
    length: int
    ack: int | None = None
    win: int | None = None
    urg: int = 0
    options: tuple[TcpOption, ...] | None = ()
    ecn: str | None = None
    port: int | None = None


@dataclass(frozen=True)
class Udp:
    """A UDP datagram of `length` payload bytes."""

    inbound: bool
    length: int
    ecn: str | None = None
    port: int | None = None


@dataclass(frozen=True)
class Icmp:
    """An ICMP error of the peer's side that quotes a segment (seq) of the main connection, or a datagram (seq None)."""

    kind: int
    code: int
    mtu: int
    seq: int | None
    port: int | None = None


@dataclass(frozen=True)
class Call:
    """A system call. result: an int, or ANY; error: an errno's name, or None; end: until when it blocks (ns), or None.

    end counts from the same moment as the event's own time.
    """

    name: str
    arguments: tuple[Any, ...]
    result: Any
    error: str | None = None
    end: int | None = None


@dataclass(frozen=True)
class Code:
    """Python between %{ and }%."""

    text: str
    line: int


@dataclass(frozen=True)
class Command:
    """A shell command between backticks."""

    text: str


Action = Tcp | Udp | Icmp | Call | Code | Command


@dataclass(frozen=True)
class Event:
    """One event: where it stands in the file, as written, when and what."""

    line: int
    text: str
    when: When
    action: Action


@dataclass
class Script:
    """A parsed script. name: the file's; options: of the `--name=value` lines."""

    name: str
    options: dict[str, str] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
