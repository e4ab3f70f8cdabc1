"""Multicast with the kernel: each side sends to the other's members, any source and chosen ones, through a TAP and
through the kernel's bridge, which snoops and asks (IGMP, MLD). RFC 1112, 3376, 3810.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

import ustack
from tap_harness import process
from tap_harness.netns import Namespace
from tap_harness.tap import KernelTap
from tests.sim.group_helpers import IGMP, JOIN_GROUP, JOIN_SOURCE, LEAVE_GROUP, MLD, Family

PORT = 7000


def name_of(one: object) -> str:
    return str(getattr(one, "name", one))


def wait_for(condition: Callable[[], bool]) -> None:
    process.wait_for(condition, "the bridge", 10)


@dataclass
class Side:
    """Sockets of the kernel or of a stack, on one interface."""

    fam: Family
    make: Callable[[], Any]
    index: int

    def member(self, source: str | None = None) -> Any:
        sock = self.make()
        sock.settimeout(5)
        sock.bind(("", PORT))
        self.call(sock, JOIN_SOURCE if source else JOIN_GROUP, source)
        return sock

    def call(self, sock: Any, name: int, source: str | None = None) -> None:
        sock.setsockopt(self.fam.level, name, self.fam.request(self.index, self.fam.group, source))

    def sender(self) -> Any:
        sock = self.make()
        mreqn = struct.pack("=8xi", self.index)
        sock.setsockopt(self.fam.level, self.fam.options["IF"], mreqn[8:] if self.fam.six else mreqn)
        sock.setsockopt(self.fam.level, self.fam.options["LOOP"], 0)
        return sock


def kernel_side(fam: Family, ns: Namespace, name: str, keep: Callable[[Any], Any]) -> Side:
    return Side(fam, lambda: keep(ns.socket(fam.family, socket.SOCK_DGRAM)), ns.call(socket.if_nametoindex, name))


def stack_side(fam: Family, stack: Any, keep: Callable[[Any], Any]) -> Side:
    index = next(one.index for one in stack.interfaces() if one.name != "lo")
    return Side(fam, lambda: keep(stack.socket(fam.family, socket.SOCK_DGRAM)), index)


@pytest.fixture
def sides(net: Any) -> tuple[Side, Side]:
    """The stack's and the kernel's."""
    fam = MLD if net.six else IGMP
    return stack_side(fam, net.stack, net.keep), kernel_side(fam, net.ns, "ust0", net.keep)


@pytest.mark.parametrize("chosen", [False, True])
def test_the_kernel_sends(net: Any, sides: tuple[Side, Side], chosen: bool) -> None:
    ours, theirs = sides
    member, sender = ours.member(net.kernel_ip if chosen else None), theirs.sender()
    sender.bind((net.kernel_ip, 0))
    sender.sendto(b"x" * 1000, (ours.fam.group, PORT))
    data, address = member.recvfrom(2000)
    assert (data, address[:2]) == (b"x" * 1000, (net.kernel_ip, sender.getsockname()[1]))


def test_a_source_that_was_not_chosen(net: Any, sides: tuple[Side, Side]) -> None:
    ours, theirs = sides
    member, sender = ours.member(ours.fam.host(77)), theirs.sender()
    sender.sendto(b"not wanted", (ours.fam.group, PORT))
    sender.sendto(b"to the host", (net.stack_ip, PORT))
    assert member.recv(100) == b"to the host"


@pytest.mark.parametrize("chosen", [False, True])
def test_the_stack_sends(net: Any, sides: tuple[Side, Side], chosen: bool) -> None:
    ours, theirs = sides
    member, sender = theirs.member(net.stack_ip if chosen else None), ours.sender()
    sender.sendto(b"y" * 4000, (ours.fam.group, PORT))
    data, address = member.recvfrom(8000)
    assert (data, address[0]) == (b"y" * 4000, net.stack_ip)


# -- through a bridge


@dataclass
class Bridged:
    """The kernel on a bridge that sends groups only to ports where somebody reported them, and a stack on each of two
    ports."""

    ns: Namespace
    fam: Family
    stacks: list[Any]
    left: Side
    right: Side
    kernel: Side

    def heard_queries(self) -> int:
        name = "Icmp6InGroupMembQueries" if self.fam.six else "IgmpInQueries"
        return sum(int(stack.counters().get(name, 0)) for stack in self.stacks)

    def shown(self, port: str) -> bool:
        return f"port {port} grp {self.fam.group}" in self.ns.sh("bridge mdb show")


@contextlib.contextmanager
def bridged(ns: Namespace, fam: Family, version: int) -> Iterator[Bridged]:
    with contextlib.ExitStack() as cleanup:

        def keep(thing: Any) -> Any:
            return cleanup.enter_context(contextlib.closing(thing))

        which = "mld" if fam.six else "igmp"
        length = 64 if fam.six else 24
        # The querier counts, and groups are held back, only when the time has passed that it gives for an answer, as
        # long as that is when it begins.
        ns.sh(
            "ip link add br0 type bridge mcast_snooping 1 mcast_startup_query_interval 100"
            f" mcast_query_response_interval 20 mcast_{which}_version {version}"
            " && ip link set br0 type bridge mcast_querier 1"
        )
        ns.sysctl("net.ipv6.conf.br0.disable_ipv6", int(not fam.six))
        ns.sysctl("net.ipv6.conf.br0.accept_dad", 0)  # a querier needs its link-local address at once
        ns.sh(f"ip addr add {fam.host(1)}/{length} dev br0 {'nodad' if fam.six else ''} && ip link set br0 up")
        stacks = []
        for k in (2, 3):
            tap = cleanup.enter_context(KernelTap(ns, f"ust{k}"))
            ns.sh(f"ip link set ust{k} master br0")
            stack = cleanup.enter_context(ustack.Stack())
            stack.attach(ustack.Tap(fd=tap.dup()), addresses=[f"{fam.host(k)}/{length}"])
            stacks.append(stack)
        left, right = (stack_side(fam, stack, keep) for stack in stacks)
        made = Bridged(ns, fam, stacks, left, right, kernel_side(fam, ns, "br0", keep))
        wait_for(lambda: ns.sh("bridge -s -d link show").count("state forwarding") >= 2)
        wait_for(lambda: made.heard_queries() >= 2)  # the kernel's querier speaks before anybody joins
        yield made


@pytest.mark.rfc("3376", "4.2 reports")
@pytest.mark.rfc("3810", "5.2 reports")
@pytest.mark.parametrize(("fam", "version"), [(IGMP, 3), (IGMP, 2), (MLD, 2), (MLD, 1)], ids=name_of)
def test_through_a_bridge_that_snoops(ns: Namespace, fam: Family, version: int) -> None:
    with bridged(ns, fam, version) as world, contextlib.ExitStack() as cleanup:
        member = world.left.member()
        watcher = cleanup.enter_context(world.stacks[1].socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
        watcher.settimeout(5)
        sender = world.kernel.sender()

        def held_back() -> bool:
            """Whether what is sent to the group does not come to the other port; what is for everybody does."""
            sender.sendto(b"to members", (fam.group, PORT))
            sender.sendto(b"to everybody", (fam.everybody, PORT + 1))
            assert member.recv(100) == b"to members"
            seen = [watcher.recv(2000)]
            while b"to everybody" not in seen[-1]:
                seen.append(watcher.recv(2000))
            return not any(b"to members" in frame for frame in seen)

        wait_for(lambda: world.shown("ust2"))
        assert not world.shown("ust3")
        wait_for(held_back)  # from when the bridge has had time to hear of members
        world.right.sender().sendto(b"from the other port", (fam.group, PORT))
        assert member.recv(100) == b"from the other port"
        theirs = world.kernel.member()
        wait_for(lambda: world.shown("br0"))
        world.left.sender().sendto(b"to the kernel", (fam.group, PORT))
        assert theirs.recv(100) == b"to the kernel"
        world.left.call(member, LEAVE_GROUP)
        wait_for(lambda: not world.shown("ust2"))


@pytest.mark.rfc("3376", "4.2.12 records")
@pytest.mark.rfc("3810", "5.2.12 records")
@pytest.mark.parametrize(("fam", "version"), [(IGMP, 3), (MLD, 2)], ids=name_of)
def test_chosen_sources_through_a_bridge(ns: Namespace, fam: Family, version: int) -> None:
    with bridged(ns, fam, version) as world:
        member = world.left.member(fam.host(1))
        wait_for(lambda: f"filter_mode include source_list {fam.host(1)}/" in ns.sh("bridge -d mdb show"))
        world.right.sender().sendto(b"not chosen", (fam.group, PORT))
        world.kernel.sender().sendto(b"chosen", (fam.group, PORT))
        assert member.recv(100) == b"chosen"
        world.left.call(member, JOIN_SOURCE, fam.host(3))
        wait_for(lambda: f"{fam.host(3)}/" in ns.sh("bridge -d mdb show"))
        world.right.sender().sendto(b"now it is", (fam.group, PORT))
        assert member.recv(100) == b"now it is"
        theirs = world.kernel.member(fam.host(3))
        wait_for(lambda: world.shown("br0"))
        world.left.sender().sendto(b"not chosen", (fam.group, PORT))
        world.right.sender().sendto(b"chosen", (fam.group, PORT))
        assert theirs.recv(100) == b"chosen"
