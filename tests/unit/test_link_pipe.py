"""ustack.pipe(): what its two ends do when no stack is attached, and which arguments they refuse."""

from __future__ import annotations

import errno
import hashlib
import select
import struct
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ustack


@given(st.lists(st.binary(min_size=1, max_size=1518), max_size=50))
def test_frames_come_out_as_they_went_in_and_in_order(frames: list[bytes]) -> None:
    a, b = ustack.pipe()
    assert all(a.send(frame) for frame in frames)
    assert [b.recv(0) for _ in frames] == frames
    with pytest.raises(BlockingIOError):
        b.recv(0)


def test_directions_are_separate() -> None:
    a, b = ustack.pipe()
    a.send(b"to b")
    b.send(b"to a")
    assert (a.recv(0), b.recv(0)) == (b"to a", b"to b")


def test_full_queue_drops_and_counts() -> None:
    a, b = ustack.pipe(queue=3)
    assert [a.send(b"%d" % i) for i in range(5)] == [True, True, True, False, False]
    assert a.stats["send_dropped"] == b.stats["receive_dropped"] == 2
    assert [b.recv(0) for _ in range(3)] == [b"0", b"1", b"2"]
    assert a.send(b"again")
    assert b.recv(0) == b"again"


def test_fileno_is_readable_exactly_while_frames_wait() -> None:
    a, b = ustack.pipe()

    def readable() -> bool:
        return bool(select.select([b], [], [], 0)[0])

    assert not readable()
    a.send(b"1")
    a.send(b"2")
    assert readable()
    b.recv()
    assert readable()
    b.recv()
    assert not readable()
    a.close()
    assert readable(), "the end of the pipe is an event too"


def test_recv_waits_for_another_thread() -> None:
    a, b = ustack.pipe()
    got: list[bytes] = []
    thread = threading.Thread(target=lambda: got.append(b.recv(10)))
    thread.start()
    a.send(b"frame")
    thread.join(10)
    assert got == [b"frame"]


def test_recv_times_out() -> None:
    _, b = ustack.pipe()
    with pytest.raises(TimeoutError):
        b.recv(0.001)


def test_close_lets_the_other_end_drain_then_says_so() -> None:
    a, b = ustack.pipe()
    a.send(b"last")
    a.close()
    a.close()
    assert b.recv() == b"last"
    assert b.recv() == b""
    assert not b.send(b"too late")


def test_an_end_that_is_dropped_ends_the_pipe() -> None:
    a, b = ustack.pipe()
    del a
    assert b.recv() == b""


def test_lengths() -> None:
    a, b = ustack.pipe(mtu=100)
    assert a.send(bytes(118)), "MTU, Ethernet header and one VLAN tag"
    assert b.recv(0) == bytes(118)
    for frame in (b"", bytes(119)):
        with pytest.raises(ValueError):
            a.send(frame)
    with pytest.raises(TypeError):
        a.send("text")
    ip, _ = ustack.pipe(medium="ip", mtu=100)
    with pytest.raises(ValueError):
        ip.send(bytes(101))


@pytest.mark.parametrize(
    "arguments",
    [{"medium": "token ring"}, {"mtu": 67}, {"mtu": 65536}, {"queue": 0}, {"macs": (b"12345", None)},
     {"macs": ("01:00:00:00:00:01", None)}, {"macs": (bytes(6), None)}, {"macs": ("no", None)}],
)
def test_wrong_arguments(arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        ustack.pipe(**arguments)  # type: ignore[arg-type]


def test_addresses_are_local_unicast_and_differ() -> None:
    """IEEE 802: bit 1 of the first byte says locally administered, bit 0 group."""
    for _ in range(50):
        a, b = ustack.pipe()
        assert a.mac != b.mac
        assert a.mac[0] & 3 == b.mac[0] & 3 == 2
    a, b = ustack.pipe(macs=("02:00:00:00:00:01", bytes.fromhex("020000000002")))
    assert (a.mac, b.mac) == (bytes.fromhex("020000000001"), bytes.fromhex("020000000002"))
    assert ustack.pipe(medium="ip")[0].mac is None


def test_an_attached_end_is_the_stacks() -> None:
    a, b = ustack.pipe()
    with ustack.Stack(driver="manual") as stack:
        stack.attach(a)
        assert a.attached
        with pytest.raises(OSError) as caught:
            a.recv(0)
        assert caught.value.errno == errno.EBUSY
        with pytest.raises(OSError) as caught, ustack.Stack(driver="manual") as other:
            other.attach(a)
        assert caught.value.errno == errno.EBUSY
    assert a.closed
    assert b.recv(0) == b""


def test_close_detaches() -> None:
    a, _ = ustack.pipe()
    with ustack.Stack(driver="manual") as stack:
        stack.attach(a, addresses=["10.0.0.1/24"])
        assert [i.name for i in stack.interfaces()] == ["lo", a.name]
        a.close()
        assert [i.name for i in stack.interfaces()] == ["lo"]
        assert not a.attached


def test_ends_are_not_made_by_hand() -> None:
    with pytest.raises(TypeError):
        ustack.PipeEnd()


# -- offloads


def transfer(offload: bool, mtu: int = 1500) -> tuple[int, int]:
    """4 MiB from one stack to another, checked; (frames sent, dropped ones too; segments sent)."""
    block = bytes(range(256)) * 4096
    a, b = ustack.pipe(mtu=mtu, offload=offload)
    with ustack.Stack() as left, ustack.Stack() as right:
        left.attach(a, ["10.0.0.1/24"])
        right.attach(b, ["10.0.0.2/24"])
        listener = right.create_server(("", 80))
        sender = left.create_connection(("10.0.0.2", 80), timeout=30)
        receiver, _ = listener.accept()
        receiver.settimeout(30)

        def send() -> None:
            for _ in range(4):
                sender.sendall(block)
            sender.close()

        thread = threading.Thread(target=send)
        thread.start()
        came = hashlib.sha256()
        while data := receiver.recv(1 << 16):
            came.update(data)
        thread.join()
        assert came.digest() == hashlib.sha256(block * 4).digest()
        assert right.counters()["TcpInCsumErrors"] == 0
        return a.stats["sent"] + a.stats["send_dropped"], left.counters()["TcpOutSegs"]


def test_frames_are_of_the_mtu_by_default() -> None:
    a, b = ustack.pipe()
    assert a.offloads == b.offloads == ()
    frames, segments = transfer(offload=False)
    assert frames >= segments >= (4 << 20) // 1460


@pytest.mark.parametrize("mtu", [576, 1500, 65535])
def test_superframes(mtu: int) -> None:
    frames, segments = transfer(offload=True, mtu=mtu)
    assert segments >= (4 << 20) // mtu
    assert frames <= segments + 2, "and ARP"
    if mtu < 9000:
        assert frames < (4 << 20) // mtu // 4


def test_a_raw_end_sees_complete_checksums() -> None:
    """What a stack left to the link is filled in for who looks at it."""
    a, b = ustack.pipe(medium="ip", offload=True)
    assert a.offloads == ("csum", "tso4", "tso6")
    with ustack.Stack(driver="manual") as stack:
        stack.attach(a, ["10.0.0.1/24"])
        sock = stack.socket(ustack.AF_INET, ustack.SOCK_DGRAM)
        for size in range(5):
            sock.sendto(bytes(range(1, size + 1)), ("10.0.0.2", 9))
            packet = b.recv(1)
            datagram = packet[20:]
            pseudo = packet[12:20] + struct.pack(">HH", 17, len(datagram))
            words = pseudo + datagram + bytes(len(datagram) & 1)
            total = sum(struct.unpack(f">{len(words) // 2}H", words))
            assert total % 0xFFFF == 0, "RFC 1071: ones' complement zero"
            assert datagram[6:8] != b"\0\0"


@given(st.lists(st.integers(min_value=1, max_value=65535), max_size=30))
def test_memory_of_frames_is_used_again_for_others(sizes: list[int]) -> None:
    a, b = ustack.pipe(medium="ip", mtu=65535)
    for _ in range(2):
        for number, size in enumerate(sizes):
            assert a.send(bytes([number]) * size)
        for number, size in enumerate(sizes):
            assert b.recv(0) == bytes([number]) * size
