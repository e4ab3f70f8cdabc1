"""iperf3's protocol: a server that iperf3 clients can use, and a client for iperf3 servers, on any socket-like stack.

Responsible for: the control connection (a 37-byte cookie, one byte a state, JSON documents behind a 4-byte length),
what a test is and when it ends, and the results that both sides exchange, as iperf3 3.12 sends and expects them (the
project's wiki, "IperfProtocolStates", and what its programs say to each other). Not for: the streams
(iperf3_streams.py), words and numbers on a terminal (cli/iperf3.py).

A stack is anything with create_server() and create_connection(), and socket() for UDP, with the standard library's
meaning. Each test has threads of its own: one for the control connection, one for each stream.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import resource
import secrets
import socket
import string
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from .iperf3_streams import TcpStream, UdpPort

PORT = 5201
VERSION = "3.12"  # of iperf3, whose protocol this is
_COOKIE = 37  # bytes, the last one zero
_PATIENCE = 10.0  # s for a step of the protocol
_GLANCE = 0.2  # s between looks at a client that is to open its streams
_SILENCE = 120.0  # s without a byte, after which the other side is given up: iperf3's --rcv-timeout
_JSON_MAX = 1 << 20  # bytes
_GREETERS = 64  # connections that have not said yet what they want
_STREAMS_MAX = 128
_INTERVAL = 1.0  # s between reports
_UNKNOWN_ERROR = 1  # what SERVER_ERROR carries: iperf3's own number for an error, and an errno


class State(IntEnum):
    """The bytes of the control connection."""

    SERVER_ERROR = -2
    ACCESS_DENIED = -1
    TEST_START = 1
    TEST_RUNNING = 2
    TEST_END = 4
    PARAM_EXCHANGE = 9
    CREATE_STREAMS = 10
    SERVER_TERMINATE = 11
    CLIENT_TERMINATE = 12
    EXCHANGE_RESULTS = 13
    DISPLAY_RESULTS = 14
    IPERF_DONE = 16


class Failure(Exception):
    """A test that did not come to its end: one sentence."""


@dataclass
class Settings:
    """What a test is to be, as the client asks for it. omit, time: s; length: bytes of a block; bandwidth: bit/s a
    stream, 0 for as fast as it goes; num: bytes, blocks: blocks in all, 0 for none; window: bytes, 0 for the stack's.
    """

    udp: bool = False
    omit: int = 0
    time: int = 10
    num: int = 0
    blocks: int = 0
    parallel: int = 1
    reverse: bool = False
    bidirectional: bool = False
    length: int = 131072
    bandwidth: int = 0
    window: int = 0
    nodelay: bool = False
    tos: int = 0
    wide_counters: bool = False

    @classmethod
    def from_params(cls, params: Any) -> Settings:
        """Read a client's JSON. Raises Failure for what cannot be done."""
        if not isinstance(params, dict):
            raise Failure("the client's parameters are no JSON object")
        if not params.get("tcp") and not params.get("udp"):
            raise Failure("the client asks for neither TCP nor UDP")

        def number(name: str, least: int, most: int, default: int = 0) -> int:
            value = params.get(name, default)
            if not isinstance(value, (int, float)) or not least <= value <= most:
                raise Failure(f"the client asks for {name} {value!r}")
            return int(value)

        udp = bool(params.get("udp"))
        return cls(
            udp=udp,
            omit=number("omit", 0, 600),
            time=number("time", 0, 86400),
            num=number("num", 0, 1 << 62),
            blocks=number("blockcount", 0, 1 << 62),
            parallel=number("parallel", 1, _STREAMS_MAX, 1),
            reverse=bool(params.get("reverse")),
            bidirectional=bool(params.get("bidirectional")),
            length=number("len", 16 if udp else 1, 65507 if udp else 1 << 20, 131072),
            bandwidth=number("bandwidth", 0, 1 << 62),
            window=number("window", 0, 512 << 20),
            nodelay=bool(params.get("nodelay")),
            tos=number("TOS", 0, 255),
            wide_counters=bool(params.get("udp_counters_64bit")),
        )

    def to_params(self) -> dict[str, Any]:
        """The JSON that a client sends."""
        params: dict[str, Any] = {
            "udp" if self.udp else "tcp": True, "omit": self.omit, "time": self.time, "num": self.num,
            "blockcount": self.blocks, "parallel": self.parallel, "len": self.length, "bandwidth": self.bandwidth,
            "pacing_timer": 1000, "client_version": VERSION,
        }  # fmt: skip
        wishes = {
            "reverse": self.reverse, "bidirectional": self.bidirectional, "nodelay": self.nodelay,
            "window": self.window, "TOS": self.tos,
        }  # fmt: skip
        return params | {name: value for name, value in wishes.items() if value}

    def directions(self, server: bool) -> list[bool]:
        """For each stream in the order of opening: whether this side sends."""
        sends = self.reverse == server
        if self.bidirectional:
            return [not server] * self.parallel + [server] * self.parallel
        return [sends] * self.parallel


@dataclass
class Report:
    """What a test came to. streams: dicts as in the results that are exchanged, with `sender` (bool) and `seconds`;
    remote: the other side's results; error: why it ended early, or None.
    """

    peer: tuple[str, int]
    settings: Settings
    seconds: float = 0.0
    streams: list[dict[str, Any]] = field(default_factory=list)
    remote: dict[str, Any] = field(default_factory=dict)
    cpu: tuple[float, float] = (0.0, 0.0)  # user, system: % of the time
    error: str | None = None


class Control:
    """The control connection."""

    def __init__(self, sock: Any) -> None:
        self.sock = sock
        sock.settimeout(_PATIENCE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def say(self, *states: State) -> None:
        self.sock.sendall(b"".join(struct.pack("b", state) for state in states))

    def hear(self) -> State:
        """The next state. Raises Failure, TimeoutError."""
        number = struct.unpack("b", self.read(1))[0]
        try:
            return State(number)
        except ValueError:
            raise Failure(f"the other side sent an unknown state {number}") from None

    def expect(self, wanted: State) -> None:
        found = self.hear()
        if found == State.ACCESS_DENIED:
            raise Failure("the server is busy with another test")
        if found == State.SERVER_ERROR:
            raise Failure("the server reports an error")
        if found in (State.CLIENT_TERMINATE, State.SERVER_TERMINATE):
            raise Failure("the other side ended the test")
        if found != wanted:
            raise Failure(f"the other side is at {found.name}, not at {wanted.name}")

    @property
    def is_gone(self) -> bool:
        """Whether the other side closed it."""
        self.sock.settimeout(0)
        try:
            return not self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        finally:
            self.sock.settimeout(_PATIENCE)

    def read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece = self.sock.recv(size - len(data))
            if not piece:
                raise Failure("the other side closed the control connection")
            data += piece
        return bytes(data)

    def send_json(self, value: dict[str, Any]) -> None:
        text = json.dumps(value, separators=(",", ":")).encode()
        self.sock.sendall(struct.pack(">I", len(text)) + text)

    def read_json(self) -> Any:
        (size,) = struct.unpack(">I", self.read(4))
        if size > _JSON_MAX:
            raise Failure(f"the other side announces {size} bytes of JSON")
        try:
            return json.loads(self.read(size))
        except (ValueError, RecursionError):
            raise Failure("the other side sent what is no JSON") from None


class Measurement:
    """One test's streams and clock."""

    def __init__(
        self, stack: Any, settings: Settings, report: Report, progress: Callable[[float, float, int], None]
    ) -> None:
        self._stack = stack
        self.settings = settings
        self.report = report
        self.streams: list[Any] = []
        self.stop = threading.Event()
        self._progress = progress
        self._threads: list[threading.Thread] = []
        self._reported = (0.0, 0)
        self._omitting = settings.omit > 0
        self._started: float | None = None

    def start(self) -> None:
        """Set every stream going."""
        self._begin()
        for stream in self.streams:
            for work in stream.work(self.stop):
                thread = threading.Thread(target=work, name="iperf3 stream", daemon=True)
                self._threads.append(thread)
                thread.start()

    def _begin(self) -> None:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        self._started = time.monotonic()
        self._cpu = (usage.ru_utime, usage.ru_stime)
        self._retransmitted = self._retransmissions()
        self._reported = (0.0, 0)

    def _retransmissions(self) -> int:
        """Segments the whole stack sent again so far. -1: it doesn't count them."""
        if not hasattr(self._stack, "counters"):
            return -1
        return int(self._stack.counters()["TcpRetransSegs"])

    def _elapsed(self) -> float:
        return 0.0 if self._started is None else time.monotonic() - self._started

    def total(self) -> int:
        """Bytes so far, all streams together."""
        return sum(stream.bytes for stream in self.streams)

    def next_tick(self) -> float:
        """Seconds until tick() is due."""
        due = self.settings.omit if self._omitting else self._reported[0] + _INTERVAL
        return max(due - self._elapsed(), 0.001)

    def tick(self) -> None:
        """Report an interval; leave what is to be omitted behind."""
        now = self._elapsed()
        if self._omitting and now >= self.settings.omit:
            self._omitting = False
            for stream in self.streams:
                stream.omit()
            self._begin()
        elif not self._omitting and now >= self._reported[0] + _INTERVAL:
            total = self.total()
            self._progress(self._reported[0], now, total - self._reported[1])
            self._reported = (now, total)

    @property
    def is_over(self) -> bool:
        """For the client: whether as much time has passed, or as much has been done, as was asked for."""
        wanted = self.settings
        if self._omitting:
            return False
        if wanted.num:
            return self.total() >= wanted.num
        if wanted.blocks:
            return self.total() >= wanted.blocks * wanted.length
        return self._elapsed() >= wanted.time

    def wait(self, control: Control, is_client: bool) -> None:
        """Until the test is over. Raises Failure when the other side is gone, or nothing moves any more."""
        moved, moved_at = -1, time.monotonic()
        while not (is_client and self.is_over):
            left = self.next_tick()
            if is_client and not self.settings.num and not self.settings.blocks and not self._omitting:
                left = min(left, max(self.settings.time - self._elapsed(), 0.001))
            control.sock.settimeout(0.01 if is_client and (self.settings.num or self.settings.blocks) else left)
            try:
                control.expect(State.TEST_END)
                return
            except TimeoutError:
                self.tick()
            now = time.monotonic()
            if self.total() != moved:
                moved, moved_at = self.total(), now
            elif now - moved_at > _SILENCE:
                raise Failure(f"no data for {_SILENCE:.0f} s")

    def finish(self) -> None:
        """Stop the streams; what they came to is in the report from here on."""
        self.stop.set()
        report = self.report
        if self._started is not None:
            report.seconds = max(time.monotonic() - self._started, 1e-6)
            usage = resource.getrusage(resource.RUSAGE_SELF)
            used = (usage.ru_utime - self._cpu[0], usage.ru_stime - self._cpu[1])
            report.cpu = (100 * used[0] / report.seconds, 100 * used[1] / report.seconds)
        for thread in self._threads:
            thread.join(_PATIENCE)
        report.streams = [
            {"id": stream.id, "sender": stream.sends, "seconds": report.seconds, **stream.figures()}
            for stream in self.streams
        ]
        senders = [] if self.settings.udp else [one for one in report.streams if one["sender"]]
        if senders and self._started is not None and self._retransmitted >= 0:
            # The stack counts them, not the connection: they are shown at the first stream, so that the sum is right.
            for one in senders:
                one["retransmits"] = 0
            senders[0]["retransmits"] = self._retransmissions() - self._retransmitted

    def results(self) -> dict[str, Any]:
        """This side's results, to be sent."""
        user, system = self.report.cpu
        streams = [
            {
                "id": one["id"], "bytes": one["bytes"], "retransmits": one["retransmits"], "jitter": one["jitter"],
                "errors": one["errors"], "packets": one["packets"], "start_time": 0, "end_time": self.report.seconds,
            }
            for one in self.report.streams
        ]  # fmt: skip
        knows = any(one["retransmits"] >= 0 for one in self.report.streams)
        return {
            "cpu_util_total": user + system, "cpu_util_user": user, "cpu_util_system": system,
            "sender_has_retransmits": 1 if knows else -1, "streams": streams,
        }  # fmt: skip

    def take_ids(self, remote: Any) -> None:
        """The other side's results: its streams' numbers are ours. Raises Failure."""
        streams = remote.get("streams") if isinstance(remote, dict) else None
        if not isinstance(streams, list) or len(streams) != len(self.streams):
            raise Failure("the client's results are not of the streams it has")
        for one, mine in zip(streams, self.streams, strict=True):
            if not isinstance(one, dict) or not isinstance(one.get("id"), int):
                raise Failure("the client's results have streams without a number")
            mine.id = one["id"]

    def close(self) -> None:
        self.stop.set()
        for stream in self.streams:
            with contextlib.suppress(OSError):
                stream.close()


class Server:
    """An iperf3 server: one test at a time; who comes meanwhile is told that it is busy.

    stack: where to listen. port: of both control and streams. progress(begin, end, bytes) is called about each second
    of a test, done(Report) at the end of each, both in threads of the server's. Raises OSError.
    """

    def __init__(
        self,
        stack: Any,
        port: int = PORT,
        progress: Callable[[float, float, int], None] = lambda begin, end, size: None,
        done: Callable[[Report], None] = lambda report: None,
    ) -> None:
        self.stack = stack
        self.listener = stack.create_server(("", port), family=socket.AF_INET6, backlog=_GREETERS, dualstack_ipv6=True)
        self.port = self.listener.getsockname()[1]
        self._progress, self._done = progress, done
        self._lock = threading.Condition()
        self._cookie: bytes | None = None  # of the test that runs
        # Its streams while they are expected, with the number by which they were accepted: directions go by the order
        # of opening, and the threads that greet may overtake each other.
        self._waiting: list[tuple[int, Any]] | None = None
        self._control: Control | None = None
        self._greeters = 0
        self._closed = False

    def serve(self, once: bool = False) -> None:
        """Take connections until close() is called; once: until one test has ended. Raises OSError."""
        self._once = once
        for number in itertools.count():
            try:
                sock, peer = self.listener.accept()
            except OSError:
                if self._closed:
                    return
                raise
            with self._lock:
                busy = self._greeters >= _GREETERS
                self._greeters += not busy
            if busy:
                sock.close()
            else:
                threading.Thread(target=self._greet, args=(sock, peer, number), name="iperf3", daemon=True).start()

    def close(self) -> None:
        """Stop listening; a client whose test runs is told that the server ends."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            control = self._control
        if control is not None:
            with contextlib.suppress(OSError):
                control.say(State.SERVER_TERMINATE)
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)  # wakes accept(), on kernel sockets too
        self.listener.close()

    def _greet(self, sock: Any, peer: tuple[str, int], number: int) -> None:
        """Find out what a connection is for: a new test, a stream of the one that runs, or somebody who has to wait."""
        control, mine = None, False
        try:
            control = Control(sock)
            cookie = control.read(_COOKIE)
            with self._lock:
                if self._cookie is None and not self._closed:
                    self._cookie, self._control, mine = cookie, control, True
                elif self._waiting is not None and secrets.compare_digest(cookie, self._cookie or b""):
                    self._waiting.append((number, sock))
                    self._lock.notify_all()
                    sock = None
                else:
                    control.say(State.ACCESS_DENIED)
        except (OSError, Failure):
            pass
        finally:
            with self._lock:
                self._greeters -= 1
        try:
            if mine and control is not None:
                self._test(control, peer)
        finally:
            if sock is not None:
                sock.close()

    def _test(self, control: Control, peer: tuple[str, int]) -> None:
        """A test from its parameters to its end, whatever that is."""
        report = Report(peer, Settings())
        test = Measurement(self.stack, report.settings, report, self._progress)
        udp: UdpPort | None = None
        try:
            control.say(State.PARAM_EXCHANGE)
            report.settings = test.settings = settings = Settings.from_params(control.read_json())
            test = Measurement(self.stack, settings, report, self._progress)
            if settings.udp:
                udp = UdpPort(self.stack, self.port, settings)
            self._open_streams(control, test, udp)
            control.say(State.TEST_START, State.TEST_RUNNING)
            test.start()
            test.wait(control, is_client=False)
            test.finish()
            control.sock.settimeout(_PATIENCE)
            control.say(State.EXCHANGE_RESULTS)
            report.remote = control.read_json()
            test.take_ids(report.remote)
            for one, stream in zip(report.streams, test.streams, strict=True):
                one["id"] = stream.id
            control.send_json(test.results())
            control.say(State.DISPLAY_RESULTS)
            with contextlib.suppress(Failure):  # some clients just close
                control.expect(State.IPERF_DONE)
        except (Failure, OSError) as error:
            report.error = str(error) or type(error).__name__
            if not report.streams:
                test.finish()
            with contextlib.suppress(OSError):
                control.say(State.SERVER_ERROR)
                control.sock.sendall(struct.pack(">ii", _UNKNOWN_ERROR, 0))
        finally:
            test.close()
            if udp is not None:
                udp.close()
            with self._lock:
                leftover, self._waiting = self._waiting or [], None
                self._cookie = self._control = None
            for _, sock in leftover:
                sock.close()
            self._done(report)
            if self._once:
                self.close()

    def _open_streams(self, control: Control, test: Measurement, udp: UdpPort | None) -> None:
        settings = test.settings
        directions = settings.directions(server=True)
        if udp is not None:
            control.say(State.CREATE_STREAMS)
            test.streams = udp.open_streams(directions, time.monotonic() + _PATIENCE)
            if len(test.streams) < len(directions):
                raise Failure(f"{len(test.streams)} of {len(directions)} streams were opened")
            return
        with self._lock:
            self._waiting = []
        control.say(State.CREATE_STREAMS)
        deadline = time.monotonic() + _PATIENCE
        with self._lock:
            complete = False
            while not complete and time.monotonic() < deadline and not control.is_gone:
                complete = self._lock.wait_for(lambda: len(self._waiting or ()) >= len(directions), _GLANCE)
            socks, self._waiting = [sock for _, sock in sorted(self._waiting or [], key=lambda one: one[0])], None
        for sock in socks[len(directions) :]:
            sock.close()
        opened = zip(socks, directions, strict=False)
        test.streams = [TcpStream(sock, sends, settings, number) for number, (sock, sends) in enumerate(opened, 1)]
        if not complete:
            raise Failure(f"{len(socks)} of {len(directions)} streams were opened")


class Client:
    """An iperf3 client for TCP: one test against `address`. progress: as Server's."""

    def __init__(
        self,
        stack: Any,
        address: tuple[str, int],
        settings: Settings,
        progress: Callable[[float, float, int], None] = lambda begin, end, size: None,
    ) -> None:
        self.stack, self.address, self.settings, self._progress = stack, address, settings, progress

    def run(self) -> Report:
        """Run the test -> its Report. Raises Failure, OSError; the report has no error then."""
        settings = self.settings
        report = Report(self.address, settings)
        test = Measurement(self.stack, settings, report, self._progress)
        cookie = "".join(secrets.choice(string.ascii_lowercase + "234567") for _ in range(_COOKIE - 1)).encode() + b"\0"
        control = Control(self.stack.create_connection(self.address, timeout=_PATIENCE))
        try:
            control.sock.sendall(cookie)
            control.expect(State.PARAM_EXCHANGE)
            control.send_json(settings.to_params())
            control.expect(State.CREATE_STREAMS)
            for number, sends in enumerate(settings.directions(server=False), 1):
                sock = self.stack.create_connection(self.address, timeout=_PATIENCE)
                # iperf3 leaves the number 2 out, and both sides have to agree.
                test.streams.append(TcpStream(sock, sends, settings, number + (number > 1)))
                sock.sendall(cookie)
            control.expect(State.TEST_START)
            control.expect(State.TEST_RUNNING)
            test.start()
            test.wait(control, is_client=True)
            test.finish()
            control.sock.settimeout(_PATIENCE)
            control.say(State.TEST_END)
            control.expect(State.EXCHANGE_RESULTS)
            control.send_json(test.results())
            report.remote = control.read_json()
            control.expect(State.DISPLAY_RESULTS)
            control.say(State.IPERF_DONE)
        except KeyboardInterrupt:
            with contextlib.suppress(OSError):
                control.say(State.CLIENT_TERMINATE)
            raise
        finally:
            test.close()
            control.sock.close()
        return report
