"""IPv4 multicast with the kernel: each side sends to the other's members, any source and chosen ones, through a TAP and
through the kernel's bridge with IGMP snooping. RFC 1112, 3376.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import ustack
from tap_harness import process
from tap_harness.netns import Namespace
from tap_harness.tap import KernelTap

pytestmark = pytest.mark.ipv4("IGMP, and IPv4's socket options")

GROUP = "239.1.2.3"
PORT = 7000
ADD_SOURCE, DROP_SOURCE = 39, 40


def wait_for(condition: Callable[[], bool]) -> None:
    process.wait_for(condition, "the bridge", 10)


def mreq(own: str) -> bytes:
    return socket.inet_aton(GROUP) + socket.inet_aton(own)


def member(sock: Any, own: str, source: str | None = None) -> Any:
    sock.settimeout(5)
    sock.bind(("", PORT))
    if source is None:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, mreq(own))
    else:
        sock.setsockopt(socket.IPPROTO_IP, ADD_SOURCE, mreq(own) + socket.inet_aton(source))
    return sock


def sender(sock: Any, own: str) -> Any:
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(own))
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
    return sock


@pytest.mark.parametrize("chosen", [False, True])
def test_the_kernel_sends(net: Any, chosen: bool) -> None:
    ours = member(
        net.keep(net.stack.socket(ustack.AF_INET, ustack.SOCK_DGRAM)), net.stack_ip, net.kernel_ip if chosen else None
    )
    theirs = sender(net.keep(net.ns.socket(kind=socket.SOCK_DGRAM)), net.kernel_ip)
    theirs.sendto(b"x" * 1000, (GROUP, PORT))
    assert ours.recvfrom(2000) == (b"x" * 1000, (net.kernel_ip, theirs.getsockname()[1]))


def test_a_source_that_was_not_chosen(net: Any) -> None:
    ours = member(net.keep(net.stack.socket(ustack.AF_INET, ustack.SOCK_DGRAM)), net.stack_ip, "10.9.0.77")
    theirs = sender(net.keep(net.ns.socket(kind=socket.SOCK_DGRAM)), net.kernel_ip)
    theirs.sendto(b"not wanted", (GROUP, PORT))
    theirs.sendto(b"to the host", (net.stack_ip, PORT))
    assert ours.recv(100) == b"to the host"


def test_the_stack_sends(net: Any) -> None:
    theirs = member(net.keep(net.ns.socket(kind=socket.SOCK_DGRAM)), net.kernel_ip)
    ours = sender(net.keep(net.stack.socket(ustack.AF_INET, ustack.SOCK_DGRAM)), net.stack_ip)
    ours.sendto(b"y" * 4000, (GROUP, PORT))
    data, address = theirs.recvfrom(8000)
    assert (data, address[0]) == (b"y" * 4000, net.stack_ip)


@contextlib.contextmanager
def bridged(ns: Namespace, version: int) -> Iterator[tuple[ustack.Stack, ustack.Stack]]:
    """Two stacks on two ports of a bridge that sends groups only to ports where somebody reported them."""
    with contextlib.ExitStack() as cleanup:
        ns.sh(
            "ip link add br0 type bridge mcast_snooping 1 mcast_querier 1 mcast_startup_query_interval 100"
            f" mcast_igmp_version {version} && ip addr add 10.9.0.1/24 dev br0 && ip link set br0 up"
        )
        stacks = []
        for k in (2, 3):
            tap = cleanup.enter_context(KernelTap(ns, f"ust{k}"))
            ns.sh(f"ip link set ust{k} master br0")
            stack = cleanup.enter_context(ustack.Stack())
            stack.attach(ustack.Tap(fd=tap.dup()), addresses=[f"10.9.0.{k}/24"])
            stacks.append(stack)
        wait_for(lambda: ns.sh("bridge -s -d link show").count("state forwarding") >= 2)
        yield stacks[0], stacks[1]


@pytest.mark.rfc("3376", "4.2 reports")
@pytest.mark.parametrize("version", [3, 2])
def test_through_a_bridge_that_snoops(ns: Namespace, version: int) -> None:
    with bridged(ns, version) as (left, right), contextlib.ExitStack() as cleanup:
        # The kernel's querier speaks before anybody joins.
        wait_for(lambda: left.counters().get("IgmpInQueries", 0) + right.counters().get("IgmpInQueries", 0) >= 2)
        ours = cleanup.enter_context(contextlib.closing(left.socket(ustack.AF_INET, ustack.SOCK_DGRAM)))
        member(ours, "10.9.0.2")
        wait_for(lambda: f"port ust2 grp {GROUP}" in ns.sh("bridge mdb show"))
        assert f"port ust3 grp {GROUP}" not in ns.sh("bridge mdb show")
        theirs = cleanup.enter_context(contextlib.closing(ns.socket(kind=socket.SOCK_DGRAM)))
        sender(theirs, "10.9.0.1").sendto(b"from the kernel", (GROUP, PORT))
        assert ours.recv(100) == b"from the kernel"
        other = cleanup.enter_context(contextlib.closing(right.socket(ustack.AF_INET, ustack.SOCK_DGRAM)))
        sender(other, "10.9.0.3").sendto(b"from the other port", (GROUP, PORT))
        assert ours.recv(100) == b"from the other port"
        assert right.counters().get("IpInMcastPkts", 0) <= right.counters()["IgmpInQueries"] + 2, (
            "the bridge held it back"
        )
        ours.setsockopt(socket.IPPROTO_IP, socket.IP_DROP_MEMBERSHIP, mreq("10.9.0.2"))
        wait_for(lambda: f"port ust2 grp {GROUP}" not in ns.sh("bridge mdb show"))


@pytest.mark.rfc("3376", "4.2.12 records")
def test_the_kernel_reads_our_source_lists(ns: Namespace) -> None:
    with bridged(ns, 3) as (left, _), contextlib.ExitStack() as cleanup:
        wait_for(lambda: left.counters().get("IgmpInQueries", 0) >= 1)
        ours = cleanup.enter_context(contextlib.closing(left.socket(ustack.AF_INET, ustack.SOCK_DGRAM)))
        member(ours, "10.9.0.2", "10.9.0.1")
        wait_for(lambda: "filter_mode include source_list 10.9.0.1/" in ns.sh("bridge -d mdb show"))
        sourced = struct.pack("4s4s4s", *(socket.inet_aton(a) for a in (GROUP, "10.9.0.2", "10.9.0.9")))
        ours.setsockopt(socket.IPPROTO_IP, ADD_SOURCE, sourced)
        wait_for(lambda: "10.9.0.9/" in ns.sh("bridge -d mdb show"))
