"""Simulated wires, with both ends raw: when frames arrive, which do not, and that the same seed does the same."""

from __future__ import annotations

import errno
import io
import struct
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ustack.sim import Network, Wire

FRAME = 1000
MBIT_8 = 8_000_000  # FRAME takes exactly one millisecond
MS = 1_000_000


@pytest.fixture
def net() -> Iterator[Network]:
    with Network(seed=1) as made:
        yield made


def frame(number: int, length: int = FRAME) -> bytes:
    return number.to_bytes(4, "big").ljust(length, b".")


def number_of(data: bytes) -> int:
    return int.from_bytes(data[:4], "big")


def arrivals(net: Network, wire: Wire) -> list[tuple[int, int]]:
    """Everything that still comes to end b: (ns, number)."""
    got = []
    while True:
        if not wire.b.pending:
            if net._world.next_event is None:
                return got
            net.run(until=lambda: wire.b.pending or net._world.next_event is None)
            continue
        got.append((net.now, number_of(wire.b.recv())))


def burst(net: Network, count: int, **settings: Any) -> tuple[Wire, list[tuple[int, int]]]:
    wire = net.wire(None, None, **settings)
    for number in range(count):
        wire.a.send(frame(number))
    return wire, arrivals(net, wire)


# -- time


def test_without_settings_a_frame_arrives_at_once(net: Network) -> None:
    assert burst(net, 3)[1] == [(0, 0), (0, 1), (0, 2)]


def test_delay(net: Network) -> None:
    assert burst(net, 2, delay=0.025)[1] == [(25 * MS, 0), (25 * MS, 1)]


def test_rate_spaces_frames(net: Network) -> None:
    got = burst(net, 4, rate=MBIT_8, delay=0.010)[1]
    assert got == [(11 * MS, 0), (12 * MS, 1), (13 * MS, 2), (14 * MS, 3)]


def test_an_idle_wire_saves_nothing_up(net: Network) -> None:
    wire = net.wire(None, None, rate=MBIT_8)
    wire.a.send(frame(0))
    net.run(1.0)
    wire.a.send(frame(1))
    wire.a.send(frame(2))
    assert [time for time, _ in arrivals(net, wire)][1:] == [1001 * MS, 1002 * MS]


def test_directions_do_not_share_the_rate(net: Network) -> None:
    wire = net.wire(None, None, rate=MBIT_8)
    wire.a.send(frame(0))
    wire.b.send(frame(1))
    wire.b.recv()
    assert net.now == 1 * MS
    wire.a.recv()
    assert net.now == 1 * MS


@given(seed=st.integers(), jitter=st.floats(0.001, 1.0), count=st.integers(2, 60))
def test_jitter_delays_within_bounds_and_keeps_order(seed: int, jitter: float, count: int) -> None:
    with Network(seed=seed) as net:
        got = burst(net, count, delay=0.010, jitter=jitter)[1]
        assert [number for _, number in got] == list(range(count))
        assert all(10 * MS <= time <= 10 * MS + round(jitter * 1e9) for time, _ in got)


def test_jitter_varies(net: Network) -> None:
    wire = net.wire(None, None, jitter=0.001)
    times = set()
    for number in range(100):
        sent = net.now
        wire.a.send(frame(number))
        wire.b.recv()
        times.add(net.now - sent)
    assert len(times) > 90
    assert max(times) > 0.9 * MS > 0.1 * MS > min(times)


# -- the queue


def test_queue_of_frames_drops_the_tail(net: Network) -> None:
    wire, got = burst(net, 10, rate=MBIT_8, queue=4)
    assert [number for _, number in got] == [0, 1, 2, 3]
    assert wire.a_to_b.stats["queue_dropped"] == 6


def test_queue_of_bytes_drops_what_does_not_fit(net: Network) -> None:
    wire = net.wire(None, None, rate=MBIT_8, queue_bytes=2500)
    for number, length in ((0, 1000), (1, 1000), (2, 1000), (3, 400)):
        wire.a.send(frame(number, length))
    assert [number for _, number in arrivals(net, wire)] == [0, 1, 3]


def test_queue_empties_as_frames_leave(net: Network) -> None:
    wire = net.wire(None, None, rate=MBIT_8, queue=2)
    for number in (0, 1, 2):
        wire.a.send(frame(number))
    net.run(0.001)
    wire.a.send(frame(3))
    wire.a.send(frame(4))
    assert [number for _, number in arrivals(net, wire)] == [0, 1, 3]


def test_a_frame_longer_than_the_queue_still_passes_alone(net: Network) -> None:
    assert burst(net, 1, rate=MBIT_8, queue_bytes=10)[1] == [(1 * MS, 0)]


# -- what goes wrong


@pytest.mark.parametrize("setting", ["loss", "duplicate", "reorder", "corrupt"])
def test_chances_are_what_was_asked_for(net: Network, setting: str) -> None:
    """20,000 frames at 10 %: the binomial's standard deviation is 42; six of them either way."""
    wire, _ = burst(net, 20_000, **{setting: 0.1})
    counter = {"loss": "lost", "duplicate": "duplicated", "reorder": "reordered", "corrupt": "corrupted"}[setting]
    assert abs(wire.a_to_b.stats[counter] - 2000) < 255


@pytest.mark.parametrize(("probability", "left"), [(0, 100), (1, 0)])
def test_loss_extremes(net: Network, probability: float, left: int) -> None:
    assert len(burst(net, 100, loss=probability)[1]) == left


def test_duplicates_are_twins(net: Network) -> None:
    got = burst(net, 50, duplicate=1.0, rate=MBIT_8)[1]
    assert got == [((number + 1) * MS, number) for number in range(50) for _ in range(2)]


def test_corruption_turns_over_one_bit(net: Network) -> None:
    wire = net.wire(None, None, corrupt=1.0)
    places = set()
    for _ in range(200):
        wire.a.send(bytes(100))
        data = int.from_bytes(wire.b.recv(), "big")
        assert data.bit_count() == 1
        places.add(data.bit_length())
    assert len(places) > 100


def test_reordered_frames_are_overtaken(net: Network) -> None:
    wire = net.wire(None, None, rate=MBIT_8, delay=0.010, reorder_delay=0.0025)
    wire.reorder = 1.0
    wire.a.send(frame(0))
    wire.reorder = 0.0
    for number in (1, 2, 3):
        wire.a.send(frame(number))
    assert [number for _, number in arrivals(net, wire)] == [1, 2, 0, 3]


def test_too_long_for_the_wire(net: Network) -> None:
    wire = net.wire(None, None, mtu=100)
    wire.a.send(bytes(118))
    wire.a.send(bytes(119))
    assert wire.b.recv() == bytes(118)
    assert wire.a_to_b.stats["too_big"] == 1
    with pytest.raises(OSError) as caught:
        wire.b.recv()
    assert caught.value.errno == errno.EDEADLK


def test_cut_wire_loses_what_is_under_way(net: Network) -> None:
    wire = net.wire(None, None, delay=0.010)
    wire.a.send(frame(0))
    wire.up = False
    net.run(1.0)
    wire.a.send(frame(1))
    wire.up = True
    wire.a.send(frame(2))
    assert [number for _, number in arrivals(net, wire)] == [2]
    assert wire.a_to_b.stats["unclaimed"] == 2


def test_unplugged_end(net: Network) -> None:
    wire = net.wire(None, None, delay=0.010)
    wire.a.send(frame(0))
    wire.b.close()
    net.run(1.0)
    assert wire.a_to_b.stats["unclaimed"] == 1
    with pytest.raises(OSError):
        wire.b.send(frame(0))


@given(
    seed=st.integers(),
    settings=st.fixed_dictionaries({
        "loss": st.floats(0, 0.5), "duplicate": st.floats(0, 0.5), "reorder": st.floats(0, 0.5),
        "jitter": st.floats(0, 0.1), "delay": st.floats(0, 0.1), "queue": st.integers(0, 20),
        "rate": st.sampled_from([0, MBIT_8]),
    }),
)
def test_nothing_is_invented_and_the_counters_add_up(seed: int, settings: dict[str, Any]) -> None:
    with Network(seed=seed) as net:
        wire, got = burst(net, 50, **settings)
        seen = Counter(number for _, number in got)
        assert set(seen) <= set(range(50))
        assert max(seen.values(), default=0) <= 2
        stats = wire.a_to_b.stats
        assert sum(seen.values()) == stats["delivered"]
        assert stats["sent"] + stats["duplicated"] == stats["delivered"] + stats["lost"] + stats["queue_dropped"]
        assert list(seen.values()).count(2) == stats["duplicated"]


# -- filters


def test_filter_counts_frames_and_can_do_everything(net: Network) -> None:
    wire = net.wire(None, None)
    seen = []

    def hook(data: bytes, n: int) -> Any:
        seen.append((number_of(data), n))
        return {1: data, 2: None, 3: [data, data], 4: frame(99), 5: []}[n]

    wire.a_to_b.filter = hook
    for number in range(5):
        wire.a.send(frame(number))
    assert [number for _, number in arrivals(net, wire)] == [0, 2, 2, 99]
    assert seen == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]
    wire.filter = None
    wire.a.send(frame(7))
    assert number_of(wire.b.recv()) == 7


def test_filter_sees_frames_when_they_are_sent(net: Network) -> None:
    wire = net.wire(None, None, delay=0.5)
    times = []
    wire.filter = lambda data, n: times.append(net.now) or data
    net.call_later(1.0, wire.a.send, frame(0))
    wire.b.recv()
    assert (times, net.now) == ([1000 * MS], 1500 * MS)


def test_exception_in_a_filter_comes_out_of_the_call_that_runs_the_network(net: Network) -> None:
    wire = net.wire(None, None)
    wire.filter = lambda data, n: 1 // (n - 1) and data
    wire.a.send(frame(0))
    wire.a.send(frame(1))
    with pytest.raises(ZeroDivisionError):
        wire.b.recv()
    assert number_of(wire.b.recv()) == 1


# -- settings


def test_settings_by_direction(net: Network) -> None:
    wire = net.wire(None, None, delay=(0.001, 0.002), loss=0.25)
    assert (wire.delay, wire.loss) == ((0.001, 0.002), 0.25)
    wire.b_to_a.rate = 1000
    assert wire.rate == (0, 1000)


@pytest.mark.parametrize(
    "settings",
    [{"loss": -0.1}, {"loss": 1.1}, {"loss": float("nan")}, {"delay": -1}, {"rate": -1}, {"queue": -1}, {"mtu": 5},
     {"medium": "x"}, {"jitter": float("inf")}],
)
def test_wrong_settings(net: Network, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        net.wire(None, None, **settings)


def test_unknown_settings(net: Network) -> None:
    with pytest.raises(AttributeError):
        net.wire(None, None, lossy=0.1)
    wire = net.wire(None, None)
    with pytest.raises(AttributeError):
        wire.lossy = 0.1
    with pytest.raises(TypeError):
        wire.filter = "no function"


def test_changes_hold_for_frames_sent_from_then_on(net: Network) -> None:
    wire = net.wire(None, None, delay=0.100)
    wire.a.send(frame(0))
    wire.delay = 0.010
    wire.a.send(frame(1))
    assert arrivals(net, wire) == [(100 * MS, 0), (100 * MS, 1)], "a shorter delay does not reorder"
    wire.a.send(frame(2))
    assert arrivals(net, wire) == [(110 * MS, 2)]


# -- captures


def records(data: bytes) -> list[tuple[int, bytes]]:
    """The frames of a pcap file with nanosecond timestamps: (ns, bytes)."""
    magic, major, minor, _, _, snaplen, _ = struct.unpack_from("=IHHiIII", data)
    assert (magic, major, minor) == (0xA1B23C4D, 2, 4)
    found, at = [], 24
    while at < len(data):
        seconds, nanoseconds, captured, length = struct.unpack_from("=IIII", data, at)
        assert captured == length <= snaplen
        assert nanoseconds < 10**9
        found.append((seconds * 10**9 + nanoseconds, data[at + 16 : at + 16 + captured]))
        at += 16 + captured
    return found


@pytest.mark.parametrize(("point", "times"), [("sent", [0, 0]), ("delivered", [1500 * MS, 1500 * MS])])
def test_capture_points(net: Network, point: str, times: list[int]) -> None:
    out = io.BytesIO()
    wire = net.wire(None, None, delay=1.5)
    with wire.capture(out, point=point) as capture:
        wire.a.send(frame(1))
        wire.b.send(frame(2))
        net.run()
    assert [time for time, _ in records(out.getvalue())] == times
    assert [number_of(data) for _, data in records(out.getvalue())] == [1, 2]
    assert capture.frames == 2
    wire.a.send(frame(3))
    net.run()
    assert len(records(out.getvalue())) == 2, "closed"


def test_sent_shows_what_is_lost_delivered_does_not(net: Network) -> None:
    sent, delivered = io.BytesIO(), io.BytesIO()
    wire = net.wire(None, None, loss=1.0)
    wire.capture(sent)
    wire.capture(delivered, point="delivered")
    wire.a.send(frame(1))
    net.run()
    net.close()
    assert (len(records(sent.getvalue())), len(records(delivered.getvalue()))) == (1, 0)


def test_capture_at_a_host_is_what_its_tcpdump_would_see(net: Network) -> None:
    out = io.BytesIO()
    a = net.stack("a")
    wire = net.wire(a, None, delay=0.010, loss=(1.0, 0.0), addresses=("10.0.0.1/24", None))
    net.run()
    with wire.capture(out, point=a):
        wire.b.send(frame(5))
        net.run()
    assert [(time, number_of(data)) for time, data in records(out.getvalue())] == [(10 * MS, 5)]
    with pytest.raises(ValueError):
        wire.capture(out, point="nowhere")
    with pytest.raises(ValueError):
        wire.capture(out, point=net.stack("b"))


def test_capture_to_a_path_and_link_types(net: Network, tmp_path: Any) -> None:
    for medium, linktype in (("ethernet", 1), ("ip", 101)):
        path = tmp_path / f"{medium}.pcap"
        wire = net.wire(None, None, medium=medium)
        with wire.capture(path):
            wire.a.send(frame(1))
        assert struct.unpack_from("=I", path.read_bytes(), 20)[0] == linktype
        assert len(records(path.read_bytes())) == 1


def test_a_large_capture_is_written_as_it_grows(net: Network) -> None:
    out = io.BytesIO()
    wire = net.wire(None, None)
    wire.capture(out, point="delivered")
    for number in range(3000):
        wire.a.send(frame(number))
    net.run()
    assert len(out.getvalue()) > 2 << 20
    net.close()
    assert [number_of(data) for _, data in records(out.getvalue())] == list(range(3000))


def test_a_full_disk_is_an_error_of_the_run(net: Network) -> None:
    class Full:
        def write(self, data: bytes) -> None:
            if len(data) > 24:
                raise OSError(errno.ENOSPC, "no space left")

    wire = net.wire(None, None)
    capture = wire.capture(Full(), point="delivered")
    for number in range(2000):
        wire.a.send(frame(number))
    with pytest.raises(OSError) as caught:
        net.run()
    assert caught.value.errno == errno.ENOSPC
    capture.close()


# -- determinism


def trace(seed: Any) -> bytes:
    out = io.BytesIO()
    with Network(seed=seed) as net:
        wire = net.wire(None, None, rate=MBIT_8, delay=0.01, jitter=0.005)
        wire.set(loss=0.1, duplicate=0.1, reorder=0.1, corrupt=0.1)
        wire.capture(out, point="delivered")
        for number in range(300):
            wire.a.send(frame(number))
            wire.b.send(frame(number))
        net.run()
    return out.getvalue()


def test_one_seed_one_run() -> None:
    assert trace(7) == trace(7) == trace("7")
    assert trace(7) != trace(8)


def test_a_wire_does_not_change_another_ones_luck() -> None:
    def lost(with_other: bool) -> list[tuple[int, int]]:
        with Network(seed=3) as net:
            wire = net.wire(None, None, loss=0.5, name="w")
            if with_other:
                other = net.wire(None, None, loss=0.5, name="other")
                for number in range(100):
                    other.a.send(frame(number))
            for number in range(100):
                wire.a.send(frame(number))
            return arrivals(net, wire)

    assert lost(True) == lost(False)
