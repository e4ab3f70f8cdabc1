"""Names and addresses from a real dnsmasq in a namespace."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from tap_harness.need import missing_program
from tap_harness.net import KERNEL

pytestmark = pytest.mark.usefixtures("dnsmasq")

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


@pytest.mark.parametrize("net", ["plain"], indirect=True)
def test_a_connection_by_name(net: Any) -> None:
    start(net.ns, *DNS)
    net.stack.use_dns([KERNEL])
    listener, port = net.kernel_listen()
    with net.stack.create_connection(("alias.test", port), timeout=10) as sock:
        assert sock.getpeername() == (KERNEL, port)
    listener.close()


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
