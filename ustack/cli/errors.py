"""How a verb ends other than by success, and the exit codes that all verbs share."""

from __future__ import annotations

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_SIGNAL = 128  # plus the signal's number, as a shell reports it


class CommandError(Exception):
    """A verb cannot go on: one sentence for the person, and the exit code.

    sentence: what is wrong, and, where something mends it, the command that does.
    """

    def __init__(self, sentence: str, code: int = EXIT_FAILURE) -> None:
        super().__init__(sentence)
        self.code = code


class Terminated(BaseException):
    """SIGTERM or SIGHUP arrived; raised in the main thread so that everything open is closed on the way out."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def reason(error: OSError) -> str:
    """The kernel's words for an error, without its number and file name."""
    return error.strerror or str(error) or type(error).__name__
