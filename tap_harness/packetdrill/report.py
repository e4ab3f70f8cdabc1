"""How a mismatch is told to a person: the script's line, what was expected, what came, which field differs."""

from __future__ import annotations

from collections.abc import Sequence

from tap_harness.packetdrill.script import Event, Tcp, TcpOption

_HISTORY = 12


class Mismatch(Exception):
    """The target did not do what the script says; str() is the whole report."""

    def __init__(
        self, name: str, event: Event, sentence: str, rows: Sequence[tuple[str, str]] = (), history: Sequence[str] = ()
    ) -> None:
        self.line = event.line
        self.sentence = sentence
        lines = [f"{name}:{event.line}: {sentence}", f"    script    {event.text}"]
        lines += [f"    {title:<9} {text}" for title, text in rows]
        if history:
            cut = len(history) > _HISTORY
            lines.append("    so far" + (f" (the last {_HISTORY})" if cut else ""))
            lines += [f"      {one}" for one in history[-_HISTORY:]]
        super().__init__("\n".join(lines))


def seconds(ns: int) -> str:
    """A time as 1.234567."""
    return f"{ns / 1e9:.6f}"


def segment_text(segment: Tcp) -> str:
    """A segment as the language writes it."""
    end = (segment.seq + segment.length) % (1 << 32)
    parts = [f"[{segment.ecn}]"] if segment.ecn else []
    parts += [segment.flags or "-", f"{segment.seq}:{end}({segment.length})"]
    if segment.ack is not None:
        parts.append(f"ack {segment.ack}")
    if segment.win is not None:
        parts.append(f"win {segment.win}")
    if segment.urg:
        parts.append(f"urg {segment.urg}")
    if segment.options is None:
        parts.append("<...>")
    elif segment.options:
        parts.append(f"<{options_text(segment.options)}>")
    return " ".join(parts)


def options_text(options: Sequence[TcpOption] | None) -> str:
    """TCP options as the language writes them, without the angle brackets."""
    if options is None:
        return "..."
    return ",".join(_option_text(option) for option in options)


def _option_text(option: TcpOption) -> str:
    name, *values = option
    if name == "TS":
        return f"TS val {values[0]} ecr {values[1]}"
    if name == "sack":
        return "sack " + " ".join(f"{first}:{last}" for first, last in values)
    if name in ("FO", "FOEXP"):
        return f"{name} ..." if values[0] is None else f"{name} {values[0].hex()}".rstrip()
    return " ".join(str(one) for one in option)
