"""Two participants of a real DDS (Cyclone: RTPS over UDP and multicast), each in a namespace of its own. A stack joins
the two: their datagrams are forwarded, and what they send to groups is passed on by a program on the stack's sockets.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import ustack
from tap_harness.need import missing_program
from tap_harness.netns import Namespace
from tap_harness.tap import KernelTap

GROUP = "239.255.0.1"  # RTPS 2.2 §9.6.1.4: what participants announce themselves to
PORTS = (7400, 7401)  # ... of domain 0: announcements, and data for many
IN_PKTINFO = struct.Struct("=i4x4x")


class Relay:
    """Passes on what comes to the group by one interface of a stack to the others, as an application can do it."""

    def __init__(self, stack: Any, port: int) -> None:
        self.indices = [one.index for one in stack.interfaces() if one.name != "lo"]
        self.passed = 0
        self.sock = stack.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("", port))
        self.sock.setsockopt(socket.IPPROTO_IP, 8, 1)  # IP_PKTINFO
        self.sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
        for index in self.indices:
            mreqn = struct.pack("=4s4xi", socket.inet_aton(GROUP), index)
            self.sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, mreqn)
        self.port = port
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):  # closing the socket ends it
            while True:
                data, ((_, _, info),), _, _ = self.sock.recvmsg(65535, 256)
                came_by = IN_PKTINFO.unpack(info)[0]
                for index in self.indices:
                    if index != came_by:
                        out = (socket.IPPROTO_IP, 8, IN_PKTINFO.pack(index))
                        self.sock.sendmsg([data], [out], 0, (GROUP, self.port))
                self.passed += 1

    def close(self) -> None:
        self.sock.close()
        self.thread.join(10)


@pytest.fixture
def sites(privileged: None) -> Iterator[tuple[Namespace, Namespace, list[Relay]]]:
    if reason := missing_program("ddsperf"):
        pytest.skip(reason)
    with contextlib.ExitStack() as cleanup:
        stack = cleanup.enter_context(ustack.Stack())
        stack.sysctl["net.ipv4.ip_forward"] = 1
        spaces = []
        for k in (1, 2):
            ns = cleanup.enter_context(Namespace())
            tap = cleanup.enter_context(KernelTap(ns, addresses=[f"10.{k}.0.1/24"]))
            ns.sh(f"ip link set lo up && ip route add default via 10.{k}.0.254")
            stack.attach(ustack.Tap(fd=tap.dup()), addresses=[f"10.{k}.0.254/24"])
            spaces.append(ns)
        relays = [cleanup.enter_context(contextlib.closing(Relay(stack, port))) for port in PORTS]
        yield spaces[0], spaces[1], relays


def test_participants_find_each_other_and_exchange_samples(sites: tuple[Namespace, Namespace, list[Relay]]) -> None:
    left, right, relays = sites
    wait = ["-Q", "minmatch:1", "-Q", "maxwait:15"]
    subscriber = right.popen(["ddsperf", *wait, "-D", "5", "-Q", "samples:20", "sub"])
    publisher = left.popen(["ddsperf", *wait, "-D", "5", "pub", "100Hz", "size", "4k"])
    seen = subscriber.finish(40)
    publisher.finish(40)
    assert "lost 0 " in seen
    assert relays[0].passed >= 2, "they were announced through the stack"
