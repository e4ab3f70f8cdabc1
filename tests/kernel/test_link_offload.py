"""Offloads of Tap and Tun: on by default, less where less is granted, and never to the cost of others."""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import os
import socket
import struct
import threading
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

import ustack
from tap_harness.ends import FOUR, SIX, Ends
from tap_harness.kernel_peer import receive_all, result, start_client, start_server
from tap_harness.netns import Namespace
from tap_harness.payload import blocks, digest
from tap_harness.process import wait_for
from tap_harness.tap import IFF_NO_PI, IFF_TAP, IFF_VNET_HDR, KernelTap, open_device
from ustack_ext.link import tundev

SIOCETHTOOL = 0x8946
ETHTOOL_GTSO = 0x1E
TUNSETVNETHDRSZ = 0x400454D8
IFF_MULTI_QUEUE = 0x0100
UDP_SEGMENT = 103
MIB = 1 << 20
SET_UP = pytest.mark.ipv4("it is about the device")


def tap(ns: Namespace, *args: Any, **options: Any) -> ustack.Tap:
    with ns.entered():
        return ustack.Tap(*args, **options)


def kernel_cuts_nothing(ns: Namespace, name: str) -> bool:
    """Whether the kernel's TCP hands superframes to the device (ethtool -k: tcp-segmentation-offload)."""
    value = array.array("I", [ETHTOOL_GTSO, 0])
    with ns.socket() as control:
        fcntl.ioctl(control, SIOCETHTOOL, struct.pack("16sP", name.encode(), value.buffer_info()[0]))
    return bool(value[1])


def exchange(ns: Namespace, link: Any, ends: Ends) -> tuple[int, int]:
    """1 MiB up and 1 MiB down over `link`, checked; (frames received, frames sent) by the stack."""
    with ustack.Stack() as stack:
        stack.attach(link, addresses=[ends.stack_net])
        listener = stack.create_server((ends.stack, 80), family=ends.family)
        child = start_client(ns, "send", ends.stack, 80, "--bytes", str(MIB), "--seed", "3")
        connection, _ = listener.accept()
        connection.settimeout(30)
        assert receive_all(connection) == {"bytes": MIB, "sha256": digest(3, MIB)}
        connection.sendall(bytes(MIB))
        connection.close()
        assert result(child, 30)["reply"] == "\0" * MIB
        shown = stack.interfaces()[1]
        return shown.rx_packets, shown.tx_packets


# -- what is had by default


@pytest.mark.parametrize("kind", ["Tap", "Tun"])
def test_on_by_default(ns: Namespace, kind: str, ends: Ends) -> None:
    with ns.entered():
        link = getattr(ustack, kind)("ust0", host_addresses=[ends.kernel_net])
    assert link.offloads[:3] == ("csum", "tso4", "tso6")
    received, sent = exchange(ns, link, ends)
    assert max(received, sent) < MIB // 1460, "fewer frames than segments"


@pytest.mark.parametrize("kind", ["Tap", "Tun"])
def test_switched_off(ns: Namespace, kind: str, ends: Ends) -> None:
    with ns.entered():
        link = getattr(ustack, kind)("ust0", host_addresses=[ends.kernel_net], offload=False)
    assert (link.offloads, link.refused) == ((), ())
    assert " vnet_hdr off" in ns.sh("ip -d link show ust0")
    received, sent = exchange(ns, link, ends)
    assert min(received, sent) >= MIB // 1460


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("offload", [None, True, False])
def test_by_descriptor_as_it_was_opened(ns: Namespace, header: bool, offload: bool | None, ends: Ends) -> None:
    """The descriptor's flags decide how frames are framed, the argument what is left to the kernel."""
    with KernelTap(ns, addresses=[ends.kernel_net], vnet_hdr=header) as device:
        if offload and not header:
            with pytest.raises(ValueError, match="opened without IFF_VNET_HDR"):
                ustack.Tap(fd=device.fd, offload=True)
            return
        link = ustack.Tap(fd=device.dup(), offload=offload)
        wanted = header and offload is not False
        assert bool(link.offloads) == wanted == kernel_cuts_nothing(ns, "ust0")
        assert bool(link.refused) == (not header and offload is None)
        received, _ = exchange(ns, link, ends)
        assert (received < MIB // 1460) == wanted


def test_a_descriptor_with_longer_headers(ns: Namespace, ends: Ends) -> None:
    """As a virtual machine's monitor leaves it: 12 bytes."""
    with KernelTap(ns, addresses=[ends.kernel_net], vnet_hdr=True) as device:
        fcntl.ioctl(device.fd, TUNSETVNETHDRSZ, struct.pack("i", 12))
        exchange(ns, ustack.Tap(fd=device.dup()), ends)


# -- less is granted


def granting(monkeypatch: pytest.MonkeyPatch, bits: int) -> None:
    """A kernel that knows these TUN_F_* only."""
    real = tundev.set_offload

    def set_offload(fd: int, wanted: int) -> OSError | None:
        return OSError(errno.EINVAL, "Invalid argument") if wanted & ~bits else real(fd, wanted)

    monkeypatch.setattr(tundev, "set_offload", set_offload)


OLDER = [
    (0x0F, ("csum", "tso4", "tso6", "tso_ecn")),
    (0x07, ("csum", "tso4", "tso6")),
    (0x03, ("csum", "tso4")),
    (0x01, ("csum",)),
    (0x00, ()),
]


@pytest.mark.parametrize(("bits", "offloads"), OLDER)
def test_older_kernels(
    ns: Namespace, monkeypatch: pytest.MonkeyPatch, bits: int, offloads: tuple[str, ...], ends: Ends
) -> None:
    granting(monkeypatch, bits)
    link = tap(ns, "ust0", host_addresses=[ends.kernel_net])
    assert link.offloads == offloads
    assert len(link.refused) == 5 - len(offloads)
    assert all("Invalid argument" in sentence for sentence in link.refused)
    exchange(ns, link, ends)


@SET_UP
def test_insisting(ns: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    tap(ns, "ust0", offload=True).close()
    granting(monkeypatch, 0x01)
    with pytest.raises(OSError, match="leave offload out to do without") as caught:
        tap(ns, "ust0", offload=True)
    assert caught.value.errno == errno.EOPNOTSUPP
    assert "ust0" not in ns.sh("ip -o link")


# -- others use the device too


@SET_UP
def test_a_persistent_device_is_left_plain(ns: Namespace) -> None:
    """The next program may know no offloads; and the next of ours does not trust the last one."""
    tap(ns, "per0", persistent=True, host_addresses=["10.9.0.1/24"]).close()
    assert not kernel_cuts_nothing(ns, "per0")
    with tap(ns, "per0") as link:
        assert "tso4" in link.offloads
        assert kernel_cuts_nothing(ns, "per0")
    with ns.entered():
        rude = open_device("per0", IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)
    tundev.set_offload(rude, 3)
    with open(rude, "rb"):
        pass
    assert kernel_cuts_nothing(ns, "per0")
    with tap(ns, "per0", offload=False):
        assert not kernel_cuts_nothing(ns, "per0")


@SET_UP
@pytest.mark.parametrize("header", [True, False])
def test_joining_a_device_of_others(ns: Namespace, header: bool) -> None:
    """The latest comer's flags would become everybody's: a second queue takes what it finds."""
    flags = IFF_TAP | IFF_NO_PI | IFF_MULTI_QUEUE | (IFF_VNET_HDR if header else 0)
    with ns.entered():
        first = open_device("mq0", flags)
    with open(first, "rb"), tap(ns, "mq0") as link:
        assert tundev.device_of(first)[1] & IFF_VNET_HDR == (IFF_VNET_HDR if header else 0)
        assert bool(link.offloads) == header
        assert not kernel_cuts_nothing(ns, "mq0")
        assert bool(link.refused) == (not header)


@SET_UP
def test_joining_a_device_with_longer_headers(ns: Namespace) -> None:
    with ns.entered():
        first = open_device("mq0", IFF_TAP | IFF_NO_PI | IFF_MULTI_QUEUE | IFF_VNET_HDR)
    with open(first, "rb"):
        fcntl.ioctl(first, TUNSETVNETHDRSZ, struct.pack("i", 12))
        with pytest.raises(OSError, match="headers of 12 bytes") as caught:
            tap(ns, "mq0")
        assert caught.value.errno == errno.EBUSY


# -- what comes


def test_udp_superframes_are_datagrams(ns: Namespace, ends: Ends) -> None:
    link = tap(ns, "ust0", host_addresses=[ends.kernel_net])
    if "uso4" not in link.offloads:
        pytest.skip("optional: this kernel hands over no UDP superframes (Linux 6.2)")
    with ustack.Stack() as stack, ns.socket(ends.family, socket.SOCK_DGRAM) as sender:
        stack.attach(link, addresses=[ends.stack_net])
        receiver = stack.socket(ends.family, ustack.SOCK_DGRAM)
        receiver.bind(("", 9000))
        receiver.settimeout(10)
        sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1000)
        wanted = [bytes([number]) * (1000 if number < 20 else 17) for number in range(21)]
        before = stack.interfaces()[1].rx_packets
        sender.sendto(b"".join(wanted), (ends.stack, 9000))
        assert [receiver.recv(65536) for _ in wanted] == wanted
        counters = stack.counters()
        assert sum(counters.get(name, 0) for name in ("UdpInDatagrams", "Udp6InDatagrams")) == len(wanted)
        assert stack.interfaces()[1].rx_packets - before < len(wanted), "in fewer frames than datagrams"
        with pytest.raises(ConnectionRefusedError):
            sender.connect((ends.stack, 9))
            sender.send(bytes(2500))
            sender.recv(1)


# -- more than a length field can say (BIG TCP)


def longest_frame(ns: Namespace, seconds: float = 10.0) -> int:
    """Reads what the kernel receives on ust0 until a frame is longer than any IP packet can say."""
    with ns.entered():
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
    with tap:
        tap.bind(("ust0", 0))
        tap.settimeout(seconds)
        longest = 0
        while longest <= 65535 + 14:
            longest = max(longest, tap.recv_into(bytearray(1), 1, socket.MSG_TRUNC))
        return longest


def upload(stack: ustack.Stack, address: tuple[str, int], size: int) -> str:
    """Send to a sink -> the digest it answers with."""
    with stack.create_connection(address, 60) as sock:
        for block in blocks(5, size):
            sock.sendall(block)
        sock.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: sock.recv(100), b"")).decode()


@pytest.mark.ipv4("of IPv6 none is larger than its length field can say: the kernel wants a jumbo option for that")
def test_superframes_beyond_64_kb(ns: Namespace) -> None:
    link = tap(ns, "ust0", host_addresses=[FOUR.kernel_net])
    most = link.superframe
    if most <= 65535:
        pytest.skip("optional: this kernel takes no larger ones (Linux 6.3)")
    _, port = start_server(ns, "sink", FOUR.kernel)
    seen: list[int] = []
    watcher = threading.Thread(target=lambda: seen.append(longest_frame(ns)))
    watcher.start()
    with ustack.Stack() as stack:
        stack.attach(link, addresses=[FOUR.stack_net])
        while watcher.is_alive():
            assert upload(stack, (FOUR.kernel, port), 16 * MIB) == digest(5, 16 * MIB)
    watcher.join()
    assert 65535 + 14 < seen[0] <= most + 14


def test_a_path_that_stops_carrying_them(ns: Namespace, ends: Ends) -> None:
    """The route of a connection moves to a link without offloads, and back."""
    link = tap(ns, "ust0", host_addresses=[ends.kernel_net])
    near, far, net, host = (
        ("fd08::", "2001:db8::1", "2001:db8::/64", 128) if ends.six else ("10.8.0.", "192.0.2.1", "192.0.2.0/24", 32)
    )
    size = ends.amount(32 * MIB)
    other = tap(ns, "ust1", host_addresses=[f"{near}1/{ends.length}"], offload=False)
    ns.sysctl("net.ipv4.conf.all.rp_filter", 0)
    ns.sh(f"ip addr add {far}/{host} dev lo")
    _, port = start_server(ns, "sink", far)
    with ustack.Stack() as stack:
        stack.attach(link, addresses=[ends.stack_net])
        stack.attach(other, addresses=[f"{near}2/{ends.length}"])
        stack.add_route(net, ends.kernel)
        with stack.create_connection((far, port), 60) as sock:
            for number, block in enumerate(blocks(5, size)):
                if number % 16 == 8:
                    stack.add_route(f"{far}/{host}", f"{near}1")
                elif number % 16 == 0 and number:
                    stack.del_route(f"{far}/{host}")
                sock.sendall(block)
            sock.shutdown(socket.SHUT_WR)
            assert b"".join(iter(lambda: sock.recv(100), b"")).decode() == digest(5, size)


def test_superframes_are_forwarded(ns: Namespace, ends: Ends) -> None:
    """The kernel as a router cuts them for a device that takes none."""
    link = tap(ns, "ust0", host_addresses=[ends.kernel_net])
    with Namespace() as far, ustack.Stack() as stack:
        ns.sysctl("net.ipv6.conf.all.forwarding" if ends.six else "net.ipv4.ip_forward", 1)
        near, host, nodad = ("fd07::1", "fd07::2", "nodad") if ends.six else ("10.7.0.1", "10.7.0.2", "")
        ns.sh(f"ip link add out0 type veth peer name in0 && ip link set in0 netns /proc/{os.getpid()}/fd/{far.fd}")
        ns.sh(f"ip addr add {near}/{ends.length} dev out0 {nodad} && ip link set out0 up")
        ns.sh("ethtool -K out0 tso off gso off tx off")
        far.sh(f"ip addr add {host}/{ends.length} dev in0 {nodad} && ip link set in0 up")
        far.sh(f"ip route add default via {near}")
        _, port = start_server(far, "sink", host)
        stack.attach(link, addresses=[ends.stack_net], gateway=ends.kernel)
        assert upload(stack, (host, port), 16 * MIB) == digest(5, 16 * MIB)


# -- headers that lie

SOL_PACKET, PACKET_VNET_HDR = 263, 15
NEEDS_CSUM, DATA_VALID = 1, 2
GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, GSO_ECN = 1, 4, 5, 0x80


def lies(frame: bytes, l4: int) -> list[bytes]:
    """Virtio headers that say something else than the frame does, or more than is there."""
    return [
        struct.pack("<BBHHHH", flags, kind, length, size, start, offset)
        for flags in (0, NEEDS_CSUM, DATA_VALID, NEEDS_CSUM | DATA_VALID)
        for kind in (GSO_TCPV6, GSO_TCPV6 | GSO_ECN, GSO_TCPV4, GSO_UDP_L4, 3)
        for length in (0, l4, l4 + 20, len(frame), 0xFFFF)
        for size in (0, 1, 1440, len(frame), 0xFFFF)
        for start, offset in ((0, 0), (l4, 16), (l4, 6), (len(frame), 16), (0xFFFF, 0xFFFF))
    ]


def test_headers_that_lie(ns: Namespace, ends: Ends) -> None:
    """What of it the kernel lets through does no harm: who speaks properly is served before and after."""
    link = tap(ns, "ust0", host_addresses=[FOUR.kernel_net, SIX.kernel_net])
    network = (IPv6 if ends.six else IP)(src=ends.kernel, dst=ends.stack)
    with ustack.Stack() as stack:
        stack.attach(link, addresses=[FOUR.stack_net, SIX.stack_net])
        stack.create_server(("", 80), family=ends.family)
        with ns.entered():
            wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        with wire:
            wire.bind(("ust0", 0))
            wire.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
            sent = 0
            for transport in (TCP(dport=80, sport=4000, flags="A"), TCP(dport=80, sport=4001, flags="S"), UDP(dport=9)):
                frame = bytes(Ether(dst=link.mac, src="02:00:00:00:00:09") / network / transport / bytes(3000))
                for header in lies(frame, 14 + len(network)):
                    with contextlib.suppress(OSError):
                        sent += wire.send(header + frame) > 0
            assert sent > 100
        wait_for(lambda: stack.interfaces()[1].rx_packets >= sent // 2, "the frames", 20)
        ns.sh("ping -c 1 -W 5 10.9.0.2 && ping -6 -c 1 -W 5 fd09::2")
