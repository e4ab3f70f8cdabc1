"""The harness itself, proven against the kernel: what it says about a stack is only worth what this shows."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tap_harness import kernel_peer, payload
from tap_harness.carrier import TapCarrier
from tap_harness.checks import kernel_health
from tap_harness.diff import ANY, difference
from tap_harness.flow import Flow
from tap_harness.netns import Namespace
from tap_harness.packets import Mismatch
from tap_harness.process import wait_for
from tap_harness.scapy_peer import Peer
from tap_harness.tap import KernelTap
from tap_harness.wire import DROP, DUPLICATE, HOLD, ImpairedWire, Impairment, decisions

pytestmark = pytest.mark.ipv4("it is about the harness, which the tests over both families use")
SIZE = 8 << 20


@pytest.fixture
def kernel(ns: Namespace) -> Iterator[tuple[Namespace, KernelTap]]:
    with KernelTap(ns, addresses=["10.9.0.1/24"]) as tap:
        yield ns, tap


@pytest.fixture
def peer(kernel: tuple[Namespace, KernelTap]) -> Peer:
    """A scripted peer 10.9.0.2 whose stack under test is the kernel."""
    return Peer(TapCarrier(kernel[1].fd), ip="10.9.0.2", target="10.9.0.1")


@pytest.fixture
def echo_port(kernel: tuple[Namespace, KernelTap]) -> int:
    return kernel_peer.start_server(kernel[0], "echo", "10.9.0.1")[1]


def test_namespace_is_separate_and_comes_back(ns: Namespace) -> None:
    outside = os.readlink("/proc/self/ns/net")
    with ns.entered():
        inside = os.readlink(f"/proc/self/task/{os.getpid()}/ns/net")
    assert inside != outside
    assert os.readlink("/proc/self/ns/net") == outside
    assert ns.run(["readlink", "/proc/self/ns/net"]).stdout.strip() == inside
    assert ns.call(os.getpid) == os.getpid()
    assert "state UNKNOWN" in ns.sh("ip link show lo") or "UP" in ns.sh("ip link show lo")


def test_namespace_exception_leaves_thread_at_home(ns: Namespace) -> None:
    outside = os.readlink("/proc/self/ns/net")
    with pytest.raises(KeyError), ns.entered():
        raise KeyError
    assert os.readlink("/proc/self/ns/net") == outside


@pytest.mark.usefixtures("privileged")
def test_killed_test_leaves_nothing() -> None:
    """SIGKILL to a process with a namespace, a TAP and a child: the child dies with it, hence the rest does."""
    program = """
from tap_harness.netns import Namespace
from tap_harness.tap import KernelTap
from tap_harness import kernel_peer
with Namespace() as ns, KernelTap(ns, addresses=["10.9.0.1/24"]) as tap:
    child, _ = kernel_peer.start_server(ns, "echo", "10.9.0.1")
    print(child.pid, flush=True)
    input()
"""
    root = Path(__file__).resolve().parents[2]
    victim = subprocess.Popen([sys.executable, "-c", program], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert victim.stdout is not None
    child = int(victim.stdout.readline())
    assert Path(f"/proc/{child}").exists()
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    wait_for(lambda: not Path(f"/proc/{child}").exists() or "Z" in _state(child), "the grandchild to die", 5)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2]
    except FileNotFoundError:
        return "Z"


def test_readiness_failure_shows_output(ns: Namespace) -> None:
    child = ns.popen(["sh", "-c", "echo it broke >&2; exit 3"])
    with pytest.raises(AssertionError, match=r"the process ended(.|\n)*it broke"):
        child.wait_line("never")
    with pytest.raises(AssertionError, match="exit code 3"):
        child.finish(5)


def test_tun_and_mtu(ns: Namespace) -> None:
    with KernelTap(ns, "tun0", addresses=["10.9.0.1/24"], tun=True, mtu=9000) as tun:
        assert "mtu 9000" in ns.sh("ip link show tun0")
        ns.run(["ping", "-c", "1", "-W", "1", "-s", "8000", "10.9.0.2"])
        packet = os.read(tun.fd, 65536)
        assert packet[0] == 0x45
        assert len(packet) == 8028


def test_device_goes_with_its_descriptor(ns: Namespace) -> None:
    tap = KernelTap(ns)
    second = tap.dup()
    tap.close()
    assert "ust0" in ns.sh("ip link")
    os.close(second)
    assert "ust0" not in ns.sh("ip link")


def test_tap_is_quiet(kernel: tuple[Namespace, KernelTap], peer: Peer) -> None:
    peer.expect_nothing(0.3)


@pytest.mark.parametrize("verbs", [("sink", "send"), ("source", "fetch")])
def test_bulk_peers_agree(kernel: tuple[Namespace, KernelTap], verbs: tuple[str, str]) -> None:
    ns, _ = kernel
    options = ("--bytes", str(SIZE), "--seed", "7")
    server, client = verbs
    _, port = kernel_peer.start_server(ns, server, "10.9.0.1", 0, *options)
    found = kernel_peer.result(kernel_peer.start_client(ns, client, "10.9.0.1", port, *options))
    assert payload.digest(7, SIZE) in (found.get("reply"), found.get("sha256"))


def test_kernel_health_of_the_kernel(kernel: tuple[Namespace, KernelTap], echo_port: int) -> None:
    kernel_health(kernel[0], "10.9.0.1", echo_port)
    with pytest.raises(AssertionError, match="no answer to ping"):
        kernel_health(kernel[0], "10.9.0.77", echo_port)


def test_wire_decisions_follow_the_seed() -> None:
    one = decisions(Impairment(loss=0.1, duplication=0.05, reordering=0.02, seed=1))
    assert one == decisions(Impairment(loss=0.1, duplication=0.05, reordering=0.02, seed=1))
    assert one != decisions(Impairment(loss=0.1, duplication=0.05, reordering=0.02, seed=2))
    share = {choice: one.count(choice) / len(one) for choice in (DROP, DUPLICATE, HOLD)}
    assert share == {
        DROP: pytest.approx(0.1, rel=0.05),
        DUPLICATE: pytest.approx(0.05, rel=0.05),
        HOLD: pytest.approx(0.02, rel=0.1),
    }


@pytest.mark.parametrize(
    "impairment",
    [Impairment(), Impairment(loss=0.02, duplication=0.01, reordering=0.02), Impairment(delay=0.005, rate=200e6)],
    ids=["clean", "bad", "slow"],
)
def test_wire_between_two_kernels(ns: Namespace, impairment: Impairment) -> None:
    options = ("--bytes", str(SIZE), "--seed", "3")
    with Namespace() as far, KernelTap(ns, "a0", addresses=["10.9.0.1/24"]) as a:
        with KernelTap(far, "b0", addresses=["10.9.0.2/24"]) as b, ImpairedWire(a.fd, b.fd, there=impairment) as wire:
            _, port = kernel_peer.start_server(far, "sink", "10.9.0.2")
            sent = kernel_peer.result(kernel_peer.start_client(ns, "send", "10.9.0.2", port, *options))
            assert sent["reply"] == payload.digest(3, SIZE)
            there, back = wire.stop()
    assert there["overflowed"] == back["overflowed"] == 0
    assert there["passed"] > SIZE / 1500
    assert bool(there["lost"]) == bool(there["duplicated"]) == bool(there["reordered"]) == bool(impairment.loss)


def test_peer_resolves_and_pings(peer: Peer, kernel: tuple[Namespace, KernelTap]) -> None:
    assert peer.target_mac == kernel[1].mac
    peer.ping(within=2)


def test_active_flow_against_the_kernel(peer: Peer, echo_port: int) -> None:
    flow = peer.flow(echo_port)
    flow.handshake()
    flow.send("PA", b"hello")
    flow.expect("A")
    flow.expect("PA", data=b"hello")
    flow.send("A")
    flow.close()
    flow.expect_nothing(0.05)


def test_passive_flow_against_the_kernel(peer: Peer, ns: Namespace) -> None:
    sock = ns.socket()
    sock.setblocking(False)
    sock.connect_ex(("10.9.0.2", 99))
    flow = Flow(peer, dport=0, sport=99, isn=5000)
    flow.accept()
    flow.send("FA", b"bye")
    flow.expect("A", within=2)
    assert sock.recv(10) == b"bye"
    sock.close()
    flow.expect("FA", within=2)
    flow.send("A")


def test_mismatch_reads_well(peer: Peer, echo_port: int) -> None:
    flow = peer.flow(echo_port)
    flow.handshake()
    flow.inject("A", seq=flow.snd - 5000)
    with pytest.raises(Mismatch) as caught:
        flow.expect("R", seq=flow.rcv)
    text = str(caught.value)
    assert re.search(r"flags +R +A +<-- differs", text)
    assert re.search(rf"seq +{flow.rcv} +{flow.rcv}\n", text)
    assert re.search(r"peer +\d+>\d+ \[S\] seq 1000 ack 0 len 0 win 65535 <MSS=1460>", text)
    assert re.search(r"stack +\d+>\d+ \[SA\]", text)
    with pytest.raises(Mismatch, match=r"\(nothing\)"):
        flow.expect("A", within=0.05)
    flow.reset()
    flow.inject("A")
    with pytest.raises(Mismatch, match="expected no segment"):
        flow.expect_nothing(1)


def test_diff_kinds() -> None:
    got = {"a": 1, "b": 2, "c": 3}
    assert difference({"a": 1, "b": {2, 5}, "c": range(3, 4)}, got) is None
    assert difference({"a": ANY, "b": lambda value: value > 1}, got) is None
    table = difference({"a": 2, "z": 1}, got)
    assert table is not None
    assert table.count("<-- differs") == 2
    assert "(absent)" in table
