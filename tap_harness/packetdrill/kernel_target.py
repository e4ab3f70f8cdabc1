"""The kernel as the target: scripts in real time against Linux's TCP, over a TUN device in a namespace of their own."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tap_harness.netns import Namespace, in_thread
from tap_harness.packetdrill.script import Unsupported
from tap_harness.packetdrill.wire import Addresses, Got, read_packet
from tap_harness.tap import KernelTap

_DEVICE = "tun0"
_BLOCKED = 0.5  # s: a call that has not returned by then blocks
_PATIENCE = 60.0  # s, for what has no deadline (the language's `*`)
_LARGEST = 1 << 16
# Linux's own, which a machine may have changed; the window scale follows from them.
_DEFAULTS = {"net.ipv4.tcp_rmem": "4096 131072 6291456", "net.ipv4.tcp_wmem": "4096 16384 4194304"}


class KernelPending:
    """A call in a thread of its own. time: when it ended (ns)."""

    def __init__(self, target: KernelTarget, function: Callable[[], Any]) -> None:
        self._target = target
        self._value: Any = None
        self._error: BaseException | None = None
        self.time = 0
        self._thread = threading.Thread(target=self._run, args=(function,), daemon=True)
        self._thread.start()

    def _run(self, function: Callable[[], Any]) -> None:
        try:
            self._value = function()
        except BaseException as error:
            self._error = error
        self.time = self._target.now

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return not self._thread.is_alive()

    def returns(self) -> bool:
        """Whether it ends without anything else that happens."""
        self._thread.join(_BLOCKED)
        return self.done

    def result(self) -> Any:
        """What it returned; raises what it raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._value


class KernelTarget:
    """Linux in a fresh namespace whose only neighbour is the script. Times are ns since the target was made."""

    real_time = True  # events are late, and those that follow count from when they were

    def __init__(self, ends: Addresses, prefix: int, mtu: int) -> None:
        self._namespace = Namespace()
        try:
            self._tun = KernelTap(self._namespace, _DEVICE, tun=True, mtu=mtu, ipv6=ends.is_v6)
            self._namespace.sh(_setup(ends, prefix))
            for name, value in _DEFAULTS.items():
                self._namespace.sysctl(name, value)
        except BaseException:
            self._namespace.close()
            raise
        self._ends = ends
        self._sent: deque[Got] = deque()
        self._arrival = threading.Condition()
        self._stop, self._stopped = os.pipe()
        self._start = time.monotonic_ns()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def now(self) -> int:
        """The time in ns."""
        return time.monotonic_ns() - self._start

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """The thread is in the target's namespace."""
        with self._namespace.entered():
            yield

    def _read(self) -> None:
        while True:
            ready, _, _ = select.select([self._tun.fd, self._stop], [], [])
            if self._stop in ready:
                return
            try:
                packet = os.read(self._tun.fd, _LARGEST)
            except OSError:
                continue
            if self._is_ours(packet):
                got = read_packet(self.now, packet)
                with self._arrival:
                    self._sent.append(got)
                    self._arrival.notify_all()

    def _is_ours(self, packet: bytes) -> bool:
        """From the kernel's address to the script's, and neither IGMP nor anything else of its own accord."""
        if packet[0] >> 4 == 6:
            return self._ends.is_v6 and packet[24:40] == socket.inet_pton(socket.AF_INET6, self._ends.remote)
        return not self._ends.is_v6 and packet[16:20] == socket.inet_aton(self._ends.remote)

    def run_until(self, moment: int) -> None:
        """Wait until then."""
        while (left := moment - self.now) > 0:
            time.sleep(left / 1e9)

    def settle(self) -> None:
        """Nothing: the kernel does what is due now while the caller calls it."""

    def send(self, packet: bytes) -> None:
        """Hand the kernel a packet."""
        os.write(self._tun.fd, packet)

    def next_packet(self, deadline: int) -> Got | None:
        """The kernel's next packet, sent until the deadline."""
        deadline = min(deadline, self.now + int(_PATIENCE * 1e9))
        with self._arrival:
            while not self._sent:
                left = deadline - self.now
                if left <= 0:
                    return None
                self._arrival.wait(left / 1e9)
            return self._sent.popleft() if self._sent[0].time <= deadline else None

    def leftover(self, before: int) -> Got | None:
        """A packet that the kernel sent before that time and nobody took."""
        with self._arrival:
            return self._sent[0] if self._sent and self._sent[0].time < before else None

    def start(self, function: Callable[[], Any]) -> KernelPending:
        """Begin a call that may block."""
        return KernelPending(self, function)

    def wait(self, ready: Callable[[], Any], seconds: float | None) -> Any:
        """What `ready` returns when it is true, after at most so many seconds (None: whenever)."""
        end = None if seconds is None else time.monotonic() + seconds
        while not (found := ready()) and (end is None or time.monotonic() < end):
            time.sleep(0.001)
        return found

    def socket(self, family: int, kind: int, proto: int) -> Any:
        """A socket of the namespace."""

        def make() -> socket.socket:
            with self.inside():
                return socket.socket(family, kind, proto)

        return in_thread(make)

    def facts(self) -> dict[str, Any]:
        """What %{ }% sees beside tcp_info: the counters of /proc/net/snmp and netstat."""
        return {"counters": self._namespace.call(_counters), "live": {}, "target": "kernel"}

    def command(self, text: str) -> None:
        """A set-up command, run in the namespace. Raises Unsupported when it fails."""
        try:
            self._namespace.sh(text)
        except AssertionError as error:
            raise Unsupported(f"`{text}`: {error}") from None

    def close(self) -> None:
        """End the target."""
        os.write(self._stopped, b"x")
        self._reader.join()
        os.close(self._stop)
        os.close(self._stopped)
        self._tun.close()
        self._namespace.close()


def _setup(ends: Addresses, prefix: int) -> str:
    if ends.is_v6:
        return (
            f"ip -6 addr add {ends.local}/{prefix} dev {_DEVICE} nodad && ip -6 route add {ends.remote} dev {_DEVICE}"
            f" && ip -6 route replace default dev {_DEVICE}"
        )
    return f"ip addr add {ends.local}/{prefix} dev {_DEVICE} && ip route add default dev {_DEVICE}"


def _counters() -> dict[str, int]:
    """snmp's names with the protocol in front (TcpInSegs), netstat's without (TCPTimeouts)."""
    found: dict[str, int] = {}
    for name in ("snmp", "netstat"):
        lines = Path(f"/proc/thread-self/net/{name}").read_text(encoding="ascii").splitlines()
        for titles, values in zip(lines[::2], lines[1::2], strict=True):
            group = titles.split(":")[0] if name == "snmp" else ""
            pairs = zip(titles.split()[1:], values.split()[1:], strict=True)
            found.update((group + title, int(value)) for title, value in pairs)
    return found
