"""Ping and ARP as the kernel sees them: RFC 792, 826, 1122 §2.3.2, 5227."""

from __future__ import annotations

import re
import socket
import threading
from typing import Any

import pytest

import ustack
from tap_harness.net import echo
from tap_harness.process import wait_for
from tap_harness.tap import KernelTap


@pytest.mark.parametrize("size", [0, 1, 56, 1472, 1473, 8000, 65507])
@pytest.mark.rfc("1122", "3.2.2.6")
def test_ping(net: Any, size: int) -> None:
    """iputils compares what comes back; sizes above 1472 go as fragments both ways."""
    seen = net.ns.sh(f"ping -c 5 -i 0.01 -W 2 -s {size} {net.stack_ip}")
    assert "5 packets transmitted, 5 received, 0% packet loss" in seen
    assert "wrong data" not in seen


@pytest.mark.timeout(300)
def test_flood_ping(net: Any, full: bool) -> None:
    count = 100_000 if full else net.amount(10_000)
    seen = net.ns.sh(f"ping -q -f -c {count} -W 5 {net.stack_ip}", timeout=280)
    assert f"{count} packets transmitted, {count} received, 0% packet loss" in seen


def test_ttl(net: Any) -> None:
    assert "ttl=64" in net.ns.sh(f"ping -c 1 -W 2 {net.stack_ip}")


@pytest.mark.ipv4("IPv6 has no broadcast")
def test_broadcast_ping_is_not_answered(net: Any) -> None:
    """RFC 1122 §3.2.2.6 leaves it open; Linux and this stack do not amplify (smurf)."""
    done = net.ns.run(["ping", "-b", "-c", "2", "-i", "0.2", "-W", "1", "10.9.0.255"])
    assert " 0 received" in done.stdout


@pytest.mark.rfc("826")
def test_kernel_resolves_the_stack(net: Any) -> None:
    net.ns.sh(f"ping -c 1 -W 2 {net.stack_ip}")
    entry = net.ns.sh(f"ip neigh show {net.stack_ip}")
    assert re.search(r"lladdr ([0-9a-f]{2}:){5}[0-9a-f]{2} (REACHABLE|DELAY|STALE)", entry)


def test_kernel_confirms_by_unicast(net: Any) -> None:
    """A stale entry is probed by a unicast request, which the stack answers."""
    net.ns.sh(f"ping -c 1 -W 2 {net.stack_ip}")
    net.ns.sysctl(f"net.{'ipv6' if net.six else 'ipv4'}.neigh.ust0.delay_first_probe_time", 0)
    mac = net.ns.sh(f"ip neigh show {net.stack_ip}").split()[4]
    net.ns.sh(f"ip neigh replace {net.stack_ip} lladdr {mac} dev ust0 nud probe")
    wait_for(lambda: "REACHABLE" in net.ns.sh(f"ip neigh show {net.stack_ip}"), "the kernel to confirm the entry", 5)


def test_stack_lists_the_kernel_as_neighbour(net: Any) -> None:
    net.ns.sh(f"ping -c 1 -W 2 {net.stack_ip}")
    mac = net.ns.sh("ip -o link show ust0").split("link/ether ")[1].split()[0]
    assert any(net.kernel_ip in str(entry) and mac in str(entry).lower() for entry in net.stack.neighbors())


@pytest.mark.ipv4("it is about ARP; test_multiqueue has the advertisements of IPv6")
@pytest.mark.rfc("5227", "2.3")
def test_announcement_reaches_the_kernel(ns: Any) -> None:
    """With arp_accept the kernel makes an entry out of the announcement alone."""
    with KernelTap(ns, addresses=["10.9.0.1/24"]) as tap, ustack.Stack() as stack:
        ns.sysctl("net.ipv4.conf.ust0.arp_accept", 1)
        stack.attach(ustack.Tap(fd=tap.dup()), addresses=["10.9.0.2/24"])
        wait_for(lambda: "lladdr" in ns.sh("ip neigh show 10.9.0.2"), "the announced neighbour", 15)


def test_new_mac_of_the_kernel_is_learned(net: Any) -> None:
    """The kernel's device gets another link-layer address and says so; connections go on."""
    port = net.serve(echo)
    sock = net.kernel_connect(port)
    sock.sendall(b"before")
    assert sock.recv(10) == b"before"
    net.ns.sysctl("net.ipv6.conf.ust0.ndisc_notify" if net.six else "net.ipv4.conf.ust0.arp_notify", 1)
    net.ns.sh("ip link set ust0 address 02:aa:bb:cc:dd:ee")
    sock.sendall(b"after")
    assert sock.recv(10) == b"after"


def test_first_packets_wait_for_the_resolution(net: Any) -> None:
    """What is sent before the neighbour is known is queued, not lost (RFC 1122 §2.3.2.2)."""
    theirs = net.keep(net.kernel_socket(socket.SOCK_DGRAM))
    theirs.bind((net.kernel_ip, 0))
    ours = net.keep(net.stack_socket(socket.SOCK_DGRAM))
    for number in range(3):
        ours.sendto(bytes([number]), theirs.getsockname())
    assert [theirs.recv(10) for _ in range(3)] == [b"\0", b"\1", b"\2"]


def test_many_flows_of_ping_at_once(net: Any) -> None:
    results: list[str] = []

    def run() -> None:
        results.append(net.ns.sh(f"ping -q -c 200 -i 0.002 -W 2 {net.stack_ip}"))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [seen for seen in results if " 200 received" not in seen] == []
    assert len(results) == 4
