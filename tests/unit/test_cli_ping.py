"""`ustack ping`: its figures and lines are those of iputils, its exit codes too."""

from __future__ import annotations

import errno
import json
import socket
import struct
from typing import Any

import pytest

from ustack.cli import app
from ustack.cli.ping import Statistics, format_statistics, format_time, ping

ECHO = struct.Struct("!BBHHH")


class FakeSocket:
    """An ICMP datagram socket whose answers are written down: a function from the request to what recvmsg gives."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer
        self._queue: list[Any] = []
        self.sent: list[bytes] = []
        self.options: dict[tuple[int, int], int] = {}

    def setsockopt(self, level: int, option: int, value: int) -> None:
        self.options[level, option] = value

    def settimeout(self, timeout: float) -> None:
        assert timeout > 0

    def sendto(self, packet: bytes, address: tuple[str, int]) -> int:
        self.sent.append(packet)
        self._queue += self._answer(packet)
        return len(packet)

    def recvmsg(self, size: int, ancillary: int) -> Any:
        if not self._queue:
            raise TimeoutError
        item = self._queue.pop(0)
        if isinstance(item, OSError):
            raise item
        return item, [(socket.IPPROTO_IP, socket.IP_TTL, struct.pack("i", 64))], 0, ("10.9.0.1", 0)


def reply(packet: bytes) -> bytes:
    return b"\0" + packet[1:]


def arguments(*words: str) -> Any:
    args = app.build_parser().parse_args(["ping", "-i", "0.001", "-W", "0.01", *words, "10.9.0.1"])
    args.address_of_stack = "10.9.0.2"
    return args


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(0.0544, "0.054"), (0.9994, "0.999"), (1.452, "1.45"), (9.99, "9.99"), (12.34, "12.3"), (145.4, "145")],
)  # fmt: skip
def test_times_have_the_digits_of_iputils(milliseconds: float, text: str) -> None:
    assert format_time(milliseconds) == text


def test_statistics_as_iputils_prints_them() -> None:
    # The figures of a real run: 0.236 and 0.054 ms gave 0.054/0.145/0.236/0.091.
    seen = Statistics(transmitted=2, received=2, times=[0.236, 0.054], total=1001.2)
    assert format_statistics("127.0.0.1", seen) == (
        "\n--- 127.0.0.1 ping statistics ---\n"
        "2 packets transmitted, 2 received, 0% packet loss, time 1001ms\n"
        "rtt min/avg/max/mdev = 0.054/0.145/0.236/0.091 ms"
    )
    lost = Statistics(transmitted=3, received=1, duplicates=1, errors=2, times=[1.0])
    assert "3 packets transmitted, 1 received, +1 duplicates, +2 errors, 66.6667% " in format_statistics("h", lost)
    assert format_statistics("h", Statistics(transmitted=1)).endswith("100% packet loss, time 0ms\n")


def test_a_run_with_replies(capfd: pytest.CaptureFixture[str]) -> None:
    sock = FakeSocket(lambda packet: [reply(packet)])
    assert ping(sock, "10.9.0.1", arguments("-c", "2", "-s", "16", "-t", "7")) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == "PING 10.9.0.1 (10.9.0.1) 16(44) bytes of data."
    assert lines[1].startswith("24 bytes from 10.9.0.1: icmp_seq=1 ttl=64 time=")
    assert lines[2].startswith("24 bytes from 10.9.0.1: icmp_seq=2 ttl=64 time=")
    assert lines[3:5] == ["", "--- 10.9.0.1 ping statistics ---"]
    assert lines[5].startswith("2 packets transmitted, 2 received, 0% packet loss, time ")
    assert [ECHO.unpack_from(packet)[0::4] for packet in sock.sent] == [(8, 1), (8, 2)]
    assert all(len(packet) == 24 for packet in sock.sent)
    assert sock.options[socket.IPPROTO_IP, socket.IP_TTL] == 7


def test_no_reply_is_1(capfd: pytest.CaptureFixture[str]) -> None:
    assert ping(FakeSocket(lambda packet: []), "10.9.0.1", arguments("-c", "1")) == 1
    assert "1 packets transmitted, 0 received, 100% packet loss" in capfd.readouterr().out


def test_duplicates_and_strangers(capfd: pytest.CaptureFixture[str]) -> None:
    strange = [b"", b"\0" * 7, ECHO.pack(0, 0, 0, 0, 999), ECHO.pack(3, 1, 0, 0, 1)]
    sock = FakeSocket(lambda packet: [*strange, reply(packet), reply(packet), reply(packet)])
    assert ping(sock, "10.9.0.1", arguments("-c", "2")) == 0
    out = capfd.readouterr().out
    assert "(DUP!)" in out
    assert "2 packets transmitted, 2 received, +" in out


def test_unreachable(capfd: pytest.CaptureFixture[str]) -> None:
    sock = FakeSocket(lambda packet: [OSError(errno.EHOSTUNREACH, "No route to host")])
    assert ping(sock, "10.9.0.1", arguments("-c", "2")) == 1
    out = capfd.readouterr().out
    assert "From 10.9.0.2 icmp_seq=1 Destination Host Unreachable" in out
    assert "2 packets transmitted, 0 received, +2 errors, 100% packet loss" in out


def test_json(capfd: pytest.CaptureFixture[str]) -> None:
    sock = FakeSocket(lambda packet: [reply(packet)])
    assert ping(sock, "10.9.0.1", arguments("-c", "3", "--json")) == 0
    answer = json.loads(capfd.readouterr().out)
    assert (answer["transmitted"], answer["received"], answer["loss_percent"]) == (3, 3, 0)
    assert set(answer["rtt_ms"]) == {"min", "avg", "max", "mdev"}


def test_interrupt_prints_the_statistics(capfd: pytest.CaptureFixture[str]) -> None:
    class Interrupted(FakeSocket):
        def recvmsg(self, size: int, ancillary: int) -> Any:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ping(Interrupted(lambda packet: []), "10.9.0.1", arguments())
    assert "1 packets transmitted, 0 received" in capfd.readouterr().out


def test_sequence_numbers_wrap(capfd: pytest.CaptureFixture[str]) -> None:
    sock = FakeSocket(lambda packet: [reply(packet)])
    assert ping(sock, "10.9.0.1", arguments("-c", "65540", "-i", "1e-9", "-q", "-s", "0")) == 0
    assert "65540 packets transmitted, 65540 received, 0% packet loss" in capfd.readouterr().out
