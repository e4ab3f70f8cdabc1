"""Medians with their spread. No opinion on what is a good number."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Summary:
    """What one number was in every run."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        return min(self.values)

    @property
    def high(self) -> float:
        return max(self.values)

    def text(self, digits: int, spread: bool = True) -> str:
        """ "7.12 (6.90–7.31)"; without the spread "7.12"."""
        middle = f"{self.median:,.{digits}f}"
        if not spread or len(self.values) < 2:
            return middle
        return f"{middle} ({self.low:,.{digits}f}–{self.high:,.{digits}f})"


def summarise(values: Sequence[float]) -> Summary:
    """Raises ValueError where there is nothing to summarise."""
    if not values:
        raise ValueError("a number that was never measured has no median")
    return Summary(tuple(values))


def ratio(of: Summary, to: Summary) -> float | None:
    """How many times `to` `of` is, by their medians; None where that says nothing."""
    return of.median / to.median if to.median else None


def rotated(things: Sequence[str], by: int) -> list[str]:
    """The same, starting elsewhere: over the runs nobody is always first, when the machine is still cool."""
    shift = by % len(things) if things else 0
    return [*things[shift:], *things[:shift]]
