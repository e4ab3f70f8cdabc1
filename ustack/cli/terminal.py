"""What a person sees: figures with units, a progress bar, colours only where a terminal shows them."""

from __future__ import annotations

import os
import time
from typing import TextIO

_COLOURS = {"bold": "1", "dim": "2", "green": "32", "red": "31", "yellow": "33", "cyan": "36"}
_REDRAW_EVERY = 0.1  # seconds between two drawings of a progress bar


def shows_colour(stream: TextIO) -> bool:
    """Whether to colour what goes to a stream (a terminal, and NO_COLOR is not set; see no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str, stream: TextIO) -> str:
    """The text in a colour, where the stream shows colours; else the text."""
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m" if shows_colour(stream) else text


def size(count: float) -> str:
    """A number of bytes with a binary unit: 268435456 -> '256.0 MiB'."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def rate(count: int, seconds: float) -> str:
    """Bytes in a time as bits a second: '3.21 Gbit/s'."""
    bits = count * 8 / max(seconds, 1e-9)
    for unit in ("bit/s", "kbit/s", "Mbit/s"):
        if bits < 1000:
            return f"{bits:.0f} {unit}" if unit == "bit/s" else f"{bits:.2f} {unit}"
        bits /= 1000
    return f"{bits:.2f} Gbit/s"


class Progress:
    """A one-line progress bar on a terminal; on anything else it draws nothing.

    total: bytes to come, or None when nobody knows.
    """

    def __init__(self, stream: TextIO, total: int | None, wanted: bool = True) -> None:
        self._stream = stream
        self._total = total
        self._drawing = wanted and stream.isatty()
        self._started = time.monotonic()
        self._drawn = 0.0
        self._done = 0

    def advance(self, count: int) -> None:
        """Count bytes that were moved, and draw when it is time to."""
        self._done += count
        now = time.monotonic()
        if self._drawing and now - self._drawn >= _REDRAW_EVERY:
            self._drawn = now
            self._draw(now)

    def finish(self) -> None:
        """Draw the last state and leave the line."""
        if self._drawing and self._done:
            self._draw(time.monotonic())
            self._stream.write("\n")
            self._stream.flush()

    def _draw(self, now: float) -> None:
        speed = rate(self._done, now - self._started)
        if self._total:
            share = min(self._done / self._total, 1.0)
            filled = round(share * 40)
            line = f"[{'#' * filled}{'.' * (40 - filled)}] {share:4.0%}  {size(self._done)}  {speed}"
        else:
            line = f"{size(self._done)}  {speed}"
        self._stream.write(f"\r{line:<78}")
        self._stream.flush()
