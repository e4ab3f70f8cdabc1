"""Services of the data plane against peers that read nothing, never end a request, or reset in the middle."""

from __future__ import annotations

import pytest
from scapy.layers.inet import TCP

from tap_harness.flow import Flow
from tap_harness.lab import Lab

REQUEST_MAX = 16384
END = b"\r\n\r\n"


def connected(lab: Lab, port: int, *, win: int | None = None) -> Flow:
    flow = lab.flow(port)
    flow.handshake(win=win)
    return flow


def open_connections(lab: Lab, port: int) -> int:
    return sum(1 for one in lab.stack.connections() if one.state != "LISTEN" and one.local and one.local[1] == port)


def test_an_endless_request_is_reset(lab: Lab) -> None:
    service = lab.stack.start_service(("", 7), "answer", answer=b"x", end=END)
    flow = connected(lab, 7)
    for _ in range(REQUEST_MAX // 1024 - 1):
        flow.send("A", b"\r\n\r." * 256)
    flow.collect(0.1)
    assert service.counters()["oversized"] == 0
    flow.send("A", b"\r\n\r." * 256)
    assert any("R" in str(packet[TCP].flags) for packet in flow.collect(0.1))
    counters = service.counters()
    assert (counters["oversized"], counters["open"], counters["requests"]) == (1, 0, 0)
    service.close()


def test_a_request_that_ends_in_the_last_byte_allowed(lab: Lab) -> None:
    service = lab.stack.start_service(("", 7), "answer", answer=b"yes", end=END)
    flow = connected(lab, 7)
    request = b"\r" * (REQUEST_MAX - len(END)) + END
    for at in range(0, len(request), 1000):
        flow.send("A", request[at : at + 1000])
        if at + 1000 < len(request):
            flow.collect(0.01)
    assert flow.read(3) == b"yes"
    assert service.counters()["oversized"] == 0
    service.close()


@pytest.mark.parametrize("size", [1, 3, 700, 1460])
def test_a_request_in_pieces_of_every_size(lab: Lab, size: int) -> None:
    """Across the blocks of the receive queue, ends that begin and don't go on, and one behind the other."""
    service = lab.stack.start_service(("", 7), "answer", answer=b"!", end=END)
    flow = connected(lab, 7)
    requests = [b"a" * 5000 + END, END, b"\r\n\r" * 50 + b"\n", b"\r\r\n\n\r\n\r\r\n\r\n"]
    stream = b"".join(requests)
    step = size if size > 3 else 3
    for at in range(0, len(stream), step):
        for inner in range(at, min(at + step, len(stream)), size):
            flow.send("A", stream[inner : min(inner + size, at + step)])
        flow.collect(0.0)
    lab.carrier.advance(1)
    assert service.counters()["requests"] == len(requests)
    service.close()


@pytest.mark.parametrize("kind", ["echo", "chargen", "answer"])
def test_a_peer_that_reads_nothing(lab: Lab, kind: str) -> None:
    """It gets what its window takes; what it sends is taken in up to the buffers' size, and then its window closes."""
    options = {"answer": bytes(60000), "end": END} if kind == "answer" else {}
    service = lab.stack.start_service(("", 7), kind, **options)
    flow = connected(lab, 7, win=2000)
    sent = 0
    for _ in range(4000):
        flow.inject("A", (b"x" * 1000 + END + b"y" * 400)[:1400], win=0)
        window = None
        for packet in flow.collect(0.0):
            window = int(packet[TCP].window)
            sent = max(sent, (int(packet[TCP].ack) - flow.snd) % (1 << 32))
        flow.snd = (flow.snd + sent) % (1 << 32)
        sent = 0
        if window == 0:
            break
    counters = service.counters()
    limit = lab.stack.sysctl["net.ipv4.tcp_wmem"][2] + lab.stack.sysctl["net.ipv4.tcp_rmem"][2]
    assert lab.stack.live()["buffer_bytes"] < 4 * limit
    assert counters["bytes_out"] <= limit
    flow.reset()
    lab.carrier.advance(1)
    assert service.counters()["open"] == 0
    assert lab.stack.live()["buffers"] == 0
    service.close()


@pytest.mark.parametrize("kind", ["echo", "discard", "chargen", "http"])
def test_a_reset_in_the_middle(lab: Lab, kind: str) -> None:
    service = lab.stack.start_service(("", 7), kind)
    for _ in range(20):
        flow = connected(lab, 7)
        flow.send("PA", b"GET / HTTP/1.1\r\n")
        flow.collect(0.01)
        flow.reset()
        lab.carrier.advance(0.01)
    counters = service.counters()
    assert (counters["connections"], counters["open"]) == (20, 0)
    service.close()


def test_data_and_fin_with_the_handshake(lab: Lab) -> None:
    """The request and the FIN may come before the connection is accepted."""
    service = lab.stack.start_service(("", 7), "answer", answer=b"yes", end=END)
    flow = connected(lab, 7)
    flow.send("PFA", b"GET" + END)
    assert flow.read(3) == b"yes"
    lab.carrier.advance(1)
    assert service.counters()["open"] == 0
    service.close()


def test_the_answer_carries_the_acknowledgement(lab: Lab) -> None:
    """One request, one segment: neither an ACK before the answer, nor one after it."""
    service = lab.stack.start_service(("", 7), "answer", answer=b"yes", end=END)
    flow = connected(lab, 7)
    for _ in range(3):
        flow.send("PA", b"GET" + END)
        (packet,) = flow.collect(0.1)
        assert bytes(packet[TCP].payload) == b"yes"
        assert packet[TCP].ack == flow.snd
        flow.send("A")
    service.close()
