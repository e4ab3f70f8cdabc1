"""The manual driver: nothing happens but in poll() and socket calls, and the deadline it names is exact."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import ustack

MS = 1_000_000


class Pair:
    """Two stacks on a pipe, and one clock for both."""

    def __init__(self) -> None:
        self.now = 1_000 * MS
        self.ends = ustack.pipe(medium="ip")
        self.stacks = [ustack.Stack(driver="manual", seed=bytes([n]) * 32) for n in (1, 2)]
        for stack, end, address in zip(self.stacks, self.ends, ("10.0.0.1/24", "10.0.0.2/24"), strict=True):
            stack.attach(end, addresses=[address])
        self.poll()

    def poll(self, rounds: int = 4) -> None:
        """Frames cross while the clock stands still."""
        for _ in range(rounds):
            for stack in self.stacks:
                stack.poll(self.now)

    def connect(self) -> tuple[Any, Any]:
        server = self.stacks[1].create_server(("", 80))
        client = self.stacks[0].socket(ustack.AF_INET, ustack.SOCK_STREAM)
        with pytest.raises(BlockingIOError):
            client.connect(("10.0.0.2", 80))
        self.poll()
        conn, _ = server.accept()
        server.close()
        return client, conn


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    for stack in made.stacks:
        stack.close()


def test_connect_send_receive(pair: Pair) -> None:
    client, conn = pair.connect()
    assert client.send(b"hello") == 5
    with pytest.raises(BlockingIOError):
        conn.recv(10)
    pair.poll()
    assert conn.recv(10) == b"hello"


def test_sockets_never_block(pair: Pair) -> None:
    client, conn = pair.connect()
    client.settimeout(10)
    for call in (lambda: client.recv(1), lambda: conn.recv(1), pair.stacks[0].create_server(("", 1)).accept):
        with pytest.raises(BlockingIOError):
            call()


def test_nothing_to_do_has_no_deadline() -> None:
    with ustack.Stack(driver="manual") as stack:
        assert stack.next_deadline() is None
        assert stack.poll(5) is None


def test_the_deadline_is_exact(pair: Pair) -> None:
    """RFC 6298 (2.1): the first SYN is sent again after one second, not a nanosecond before."""
    client = pair.stacks[0].socket(ustack.AF_INET, ustack.SOCK_STREAM)
    with pytest.raises(BlockingIOError):
        client.connect(("10.0.0.9", 80))

    def syns() -> int:
        return int(pair.stacks[0].counters()["TcpOutSegs"])

    deadline = pair.stacks[0].next_deadline()
    assert deadline == pair.now + 1_000 * MS
    assert syns() == 1
    assert pair.stacks[0].poll(deadline - 1) == deadline
    assert syns() == 1
    assert pair.stacks[0].poll(deadline) == deadline + 2_000 * MS
    assert syns() == 2


def test_poll_returns_the_next_deadline(pair: Pair) -> None:
    client, _ = pair.connect()
    client.send(b"x")
    assert pair.stacks[0].poll(pair.now) == pair.stacks[0].next_deadline() is not None


def test_time_that_goes_back_is_ignored(pair: Pair) -> None:
    client, conn = pair.connect()
    before = pair.stacks[0].next_deadline()
    pair.stacks[0].poll(0)
    assert pair.stacks[0].next_deadline() == before
    client.send(b"x")
    pair.poll()
    assert conn.recv(1) == b"x"


def test_two_runs_are_the_same() -> None:
    def run() -> list[bytes]:
        frames: list[bytes] = []
        with ustack.Stack(driver="manual", seed=bytes(32)) as stack:
            link = ustack.Callback(frames.append, medium="ip")
            stack.attach(link, addresses=["10.0.0.1/24"])
            stack.poll(1)
            client = stack.socket(ustack.AF_INET, ustack.SOCK_STREAM)
            with pytest.raises(BlockingIOError):
                client.connect(("10.0.0.2", 80))
            now: Any = 1
            for _ in range(4):
                now = stack.poll(now)
        return frames

    assert run() == run() != []


def test_without_a_time_the_clock_is_monotonic() -> None:
    import time

    with ustack.Stack(driver="manual") as stack:
        stack.attach(ustack.Callback(lambda packet: None, medium="ip"), addresses=["10.0.0.1/24"])
        stack.poll()
        client = stack.socket(ustack.AF_INET, ustack.SOCK_STREAM)
        earliest = time.monotonic_ns()
        with pytest.raises(BlockingIOError):
            client.connect(("10.0.0.2", 80))
        deadline = stack.next_deadline()
        assert deadline is not None
        assert earliest <= deadline - 1_000 * MS <= time.monotonic_ns()


@pytest.mark.parametrize("wrong", ["soon", 1.5, -1, 1 << 64])
def test_wrong_times(wrong: Any) -> None:
    with ustack.Stack(driver="manual") as stack, pytest.raises((TypeError, OverflowError)):
        stack.poll(wrong)
