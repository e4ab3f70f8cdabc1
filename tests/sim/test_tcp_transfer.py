"""Whole transfers over bad wires: every byte arrives, once and in order, whatever the wire does; and the same seed
gives the same packets.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.utils import RawPcapReader

import ustack
from ustack import sim

ADDRESSES = ("10.0.0.1/24", "10.0.0.2/24")


percent = st.floats(0, 0.1)


@given(
    seed=st.integers(0, 2**32),
    loss=percent,
    duplicate=percent,
    reorder=percent,
    corrupt=percent,
    delay=st.floats(0, 0.2),
    jitter=st.floats(0, 0.01),
    rate=st.sampled_from([1e6, 1e7, 1e9]),
    sysctl=st.fixed_dictionaries(
        {}, optional={"tcp_sack": st.just(0), "tcp_timestamps": st.just(0), "tcp_window_scaling": st.just(0)}
    ),
)
@settings(max_examples=60)
def test_any_wire_delivers_every_byte(seed, loss, duplicate, reorder, corrupt, delay, jitter, rate, sysctl) -> None:
    with sim.Network(seed=seed) as net:
        stacks = [net.stack("a"), net.stack("b")]
        wire = net.wire(*stacks, addresses=ADDRESSES, rate=rate, delay=delay)
        for stack in stacks:
            for name, value in sysctl.items():
                stack.sysctl["net.ipv4." + name] = value
        server = stacks[0].create_server(("", 80))
        client = stacks[1].create_connection(("10.0.0.1", 80))
        accepted, _ = server.accept()
        wire.set(loss=loss, duplicate=duplicate, reorder=reorder, corrupt=corrupt, jitter=jitter)
        data = os.urandom(1) * 100_000 + seed.to_bytes(8, "big") * 5000

        def echo() -> None:
            while piece := accepted.recv(65536):
                accepted.sendall(piece)
            accepted.close()

        def send() -> None:
            client.sendall(data)
            client.shutdown(1)

        net.spawn(echo)
        net.spawn(send)
        got = bytearray()
        while piece := client.recv(65536):
            got += piece
        assert bytes(got) == data
        client.close()
        server.close()
        wire.set(loss=0.0, duplicate=0.0, reorder=0.0, corrupt=0.0, jitter=0.0)
        net.run(1200)
        for stack in stacks:
            live = stack.live()
            assert live["tcbs"] == live["timewaits"] == live["synreqs"] == live["buffers"] == 0


@pytest.mark.parametrize("side", ["client", "server"])
@pytest.mark.rfc("9293", "3.4")
def test_sequence_numbers_wrap(side: str) -> None:
    """One side's initial sequence number lies just below 2**32; lossy transfers both ways go across."""
    with sim.Network(seed=7) as net:
        a, b = net.stack("a"), net.stack("b")
        wire = net.wire(a, b, addresses=ADDRESSES, rate=1e8, delay=0.002)
        server = a.create_server(("", 80))
        flags = 2 if side == "client" else 18

        def connect() -> tuple[ustack.Socket, ustack.Socket, int]:
            """A connection between the same two ports each time, and the ISN that the side chose."""
            seen = io.BytesIO()
            capture = wire.capture(seen)
            client = b.create_connection(("10.0.0.1", 80), source_address=("10.0.0.2", 4000))
            capture.close()
            syn = next(frame for frame in frames(seen.getvalue()) if frame[23] == 6 and frame[47] == flags)
            return client, server.accept()[0], int.from_bytes(syn[38:42], "big")

        client, accepted, isn = connect()
        chosen_at = net.now
        client.close()
        accepted.close()
        net.run(120)
        # The clock of RFC 6528 ticks every 4 us: go on until it is a few thousand ticks short of the wrap.
        ticks = (2**32 - 20000 - isn) % 2**32
        net.run((chosen_at + ticks * 4000 - net.now) / 1e9)
        client, accepted, isn = connect()
        assert 2**32 - 20000 <= isn < 2**32
        wire.set(loss=0.02)
        data = bytes(range(256)) * 2000

        def send(sock: ustack.Socket) -> None:
            sock.sendall(data)
            sock.shutdown(1)

        net.spawn(send, client)
        net.spawn(send, accepted)
        for sock in (accepted, client):
            got = bytearray()
            while piece := sock.recv(65536):
                got += piece
            assert bytes(got) == data
        client.close()
        accepted.close()


def frames(pcap: bytes) -> Iterator[bytes]:
    """The frames of a capture."""
    yield from (frame for frame, _ in RawPcapReader(io.BytesIO(pcap)))


class Digest:
    """A file that only remembers the hash of what was written."""

    def __init__(self) -> None:
        self._sha = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self._sha.update(data)
        return len(data)

    def flush(self) -> None:
        pass

    def hexdigest(self) -> str:
        return self._sha.hexdigest()


def test_the_same_seed_gives_the_same_packets() -> None:
    """Twice over a lossy wire. USTACK_TRACE_BYTES makes it longer (1 GiB is the acceptance criterion)."""
    size = int(os.environ.get("USTACK_TRACE_BYTES", 8 << 20))

    def run(seed: int) -> str:
        with sim.Network(seed=seed) as net:
            digest = Digest()
            a, b = net.stack("a"), net.stack("b")
            wire = net.wire(a, b, addresses=ADDRESSES, rate=1e9, delay=0.025, loss=0.001)
            wire.capture(digest)
            server = a.create_server(("", 80))
            client = b.create_connection(("10.0.0.1", 80))
            accepted, _ = server.accept()

            def send() -> None:
                block = bytes(1 << 20)
                for _ in range(size >> 20):
                    client.sendall(block)
                client.close()

            net.spawn(send)
            got = 0
            while n := accepted.recv_into(space):
                got += n
            assert got == size
        return digest.hexdigest()

    space = bytearray(1 << 20)
    assert run(1) == run(1)
    assert run(1) != run(2)
