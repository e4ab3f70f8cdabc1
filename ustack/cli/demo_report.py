"""What the demo prints: numbered steps, commands with their output, comparisons, the verdict."""

from __future__ import annotations

from typing import TextIO

from .terminal import paint, rate, size

_INDENT = "    "


class Report:
    """Prints to a stream as things happen, and remembers whether everything was right."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._step = 0
        self._good = 0
        self._failures: list[str] = []

    def _print(self, text: str = "") -> None:
        print(text, file=self._stream, flush=True)

    def title(self, text: str) -> None:
        """The first line."""
        self._print(paint(text, "bold", self._stream))

    def step(self, text: str) -> None:
        """The next thing that is done."""
        self._step += 1
        self._print()
        self._print(paint(f"{self._step}. {text}", "bold", self._stream))

    def line(self, text: str) -> None:
        """A line about the present step."""
        self._print(_INDENT + text)

    def warn(self, text: str) -> None:
        """Something a person should know before going on."""
        self._print(paint(text, "yellow", self._stream))

    def command(self, text: str) -> None:
        """A command as one would type it."""
        self._print(_INDENT + paint(f"$ {text}", "cyan", self._stream))

    def output(self, text: str) -> None:
        """A line that a command printed."""
        self._print(_INDENT + paint(text, "dim", self._stream))

    def figures(self, length: int, seconds: float, segments: dict[str, int]) -> None:
        """How fast, and in how many segments the stack did it."""
        self.line(
            f"{size(length)} in {seconds:.2f} s = {paint(rate(length, seconds), 'bold', self._stream)}; "
            f"the stack sent {segments['TcpOutSegs']:,} segments, received {segments['TcpInSegs']:,}, "
            f"retransmitted {segments['TcpRetransSegs']:,}"
        )

    def compare(self, what: str, found: str | None, expected: str) -> None:
        """Whether a SHA-256 is the expected one; None: there is no file to have one."""
        if found is None:
            self.failed(f"{what}: there is no file")
        elif found == expected:
            self._good += 1
            self.line(f"sha256 {found}  {what}: {paint('equal', 'green', self._stream)}")
        else:
            self._failures.append(what)
            self.line(f"sha256 {found}  {what}: {paint('DIFFERENT', 'red', self._stream)}")

    def failed(self, what: str) -> None:
        """Something went wrong."""
        self._failures.append(what)
        self.line(paint(what, "red", self._stream))

    def verdict(self, link: str) -> bool:
        """The last line; returns whether all was well."""
        self._print()
        if self._failures:
            self._print(paint(f"FAILED: {'; '.join(self._failures)}", "red", self._stream))
        else:
            self._print(paint(f"OK: {self._good} transfers over {link}, every checksum equal.", "green", self._stream))
        return not self._failures
