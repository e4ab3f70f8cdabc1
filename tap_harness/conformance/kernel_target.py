"""The kernel of this machine as a target: a namespace of its own, a TAP, kernel sockets, real time."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections import deque
from pathlib import Path
from typing import Any

from tap_harness.conformance.registry import NotApplicable
from tap_harness.conformance.target import Recorder, join_with
from tap_harness.ends import FOUR, Ends
from tap_harness.linux_carrier import LinuxCarrier, LinuxStack


class _RealTime(LinuxCarrier):
    """A LinuxCarrier for which waiting is waiting."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self._kept: deque[bytes] = deque()

    def receive(self, within: float) -> bytes | None:
        """The next frame, one that came while waiting first."""
        return self._kept.popleft() if self._kept else super().receive(within)

    def advance(self, seconds: float) -> None:
        """Wait; what the kernel sends meanwhile is kept in order."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            select.select([self._tap.fd], [], [], left)
            while (frame := super().receive(0)) is not None:
                self._kept.append(frame)

    @property
    def namespace(self) -> Any:
        """The namespace whose kernel this is."""
        return self._ns


class KernelTarget:
    """Linux with its defaults: 10.9.0.2, or what `ends` calls the stack."""

    name = "kernel"
    virtual = False
    peer_mac = "02:00:00:00:00:01"
    slack = 0.25
    sink = echo = 0

    def __init__(self, ends: Ends = FOUR) -> None:
        self._family = ends.family
        self.address, self.peer_address, self.other_address = ends.stack, ends.kernel, ends.neighbour(3)
        self.carrier = _RealTime(ends.stack_net)
        self.carrier.namespace.sysctl("net.ipv4.tcp_invalid_ratelimit", 500)  # Linux's default
        self.carrier.namespace.sh(f"ip route add default via {self.peer_address}")
        self.stack: LinuxStack = self.carrier.stack
        self.wire = Recorder(self.carrier)

    def socket(self, datagram: bool = False) -> Any:
        """A non-blocking kernel socket in the namespace."""
        made = self.carrier.namespace.socket(self._family, socket.SOCK_DGRAM if datagram else socket.SOCK_STREAM)
        made.setblocking(False)
        if not datagram:
            with contextlib.suppress(OSError):  # Linux's default, whatever this machine's is; accepted ones inherit it
                made.setsockopt(socket.IPPROTO_TCP, getattr(socket, "TCP_CONGESTION", 13), b"cubic")
        return made

    def sysctl(self, name: str, value: object = None) -> Any:
        """Write (value given) or read a sysctl of the namespace."""
        if isinstance(value, (tuple, list)):
            value = " ".join(str(one) for one in value)
        try:
            if value is not None:
                self.carrier.namespace.sysctl(name, value)
            path = Path("/proc/sys") / name.replace(".", "/")
            words = self.carrier.namespace.call(path.read_text).split()
        except OSError as error:
            raise NotApplicable(f"this kernel: {name}: {error.strerror}") from None
        numbers = [int(word) if word.lstrip("-").isdigit() else word for word in words]
        return numbers[0] if len(numbers) == 1 else tuple(numbers)

    def connections(self) -> list[Any]:
        """What `ss` tells."""
        return self.stack.connections()

    def pump(self) -> None:
        """The kernel runs by itself."""

    def wait(self, seconds: float) -> None:
        """Wait in real time."""
        self.carrier.advance(seconds)

    def six(self, routers: bool = False) -> None:
        """IPv6 on the device, its addresses used without asking first."""
        ns = self.carrier.namespace
        ns.sysctl("net.ipv6.conf.ust0.accept_dad", 0)
        ns.sysctl("net.ipv6.conf.ust0.accept_ra", 1 if routers else 0)
        ns.sysctl("net.ipv6.conf.ust0.addr_gen_mode", 0 if routers else 1)
        ns.sysctl("net.ipv6.conf.ust0.disable_ipv6", 0)
        if not routers:
            for address in ("fe80::2/64", "fd09::2/64"):
                ns.sh(f"ip -6 addr add {address} dev ust0 nodad")

    def socket6(self, kind: int) -> Any:
        """A non-blocking kernel socket in the namespace."""
        made = self.carrier.namespace.socket(socket.AF_INET6, kind)
        made.setblocking(False)
        return made

    def addresses6(self) -> list[str]:
        """What `ip` tells."""
        lines = self.carrier.namespace.sh("ip -6 -o addr show dev ust0 -tentative").splitlines()
        return [line.split()[3].split("/")[0] for line in lines]

    def interface(self) -> int:
        """The TAP's index."""
        return self.carrier.namespace.call(socket.if_nametoindex, "ust0")

    def dhcp(self, six: bool) -> tuple[str, Any]:
        """There is none to be had."""
        raise NotApplicable("the kernel's own DHCP client is for booting from the network only")

    def join(self, group: str, sources: tuple[str, ...] = ()) -> Any:
        """A UDP socket of the kernel."""
        made = self.socket6(socket.SOCK_DGRAM) if ":" in group else self.socket(datagram=True)
        join_with(made, group, sources, self.address, self.interface())
        return made

    def add_address(self, address: str) -> None:
        """Another address on the device."""
        self.carrier.namespace.sh(f"ip addr add {address} dev ust0")

    def close(self) -> None:
        """Give the namespace back."""
        self.carrier.close()
