"""Names and addresses from a real dnsmasq in a namespace."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ustack
from tap_harness.need import missing_program
from tap_harness.net import KERNEL
from tap_harness.process import wait_for
from tap_harness.tap import KernelTap

pytestmark = [
    pytest.mark.usefixtures("dnsmasq"),
    pytest.mark.ipv4("it is about DHCPv4; test_self_configured is about routers and DHCPv6"),
]

ROOT = Path(__file__).resolve().parents[2]

_PLAIN = [
    "dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--bind-interfaces", "--user=root",
    "--pid-file=", "--log-facility=-",
]  # fmt: skip


@pytest.fixture
def dnsmasq() -> None:
    """Skips without dnsmasq."""
    if reason := missing_program("dnsmasq"):
        pytest.skip(reason)


def start(ns: Any, *options: str) -> Any:
    child = ns.popen([*_PLAIN, *options])
    child.wait_line("started, version")
    return child


DNS = (
    f"--listen-address={KERNEL}", f"--address=/www.test/{KERNEL}", "--local=/test/", "--log-queries",
    "--host-record=both.test,10.9.0.1,fd09::1", "--cname=alias.test,both.test", "--local-ttl=60",
    "--host-record=wide.test,10.9.0.1,2001:db8:9::1",
    "--host-record=dead.test,10.9.0.77", *(f"--host-record=big.test,10.8.{i}.1" for i in range(200)),
)  # fmt: skip


@pytest.mark.parametrize("net", ["plain"], indirect=True)
def test_names(net: Any) -> None:
    child = start(net.ns, *DNS)
    resolver = net.stack.use_dns([KERNEL], search=["test"])
    assert net.stack.gethostbyname("www.test") == KERNEL
    assert net.stack.gethostbyname("both") == KERNEL
    assert net.stack.gethostbyname("alias.test") == KERNEL
    assert resolver.addresses("both.test", (socket.AF_INET6, socket.AF_INET)) == ["fd09::1", KERNEL]
    assert len(resolver("big.test")) == 64  # over TCP: 200 addresses are more than a datagram holds
    with pytest.raises(socket.gaierror) as caught:
        net.stack.getaddrinfo("nowhere.test", 80)
    assert caught.value.errno == socket.EAI_NONAME
    asked = child.output().count("query[A] www.test")
    assert net.stack.gethostbyname("www.test") == KERNEL
    assert child.output().count("query[A] www.test") == asked == 1
    assert net.kernel_states(53) in ([], ["TIME-WAIT"])


@pytest.mark.parametrize("net", ["plain", "plain-IPv6"], indirect=True)
def test_a_connection_by_name(net: Any) -> None:
    start(net.ns, f"--listen-address={net.kernel_ip}", *DNS[1:])
    net.stack.use_dns([net.kernel_ip])
    listener, port = net.kernel_listen()
    with net.stack.create_connection(("alias.test", port), timeout=10) as sock:
        assert sock.getpeername() == net.name(net.kernel_ip, port)
    listener.close()


WIDE = "2001:db8:9::1"
BOTH = ["--address", "10.9.0.2/24", "--address", "2001:db8:9::2/64"]
PAGE = """
import http.server, socket, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(self.client_address[0].encode() + b"\\n")
    def log_message(self, *words): pass
class Server(http.server.HTTPServer):
    address_family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
Server((sys.argv[1], 80), Handler).serve_forever()
"""


@pytest.mark.rfc("8305", "5")
@pytest.mark.parametrize(
    ("served", "client"),
    [((WIDE, KERNEL), "2001:db8:9::2"), ((KERNEL,), "10.9.0.2"), ((WIDE,), "2001:db8:9::2")],
    ids=["both", "IPv4", "IPv6"],
)
def test_curl_by_a_name_of_both_families(ns: Any, served: tuple[str, ...], client: str) -> None:
    """Names come from dnsmasq over the stack; IPv6 goes first (RFC 6724 §6), what does not answer is passed over."""
    ns.sh("ip tuntap add dev ust0 mode tap && ip address add 10.9.0.1/24 dev ust0 && ip link set ust0 up")
    ns.sh(f"ip -6 address add {WIDE}/64 dev ust0 nodad")
    start(ns, *DNS)
    for host in served:
        ns.wait_accepting((host, 80), child=ns.popen([sys.executable, "-c", PAGE, host]))
    child = ns.python("ustack", "curl", "-sS", *BOTH, "--dns", KERNEL, "http://wide.test/")
    assert child.finish(30) == f"{client}\n"


def test_the_command_line(ns: Any, tmp_path: Path) -> None:
    ns.sh("ip tuntap add dev ust0 mode tap && ip address add 10.9.0.1/24 dev ust0 && ip link set ust0 up")
    start(ns, *DNS)
    (tmp_path / "index.html").write_text("hello by name\n")
    server = ns.popen(["python3", "-m", "http.server", "80", "--bind", KERNEL, "--directory", str(tmp_path)])
    ns.wait_accepting((KERNEL, 80), child=server)
    curl = ns.python("ustack", "curl", "-sS", "--dns", KERNEL, "http://www.test/")
    assert curl.finish(30) == "hello by name\n"
    ping = ns.python("ustack", "ping", "-c", "1", "--dns", KERNEL, "alias.test")
    assert "1 received" in ping.finish(30)
    missing = ns.python("ustack", "curl", "-sS", "--dns", KERNEL, "http://nowhere.test/")
    assert missing.wait(30) == 6


# -- DHCP


class Bare:
    """A stack without an address on a TAP, whose kernel side is 10.9.0.1, and a dnsmasq there."""

    def __init__(self, ns: Any, stack: Any, name: str, state: Path) -> None:
        self.ns, self.stack, self.state = ns, stack, state
        self.name = stack.interfaces()[-1].name
        self._device = name
        self.server = self.start()

    def start(self) -> Any:
        return start(
            self.ns, f"--interface={self._device}", f"--listen-address={KERNEL}",
            "--dhcp-range=10.9.0.100,10.9.0.110,2m",
            f"--dhcp-leasefile={self.state / 'leases'}", "--dhcp-authoritative", "--dhcp-sequential-ip", "--no-ping",
            "--log-dhcp", "--domain=corp.test", "--host-record=www.corp.test,10.9.0.1",
            "--dhcp-option=121,192.0.2.0/24,10.9.0.7,0.0.0.0/0,10.9.0.1",
        )  # fmt: skip

    def answers_ping(self, address: str) -> bool:
        return self.ns.run(["ping", "-c", "1", "-W", "2", address]).returncode == 0


@pytest.fixture
def bare(ns: Any, tmp_path: Path) -> Iterator[Bare]:
    with contextlib.ExitStack() as cleanup:
        tap = cleanup.enter_context(KernelTap(ns, addresses=[f"{KERNEL}/24"]))
        stack = cleanup.enter_context(ustack.Stack())
        stack.attach(ustack.Tap(fd=tap.dup()))
        yield Bare(ns, stack, tap.name, tmp_path)


def test_a_lease_through_renewals_and_a_restart(bare: Bare) -> None:
    """The address stays, and stays reachable, while it is renewed three times, and the server restarted between."""
    events: list[str] = []
    dhcp = bare.stack.dhcp(bare.name, hostname="thing", on_event=lambda event, lease: events.append(event))
    lease = dhcp.wait(30)
    assert lease.address == "10.9.0.100"
    assert {r.destination: r.gateway for r in bare.stack.routes()}.items() >= {
        "0.0.0.0/0": KERNEL, "192.0.2.0/24": "10.9.0.7",
    }.items()  # fmt: skip
    assert bare.stack.gethostbyname("www") == KERNEL  # by the lease's server and domain
    for count in range(1, 4):
        assert bare.answers_ping("10.9.0.100")
        dhcp.renew()
        wait_for(lambda count=count: events.count("renewed") == count, "a renewal", 10)  # type: ignore[misc]
        bare.server.stop()
        bare.server = bare.start()
    assert dhcp.lease.expires_at > lease.expires_at
    assert bare.answers_ping("10.9.0.100")
    assert "thing" in (bare.state / "leases").read_text()
    dhcp.release()
    wait_for(lambda: "DHCPRELEASE" in bare.server.output(), "the release at the server", 10)
    assert not bare.answers_ping("10.9.0.100")
    assert set(events) == {"bound", "renewed", "released"}


def test_an_address_that_somebody_has(bare: Bare) -> None:
    bare.ns.sh("ip address add 10.9.0.100/32 dev lo")
    dhcp = bare.stack.dhcp(bare.name)
    assert dhcp.wait(60).address == "10.9.0.101"
    assert "DHCPDECLINE" in bare.server.output()
    assert bare.answers_ping("10.9.0.101")


@pytest.mark.timeout(400)
def test_a_lease_by_its_own_timers(bare: Bare, full: bool) -> None:
    """Three renewals as T1 comes, of a lease of two minutes, the least that dnsmasq gives."""
    if not full:
        pytest.skip("optional: takes four minutes (USTACK_FULL=1)")
    events: list[str] = []
    dhcp = bare.stack.dhcp(bare.name, on_event=lambda event, lease: events.append(event))
    dhcp.wait(30)
    wait_for(lambda: events.count("renewed") == 3, "three renewals", 300)
    assert bare.answers_ping("10.9.0.100")


def test_up_with_dhcp(ns: Any, tmp_path: Path) -> None:
    ns.sh("ip tuntap add dev ust0 mode tap && ip address add 10.9.0.1/24 dev ust0 && ip link set ust0 up")
    server = start(ns, "--interface=ust0", "--dhcp-range=10.9.0.100,10.9.0.110,2m", "--dhcp-leasefile=/dev/null",
                   "--dhcp-authoritative", "--no-ping", "--log-dhcp")  # fmt: skip
    up = ns.python("ustack", "up", "ust0", "--dhcp")
    address = up.wait_line(r"the stack has (10\.9\.0\.1\d\d)/24, gateway 10\.9\.0\.1", timeout=40)[1]
    assert ns.run(["ping", "-c", "1", "-W", "2", address]).returncode == 0
    up.stop()
    wait_for(lambda: "DHCPRELEASE" in server.output(), "the release at the server", 10)


def test_the_documentation_s_lines_do(ns: Any) -> None:
    """Those of docs/sockets.md about DHCP, as they stand."""
    ns.sh("ip tuntap add dev ust0 mode tap && ip address add 10.9.0.1/24 dev ust0 && ip link set ust0 up")
    start(ns, "--interface=ust0", "--dhcp-range=10.9.0.100,10.9.0.110,2m", "--dhcp-leasefile=/dev/null",
          "--dhcp-authoritative", "--no-ping", "--log-dhcp")  # fmt: skip
    text = (ROOT / "docs" / "sockets.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"<!-- run by tests/interop/test_dnsmasq.py -->\n```python\n(.*?)```", text, re.DOTALL)
    code = f"import ustack\nstack = ustack.Stack()\n{lines}\nprint(lease.address)\nstack.close()\n"
    program = ns.popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)})
    program.wait_line(r"^10\.9\.0\.1\d\d$", timeout=40)
    program.finish(30)
