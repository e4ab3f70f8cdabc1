"""A network namespace of the test's own.

The namespace has no name and no mount: it is a descriptor of this process. It vanishes, with every device in it, when
that descriptor is closed and its processes have ended, which the kernel sees to however the test dies. So there is
nothing stale to clean up after a crash.

To look into one that hangs: nsenter --net=/proc/PID/fd/FD ip addr (str(namespace) prints exactly that).
"""

import contextlib
import ctypes
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from tap_harness.need import CLONE_NEWNET
from tap_harness.process import Child, wait_for

T = TypeVar("T")
ROOT = Path(__file__).resolve().parent.parent

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


class Namespace:
    """A context manager: a fresh network namespace with `lo` up, closed together with what was started in it."""

    def __init__(self) -> None:
        self.fd = -1
        self._children: list[Child] = []
        in_thread(self._create)

    def _create(self) -> None:
        """Runs in a thread that is thrown away: the calling thread never leaves its own namespace."""
        _check(_libc.unshare(CLONE_NEWNET), "unshare(CLONE_NEWNET)")
        self.fd = os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)

    def close(self) -> None:
        """End what was started here and give the namespace back. Can be called again."""
        for child in reversed(self._children):
            child.stop()
        self._children.clear()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """The current thread is in the namespace inside the with-block: devices and sockets made there belong to it."""
        home = os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _check(_libc.setns(self.fd, CLONE_NEWNET), "setns into the namespace")
            try:
                yield
            finally:
                _check(_libc.setns(home, CLONE_NEWNET), "setns back")
        finally:
            os.close(home)

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Call function(*args) in a thread that is in the namespace; returns or raises what it does."""

        def inside() -> T:
            with self.entered():
                return function(*args)

        return in_thread(inside)

    def socket(self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM, proto: int = 0) -> socket.socket:
        """A kernel socket that lives in the namespace (a socket keeps the one it was made in), with a 10 s timeout."""
        with self.entered():
            made = socket.socket(family, kind, proto)
        made.settimeout(10)
        return made

    def command(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs argv inside; the descriptor `fd` must be inherited."""
        return ["nsenter", f"--net=/proc/self/fd/{self.fd}", "--", *argv]

    def popen(
        self,
        argv: Sequence[str],
        *,
        fds: Sequence[int] = (),
        env: dict[str, str] | None = None,
        stdin: int = subprocess.DEVNULL,
    ) -> Child:
        """Start argv inside the namespace; it ends with the namespace at the latest."""
        child = Child(
            self.command(argv), fds=[self.fd, *fds], env=plain_environment() if env is None else env, stdin=stdin
        )
        self._children.append(child)
        return child

    def python(self, module: str, *args: str, fds: Sequence[int] = ()) -> Child:
        """Start `python -m module args...` inside the namespace, with this checkout importable."""
        env = dict(os.environ, PYTHONUNBUFFERED="1")
        env["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), env.get("PYTHONPATH"))))
        return self.popen([sys.executable, "-m", module, *args], fds=fds, env=env)

    def run(self, argv: Sequence[str], timeout: float = 30.0) -> "subprocess.CompletedProcess[str]":
        """Run argv inside to its end; stdout and stderr as text, the exit code not judged."""
        return subprocess.run(
            self.command(argv),
            pass_fds=[self.fd],
            env=plain_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def sh(self, command: str, timeout: float = 30.0) -> str:
        """Run a shell command inside that must succeed; returns its stdout."""
        done = self.run(["sh", "-c", command], timeout)
        if done.returncode != 0:
            raise AssertionError(f"exit code {done.returncode} from {command!r}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def sysctl(self, name: str, value: object) -> None:
        """Set a net.* sysctl of the namespace, e.g. sysctl("net.ipv4.tcp_sack", 0)."""
        path = Path("/proc/sys") / name.replace(".", "/")
        self.call(path.write_text, f"{value}\n")

    def wait_accepting(self, address: tuple[str, int], timeout: float = 10.0, child: Child | None = None) -> None:
        """Wait until a TCP connection to `address` is accepted inside the namespace."""

        def accepts() -> bool:
            with self.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET) as probe:
                return probe.connect_ex(address) == 0

        wait_for(accepts, f"{address} to accept", timeout, child)

    def __str__(self) -> str:
        return f"nsenter --net=/proc/{os.getpid()}/fd/{self.fd}"

    def __enter__(self) -> "Namespace":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def plain_environment() -> dict[str, str]:
    """The environment for programs of the system: without the sanitizer that may be loaded into ours."""
    return {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}


def in_thread(function: Callable[[], T]) -> T:
    """Call function() in a thread of its own; returns or raises what it does."""
    result: list[T] = []
    failure: list[BaseException] = []

    def body() -> None:
        try:
            result.append(function())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]
