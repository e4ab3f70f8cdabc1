"""iperf3's protocol between ustack's client and server, and a server that meets who does not keep to it."""

from __future__ import annotations

import contextlib
import json
import struct
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import ustack
from ustack.iperf3 import Client, Failure, Measurement, Report, Server, Settings, State

MIB = 1 << 20
PATIENCE = 30.0
COOKIE = b"a" * 36 + b"\0"


class Rig:
    """A server on one stack, in a thread, and a stack beside it for clients."""

    def __init__(self, cleanup: contextlib.ExitStack) -> None:
        a, b = ustack.pipe()
        self.left = cleanup.enter_context(ustack.Stack())
        self.right = cleanup.enter_context(ustack.Stack())
        self.left.attach(a, addresses=["10.9.0.1/24"])
        self.right.attach(b, addresses=["10.9.0.2/24"])
        self.reports: list[Report] = []
        self.intervals: list[tuple[float, float, int]] = []
        self._came = threading.Condition()
        self.server = Server(self.right, progress=lambda *interval: self.intervals.append(interval), done=self._done)
        self.address = ("10.9.0.2", 5201)
        self.thread = threading.Thread(target=self.server.serve)
        self.thread.start()
        cleanup.callback(self._end)

    def _done(self, report: Report) -> None:
        with self._came:
            self.reports.append(report)
            self._came.notify_all()

    def _end(self) -> None:
        self.server.close()
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()

    def report(self, number: int = 0) -> Report:
        """What the server says of its test `number`, once that is over."""
        with self._came:
            assert self._came.wait_for(lambda: len(self.reports) > number, PATIENCE)
        return self.reports[number]

    def run(self, **settings: Any) -> Report:
        return Client(self.left, self.address, Settings(**{"time": 0, "num": MIB} | settings)).run()

    def connect(self) -> Any:
        return self.left.create_connection(self.address, timeout=PATIENCE)

    def begin(self, params: Any = None) -> Any:
        """A control connection whose parameters were taken."""
        sock = self.connect()
        sock.sendall(COOKIE)
        assert sock.recv(1) == bytes([State.PARAM_EXCHANGE])
        text = json.dumps(params if params is not None else {"tcp": True, "time": 1, "parallel": 1}).encode()
        sock.sendall(struct.pack(">I", len(text)) + text)
        return sock


@pytest.fixture
def rig() -> Iterator[Rig]:
    with contextlib.ExitStack() as cleanup:
        yield Rig(cleanup)


@pytest.mark.parametrize("parallel", [1, 4])
@pytest.mark.parametrize("how", [{}, {"reverse": True}, {"bidirectional": True}])
def test_streams_and_directions(rig: Rig, parallel: int, how: dict[str, bool]) -> None:
    mine = rig.run(parallel=parallel, num=4 * MIB, **how)
    theirs = rig.report()
    assert theirs.error is None
    count = parallel * (2 if "bidirectional" in how else 1)
    # iperf3's numbers: 1, 3, 4, ...
    assert [one["id"] for one in theirs.streams] == [1, 3, 4, 5, 6, 7, 8, 9][:count]
    assert [one["sender"] for one in mine.streams] == [not one["sender"] for one in theirs.streams]
    assert sum(one["bytes"] for one in mine.streams) >= 4 * MIB
    assert sum(one["bytes"] for one in theirs.streams) >= MIB
    for here, there in zip(mine.streams, theirs.streams, strict=True):
        sender, receiver = (here, there) if here["sender"] else (there, here)
        assert receiver["bytes"] <= sender["bytes"]  # 0 where the others were quicker
    assert [one["bytes"] for one in mine.remote["streams"]] == [one["bytes"] for one in theirs.streams]
    assert mine.remote["cpu_util_total"] > 0


def test_streams_that_overtake_each_other(rig: Rig) -> None:
    """Directions go by the order in which streams were opened, not by that of their cookies."""
    control = rig.begin({"tcp": True, "time": 3600, "bidirectional": True})
    assert control.recv(1) == bytes([State.CREATE_STREAMS])
    first, second = rig.connect(), rig.connect()
    second.sendall(COOKIE)
    # The server has taken this connection's cookie, and so most likely the one before it.
    with rig.connect() as stranger:
        stranger.sendall(b"b" * 36 + b"\0")
        assert stranger.recv(1) == struct.pack("b", State.ACCESS_DENIED)
    first.sendall(COOKIE)
    assert control.recv(1) + control.recv(1) == bytes([State.TEST_START, State.TEST_RUNNING])
    assert second.recv(1)  # the server sends on the second
    first.settimeout(0)
    with pytest.raises(BlockingIOError):
        first.recv(1)
    for sock in (control, first, second):
        sock.close()


def test_retransmissions_are_told(rig: Rig) -> None:
    """The sender's, by both sides. Where nobody sends TCP there is nothing to tell."""
    mine = rig.run()
    assert mine.streams[0]["retransmits"] >= 0
    assert mine.remote["streams"][0]["retransmits"] == -1
    assert mine.remote["sender_has_retransmits"] == -1
    rig.report()  # the server takes one test at a time: the first is over for it, too
    mine = rig.run(reverse=True, parallel=2)
    assert min(one["retransmits"] for one in mine.remote["streams"]) >= 0
    assert mine.remote["sender_has_retransmits"] == 1


@pytest.mark.parametrize("parallel", [1, 3])
def test_retransmissions_are_counted(parallel: int) -> None:
    class Stack:
        def __init__(self) -> None:
            self.count = 5

        def counters(self) -> dict[str, int]:
            self.count += 7
            return {"TcpRetransSegs": self.count}

    settings = Settings(parallel=parallel)
    report = Report(("", 0), settings)
    test = Measurement(Stack(), settings, report, lambda *interval: None)
    test.streams = [FakeStream() for _ in range(parallel)]
    test.start()
    test.finish()
    # The stack counts them, not the connection: they are the first stream's, so that the sum is right.
    assert [one["retransmits"] for one in report.streams] == [7, 0, 0][:parallel]
    assert test.results()["sender_has_retransmits"] == 1


class FakeStream:
    id, sends, bytes = 1, True, 0

    def work(self, stop: threading.Event) -> list[Any]:
        return []

    def figures(self) -> dict[str, Any]:
        return {"bytes": 0, "retransmits": -1, "jitter": 0, "errors": 0, "packets": 0}


def test_one_test_after_the_other(rig: Rig) -> None:
    for number in range(5):
        rig.run()
        assert rig.report(number).error is None
    assert {name: rig.left.live()[name] for name in ("sockets", "listeners")} == {"sockets": 0, "listeners": 0}


def test_time_omission_and_intervals(rig: Rig) -> None:
    mine = rig.run(num=0, time=1, omit=1, bandwidth=80_000_000)
    theirs = rig.report()
    # Pacing holds it to 10 MB/s, so that what was omitted (as much again) cannot be in it.
    assert 5_000_000 < mine.streams[0]["bytes"] < 15_000_000
    assert 5_000_000 < theirs.streams[0]["bytes"] < 15_000_000
    assert 1 <= mine.seconds < 1.9
    assert all(size > 0 for _, _, size in rig.intervals)


def test_a_second_client_is_told_to_wait(rig: Rig) -> None:
    first = rig.begin()
    assert first.recv(1) == bytes([State.CREATE_STREAMS])
    with pytest.raises(Failure, match="busy"):
        rig.run()
    first.close()
    assert "closed" in str(rig.report().error) or "0 of 1" in str(rig.report().error)
    rig.run()
    assert rig.report(1).error is None


def test_silent_connections_do_not_keep_others_away(rig: Rig) -> None:
    silent = [rig.connect() for _ in range(10)]
    silent[0].sendall(b"half a cookie")
    rig.run()
    for sock in silent:
        sock.close()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "neither TCP nor UDP"),
        ([], "no JSON object"),
        ({"tcp": True, "parallel": 1000}, "parallel 1000"),
        ({"tcp": True, "parallel": "x"}, "parallel 'x'"),
        ({"tcp": True, "len": 0}, "len 0"),
        ({"tcp": True, "len": 1 << 40}, "len "),
        ({"udp": True, "len": 8}, "len 8"),
        ({"tcp": True, "omit": -1}, "omit -1"),
        ({"sctp": True}, "neither"),
    ],
)
def test_parameters_that_cannot_be_had(rig: Rig, params: Any, message: str) -> None:
    sock = rig.begin(params)
    assert sock.recv(1) == struct.pack("b", State.SERVER_ERROR)
    assert message in str(rig.report().error)
    sock.close()
    rig.run()


@pytest.mark.parametrize(
    "text", [b"\xff\xff\xff\xff", struct.pack(">I", 3) + b"{{{", struct.pack(">I", 100000) + b"[" * 100000]
)
def test_what_is_no_json(rig: Rig, text: bytes) -> None:
    sock = rig.connect()
    sock.sendall(COOKIE)
    assert sock.recv(1) == bytes([State.PARAM_EXCHANGE])
    sock.sendall(text)
    assert "JSON" in str(rig.report().error)
    sock.close()
    rig.run()


@pytest.mark.parametrize("how", ["close", "reset", "terminate", "nonsense"])
@pytest.mark.parametrize("reverse", [False, True])
def test_a_client_that_vanishes_during_the_test(rig: Rig, how: str, reverse: bool) -> None:
    control = rig.begin({"tcp": True, "time": 3600, "parallel": 2, "reverse": reverse})
    assert control.recv(1) == bytes([State.CREATE_STREAMS])
    streams = [rig.connect() for _ in range(2)]
    for stream in streams:
        stream.sendall(COOKIE)
    assert control.recv(1) + control.recv(1) == bytes([State.TEST_START, State.TEST_RUNNING])
    if not reverse:
        streams[0].sendall(bytes(100_000))
    if how == "terminate":
        control.sendall(bytes([State.CLIENT_TERMINATE]))
    elif how == "nonsense":
        control.sendall(b"\x63")
    elif how == "reset":
        control.setsockopt(ustack.SOL_SOCKET, ustack.SO_LINGER, struct.pack("ii", 1, 0))
    if how in ("close", "reset"):
        control.close()
    assert rig.report().error is not None
    for sock in [control, *streams]:
        sock.close()
    rig.run(reverse=reverse)
    assert rig.report(1).error is None


def test_results_that_do_not_fit(rig: Rig) -> None:
    control = rig.begin()
    assert control.recv(1) == bytes([State.CREATE_STREAMS])
    stream = rig.connect()
    stream.sendall(COOKIE)
    assert control.recv(1) + control.recv(1) == bytes([State.TEST_START, State.TEST_RUNNING])
    control.sendall(bytes([State.TEST_END]))
    assert control.recv(1) == bytes([State.EXCHANGE_RESULTS])
    control.sendall(struct.pack(">I", 14) + b'{"streams":[]}')
    assert "results" in str(rig.report().error)
    control.close()
    stream.close()


def test_closing_the_server_ends_the_test(rig: Rig) -> None:
    control = rig.begin()
    assert control.recv(1) == bytes([State.CREATE_STREAMS])
    rig.server.close()
    assert control.recv(1) == bytes([State.SERVER_TERMINATE])
    control.close()


def test_one_test_and_no_more() -> None:
    with contextlib.ExitStack() as cleanup:
        rig = Rig(cleanup)
        rig.server.close()
        rig.thread.join(PATIENCE)
        server = Server(rig.right)
        thread = threading.Thread(target=server.serve, args=(True,))
        thread.start()
        rig.run()
        thread.join(PATIENCE)
        assert not thread.is_alive()
        with pytest.raises(ConnectionRefusedError):
            rig.run()


def udp_greeting(rig: Rig, greeting: bytes) -> Any:
    sock = rig.left.socket(ustack.AF_INET, ustack.SOCK_DGRAM)
    sock.settimeout(PATIENCE)
    sock.connect(rig.address)
    sock.send(greeting)
    return sock


@pytest.mark.parametrize("wide", [False, True])
def test_udp_counts_loss_and_disorder(rig: Rig, wide: bool) -> None:
    control = rig.begin({"udp": True, "time": 1, "len": 100, "udp_counters_64bit": wide})
    assert control.recv(1) == bytes([State.CREATE_STREAMS])
    stream = udp_greeting(rig, b"9876")
    assert stream.recv(10) == b"6789"
    assert control.recv(1) + control.recv(1) == bytes([State.TEST_START, State.TEST_RUNNING])
    header = struct.Struct(">IIQ" if wide else ">III")
    for number in [1, 2, 5, 4, 6, 10, 3]:  # 7, 8 and 9 are lost
        stream.send(header.pack(1, number * 1000, number).ljust(100, b"x"))
    stream.send(b"short")
    with udp_greeting(rig, header.pack(1, 1, 99).ljust(100, b"x")):  # a stranger
        control.sendall(bytes([State.TEST_END]))
        assert control.recv(1) == bytes([State.EXCHANGE_RESULTS])
    text = b'{"streams":[{"id":1}]}'
    control.sendall(struct.pack(">I", len(text)) + text)
    theirs = rig_json(control)["streams"][0]
    assert (theirs["packets"], theirs["errors"], theirs["bytes"]) == (10, 3, 700)
    assert control.recv(1) == bytes([State.DISPLAY_RESULTS])
    control.sendall(bytes([State.IPERF_DONE]))
    assert rig.report().error is None
    control.close()
    stream.close()


def rig_json(sock: Any) -> Any:
    file = sock.makefile("rb", buffering=0)
    (size,) = struct.unpack(">I", file.read(4))
    text = b""
    while len(text) < size:
        text += file.read(size - len(text))
    file.close()
    return json.loads(text)
