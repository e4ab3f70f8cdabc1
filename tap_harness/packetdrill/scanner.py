"""A position in a script's text: takes pieces by pattern, skips blanks and comments, knows line and column."""

from __future__ import annotations

import re
from typing import NoReturn

from tap_harness.packetdrill.script import SyntaxFault

_BLANK = re.compile(r"(?:\s+|//[^\n]*|/\*.*?\*/|#[^\n]*)+", re.DOTALL)


class Scanner:
    """text: the script; name: what to call it in messages."""

    def __init__(self, text: str, name: str) -> None:
        self.text = text
        self.name = name
        self.at = 0
        self.end = 0  # of what was taken last
        self.skip()

    def skip(self) -> None:
        """Skip blanks and comments."""
        if found := _BLANK.match(self.text, self.at):
            self.at = found.end()

    @property
    def done(self) -> bool:
        """Whether nothing is left."""
        return self.at >= len(self.text)

    @property
    def line(self) -> int:
        """The line, from 1."""
        return self.text.count("\n", 0, self.at) + 1

    def take(self, pattern: str) -> str | None:
        """The text that matches here, blanks after it skipped; None if it does not match."""
        found = re.compile(pattern, re.DOTALL).match(self.text, self.at)
        if found is None:
            return None
        self.at = self.end = found.end()
        self.skip()
        return found[0]

    def looks_at(self, pattern: str) -> bool:
        """Whether the pattern matches here."""
        return re.compile(pattern, re.DOTALL).match(self.text, self.at) is not None

    def need(self, pattern: str, what: str) -> str:
        """take(), or the fault that `what` is missing."""
        found = self.take(pattern)
        if found is None:
            self.fail(f"expected {what}, found {self._here()}")
        return found

    def number(self, what: str, limit: int = 1 << 32) -> int:
        """A number below the limit, decimal or 0x hexadecimal."""
        start = self.at
        value = int(self.need(r"0[xX][0-9a-fA-F]{1,16}|0+|[1-9][0-9]{0,19}", what), 0)
        if value >= limit:
            self.fail(f"{what}: {value} is more than {limit - 1}", start)
        return value

    def fail(self, sentence: str, at: int | None = None) -> NoReturn:
        """Raise the fault for this position, or for another."""
        raise self.fault(sentence, at)

    def fault(self, sentence: str, at: int | None = None) -> SyntaxFault:
        """The fault for this position, or for another."""
        at = self.at if at is None else at
        line = self.text.count("\n", 0, at) + 1
        return SyntaxFault(self.name, line, at - (self.text.rfind("\n", 0, at) + 1) + 1, sentence)

    def _here(self) -> str:
        rest = self.text[self.at :].split("\n", 1)[0].split()
        return repr(rest[0][:30]) if rest else "the end"
