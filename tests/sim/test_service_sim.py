"""Services of the data plane over bad wires, in virtual time: every byte, once and in order; nothing is left."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ustack import sim

ADDRESSES = ("10.0.0.1/24", "10.0.0.2/24")
GET = b"GET / HTTP/1.1\r\n\r\n"

percent = st.floats(0, 0.08)


@given(
    seed=st.integers(0, 2**32),
    loss=percent,
    duplicate=percent,
    reorder=percent,
    corrupt=percent,
    delay=st.floats(0, 0.1),
    answer=st.integers(1, 65536),
)
@settings(max_examples=30)
def test_any_wire(seed: int, loss: float, duplicate: float, reorder: float, corrupt: float, delay: float, answer: int):
    with sim.Network(seed=seed) as net:
        a, b = net.stack("a"), net.stack("b")
        wire = net.wire(a, b, addresses=ADDRESSES, rate=1e8, delay=delay)
        services = [
            a.start_service(("", 7), "echo"),
            a.start_service(("", 9), "discard", report=True),
            a.start_service(("", 19), "chargen"),
            a.start_service(("", 80), "answer", answer=bytes(i % 251 for i in range(answer)), end=b"\r\n\r\n"),
        ]
        socks = {service.kind: b.create_connection(("10.0.0.1", service.address[1])) for service in services}
        wire.set(loss=loss, duplicate=duplicate, reorder=reorder, corrupt=corrupt, jitter=0.001)
        data = seed.to_bytes(8, "big") * 10_000

        def send(kind: str, what: bytes) -> None:
            socks[kind].sendall(what)
            socks[kind].shutdown(1)

        def read(kind: str) -> bytes:
            got = bytearray()
            while piece := socks[kind].recv(65536):
                got += piece
            return bytes(got)

        net.spawn(send, "echo", data)
        net.spawn(send, "discard", data)
        net.spawn(send, "answer", GET * 5)
        assert read("echo") == data
        assert read("discard") == len(data).to_bytes(8, "big")
        assert read("answer") == bytes(i % 251 for i in range(answer)) * 5
        pattern = bytearray()
        while len(pattern) < 200_000:
            pattern += socks["chargen"].recv(65536)
        assert pattern[:34464] == pattern[65536:100_000] == pattern[131_072:165_536]
        for sock in socks.values():
            sock.close()
        wire.set(loss=0.0, duplicate=0.0, reorder=0.0, corrupt=0.0, jitter=0.0)
        net.run(1200)
        assert [service.counters()["open"] for service in services] == [0, 0, 0, 0]
        for service in services:
            service.close()
        live = a.live()
        assert live["tcbs"] == live["timewaits"] == live["synreqs"] == live["buffers"] == live["listeners"] == 0


def test_discard_counts_beyond_4_gib() -> None:
    """The report is 64 bits wide, though TCP's sequence numbers are not. Segments of 64 KB make it quick."""
    size = (1 << 32) + 12_345_678
    with sim.Network(seed=1) as net:
        a, b = net.stack("a"), net.stack("b")
        net.wire(a, b, addresses=ADDRESSES, mtu=65535)
        a.start_service(("", 9), "discard", report=True)
        sock = b.create_connection(("10.0.0.1", 9))
        block = memoryview(bytes(1 << 20))
        for _ in range(size >> 20):
            sock.sendall(block)
        sock.sendall(block[: size & 0xFFFFF])
        sock.shutdown(1)
        assert int.from_bytes(sock.recv(8), "big") == size


def test_a_vanished_peer_is_let_go() -> None:
    with sim.Network(seed=1) as net:
        a, b = net.stack("a"), net.stack("b")
        wire = net.wire(a, b, addresses=ADDRESSES)
        service = a.start_service(("", 19), "chargen")
        sock = b.create_connection(("10.0.0.1", 19))
        assert sock.recv(10)
        wire.up = False
        net.run(3600)
        assert service.counters()["open"] == 0
        assert a.live()["tcbs"] == 0


@pytest.mark.parametrize("kind", ["echo", "discard", "chargen", "http"])
def test_closing_while_data_is_under_way(kind: str) -> None:
    with sim.Network(seed=1) as net:
        a, b = net.stack("a"), net.stack("b")
        net.wire(a, b, addresses=ADDRESSES, rate=1e7, delay=0.01)
        service = a.start_service(("", 7), kind)
        socks = [b.create_connection(("10.0.0.1", 7)) for _ in range(10)]
        for sock in socks:
            sock.send(GET * 500)
        net.run(0.05)
        service.close()
        for sock in socks:
            with pytest.raises(ConnectionResetError):
                while sock.recv(65536):
                    pass
            sock.close()
        live = a.live()
        assert live["tcbs"] == live["listeners"] == live["buffers"] == 0
