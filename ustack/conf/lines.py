"""Where in a TOML document each key is: what tomllib reads and does not tell.

Responsible for: the line of every key, table and element, by its path. Not for: values, or whether the document is
TOML; it has been read by tomllib (TOML 1.0) before, so that what is here may rely on its grammar.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

Path = tuple[str | int, ...]

_BLANK = re.compile(r"[ \t\r]*")
_BLANKS = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}#\n]*")
_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}' r"|'''.*?'{3,5}" r'|"(?:\\.|[^"\\\n])*"' r"|'[^'\n]*'",
    re.DOTALL,
)
_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))")
_SHORT = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r"}


def lines_of(text: str) -> dict[Path, int]:
    """The line, from 1, at which the thing with each path begins: ("interface", 0, "mtu") -> 7."""
    return _Reader(text).read()


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._counted, self._line = 0, 1
        self._lines: dict[Path, int] = {}
        self._tables: dict[Path, int] = {}  # of arrays of tables: how many so far

    def read(self) -> dict[Path, int]:
        here: Path = ()
        while self._skip(_BLANKS) < len(self._text):
            if self._text.startswith("[", self._at):
                here = self._header()
            else:
                self._pair(here)
        return self._lines

    def _header(self) -> Path:
        """`[a.b]` or `[[a.b]]` -> the path that what follows belongs to."""
        array = self._text.startswith("[[", self._at)
        line = self._here()
        self._at += 2 if array else 1
        path: Path = ()
        keys = list(self._key())
        for number, key in enumerate(keys):
            path += (key,)
            self._lines.setdefault(path, line)
            if array and number == len(keys) - 1:
                self._tables[path] = self._tables.get(path, 0) + 1
            if path in self._tables:  # below the last of them
                path += (self._tables[path] - 1,)
                self._lines.setdefault(path, line)
        self._at += 2 if array else 1
        return path

    def _pair(self, path: Path) -> None:
        line = self._here()
        for key in self._key():
            path += (key,)
            self._lines.setdefault(path, line)
        self._at += 1  # the =
        self._skip(_BLANK)
        self._value(path)

    def _key(self) -> Iterator[str]:
        while True:
            self._skip(_BLANK)
            bare = _BARE.match(self._text, self._at)
            quoted = bare or _STRING.match(self._text, self._at)
            assert quoted is not None
            self._at = quoted.end()
            yield quoted[0] if bare else _plain(quoted[0])
            self._skip(_BLANK)
            if not self._text.startswith(".", self._at):
                return
            self._at += 1

    def _value(self, path: Path) -> None:
        opening = self._text[self._at]
        if opening == "[":
            self._at += 1
            for number in self._until("]"):
                self._lines.setdefault((*path, number), self._here())
                self._value((*path, number))
        elif opening == "{":
            self._at += 1
            for _ in self._until("}"):
                self._pair(path)
        else:
            self._skip(_STRING if opening in "\"'" else _SCALAR)

    def _until(self, closing: str) -> Iterator[int]:
        """A turn for each element up to the bracket, which is passed."""
        number = 0
        self._skip(_BLANKS)
        while not self._text.startswith(closing, self._at):
            yield number
            number += 1
            self._skip(_BLANKS)
            if self._text.startswith(",", self._at):
                self._at += 1
                self._skip(_BLANKS)
        self._at += 1

    def _skip(self, what: re.Pattern[str]) -> int:
        found = what.match(self._text, self._at)
        assert found is not None
        self._at = found.end()
        return self._at

    def _here(self) -> int:
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line


def _plain(quoted: str) -> str:
    """What a quoted key says."""
    if quoted[0] == "'":
        return quoted[1:-1]

    def meant(match: re.Match[str]) -> str:
        number = match[1] or match[2]
        return chr(int(number, 16)) if number else _SHORT.get(match[3], match[3])

    return _ESCAPE.sub(meant, quoted[1:-1])
