"""Services and names between the stack and a real avahi (RFC 6762, 6763)."""

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

_CONFIG = """
[server]
host-name=kernelbox
domain-name=local
use-ipv4=yes
use-ipv6=no
allow-interfaces={device}
enable-dbus=yes
disallow-other-stacks=no
[publish]
publish-workstation=no
publish-hinfo=no
"""
_BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path={socket}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_type="method_call"/>
<allow send_type="signal"/><allow send_type="method_return"/><allow send_type="error"/>
<allow receive_type="method_call"/><allow receive_type="signal"/><allow receive_type="method_return"/>
<allow receive_type="error"/><allow send_destination="*" eavesdrop="false"/></policy></busconfig>
"""


class Site:
    """A stack on a TAP, and an avahi-daemon with a message bus of its own on the kernel's side."""

    def __init__(self, ns: Any, stack: Any, device: str, state: Path) -> None:
        self.ns, self.stack = ns, stack
        bus = state / "bus"
        self.environment = f"DBUS_SYSTEM_BUS_ADDRESS=unix:path={bus}"
        (state / "bus.conf").write_text(_BUS.format(socket=bus))
        (state / "avahi.conf").write_text(_CONFIG.format(device=device))
        self.bus = ns.popen(["dbus-daemon", "--nofork", "--nopidfile", f"--config-file={state / 'bus.conf'}"])
        wait_for(bus.exists, "the message bus", 10, self.bus)
        daemon = ["--no-rlimits", "--no-drop-root", "--no-chroot", "-f", str(state / "avahi.conf")]
        # /run/avahi-daemon holds its pid file: a private /run keeps it from meeting the machine's own daemon.
        mounted = 'mount -t tmpfs none /run && mkdir -p /run/avahi-daemon && exec avahi-daemon "$@"'
        command = ["unshare", "-m", "sh", "-c", mounted, "avahi-daemon", *daemon]
        self.daemon = ns.popen(["env", self.environment, *command])
        self.daemon.wait_line("Server startup complete", timeout=20)

    def avahi(self, *words: str) -> Any:
        return self.ns.popen(["env", self.environment, *words])


@pytest.fixture
def site(ns: Any, tmp_path: Path) -> Iterator[Site]:
    for program in ("avahi-daemon", "avahi-browse", "dbus-daemon"):
        if reason := missing_program(program):
            pytest.skip(reason)
    with contextlib.ExitStack() as cleanup:
        tap = cleanup.enter_context(KernelTap(ns, addresses=["10.9.0.1/24"]))
        stack = cleanup.enter_context(ustack.Stack())
        stack.attach(ustack.Tap(fd=tap.dup()), addresses=["10.9.0.2/24"])
        yield Site(ns, stack, tap.name, tmp_path)


def test_avahi_sees_a_service_and_the_stack_sees_avahis(site: Site) -> None:
    mdns = site.stack.mdns(hostname="thing")
    with mdns.publish("A page; of ustack's", "_http._tcp", 8080, {"path": "/x"}) as service:
        assert service.wait(20) == "A page; of ustack's"
        found = site.avahi("avahi-browse", "-r", "-t", "-p", "_http._tcp").finish(30)
        line = next(one for one in found.splitlines() if one.startswith("="))
        assert line.endswith(';thing.local;10.9.0.2;8080;"path=/x"')
        assert "A\\032page\\059\\032of\\032ustack\\039s" in line
    publisher = site.avahi("avahi-publish", "-s", "Kernel's", "_ipp._tcp", "631", "key=value")
    publisher.wait_line("Established under name", timeout=20)
    (theirs,) = mdns.browse("_ipp._tcp", timeout=10)
    assert (theirs.name, theirs.host, theirs.port, theirs.txt) == ("Kernel's", "kernelbox.local", 631, (b"key=value",))
    assert theirs.addresses == ("10.9.0.1",)
    assert site.stack.gethostbyname("kernelbox.local") == "10.9.0.1"
    assert site.avahi("avahi-resolve", "-4", "-n", "thing.local").finish(30).split() == ["thing.local", "10.9.0.2"]


def test_avahi_keeps_its_name(site: Site) -> None:
    mdns = site.stack.mdns(hostname="kernelbox")
    wait_for(lambda: mdns.hostname == "kernelbox-2.local", "another name", 20)
    assert site.avahi("avahi-resolve", "-4", "-n", "kernelbox.local").finish(30).split()[1] == "10.9.0.1"
    wait_for(lambda: mdns._machine.is_ours(mdns._host), "the name to be ours", 20)
    assert site.avahi("avahi-resolve", "-4", "-n", "kernelbox-2.local").finish(30).split()[1] == "10.9.0.2"
