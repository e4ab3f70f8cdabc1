"""A stack that configures itself from a real dnsmasq and radvd, and what tshark thinks of everything it sent."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ustack
from tap_harness.need import missing_program
from tap_harness.process import wait_for
from tap_harness.tap import KernelTap

_PLAIN = [
    "dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--bind-interfaces", "--user=root",
    "--pid-file=", "--log-facility=-", "--dhcp-authoritative", "--no-ping", "--log-dhcp", "--domain=corp.test",
    "--host-record=www.corp.test,10.9.0.1,fd09::1",
]  # fmt: skip
_RADVD = """
interface %s {
  AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4; AdvManagedFlag on; AdvOtherConfigFlag on;
  prefix fd09::/64 { AdvOnLink on; AdvAutonomous off; };
  RDNSS fd09::1 { AdvRDNSSLifetime 30; };
  DNSSL corp.test { AdvDNSSLLifetime 30; };
};
"""
WARNING = 0x600000  # Wireshark's PI_WARN; PI_ERROR is above it


class Site:
    """A stack on a TAP whose kernel side has 10.9.0.1 and fd09::1, the servers there, and a capture of it all."""

    def __init__(self, ns: Any, stack: Any, tap: Any, state: Path, router: str) -> None:
        self.ns, self.stack, self.state, self.router = ns, stack, state, router
        self.device, self.name = tap.name, stack.interfaces()[-1].name
        self.mac = next(one.mac for one in stack.interfaces() if one.name == self.name)
        self.capture = ns.popen(["tcpdump", "-i", tap.name, "-U", "--immediate-mode", "-w", str(state / "all.pcap")])
        self.capture.wait_line("listening on")
        if router == "radvd":
            (state / "radvd.conf").write_text(_RADVD % tap.name)
            files = ["-C", str(state / "radvd.conf"), "-p", str(state / "radvd.pid")]
            self.advertiser = ns.popen(["radvd", "-n", "-d", "1", "-m", "stderr", *files])
        self.server = self.start()

    def start(self) -> Any:
        child = self.ns.popen([
            *_PLAIN, f"--interface={self.device}", "--dhcp-range=10.9.0.100,10.9.0.110,2m",
            "--dhcp-range=fd09::100,fd09::1ff,64,2m", "--dhcp-option=option6:dns-server,[fd09::1]",
            "--dhcp-option=option6:domain-search,corp.test",
            f"--dhcp-leasefile={self.state / 'leases'}", *(["--enable-ra"] if self.router == "dnsmasq" else []),
        ])  # fmt: skip
        child.wait_line("started, version")
        return child

    def is_reachable(self, *addresses: str) -> bool:
        return all(self.ns.run(["ping", "-c", "1", "-W", "2", one]).returncode == 0 for one in addresses)

    def complaints(self) -> str:
        """What tshark calls an error or a warning, of what the stack sent."""
        self.capture.stop()
        mine = f"eth.src == {self.mac}"
        read = ["tshark", "-n", "-r", str(self.state / "all.pcap"), "-T", "fields", "-e", "frame.number"]
        for protocol in ("ip", "udp", "tcp"):
            read += ["-o", f"{protocol}.check_checksum:TRUE"]
        assert len(self.ns.run([*read, "-Y", mine]).stdout.split()) > 3
        columns = ["-e", "_ws.col.Info", "-e", "_ws.expert.message"]
        found = self.ns.run([*read, *columns, "-Y", f"{mine} && _ws.expert.severity >= {WARNING}"])
        assert found.returncode == 0, found.stderr
        return str(found.stdout)


@pytest.fixture(params=["dnsmasq", "radvd"])
def site(ns: Any, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    for program in ("dnsmasq", "radvd", "tshark", "tcpdump"):
        if reason := missing_program(program):
            pytest.skip(reason)
    with contextlib.ExitStack() as cleanup:
        tap = cleanup.enter_context(KernelTap(ns, addresses=["10.9.0.1/24", "fd09::1/64"], ipv6=True))
        for name in ("all.forwarding", f"{tap.name}.proxy_ndp"):
            ns.sysctl(f"net.ipv6.conf.{name}", 1)
        ns.sysctl(f"net.ipv6.neigh.{tap.name}.proxy_delay", 0)
        stack = cleanup.enter_context(ustack.Stack())
        stack.attach(ustack.Tap(fd=tap.dup()), autoconf=True)
        yield Site(ns, stack, tap, tmp_path, request.param)


@pytest.mark.slow
def test_both_leases_through_renewals_and_a_restart(site: Site) -> None:
    """Addresses by DHCP and DHCPv6, a default route by the router, all of it kept, and reachable throughout."""
    events: list[str] = []
    four = site.stack.dhcp(site.name, on_event=lambda event, lease: events.append(f"4 {event}"))
    six = site.stack.dhcp6(site.name, hostname="thing", on_event=lambda event, lease: events.append(f"6 {event}"))
    first, second = four.wait(30), six.wait(30)
    own = [first.address, second.addresses[0].what]
    routes = {one.destination: one.gateway for one in site.stack.routes()}
    assert routes["0.0.0.0/0"] == "10.9.0.1"
    assert routes["::/0"].startswith("fe80:")
    assert {"10.9.0.1", "fd09::1"} <= set(site.stack.resolver.servers)
    found = dict.fromkeys(info[4][0] for info in site.stack.getaddrinfo("www", 80))
    assert list(found) == ["10.9.0.1", "fd09::1"], "RFC 6724 §2.1: IPv4 comes before unique local addresses"
    for count in range(1, 4 if site.router == "dnsmasq" else 2):
        assert site.is_reachable(*own)
        four.renew()
        six.renew()
        for event in ("4 renewed", "6 renewed"):
            wait_for(lambda event=event, count=count: events.count(event) == count, event, 20)  # type: ignore[misc]
        site.server.stop()
        site.server = site.start()
    assert site.is_reachable(*own)
    assert [four.lease.address, six.lease.addresses[0].what] == own
    assert six.lease.expires_at > second.expires_at
    six.release()
    wait_for(lambda: "DHCPRELEASE" in site.server.output(), "the release at the server", 10)
    assert not site.is_reachable(own[1])
    four.release()
    assert {one for one in events if one not in ("4 renewed", "6 renewed")} == {
        "4 bound", "6 bound", "4 released", "6 released",
    }  # fmt: skip
    assert site.complaints() == ""


@pytest.mark.parametrize("site", ["dnsmasq"], indirect=True)
def test_an_address_that_somebody_has(site: Site) -> None:
    with site.stack.dhcp6(site.name) as before:
        taken = before.wait(30).addresses[0].what
    wait_for(lambda: "DHCPRELEASE" in site.server.output(), "the release at the server", 10)
    site.ns.sh(f"ip -6 neigh add proxy {taken} dev {site.device}")
    events: list[str] = []
    six = site.stack.dhcp6(site.name, on_event=lambda event, lease: events.append(event))
    address = six.wait(40).addresses[0].what
    assert address != taken
    assert events == ["conflict", "bound"]
    assert "DHCPDECLINE" in site.server.output()
    assert site.is_reachable(address)
    assert site.complaints() == ""


@pytest.mark.parametrize("site", ["dnsmasq"], indirect=True)
def test_name_servers_only(site: Site) -> None:
    site.stack.add_address(site.name, "fd09::77/64")
    lease = site.stack.dhcp6(site.name, mode="stateless").wait(30)
    assert lease.dns_servers == ("fd09::1",)
    assert site.stack.getaddrinfo("www.corp.test", 80, 10)[0][4][0] == "fd09::1"
    assert site.complaints() == ""


def test_name_servers_of_routers(site: Site) -> None:
    """Without any DHCP: RDNSS and DNSSL (RFC 8106)."""
    site.stack.add_address(site.name, "fd09::77/64")
    wait_for(lambda: site.stack._current_resolver() is not None, "an advertisement", 20)
    assert site.stack.resolver.servers == ["fd09::1"]
    assert site.stack.resolver.search == ["corp.test"]
    assert site.stack.getaddrinfo("www", 80, 10)[0][4][0] == "fd09::1"
    assert site.complaints() == ""
