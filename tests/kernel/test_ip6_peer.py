"""IPv6 with the kernel as the peer over a TAP: ping, Neighbor Discovery, TCP and UDP both ways, link-local."""

from __future__ import annotations

import hashlib
import re
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import ustack
from tap_harness.process import wait_for
from tap_harness.tap import KernelTap

pytestmark = pytest.mark.ipv6("link-local addresses and Neighbor Discovery")
KERNEL, STACK = "fd09::1", "fd09::2"
SIX = socket.AF_INET6


@pytest.fixture(params=[False, True], ids=["plain", "offload"])
def stack(ns: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The stack behind a TAP; the kernel's side is fd09::1 and has no link-local address but for who adds one."""
    with KernelTap(ns, addresses=["10.9.0.1/24"], vnet_hdr=request.param) as tap, ustack.Stack() as made:
        ns.sysctl("net.ipv6.conf.ust0.disable_ipv6", 0)
        ns.sh("ip -6 addr add fd09::1/64 dev ust0 nodad")
        ns.sh("ip -6 addr add fe80::1/64 dev ust0 nodad")
        made.attach(ustack.Tap(fd=tap.dup(), offload=request.param), addresses=[f"{STACK}/64"], gateway=KERNEL)
        yield made


def link_local(stack: Any) -> str:
    return str(next(a.address for i in stack.interfaces() for a in i.addresses if a.address.startswith("fe80")))


@pytest.mark.parametrize("size", [0, 56, 1452, 1453, 8000, 65000])
@pytest.mark.rfc("4443", "4.2")
def test_ping(ns: Any, stack: Any, size: int) -> None:
    seen = ns.sh(f"ping -6 -c 3 -i 0.01 -W 2 -s {size} {STACK}")
    assert "3 packets transmitted, 3 received, 0% packet loss" in seen
    assert "wrong data" not in seen


@pytest.mark.rfc("4861", "7.2")
def test_each_knows_the_other(ns: Any, stack: Any) -> None:
    ns.sh(f"ping -6 -c 1 -W 2 {STACK}; ping -6 -c 1 -W 2 {link_local(stack)}%ust0")
    entry = ns.sh(f"ip -6 neigh show {STACK}")
    assert re.search(r"lladdr ([0-9a-f]{2}:){5}[0-9a-f]{2} (REACHABLE|DELAY|STALE)", entry)
    mac = ns.sh("ip -o link show ust0").split("link/ether ")[1].split()[0]
    wait_for(lambda: any(one.mac == mac for one in stack.neighbors()), "the kernel in the stack's table", 10)


@pytest.mark.parametrize("role", ["client", "server"])
@pytest.mark.parametrize("host", ["global", "link-local"])
def test_tcp_both_ways(ns: Any, stack: Any, role: str, host: str) -> None:
    name = next(i.name for i in stack.interfaces() if i.name != "lo")
    if role == "client":
        listener = ns.socket(SIX)
        listener.bind(("::", 0))
        listener.listen()
        where = KERNEL if host == "global" else f"fe80::1%{name}"
        ours = stack.create_connection((where, listener.getsockname()[1]), timeout=10)
        theirs, _ = listener.accept()
    else:
        listener = stack.create_server(("::", 0), family=SIX)
        theirs = ns.socket(SIX)
        with ns.entered():
            scope = socket.if_nametoindex("ust0")
        port = listener.getsockname()[1]
        theirs.connect((STACK, port) if host == "global" else (link_local(stack), port, 0, scope))
        listener.settimeout(10)
        ours, _ = listener.accept()
    data = bytes(range(256)) * 8192
    for sender, receiver in ((ours, theirs), (theirs, ours)):
        receiver.settimeout(20)
        sending = threading.Thread(target=sender.sendall, args=(data,))
        sending.start()
        got = hashlib.sha256()
        left = len(data)
        while left:
            piece = receiver.recv(min(left, 1 << 16))
            assert piece
            got.update(piece)
            left -= len(piece)
        sending.join()
        assert got.digest() == hashlib.sha256(data).digest()
    for sock in (ours, theirs, listener):
        sock.close()


@pytest.mark.parametrize("size", [0, 1, 1452, 1453, 20000])
def test_udp_both_ways(ns: Any, stack: Any, size: int) -> None:
    theirs = ns.socket(SIX, socket.SOCK_DGRAM)
    theirs.bind((KERNEL, 0))
    theirs.settimeout(10)
    with stack.socket(SIX, socket.SOCK_DGRAM) as ours:
        ours.settimeout(10)
        ours.sendto(b"x" * size, (KERNEL, theirs.getsockname()[1]))
        data, sender = theirs.recvfrom(70000)
        assert data == b"x" * size
        assert sender[0] == STACK
        theirs.sendto(data, sender)
        assert ours.recv(70000) == data
    theirs.close()


@pytest.mark.rfc("4443", "3.1")
def test_closed_ports_are_told_both_ways(ns: Any, stack: Any) -> None:
    theirs = ns.socket(SIX, socket.SOCK_DGRAM)
    theirs.connect((STACK, 9))
    theirs.send(b"x")
    with pytest.raises(ConnectionRefusedError):
        theirs.recv(1)
    theirs.close()
    with stack.socket(SIX, socket.SOCK_DGRAM) as ours:
        ours.settimeout(10)
        ours.connect((KERNEL, 9))
        ours.send(b"x")
        with pytest.raises(ConnectionRefusedError):
            ours.recv(1)
    with pytest.raises(ConnectionRefusedError):
        stack.create_connection((KERNEL, 9), timeout=10)
