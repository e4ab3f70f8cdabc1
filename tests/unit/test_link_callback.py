"""ustack.Callback: frames through the embedder's own functions. The echo requests here are built by hand (RFC 792)."""

from __future__ import annotations

import errno
import gc
import sys
import threading
from typing import Any

import pytest

import ustack

OURS, THEIRS = bytes([10, 0, 0, 2]), bytes([10, 0, 0, 1])


def checksum(data: bytes) -> bytes:
    """RFC 1071."""
    total = sum(int.from_bytes(data[i : i + 2].ljust(2, b"\0"), "big") for i in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return (~total & 0xFFFF).to_bytes(2, "big")


def echo_request(number: int, payload: bytes = b"payload") -> bytes:
    icmp = b"\x08\0\0\0" + b"\0\1" + number.to_bytes(2, "big") + payload
    icmp = icmp[:2] + checksum(icmp) + icmp[4:]
    header = bytes([0x45, 0]) + (20 + len(icmp)).to_bytes(2, "big") + bytes([0, 0, 0, 0, 64, 1, 0, 0]) + THEIRS + OURS
    return header[:10] + checksum(header) + header[12:] + icmp


def reply_number(packet: bytes) -> int:
    assert packet[9] == 1
    assert packet[20] == 0, "an echo reply"
    assert packet[12:20] == OURS + THEIRS
    return int.from_bytes(packet[26:28], "big")


@pytest.fixture(params=["thread", "manual"])
def stack(request: pytest.FixtureRequest) -> Any:
    with ustack.Stack(driver=request.param) as made:
        yield made


def attach(stack: Any, send: Any, **options: Any) -> Any:
    link = ustack.Callback(send, medium="ip", **options)
    stack.attach(link, addresses=["10.0.0.2/24"])
    return link


def test_echo_comes_back_before_receive_returns(stack: Any) -> None:
    sent: list[bytes] = []
    link = attach(stack, sent.append)
    assert link.receive(echo_request(7))
    assert [reply_number(p) for p in sent] == [7]
    assert type(sent[0]) is bytes


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_bytes_like_object(stack: Any, kind: Any) -> None:
    sent: list[bytes] = []
    attach(stack, sent.append).receive(kind(echo_request(1)))
    assert len(sent) == 1


def test_receive_many_keeps_order(stack: Any) -> None:
    sent: list[bytes] = []
    link = attach(stack, sent.append)
    assert link.receive_many(echo_request(n) for n in range(300)) == 300
    assert [reply_number(p) for p in sent] == list(range(300))
    assert link.receive_many([]) == 0


def test_a_wrong_packet_among_many_is_the_callers_error(stack: Any) -> None:
    sent: list[bytes] = []
    link = attach(stack, sent.append)
    for wrong, error in ((b"", ValueError), (bytes(1501), ValueError), ("text", TypeError), (None, TypeError)):
        with pytest.raises(error):
            link.receive_many([echo_request(1), wrong])
    assert sent == [], "nothing of a refused batch was taken"
    assert link.receive(echo_request(2))
    assert [reply_number(p) for p in sent] == [2]


def test_rubbish_is_counted_not_raised(stack: Any) -> None:
    sent: list[bytes] = []
    link = attach(stack, sent.append)
    assert link.receive(b"\xff")
    assert link.receive(bytes(1500))
    assert sent == []
    assert sum(n for name, n in stack.counters().items() if name.startswith("DropIp")) == 2


def test_not_attached_and_closed() -> None:
    link = ustack.Callback(print, medium="ip")
    with pytest.raises(OSError) as caught:
        link.receive(echo_request(1))
    assert caught.value.errno == errno.ENOTCONN
    link.close()
    link.close()
    with pytest.raises(OSError) as caught:
        link.receive(echo_request(1))
    assert caught.value.errno == errno.EBADF
    with pytest.raises(OSError) as caught, ustack.Stack(driver="manual") as stack:
        stack.attach(link)
    assert caught.value.errno == errno.EBADF


def test_link_does_not_keep_its_stack_alive() -> None:
    stack = ustack.Stack(driver="manual")
    link = attach(stack, print)
    stack.close()
    del stack
    gc.collect()
    with pytest.raises(OSError):
        link.receive(echo_request(1))


def test_exception_in_send_goes_to_the_hook(stack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    caught: list[Any] = []
    sent: list[bytes] = []

    def hook(info: Any) -> None:
        caught.append((info.exc_type, str(info.exc_value), info.object))

    monkeypatch.setattr(sys, "unraisablehook", hook)

    def send(packet: bytes) -> None:
        if reply_number(packet) == 1:
            raise RuntimeError("tunnel is down")
        sent.append(packet)

    link = attach(stack, send)
    for number in range(3):
        assert link.receive(echo_request(number))
    assert caught == [(RuntimeError, "tunnel is down", send)]
    assert [reply_number(p) for p in sent] == [0, 2]


def test_send_may_use_the_stack_and_order_is_kept(stack: Any) -> None:
    """A send() that hands the next packet in must not recurse, deadlock or overtake."""
    sent: list[int] = []

    def send(packet: bytes) -> None:
        number = reply_number(packet)
        sent.append(number)
        if number < 2000:
            link.receive(echo_request(number + 1))
            stack.interfaces()

    link = attach(stack, send)
    link.receive(echo_request(0))
    assert sent == list(range(2001))


def test_send_may_close_the_stack(stack: Any) -> None:
    link = attach(stack, lambda packet: stack.close())
    link.receive(echo_request(1))
    assert stack.closed


def test_queue_is_bounded(stack: Any) -> None:
    """While send() is busy frames wait up to the limit; more are dropped and counted."""
    sent: list[int] = []

    def send(packet: bytes) -> None:
        sent.append(reply_number(packet))
        if sent == [0]:
            link.receive_many(echo_request(n) for n in range(1, 11))

    link = attach(stack, send, queue=4)
    link.receive(echo_request(0))
    assert sent == [0, 1, 2, 3, 4]
    assert link.stats["send_dropped"] == 6


def test_many_threads(stack: Any) -> None:
    sent: list[bytes] = []
    link = attach(stack, sent.append, queue=100_000)

    def feed(base: int) -> None:
        for number in range(base, base + 500):
            link.receive(echo_request(number))

    threads = [threading.Thread(target=feed, args=(base,)) for base in range(0, 4000, 500)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # A thread may leave its last frame to another one that is delivering; that one is through as well now.
    assert sorted(map(reply_number, sent)) == list(range(4000))


@pytest.mark.parametrize(
    ("arguments", "error"),
    [({"send": None}, TypeError), ({"send": print, "medium": "x"}, ValueError), ({"send": print, "mtu": 0}, ValueError),
     ({"send": print, "queue": 0}, ValueError), ({"send": print, "medium": "ip", "mac": bytes(6)}, ValueError),
     ({"send": print, "mac": "ff:ff:ff:ff:ff:ff"}, ValueError), ({}, TypeError)],
)
def test_wrong_arguments(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        ustack.Callback(**arguments)


@pytest.mark.parametrize("medium", ["ethernet", "ip"])
def test_two_stacks_back_to_back(medium: str) -> None:
    """Each one's send is the other one's receive."""
    with ustack.Stack() as left, ustack.Stack() as right:
        a = ustack.Callback(lambda frame: b.receive(frame), medium=medium, queue=100_000)
        b = ustack.Callback(lambda frame: a.receive(frame), medium=medium, queue=100_000)
        names = [stack.attach(link) for stack, link in ((left, a), (right, b))]
        left.add_address(names[0], "10.0.0.1/24")
        right.add_address(names[1], "10.0.0.2/24")
        server = right.create_server(("", 80))
        with left.create_connection(("10.0.0.2", 80), timeout=10) as client:
            conn, _ = server.accept()
            sender = threading.Thread(target=client.sendall, args=(bytes(range(256)) * 4096,))
            sender.start()
            got = conn.recv(1 << 20, ustack.MSG_WAITALL)
            sender.join()
            assert got == bytes(range(256)) * 4096
        for stack, link in ((left, a), (right, b)):
            stack.detach(link)


# -- packets in a stream


def framed(packets: list[bytes], prefix: int) -> bytes:
    return b"".join((len(one).to_bytes(prefix, "big") if prefix else b"") + one for one in packets)


@pytest.mark.parametrize("prefix", [0, 2, 4])
@pytest.mark.parametrize("piece", [1, 7, 64, 1 << 20])
def test_a_stream_comes_in_pieces_of_any_size(stack: Any, prefix: int, piece: int) -> None:
    sent: list[bytes] = []
    link = ustack.Callback(send_stream=sent.append, length_bytes=prefix, medium="ip")
    stack.attach(link, addresses=["10.0.0.2/24"])
    packets = [echo_request(n, bytes(n % 90)) for n in range(200)]
    data = framed(packets, prefix)
    took = [link.receive_stream(data[at : at + piece]) for at in range(0, len(data), piece)]
    assert sum(took) == 200
    answers = b"".join(sent)
    for number, packet in enumerate(packets):
        if prefix:
            assert int.from_bytes(answers[:prefix], "big") == len(packet)
        answer, answers = answers[prefix : prefix + len(packet)], answers[prefix + len(packet) :]
        assert reply_number(answer) == number
    assert not answers
    assert link.receive_stream(b"") == 0


def test_a_stream_of_both_versions_without_lengths() -> None:
    a, b = ustack.Stack(driver="manual"), ustack.Stack(driver="manual")
    ends: list[Any] = []
    for k, stack in enumerate((a, b)):
        ends.append(
            ustack.Callback(send_stream=lambda data, k=k: ends[1 - k].receive_stream(data), length_bytes=0, medium="ip")
        )
        stack.attach(ends[k], addresses=[f"10.0.0.{k + 1}/24", f"fd00::{k + 1}/64"])
    with a, b:
        for family, host in ((ustack.AF_INET, "10.0.0.2"), (ustack.AF_INET6, "fd00::2")):
            with a.socket(family, ustack.SOCK_DGRAM) as near, b.socket(family, ustack.SOCK_DGRAM) as far:
                far.bind((host, 9))
                for size in (0, 1, 1000):
                    near.sendto(bytes(size), (host, 9))
                    assert far.recv(2000) == bytes(size)


@pytest.mark.parametrize(
    ("prefix", "data"),
    [
        (2, b"\0\0"),
        (2, (1501).to_bytes(2, "big")),
        (4, b"\xff\xff\xff\xff"),
        (0, bytes(6)),
        (0, b"\x45\0\0\x13\0\0"),
        (0, b"\x45\0\xff\xff\0\0"),
        (0, b"\x60\0\0\0\xff\xff"),
    ],
)
def test_a_stream_out_of_step(stack: Any, prefix: int, data: bytes) -> None:
    link = ustack.Callback(send_stream=lambda data: None, length_bytes=prefix, medium="ip")
    stack.attach(link, addresses=["10.0.0.2/24"])
    with pytest.raises(ValueError, match="out of step"):
        link.receive_stream(framed([echo_request(1)], prefix) + data)


def test_a_stream_waits_as_packets_do(stack: Any) -> None:
    sent: list[bytes] = []
    answers = [False, None, None]

    def send(data: bytes) -> Any:
        answer = answers.pop(0)
        if answer is None:
            sent.append(data)
        return answer

    link = ustack.Callback(send_stream=send, medium="ip")
    stack.attach(link, addresses=["10.0.0.2/24"])
    link.receive_stream(framed([echo_request(n) for n in range(3)], 2))
    assert not sent
    assert link.stats["send_waiting"] == 3
    link.receive_stream(framed([echo_request(3)], 2))
    assert link.stats["send_waiting"] == 4
    link.resume()
    assert [reply_number(one[2:]) for one in sent] == [0, 3]
    assert sum(len(one) for one in sent) == 4 * (2 + len(echo_request(0)))
    assert link.stats["send_waiting"] == 0


def test_a_stream_has_one_reader(stack: Any) -> None:
    link = ustack.Callback(lambda packet: None, medium="ip")
    stack.attach(link, addresses=["10.0.0.2/24"])
    with pytest.raises(TypeError, match="send_stream"):
        link.receive_stream(b"")
    for options in (
        {"length_bytes": 1},
        {"length_bytes": 0, "medium": "ethernet"},
        {"length_bytes": 2, "medium": "ethernet", "mtu": 65535},
    ):
        with pytest.raises(ValueError, match="length_bytes"):
            ustack.Callback(send_stream=print, **{"medium": "ip", **options})
    with pytest.raises(TypeError, match="one of send"):
        ustack.Callback(print, send_stream=print)
