"""UDP with the kernel: both ways, every size up to the largest (fragmented on the way), refusals, filters, names."""

from __future__ import annotations

import errno
import socket
import threading
from typing import Any

import pytest

from tap_harness import payload
from tap_harness.process import wait_for

SIZES = [0, 1, 2, 511, 1451, 1452, 1453, 1471, 1472, 1473, 2952, 2953, 8000, 65506, 65507]


@pytest.fixture
def pair(net: Any) -> tuple[Any, socket.socket]:
    """A stack socket and a kernel socket, both bound, not connected."""
    ours = net.keep(net.stack_socket(socket.SOCK_DGRAM))
    ours.bind(("", 0))
    ours.settimeout(5)
    theirs = net.keep(net.kernel_socket(socket.SOCK_DGRAM))
    theirs.bind((net.kernel_ip, 0))
    return ours, theirs


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.rfc("768")
def test_from_the_stack(net: Any, pair: tuple[Any, socket.socket], size: int) -> None:
    ours, theirs = pair
    data = b"".join(payload.blocks(1, size))
    assert ours.sendto(data, theirs.getsockname()) == size
    assert theirs.recvfrom(1 << 16) == (data, net.name(net.stack_ip, ours.getsockname()[1]))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.rfc("815")
def test_from_the_kernel(net: Any, pair: tuple[Any, socket.socket], size: int) -> None:
    ours, theirs = pair
    data = b"".join(payload.blocks(2, size))
    theirs.sendto(data, net.name(net.stack_ip, ours.getsockname()[1]))
    assert ours.recvfrom(1 << 16) == (data, theirs.getsockname())


def test_too_long(net: Any, pair: tuple[Any, socket.socket]) -> None:
    ours, theirs = pair
    with pytest.raises(OSError) as caught:
        ours.sendto(bytes(65528 if net.six else 65508), theirs.getsockname())
    assert caught.value.errno == errno.EMSGSIZE


@pytest.mark.parametrize("small", [True, False])
def test_echo_of_fragments_both_ways(net: Any, pair: tuple[Any, socket.socket], small: bool) -> None:
    """Large datagrams back and forth many times: reassembly state is used and given back."""
    mtu = 1500 if not small else 1280 if net.six else 576
    net.ns.sh(f"ip link set ust0 mtu {mtu}")
    ours, theirs = pair
    name = (net.stack_ip, ours.getsockname()[1])
    for seed in range(50):
        data = b"".join(payload.blocks(seed, 20000 + seed))
        theirs.sendto(data, name)
        got, sender = ours.recvfrom(1 << 16)
        assert got == data
        if mtu == 1500:  # the kernel's MTU also bounds what it takes from the device
            ours.sendto(got, sender)
            assert theirs.recv(1 << 16) == data


def test_short_buffer_truncates(pair: tuple[Any, socket.socket], net: Any) -> None:
    ours, theirs = pair
    theirs.sendto(b"0123456789", (net.stack_ip, ours.getsockname()[1]))
    theirs.sendto(b"next", (net.stack_ip, ours.getsockname()[1]))
    assert ours.recv(4) == b"0123"
    assert ours.recv(100) == b"next"


@pytest.mark.rfc("1122", "4.1.3.1")
def test_port_unreachable_from_the_stack(net: Any) -> None:
    """A datagram to a closed port of the stack: the kernel's connected socket hears of it."""
    theirs = net.keep(net.kernel_socket(socket.SOCK_DGRAM))
    theirs.connect((net.stack_ip, 9))
    theirs.send(b"anybody?")
    with pytest.raises(ConnectionRefusedError):
        theirs.recv(10)


@pytest.mark.rfc("1122", "4.1.3.3")
def test_port_unreachable_from_the_kernel(net: Any) -> None:
    ours = net.keep(net.stack_socket(socket.SOCK_DGRAM))
    ours.settimeout(5)
    ours.connect((net.kernel_ip, 9))
    ours.send(b"anybody?")
    with pytest.raises(ConnectionRefusedError):
        ours.recv(10)
    ours.send(b"the error was reported once")


def test_connected_socket_hears_its_peer_only(net: Any) -> None:
    ours = net.keep(net.stack_socket(socket.SOCK_DGRAM))
    ours.settimeout(5)
    friend, stranger = (net.keep(net.kernel_socket(socket.SOCK_DGRAM)) for _ in range(2))
    for sock in (friend, stranger):
        sock.bind((net.kernel_ip, 0))
    ours.connect(friend.getsockname())
    name = (net.stack_ip, ours.getsockname()[1])
    stranger.sendto(b"stranger", name)
    friend.sendto(b"friend", name)
    assert ours.recv(100) == b"friend"


def test_receive_queue_is_bounded(net: Any, pair: tuple[Any, socket.socket]) -> None:
    """A flood for a socket nobody reads is dropped beyond its buffer; the socket works afterwards (SO_RCVBUF)."""
    ours, theirs = pair
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    name = (net.stack_ip, ours.getsockname()[1])
    for _ in range(2000):
        theirs.sendto(bytes(1400), name)
    net.ns.sh(f"ping -c 1 -W 2 {net.stack_ip}")  # behind the flood in the same queue: all of it has been handled
    ours.setblocking(False)
    count = 0
    try:
        while True:
            ours.recv(2000)
            count += 1
    except BlockingIOError:
        pass
    assert 10 <= count <= 200
    theirs.sendto(b"after", name)
    ours.settimeout(5)
    assert ours.recv(100) == b"after"


@pytest.mark.ipv4("IPv6 has no broadcast")
def test_not_for_the_broadcast_address_unasked(net: Any, pair: tuple[Any, socket.socket]) -> None:
    """A broadcast reaches a bound socket; nobody bound means silence, not port unreachable (RFC 1122 §3.2.2)."""
    ours, theirs = pair
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    theirs.sendto(b"to all", ("10.9.0.255", ours.getsockname()[1]))
    assert ours.recv(100) == b"to all"
    before = icmp_in(net)
    theirs.sendto(b"to nobody", ("10.9.0.255", 9))
    net.ns.sh(f"ping -c 1 -W 2 {net.stack_ip}")
    assert icmp_in(net) - before == 1  # the echo reply alone


def icmp_in(net: Any) -> int:
    """ICMP messages the kernel has received."""
    return int(net.ns.sh("nstat -asz IcmpInMsgs | awk '/IcmpInMsgs/ {print $2}'"))


def test_closing_wakes_the_reader(net: Any, pair: tuple[Any, socket.socket]) -> None:
    ours, _ = pair
    ended = threading.Event()

    def read() -> None:
        try:
            ours.recv(10)
        except OSError:
            pass
        ended.set()

    thread = threading.Thread(target=read)
    thread.start()
    ours.close()
    wait_for(ended.is_set, "the reader to be woken", 5)
    thread.join()
