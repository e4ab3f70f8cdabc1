"""Tap and Tun against the kernel: creating, attaching, configuring its side, losing it, and what each error says."""

from __future__ import annotations

import errno
import functools
import os
import re
import resource
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import ustack
from tap_harness.ends import Ends
from tap_harness.netns import Namespace, in_thread
from tap_harness.process import wait_for
from tap_harness.tap import KernelTap
from ustack_ext.link import netlink, tundev

SET_UP = pytest.mark.ipv4("it is about the device, or about both families at once")


def devices(ns: Namespace) -> list[str]:
    return re.findall(r"^\d+: ([^:@]+)", ns.sh("ip -o link"), re.MULTILINE)


def tap(ns: Namespace, *args: Any, **options: Any) -> ustack.Tap:
    with ns.entered():
        return ustack.Tap(*args, **options)


@pytest.fixture
def stack() -> Iterator[ustack.Stack]:
    with ustack.Stack() as made:
        yield made


# -- creating


@pytest.mark.parametrize("kind", ["Tap", "Tun"])
def test_ping_through_a_device_made_here(ns: Namespace, ends: Ends, stack: ustack.Stack, kind: str) -> None:
    with ns.entered():
        link = getattr(ustack, kind)("ust0", host_addresses=[ends.kernel_net])
    stack.attach(link, addresses=[ends.stack_net])
    assert " 0% packet loss" in ns.sh(f"ping -c 3 -i 0.01 -W 2 {ends.stack}")
    link.close()
    assert "ust0" not in devices(ns)


@SET_UP
def test_host_side_is_configured(ns: Namespace) -> None:
    link = tap(ns, "ust0", host_addresses=["10.9.0.1/24", "10.8.0.1/31", "fd09::1/64"], mtu=1400)
    shown = ns.sh("ip addr show ust0")
    assert "mtu 1400" in shown
    assert "UP" in shown
    assert "inet 10.9.0.1/24 brd 10.9.0.255" in shown
    assert "inet 10.8.0.1/31 scope" in shown
    assert "inet6 fd09::1/64" in shown
    assert not re.search(r"fd09::1/64.*tentative", shown), "usable at once, no duplicate address detection"
    assert link.mtu == 1400
    link.close()


@SET_UP
def test_without_host_addresses_the_kernels_side_is_left_alone(ns: Namespace) -> None:
    link = tap(ns, "ust0")
    shown = ns.sh("ip addr show ust0")
    assert "state DOWN" in shown
    assert "inet" not in shown
    link.close()


@SET_UP
def test_an_empty_list_only_brings_it_up(ns: Namespace) -> None:
    with tap(ns, "ust0", host_addresses=[]):
        assert ",UP" in ns.sh("ip link show ust0")


@SET_UP
def test_names(ns: Namespace) -> None:
    first, second = tap(ns), tap(ns)
    assert {first.name, second.name} == {"ust0", "ust1"} <= set(devices(ns))
    for wrong in ("", "a" * 16, "a b", "a/b", "a\0b"):
        with pytest.raises(ValueError):
            tap(ns, wrong)
    first.close()
    second.close()


@SET_UP
def test_the_stacks_address_is_not_the_kernels(ns: Namespace) -> None:
    with tap(ns, "ust0") as link:
        assert link.mac.hex(":") not in ns.sh("ip -o link show ust0")
        assert link.mac[0] & 3 == 2
    tap(ns, "ust9", persistent=True).close()
    host = re.findall(r"link/ether (\S+)", ns.sh("ip -o link show ust9"))[0]
    with pytest.raises(ValueError, match="kernel"):
        tap(ns, "ust9", mac=host)
    with tap(ns, "ust9", mac="02:00:00:00:00:99") as link:
        assert link.mac == bytes.fromhex("020000000099")


def test_large_frames(ns: Namespace, ends: Ends, stack: ustack.Stack) -> None:
    """An MTU that does not fit a small buffer."""
    stack.attach(tap(ns, "ust0", host_addresses=[ends.kernel_net], mtu=9000), addresses=[ends.stack_net])
    assert " 0% packet loss" in ns.sh(f"ping -c 3 -i 0.01 -M do -s {9000 - ends.header - 8} -W 2 {ends.stack}")


# -- attaching to what is there


def test_persistent_device_outlives_links(ns: Namespace, ends: Ends, stack: ustack.Stack) -> None:
    tap(ns, "per0", persistent=True, host_addresses=[ends.kernel_net], mtu=1300).close()
    assert "per0" in devices(ns)
    for _ in range(3):
        link = tap(ns, "per0", host_addresses=[ends.kernel_net])
        assert link.mtu == 1300, "the device's, unless told otherwise"
        stack.attach(link, addresses=[ends.stack_net])
        assert " 0% packet loss" in ns.sh(f"ping -c 1 -W 2 {ends.stack}")
        link.close()
    assert "per0" in devices(ns)


@SET_UP
def test_device_with_several_queues(ns: Namespace) -> None:
    ns.sh("ip tuntap add dev mq0 mode tap multi_queue")
    with tap(ns, "mq0") as first, tap(ns, "mq0") as second:
        assert first.name == second.name == "mq0"


@pytest.mark.parametrize("tun", [False, True])
def test_by_descriptor(ns: Namespace, ends: Ends, stack: ustack.Stack, tun: bool) -> None:
    with KernelTap(ns, "ust0", addresses=[ends.kernel_net], tun=tun) as device:
        link = (ustack.Tun if tun else ustack.Tap)(fd=device.dup())
        assert link.name == "ust0"
        stack.attach(link, addresses=[ends.stack_net])
        assert " 0% packet loss" in ns.sh(f"ping -c 1 -W 2 {ends.stack}")
        descriptor = link.fileno()
        stack.close()
        with pytest.raises(OSError):
            os.fstat(descriptor)
        with pytest.raises(OSError):
            link.fileno()


@SET_UP
def test_wrong_descriptors(ns: Namespace) -> None:
    with open(os.devnull, "rb") as other, pytest.raises(ValueError, match="not a TAP"):
        ustack.Tap(fd=other.fileno())
    with pytest.raises(OSError) as caught:
        ustack.Tap(fd=10**6)
    assert caught.value.errno == errno.EBADF
    with KernelTap(ns, "ust0") as device, pytest.raises(ValueError, match="not a TUN"):
        ustack.Tun(fd=device.fd)
    with KernelTap(ns, "ust0") as device, pytest.raises(ValueError, match="IFF_VNET_HDR"):
        ustack.Tap(fd=device.fd, offload=True)


def test_works_on_outside_the_namespace(ns: Namespace, ends: Ends, stack: ustack.Stack) -> None:
    """Opened in a thread that is inside; used by threads that never were."""
    link = in_thread(lambda: tap(ns, "ust0", host_addresses=[ends.kernel_net]))
    stack.attach(link, addresses=[ends.stack_net])
    assert "ust0" not in os.listdir("/sys/class/net")
    server = stack.create_server(("", 80), family=ends.family)
    with ns.socket(ends.family) as client:
        client.connect((ends.stack, 80))
        conn, _ = server.accept()
        client.sendall(b"through")
        assert conn.recv(100) == b"through"


# -- what goes wrong


@SET_UP
def test_busy(ns: Namespace) -> None:
    with tap(ns, "ust0"), pytest.raises(OSError, match="another process has this device open") as caught:
        tap(ns, "ust0")
    assert caught.value.errno == errno.EBUSY


@SET_UP
def test_another_kind_of_device(ns: Namespace) -> None:
    ns.sh("ip link add vet0 type veth peer name vet1")
    with tap(ns, "ust0"), pytest.raises(OSError, match="another kind of device") as caught, ns.entered():
        ustack.Tun("ust0")
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(OSError, match="another kind of device"):
        tap(ns, "vet0")


@SET_UP
def test_wrong_arguments(ns: Namespace) -> None:
    for options in ({"host_addresses": ["10.9.0.1"]}, {"host_addresses": ["nonsense/24"]}, {"mtu": 10}, {"mac": "x"},
                    {"fd": 0, "persistent": True}):
        with pytest.raises(ValueError):
            tap(ns, "ust0", **options)
    assert "ust0" not in devices(ns)


def attempt_as_nobody(name: str) -> str:
    """What Tap(name) raises in a process without privilege: "errno message"."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        try:
            ustack.Tap(name)
        except OSError as error:
            os.write(writing, f"{error.errno} {error}".encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with open(reading, encoding="utf-8") as answer:
        return answer.read()


@SET_UP
def test_without_permission(ns: Namespace) -> None:
    """Either the device node or the device itself is refused, and the message says what to do."""
    with ns.entered():
        code, _, message = attempt_as_nobody("ust0").partition(" ")
    assert int(code) in (errno.EPERM, errno.EACCES)
    assert "root" in message


@SET_UP
def test_a_device_may_belong_to_a_user(ns: Namespace) -> None:
    tap(ns, "own0", persistent=True, owner=65534).close()
    assert re.search(r"tun type tap .*persist on user (nobody|65534)", ns.sh("ip -d link show own0"))


@SET_UP
def test_missing_device_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tundev, "DEVICE", "/dev/net/nothing")
    with pytest.raises(FileNotFoundError, match="modprobe tun"):
        ustack.Tap("ust0")


def test_errors_leave_nothing_open(ns: Namespace, ends: Ends) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with pytest.raises(OSError, match="does not take this MTU"):
            tap(ns, "ust0", host_addresses=[ends.kernel_net], mtu=65535)
    assert len(os.listdir("/proc/self/fd")) == before
    assert "ust0" not in devices(ns)


@SET_UP
def test_ipv6_switched_off(ns: Namespace) -> None:
    for scope in ("all", "default"):
        ns.sysctl(f"net.ipv6.conf.{scope}.disable_ipv6", 1)
    with pytest.raises(OSError, match="disable_ipv6"):
        tap(ns, "ust0", host_addresses=["10.9.0.1/24", "fd09::1/64"])


def test_device_deleted_under_the_stack(ns: Namespace, ends: Ends, stack: ustack.Stack) -> None:
    """The interface goes down; the thread does not spin."""
    stack.attach(tap(ns, "ust0", host_addresses=[ends.kernel_net]), addresses=[ends.stack_net])
    ns.sh("ip link del ust0")
    wait_for(lambda: not stack.interfaces()[1].up, "the interface to go down", 10)
    before = resource.getrusage(resource.RUSAGE_SELF)
    ns.sh("sleep 0.5")
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.25
    with pytest.raises(OSError):
        stack.create_connection((ends.kernel, 80), timeout=5)


def test_kernels_side_down_and_up_again(ns: Namespace, ends: Ends, stack: ustack.Stack) -> None:
    stack.attach(tap(ns, "ust0", host_addresses=[ends.kernel_net]), addresses=[ends.stack_net])
    ns.sysctl("net.ipv6.conf.ust0.keep_addr_on_down", 1)
    ns.sh("ip link set ust0 down")
    probe = stack.socket(ends.family, ustack.SOCK_DGRAM)
    probe.sendto(b"nobody", (ends.kernel, 9))
    ns.sh("ip link set ust0 up")
    assert " 0% packet loss" in ns.sh(f"ping -c 1 -W 2 {ends.stack}")


def test_no_descriptor_leaks(ns: Namespace, ends: Ends) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(30):
        with ustack.Stack() as stack:
            stack.attach(tap(ns, "ust0", host_addresses=[ends.kernel_net]), addresses=[ends.stack_net])
    assert len(os.listdir("/proc/self/fd")) == len(before)


# -- reading


def reads_of(thread: int) -> int:
    """read() calls that a thread of ours has made, those that found nothing among them."""
    with open(f"/proc/self/task/{thread}/io", encoding="ascii") as counters:
        return int(dict(line.split(": ") for line in counters.read().splitlines())["syscr"])


def test_a_lone_frame_costs_a_read_and_seldom_another(
    ns: Namespace, ends: Ends, stack: ustack.Stack, request: pytest.FixtureRequest
) -> None:
    """Whether the next is there already is tried, and less and less often where it never is (driver/poller)."""
    stack.attach(tap(ns, "ust0", host_addresses=[ends.kernel_net]), addresses=[ends.stack_net])
    stack.start_service((ends.any, 7), "echo")
    thread = next(one.native_id for one in threading.enumerate() if one.name == "ustack")
    assert thread is not None
    rounds = 600
    here, there = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))
    if here != there:  # on one core the next frame is always there: the client runs when the answer is written
        os.sched_setaffinity(thread, [there])
        request.addfinalizer(functools.partial(os.sched_setaffinity, 0, os.sched_getaffinity(0)))
        os.sched_setaffinity(0, [here])
    with ns.socket(ends.family) as client:
        client.connect((ends.stack, 7))
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        before = reads_of(thread)
        for _ in range(rounds):
            client.send(b"x")
            client.recv(1)
        reads = reads_of(thread) - before
    assert rounds <= reads < 1.6 * rounds


# -- rtnetlink


@SET_UP
def test_netlink_reads_and_sets(ns: Namespace) -> None:
    ns.sh("ip tuntap add dev dum0 mode tap")

    def inside() -> dict[str, int | bytes]:
        index = socket.if_nametoindex("dum0")
        with netlink.Rtnetlink() as kernel:
            kernel.set_link(index, up=True, mtu=1234, txqueuelen=77)
            found = kernel.get_link(index)
            kernel.set_link(index, up=False)
            assert kernel.get_link(index)["up"] == 0
            with pytest.raises(OSError) as caught:
                kernel.get_link(9999)
            assert caught.value.errno == errno.ENODEV
        return found

    found = ns.call(inside)
    assert (found["up"], found["mtu"], found["txqueuelen"]) == (1, 1234, 77)
    assert len(found["mac"]) == 6  # type: ignore[arg-type]


@SET_UP
def test_an_address_that_is_there_stays(ns: Namespace) -> None:
    ns.sh("ip tuntap add dev dum0 mode tap")
    for _ in range(2):
        ns.call(netlink.configure, "dum0", ["10.9.0.1/24", "fd09::1/64"])
    assert ns.sh("ip addr show dum0").count("10.9.0.1/24") == 1
