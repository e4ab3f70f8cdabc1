"""`ustack gateway`: the kernel of one network namespace reaches what another one does, through sockets of the latter.

`ns` is the host here; on it are the far addresses. `lab` is the network whose gateway it is.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tap_harness.need import missing_program
from tap_harness.netns import Namespace
from tap_harness.process import Child, wait_for
from ustack import dns

ROOT = Path(__file__).parents[2]
FAR4, FAR6 = "198.51.100.7", "2001:db8::7"
NEAR4, NEAR6 = "10.9.0.2", "fd09::2"
ADDRESSES = ["--address", f"{NEAR4}/24", "--address", f"{NEAR6}/64"]
HOSTS = ["--host-address", "10.9.0.1/24", "--host-address", "fd09::1/64"]


def gateway(ns: Any, *arguments: str) -> Child:
    child: Child = ns.popen(
        [sys.executable, "-m", "ustack", "gateway", *arguments],
        env=dict(os.environ, PYTHONPATH=str(ROOT), PYTHONUNBUFFERED="1"),
    )
    return child


@pytest.fixture
def lab(ns: Any) -> Iterator[Any]:
    """A network that reaches everything by the gateway."""
    ns.sh(f"ip addr add {FAR4}/32 dev lo && ip -6 addr add {FAR6}/128 dev lo")
    with Namespace() as made:
        where = ["--netns", f"/proc/{os.getpid()}/fd/{made.fd}", "--resolver", "127.0.0.1"]
        child = gateway(ns, *where, *ADDRESSES, *HOSTS)
        child.wait_line("gateway 10.9.0.2 on ust0", timeout=20)
        made.sh(f"ip route add default via {NEAR4} && ip -6 route add default via {NEAR6}")
        wait_for(lambda: not made.sh("ip -6 addr show tentative"), "the kernel's IPv6 address", 20)
        yield made
        child.signal(signal.SIGTERM)
        assert child.wait(10) == 143
        assert " flows, " in child.output()


@pytest.mark.usefixtures("curl")
def test_curl(ns: Any, lab: Any, tmp_path: Path) -> None:
    (tmp_path / "small").write_text("hello from beyond\n")
    for far, url in ((FAR4, f"http://{FAR4}:8000"), (FAR6, f"http://[{FAR6}]:8000")):
        server = ns.popen([sys.executable, "-m", "http.server", "-b", far, "-d", str(tmp_path), "8000"])
        ns.wait_accepting((far, 8000), child=server)
        assert lab.sh(f"curl -sS --max-time 20 {url}/small") == "hello from beyond\n"
        server.stop()


@pytest.mark.parametrize("leave", ["ping sockets", "raw sockets"])
def test_ping(ns: Any, lab: Any, leave: str) -> None:
    """By the host's ping sockets, where it lets us have them, else by raw ones."""
    group = f"{os.getegid()} {os.getegid()}" if leave == "ping sockets" else "1 0"
    ns.sh(f'sysctl -qw net.ipv4.ping_group_range="{group}"')
    for far in (FAR4, FAR6):
        for size in (56, 4000):
            assert " 0% packet loss" in lab.sh(f"ping -c 3 -i 0.01 -W 5 -s {size} {far}")
    assert " 100% packet loss" in lab.sh("ping -c 1 -W 0.3 198.51.100.8 || true")


def test_names(ns: Any, lab: Any) -> None:
    """The gateway's own address is a DNS server, over UDP and TCP: the host's."""
    if reason := missing_program("dnsmasq"):
        pytest.skip(reason)
    options = ["-k", "-R", "-h", "-a", "127.0.0.1", "-z", "-u", "root", "--address=/thing.test/10.1.2.3"]
    server = ns.popen(["dnsmasq", *options])
    ns.wait_accepting(("127.0.0.1", 53), child=server)
    query = dns.make_query(7, "thing.test", dns.A)
    with lab.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.sendto(query, (NEAR4, 53))
        assert bytes([10, 1, 2, 3]) in sock.recv(512)
    with lab.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
        sock.settimeout(10)
        sock.connect((NEAR6, 53))
        sock.sendall(len(query).to_bytes(2, "big") + query)
        assert bytes([10, 1, 2, 3]) in sock.recv(512)
    server.stop()


def test_refusals(ns: Any, lab: Any) -> None:
    for far, code in ((FAR4, errno.ECONNREFUSED), (FAR6, errno.ECONNREFUSED), ("203.0.113.1", errno.ENETUNREACH)):
        with lab.socket(socket.AF_INET6 if ":" in far else socket.AF_INET) as sock:
            sock.settimeout(10)
            assert sock.connect_ex((far, 9)) == code


def test_what_would_come_round_again_is_refused(ns: Any) -> None:
    child = gateway(ns, *ADDRESSES, *HOSTS)
    child.wait_line("gateway 10.9.0.2 on ust0", timeout=20)
    ns.sh(f"ip route add 198.51.100.0/24 via {NEAR4}")
    with ns.socket() as sock:
        sock.settimeout(10)
        assert sock.connect_ex((FAR4, 80)) == errno.EHOSTUNREACH
    child.signal(signal.SIGINT)
    assert child.wait(10) == 130
    assert "0 flows, 0 bytes out" in child.output()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [(["--netns", "new"], "nobody else is in there"), (["--netns", "/run/x", "--config", "f.toml"], "--config")],
)
def test_namespaces_that_make_no_sense(ns: Any, words: list[str], sentence: str) -> None:
    child = gateway(ns, *words)
    assert child.wait(20) == 2
    assert sentence in child.output()


def test_a_process_with_a_user_namespace_of_its_own(ns: Any) -> None:
    other = ns.popen(["unshare", "--user", "--net", "sh", "-c", "echo there; exec sleep 60"])
    other.wait_line("there", timeout=10)
    child = gateway(ns, "--netns", str(other.pid))
    assert child.wait(20) == 1
    assert "does not come back" in child.output()
    other.stop()
