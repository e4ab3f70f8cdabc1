"""Child processes that never outlive the test: killed by pid at exit, by the kernel if the test itself is killed.

Readiness is something seen (a line printed, a connection accepted), never a time waited.
"""

import atexit
import contextlib
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import TypeVar

POLL = 0.01  # seconds between two looks at a condition that has no descriptor to wait on

_running: set["Child"] = set()


class Child:
    """A process started for a test.

    Its output (stdout and stderr together) goes to a file, so that it can neither block on a full pipe nor get lost.
    The kernel kills it when the thread that started it ends (PR_SET_PDEATHSIG): start it from a thread that stays.

    Parameters: argv, the command; fds, descriptors it inherits under the same numbers; env, its environment;
    stdin, as for subprocess.Popen.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        fds: Sequence[int] = (),
        env: dict[str, str] | None = None,
        stdin: int = subprocess.DEVNULL,
    ) -> None:
        self.argv = list(argv)
        self._log = tempfile.TemporaryFile(prefix="tap_harness.")  # noqa: SIM115 (lives as long as the child)
        wrapped = ["setpriv", "--pdeathsig", "KILL", "--", *self.argv]
        self.process = subprocess.Popen(
            wrapped, stdin=stdin, stdout=self._log, stderr=subprocess.STDOUT, pass_fds=fds, env=env
        )
        self.pid = self.process.pid
        _running.add(self)

    def output(self) -> str:
        """Everything it has printed so far."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")

    def wait_line(self, pattern: str, timeout: float = 10.0) -> "re.Match[str]":
        """Wait until its output matches `pattern` (re, multi-line); returns the match. Raises AssertionError."""
        compiled = re.compile(pattern, re.MULTILINE)
        return wait_for(lambda: compiled.search(self.output()), f"a line like {pattern!r}", timeout, child=self)

    def wait(self, timeout: float) -> int:
        """Wait until it ends; returns its exit code. Raises AssertionError with its output after `timeout` seconds."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout} s: {self.describe()}") from None
        _running.discard(self)
        return code

    def finish(self, timeout: float) -> str:
        """Wait until it ends well; returns its output. Raises AssertionError on another exit code than 0."""
        code = self.wait(timeout)
        if code != 0:
            raise AssertionError(f"exit code {code} from {self.describe()}")
        return self.output()

    def signal(self, number: int) -> None:
        """Send it a signal; nothing happens if it has ended."""
        self.process.send_signal(number)

    def stop(self, grace: float = 2.0) -> None:
        """End it: SIGTERM, after `grace` seconds SIGKILL. Does nothing to a process that has ended."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(grace)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.process.stdin:
            self.process.stdin.close()
        _running.discard(self)

    def describe(self) -> str:
        """The command and the end of what it printed, for a failure message."""
        return f"{' '.join(self.argv)}\n--- output ---\n{self.output()[-4000:]}"

    def __enter__(self) -> "Child":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


T = TypeVar("T")


def wait_for(condition: Callable[[], T | None], what: str, timeout: float, child: Child | None = None) -> T:
    """Wait until condition() is true and return its value; AssertionError naming `what` after `timeout` seconds.

    With `child`, fail at once when that process has ended.
    """
    deadline = time.monotonic() + timeout
    while True:
        if value := condition():
            return value
        ended = child is not None and child.process.poll() is not None
        if ended or time.monotonic() > deadline:
            if value := condition():
                return value
            reason = "the process ended" if ended else f"not within {timeout} s"
            raise AssertionError(f"waited for {what}: {reason}" + (f"\n{child.describe()}" if child else ""))
        time.sleep(POLL)


def running() -> Iterator[Child]:
    """The children that have not been stopped or waited for."""
    return iter(tuple(_running))


@atexit.register
def stop_all() -> None:
    """End every child that still runs. Called at exit."""
    for child in running():
        with contextlib.suppress(OSError):
            child.stop(grace=0.2)
