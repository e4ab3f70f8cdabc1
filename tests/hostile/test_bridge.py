"""Frames of any shape into links with VLANs and into bridges: nothing crashes, nothing grows, nobody gets another's."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ustack

MACS = [bytes.fromhex(one) for one in ("02aa00000001", "02aa00000002", "0200000000aa", "ffffffffffff", "0180c2000000",
                                       "01005e010203", "333300000001", "000000000000", "03aa00000001")]  # fmt: skip
TYPES = st.sampled_from([0x8100, 0x0800, 0x86DD, 0x0806, 0x88A8, 0x0004, 0x88B5]) | st.integers(0, 0xFFFF)
TCI = st.builds(lambda prio, number: prio << 13 | number, st.integers(0, 7), st.sampled_from([0, 5, 6, 7, 4095]))
TAG = st.builds(lambda tci: struct.pack("!HH", 0x8100, tci), TCI)
MAC = st.sampled_from(MACS) | st.binary(min_size=6, max_size=6)
FRAME = st.builds(
    lambda dst, src, tags, kind, data: dst + src + b"".join(tags) + struct.pack("!H", kind) + data,
    MAC, MAC, st.lists(TAG, max_size=4), TYPES, st.binary(max_size=80),
)  # fmt: skip
ODD = FRAME | st.binary(min_size=1, max_size=40)


def is_reserved(frame: bytes) -> bool:
    return frame[:5] == MACS[4][:5] and frame[5] < 16


class Box:
    """A stack with a bridge of two pipes and VLANs on a third, on the bridge and on a port."""

    def __init__(self) -> None:
        self.stack = ustack.Stack("manual", seed=bytes(32))
        self.now = 1
        self.ends = []
        for k in range(3):
            near, far = ustack.pipe(macs=(bytes([2, 0, 0, 0, 0, 0xA0 + k]), None))
            self.stack.attach(near, name=f"p{k}")
            self.ends.append(far)
        self.stack.add_bridge("br0", ["p0", "p1"], addresses=["10.0.0.1/24", "fd00::1/64"])
        self.stack.add_vlan("p2", 5, addresses=["10.5.0.1/24"])
        self.stack.add_vlan("br0", 6, addresses=["10.6.0.1/24"])
        self.stack.add_vlan("p0", 7, addresses=["10.7.0.1/24"])
        self.run()

    def run(self) -> list[list[bytes]]:
        """What comes out of each end."""
        self.now += 1_000_000
        self.stack.poll(self.now)
        out: list[list[bytes]] = []
        for end in self.ends:
            out.append([])
            with contextlib.suppress(BlockingIOError):
                while True:
                    out[-1].append(end.recv(0))
        return out


@pytest.fixture(scope="module")
def box() -> Iterator[Box]:
    made = Box()
    yield made
    for end in made.ends:
        end.close()
    made.stack.close()


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 2), ODD), min_size=1, max_size=12))
def test_frames_of_any_shape(box: Box, frames: list[tuple[int, bytes]]) -> None:
    own = {one.name: one for one in box.stack.interfaces()}["br0"].mac
    for port, frame in frames:
        before = box.stack.counters()
        assert box.ends[port].send(frame)
        out = box.run()
        # Never back to where it came from, and never between the bridge and the link beside it.
        assert frame not in out[port] or frame[6:12].hex(":") == own
        assert frame not in out[2 if port < 2 else 0]
        if port == 2 or len(frame) < 14 or frame[6] & 1 or is_reserved(frame):
            assert all(frame not in one for one in out)
        after = box.stack.counters()
        assert sum(after.values()) > sum(before.values()), "somebody counted it"
    live = box.stack.live()
    assert live["buffers"] <= 200, live
    assert len(box.stack.stations("br0")) <= 2 * 2048


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(min_size=6, max_size=6), st.binary(min_size=6, max_size=6), st.lists(TAG, max_size=3))
def test_what_a_bridge_sends_on_is_what_came(box: Box, dst: bytes, src: bytes, tags: list[bytes]) -> None:
    """Any tags, but those of the port's own VLAN, any data."""
    frame = dst + src + b"".join(tags) + b"\x88\xb5" + bytes(60)
    if src[0] & 1 or src == bytes(6) or dst[:5] == MACS[4][:5] or (tags and tags[0][2:] in VLANS):
        return
    box.ends[0].send(frame)
    out = box.run()
    own = bytes.fromhex((box.stack.interfaces()[4].mac or "").replace(":", ""))
    known = {one.mac: one.interface for one in box.stack.stations("br0")}
    passes = dst != own and src != own and (dst[0] & 1 or known.get(dst.hex(":")) != "p0")
    assert out[1].count(frame) == passes


VLANS = {struct.pack("!H", prio << 13 | 7) for prio in range(8)}


def test_addresses_without_end_cost_no_more_than_the_last_thousands(box: Box) -> None:
    """By count: what is remembered, and what is held for it, stops growing."""
    held = []
    for batch in range(3):
        for k in range(6000):
            number = batch * 6000 + k
            box.ends[0].send(MACS[1] + struct.pack("!HI", 0x02BB, number) + b"\x88\xb5" + bytes(46))
            if k % 500 == 499:
                box.run()
        held.append((len(box.stack.stations("br0")), box.stack.live()["pool_bytes"]))
    assert held[0][0] == held[2][0] <= 2 * 2048
    assert held[1][1] == held[2][1]
    assert box.stack.counters()["BridgeTableFull"] >= 12000
