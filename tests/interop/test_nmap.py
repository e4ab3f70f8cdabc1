"""nmap sees the stack's ports as they are."""

from __future__ import annotations

import re
import socket
from typing import Any

import pytest

pytestmark = [pytest.mark.usefixtures("nmap"), pytest.mark.timeout(300)]
OPEN = [1, 22, 80, 443, 1024]


def scan(net: Any, *options: str) -> dict[int, str]:
    """The ports that nmap lists, with their states."""
    seen = net.ns.run([*nmap(net), "-oG", "-", *options, net.stack_ip], timeout=280)
    assert seen.returncode == 0, seen.stderr
    return {int(port): state for port, state in re.findall(r"(\d+)/([a-z|]+)/(?:tcp|udp)", seen.stdout)}


def nmap(net: Any) -> list[str]:
    return ["nmap", "-n", "-Pn", *(["-6"] if net.six else [])]


@pytest.fixture
def listening(net: Any) -> Any:
    for port in OPEN:
        net.serve(lambda connection: connection.recv(100), port)
    return net


@pytest.mark.parametrize("kind", ["-sS", "-sT"])
def test_open_and_closed(listening: Any, kind: str) -> None:
    states = scan(listening, kind, "-p1-1024", "-v")
    assert sorted(port for port, state in states.items() if state == "open") == OPEN
    listed = scan(listening, kind, "-p1-1024")
    assert set(listed.values()) <= {"open", "closed"}
    summary = listening.ns.sh(" ".join([*nmap(listening), kind, "-p1-1024", listening.stack_ip]), timeout=280)
    assert f"{1024 - len(OPEN)} closed tcp ports" in summary


@pytest.mark.parametrize("kind", ["-sF", "-sN", "-sX"])
def test_odd_flags(listening: Any, kind: str) -> None:
    """FIN, null and Xmas probes: RST from a closed port, silence from a listener (RFC 9293 §3.10.7.1, §3.10.7.2)."""
    states = scan(listening, kind, "-p20-90")
    assert {port: state for port, state in states.items() if state != "closed"} == {
        22: "open|filtered",
        80: "open|filtered",
    }
    assert sum(state == "closed" for state in states.values()) in (0, 69)  # nmap sums up what is alike


def test_ack_scan(listening: Any) -> None:
    """A lone ACK is reset by open and closed ports alike (RFC 9293 §3.10.7.1, §3.10.7.2)."""
    seen = listening.ns.sh(" ".join([*nmap(listening), "-sA", "-p20-90", listening.stack_ip]), timeout=120)
    assert "71 unfiltered tcp ports (reset)" in seen


def test_udp_scan(listening: Any) -> None:
    sock = listening.keep(listening.stack_socket(socket.SOCK_DGRAM))
    sock.bind(("", 53))
    states = scan(listening, "-sU", "-p50-55", "--max-retries", "6")
    assert {port: state for port, state in states.items() if state != "closed"} == {53: "open|filtered"}


def test_os_detection_does_no_harm(listening: Any) -> None:
    """nmap -O sends what no kernel sends; it may guess whatever it likes."""
    listening.ns.run([*nmap(listening), "-O", "-p", "22,23", listening.stack_ip], timeout=120)
    assert "5 received" in listening.ns.sh(f"ping -c 5 -i 0.01 -W 2 {listening.stack_ip}")
    with listening.kernel_socket() as sock:
        sock.connect((listening.stack_ip, 80))
