"""ustack.Callback as a tunnel's end: batches, back-pressure both ways, checksums, large packets, many stacks."""

from __future__ import annotations

import gc
import os
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import ustack

from .test_link_callback import checksum, echo_request, reply_number

HERE, THERE = "10.0.0.1", "10.0.0.2"


def manual(**options: Any) -> tuple[ustack.Stack, ustack.Callback]:
    """A stack that nobody drives, on a link."""
    stack = ustack.Stack(driver="manual")
    link = ustack.Callback(medium="ip", **options)
    stack.attach(link, addresses=[f"{THERE}/24"])
    return stack, link


def test_what_send_does_not_take_waits_for_resume() -> None:
    sent: list[int] = []
    room = 2

    def send(packet: bytes) -> bool:
        if len(sent) >= room:
            return False
        sent.append(reply_number(packet))
        return True

    stack, link = manual(send=send, queue=4)
    with stack:
        for number in range(9):
            assert link.receive(echo_request(number))
        assert sent == [0, 1]
        assert link.stats["send_waiting"] == 5, "the one that was refused, and a full queue"
        assert link.stats["send_dropped"] == 2
        room = 3
        link.resume()
        assert sent == [0, 1, 2]
        room = 100
        assert link.receive(echo_request(20))
        assert sent == [0, 1, 2], "not before resume()"
        link.resume()
        assert sent == [0, 1, 2, 3, 4, 5, 6, 20]
        assert link.stats["send_waiting"] == 0


def test_resume_before_send_has_returned_counts() -> None:
    sent: list[int] = []
    refused = False

    def send(packet: bytes) -> bool:
        nonlocal refused
        if not refused:
            refused = True
            link.resume()
            return False
        sent.append(reply_number(packet))
        return True

    stack, link = manual(send=send)
    with stack:
        link.receive(echo_request(3))
        assert sent == [3]


def test_send_many_gets_all_that_waits() -> None:
    batches: list[list[int]] = []
    takes: list[int | None] = [None, 3, 100]

    def send_many(packets: list[bytes]) -> int | None:
        batches.append([reply_number(packet) for packet in packets])
        return takes.pop(0)

    stack, link = manual(send_many=send_many)
    with stack:
        for first in (0, 5):
            link.receive_many(echo_request(n) for n in range(first, first + 5))
        assert batches == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
        link.resume()
        assert batches[2:] == [[8, 9]]


def test_an_exception_loses_the_batch_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []
    raised: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: raised.append(what.exc_value))

    def send_many(packets: list[bytes]) -> None:
        batches.append(len(packets))
        if len(batches) == 1:
            raise RuntimeError("the tunnel is down")

    stack, link = manual(send_many=send_many)
    with stack:
        link.receive_many(echo_request(n) for n in range(3))
        link.receive_many(echo_request(n) for n in range(2))
        assert batches == [3, 2]
        assert [str(error) for error in raised] == ["the tunnel is down"]
        assert link.stats["send_waiting"] == 0


@pytest.mark.parametrize("arguments", [{}, {"send": print, "send_many": print}, {"send_many": 5}])
def test_one_function_is_needed(arguments: Any) -> None:
    with pytest.raises(TypeError):
        ustack.Callback(medium="ip", **arguments)


def udp(payload: bytes, check: bytes) -> bytes:
    """A datagram from port 9 to port 7."""
    segment = b"\0\x09\0\x07" + (8 + len(payload)).to_bytes(2, "big") + check + payload
    header = bytes([0x45, 0]) + (20 + len(segment)).to_bytes(2, "big") + bytes([0, 0, 0, 0, 64, 17, 0, 0])
    header += socket.inet_aton(HERE) + socket.inet_aton(THERE)
    return header[:10] + checksum(header) + header[12:] + segment


def pseudo(length: int) -> bytes:
    return socket.inet_aton(THERE) + socket.inet_aton(HERE) + b"\0\x11" + length.to_bytes(2, "big")


@pytest.mark.parametrize("verify", [True, False])
def test_verification_of_checksums(verify: bool) -> None:
    stack, link = manual(send=lambda packet: None, verify_checksums=verify)
    with stack, stack.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("", 7))
        link.receive(udp(b"wrong checksum", b"\x12\x34"))
        if verify:
            with pytest.raises(BlockingIOError):
                sock.recv(100)
            assert stack.counters()["UdpInCsumErrors"] == 1
        else:
            assert sock.recv(100) == b"wrong checksum"


@pytest.mark.parametrize("generate", [True, False])
def test_generation_of_checksums(generate: bool) -> None:
    sent: list[bytes] = []
    stack, _ = manual(send=sent.append, generate_checksums=generate)
    with stack, stack.socket(type=socket.SOCK_DGRAM) as sock:
        sock.sendto(b"payload!", (HERE, 9))
        segment = sent[0][20:]
        if generate:
            assert checksum(pseudo(len(segment)) + segment) == b"\0\0"
        else:
            folded = bytes(0xFF - octet for octet in checksum(pseudo(len(segment))))
            assert segment[6:8] == folded, "the pseudo-header's sum"
        assert checksum(sent[0][:20]) == b"\0\0", "IP's own is always there"


def joined(**options: Any) -> tuple[ustack.Stack, ustack.Stack, list[ustack.Callback], list[int]]:
    """Two stacks whose links hand packets to each other, and how large these were."""
    sizes: list[int] = []
    links: list[ustack.Callback] = []

    def carry(number: int) -> Any:
        def send_many(packets: list[bytes]) -> None:
            sizes.extend(len(packet) for packet in packets)
            links[1 - number].receive_many(packets)

        return send_many

    stacks = ustack.Stack(), ustack.Stack()
    for number, address in enumerate((HERE, THERE)):
        links.append(ustack.Callback(send_many=carry(number), medium="ip", **options))
        stacks[number].attach(links[number], addresses=[f"{address}/24"])
    return (*stacks, links, sizes)


def transfer(left: ustack.Stack, right: ustack.Stack, data: bytes) -> bytes:
    """`data` from left to right."""
    with right.create_server(("", 7)) as listener, left.create_connection((THERE, 7), timeout=30) as client:
        conn, _ = listener.accept()

        def send() -> None:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=send)
        thread.start()
        got = bytearray()
        with conn:
            conn.settimeout(30)
            while piece := conn.recv(1 << 18):
                got += piece
        thread.join()
    return bytes(got)


@pytest.mark.parametrize("mtu", [576, 1500, 16000, 65535])
@pytest.mark.parametrize("checksums", [True, False])
def test_transfers_at_any_mtu(mtu: int, checksums: bool) -> None:
    data = bytes(range(251)) * 8000
    left, right, _, sizes = joined(mtu=mtu, verify_checksums=checksums, generate_checksums=checksums)
    with left, right:
        assert transfer(left, right, data) == data
    assert mtu - 80 < max(sizes) <= mtu


def test_a_tunnel_that_is_busy_now_and_then_loses_nothing() -> None:
    data = bytes(range(251)) * 4000
    links: list[ustack.Callback] = []
    turns = 0

    def to_right(packet: bytes) -> bool:
        nonlocal turns
        turns += 1
        if turns % 7 == 0:
            timer = threading.Timer(0.0005, links[0].resume)
            timer.start()
            timers.append(timer)
            return False
        links[1].receive(packet)
        return True

    timers: list[threading.Timer] = []
    with ustack.Stack() as left, ustack.Stack() as right:
        links.append(ustack.Callback(to_right, medium="ip", mtu=9000))
        links.append(ustack.Callback(lambda packet: links[0].receive(packet) and None, medium="ip", mtu=9000))
        left.attach(links[0], addresses=[f"{HERE}/24"])
        right.attach(links[1], addresses=[f"{THERE}/24"])
        assert transfer(left, right, data) == data
        assert links[0].stats["send_dropped"] == 0
        for timer in timers:
            timer.join()


def test_stacks_come_and_go() -> None:
    """Nothing is left of them: no descriptor, no thread, no memory."""
    rounds = 10000 if os.environ.get("USTACK_FULL") else 200

    def one(number: int) -> None:
        driver = ("manual", "thread")[number % 50 == 0]
        with ustack.Stack(driver=driver) as stack:
            link = ustack.Callback(lambda packet: None, medium="ip")
            stack.attach(link, addresses=[f"{THERE}/24"])
            link.receive(echo_request(1))
            stack.socket(type=socket.SOCK_DGRAM).close()

    def usage() -> tuple[int, int, int]:
        gc.collect()
        statm = Path("/proc/self/statm")
        pages = int(statm.read_text().split()[1]) if statm.exists() else 0
        fds = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
        return pages, fds, threading.active_count()

    for number in range(100):
        one(number)
    before = usage()
    for number in range(rounds):
        one(number)
    after = usage()
    assert after[1:] == before[1:]
    if "ASAN_OPTIONS" not in os.environ:  # AddressSanitizer keeps what is freed for a while
        assert (after[0] - before[0]) * 4096 < 4 << 20
