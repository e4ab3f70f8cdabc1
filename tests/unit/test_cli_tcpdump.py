"""`ustack tcpdump` and captures by the control socket of a stack in this process; and what a slow reader does to it."""

from __future__ import annotations

import contextlib
import io
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ustack
from tap_harness.need import missing_program
from tap_harness.process import wait_for
from tests.unit.controlled import controlled
from ustack import bpf, control, pcapng
from ustack.cli import main
from ustack.cli.packetline import line
from ustack.pcapng import INBOUND, OUTBOUND, Packet


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with controlled(tmp_path / "run", monkeypatch) as made:
        yield made


class Chatter:
    """Datagrams over a stack's loopback until it is left."""

    def __init__(self, stack: Any, size: int = 10) -> None:
        self.sock = stack.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 7000))
        self.sock.settimeout(5)
        self.size = size
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def once(self) -> None:
        self.sock.sendto(b"x" * self.size, ("127.0.0.1", 7000))
        self.sock.recv(65536)

    def run(self) -> None:
        with contextlib.suppress(OSError):  # the stack was closed
            while not self.ended.is_set():
                self.once()

    def __enter__(self) -> Chatter:
        self.thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.ended.set()
        self.thread.join()
        self.sock.close()


def test_packets_are_printed(stack: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with Chatter(stack):
        assert main(["tcpdump", "-c", "3", "-i", "lo"]) == 0
    printed = capsys.readouterr().out.splitlines()
    pattern = r"\d\d:\d\d:\d\d\.\d{6} lo In  IP 127\.0\.0\.1\.7000 > 127\.0\.0\.1\.7000: UDP, length 10"
    assert [bool(re.fullmatch(pattern, one)) for one in printed] == [True] * 3


def test_packets_are_written(stack: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Chatter(stack):
        assert main(["tcpdump", "-c", "5", "-s", "28", "-w", str(tmp_path / "f.pcapng")]) == 0
    assert capsys.readouterr().err == "5 packets captured\n"
    with (tmp_path / "f.pcapng").open("rb") as file:
        packets = list(pcapng.read(file))
    assert [(one.interface, len(one.data), one.length) for one in packets] == [("lo", 28, 38)] * 5


@pytest.mark.skipif(missing_program("tcpdump") is not None, reason=str(missing_program("tcpdump")))
def test_an_expression(stack: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with Chatter(stack):
        ping = threading.Thread(target=lambda: stack.create_connection(("127.0.0.1", 7), timeout=5).close())
        with stack.create_server(("127.0.0.1", 7)), control.watch(*_watched("tcp")) as stream:
            ping.start()
            first = next(pcapng.read(stream))
            ping.join()
    assert first.data[9] == socket.IPPROTO_TCP
    assert main(["tcpdump", "udp", "and", "and"]) == 2
    assert "syntax error" in capsys.readouterr().err


def _watched(expression: str) -> tuple[Path, dict[str, Any]]:
    return control.sockets()[0], {"filter": {medium: bpf.compile_filter(expression, medium) for medium in ("ip",)}}


def test_without_tcpdump_an_expression_says_so(
    stack: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda *args, **kwargs: None)
    assert main(["tcpdump", "udp"]) == 1
    assert "tcpdump" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError):
        stack.capture(io.BytesIO(), filter="udp")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"interface": "nothing"}, "No such device"),
        ({"interface": 7}, "interface"),
        ({"snaplen": 0}, "snaplen"),
        ({"snaplen": "x"}, "int"),
        ({"buffer": 1 << 40}, "buffer"),
        ({"buffer": 1}, "buffer"),
        ({"target": "/etc/passwd"}, "capture with"),
        ({"filter": {"ip": b"\xff" * 8}}, "Invalid"),
    ],
)
def test_what_a_client_may_not_ask(stack: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said), control.watch(control.sockets()[0], options):
        pass
    assert control.ask(control.sockets()[0], "about")


def test_a_client_that_does_not_read_holds_up_nobody(stack: Any) -> None:
    path = control.sockets()[0]
    with control.watch(path, {"buffer": 65536}), Chatter(stack, 8000) as chatter:
        wait_for(lambda: stack._captures and stack._captures[-1].dropped, "a writer that waits for us", 20)
        capture = stack._captures[-1]
        assert control.ask(path, "about")
        chatter.ended.set()
        chatter.thread.join()
        chatter.once()
    # ... nor does one that has gone
    with Chatter(stack):
        wait_for(lambda: capture.closed, "the end of its capture", 20)


def test_the_end_of_the_stack_is_the_end_of_the_capture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USTACK_RUNTIME_DIR", str(tmp_path / "run"))
    stack = ustack.Stack()
    with control.publish(stack, "net0", []) as path, Chatter(stack, 8000):
        assert path is not None
        with control.watch(path, {"buffer": 65536}) as stream:
            wait_for(lambda: stack._captures and stack._captures[-1].dropped, "a writer that waits for us", 20)
            threading.Thread(target=stack.close).start()
            assert list(pcapng.read(stream))


def test_at_most_eight_at_a_time(stack: Any) -> None:
    path = control.sockets()[0]
    watching = [control.watch(path, {}) for _ in range(8)]
    for one in watching:
        one.__enter__()
    with pytest.raises(ValueError, match="8 captures"), control.watch(path, {}):
        pass
    for one in watching:
        one.__exit__(None, None, None)


def test_a_slow_file_holds_up_nobody(stack: Any) -> None:
    class Slow(io.BytesIO):
        may = threading.Event()
        begun = threading.Event()

        def write(self, data: Any) -> int:
            if self.tell() > 0:
                self.begun.set()
                self.may.wait()
            return super().write(data)

    file = Slow()
    capture = stack.capture(file, buffer=65536)
    with Chatter(stack, 8000) as chatter:
        assert file.begun.wait(10)
        wait_for(lambda: capture.dropped, "a full buffer", 20)
        chatter.ended.set()
        chatter.thread.join()
        chatter.once()
        file.may.set()
        capture.close()
    assert len(list(pcapng.read(io.BytesIO(file.getvalue())))) == capture.frames


def seen(data: str, linktype: int = pcapng.ETHERNET, **more: Any) -> str:
    raw = bytes.fromhex(data)
    printed = line(Packet("net0", linktype, 1_000_002_345, raw, len(raw), INBOUND, **more))
    return re.sub(r"^\S+ net0 In  ", "", printed)


MAC = "020000000001020000000002"
IP4 = "4500{:04x}00000000 40{:02x}0000 0a000002 0a000001"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (MAC + "0806 0001080006040001 020000000002 0a000002 000000000000 0a000001",
         "ARP, Request who-has 10.0.0.1 tell 10.0.0.2"),
        (MAC + "0806 0001080006040002 020000000002 0a000002 020000000001 0a000001",
         "ARP, Reply 10.0.0.2 is-at 02:00:00:00:00:02"),
        (MAC + "0800" + IP4.format(28, 1) + "0800 0000 0007 0001",
         "IP 10.0.0.2 > 10.0.0.1: ICMP echo request, id 7, seq 1, length 8"),
        (MAC + "8100 0064 0800" + IP4.format(40, 6) + "0050 1f90 00000001 00000002 5012 ffff 0000 0000",
         "vlan 100, IP 10.0.0.2.80 > 10.0.0.1.8080: Flags [S.], seq 1, ack 2, win 65535, length 0"),
        (MAC + "86dd 60000000 0010 0001 fe80000000000000 0000000000000002 ff020000000000000000000000000016"
         "3a000502 00000100 8f000000 00000000", "IP6 fe80::2 > ff02::16: hop-by-hop, ICMP6 multicast listener report "
         "v2, length 8"),
        (MAC + "0800" + IP4.format(30, 17)[:12] + "2003" + IP4.format(30, 17)[16:] + "00", "IP 10.0.0.2 > 10.0.0.1: "
         "fragment at 24, length 10"),
        (MAC + "88b5 00", "ethertype 0x88b5, length 15"),
        (MAC[:20], "[short packet], length 10"),
    ],
)  # fmt: skip
def test_lines(data: str, said: str) -> None:
    assert seen(data.replace(" ", "")) == said


def test_a_line_says_why_and_with_whom() -> None:
    assert seen("", comments=("dropped: DropEthTruncated",)).endswith("{dropped: DropEthTruncated}")
    packet = Packet("net0", pcapng.ETHERNET, 0, bytes.fromhex(MAC + "88b5"), 14, OUTBOUND)
    assert "net0 Out 02:00:00:00:00:02 > 02:00:00:00:00:01, ethertype" in line(packet, ethernet=True)
