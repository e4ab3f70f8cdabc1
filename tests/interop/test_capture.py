"""Captures read by a real tshark: of a stack on a TAP, by Stack.capture() and by `ustack tcpdump`."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

import ustack
from tap_harness.need import missing_program
from tap_harness.tap import KernelTap


@pytest.fixture(autouse=True)
def programs() -> None:
    for program in ("tshark", "tcpdump"):
        if reason := missing_program(program):
            pytest.skip(reason)


def fields(ns: Any, path: Path, *names: str) -> list[list[str]]:
    """What tshark makes of it, a row a packet."""
    wanted = [word for name in names for word in ("-e", name)]
    done = ns.run(["tshark", "-n", "-r", str(path), "-T", "fields", "-E", "separator=|", *wanted])
    assert (done.returncode, [one for one in done.stderr.splitlines() if "root" not in one]) == (0, []), done.stderr
    return [line.split("|") for line in done.stdout.splitlines()]


def test_tshark_reads_what_a_stack_captured(ns: Any, tmp_path: Path) -> None:
    path = tmp_path / "trace.pcapng"
    with KernelTap(ns, addresses=["10.9.0.1/24"]) as tap, ustack.Stack() as stack:
        stack.attach(ustack.Tap(fd=tap.dup()), addresses=["10.9.0.2/24"], name="ust0")
        with stack.capture(path) as capture, stack.create_server(("", 80)) as server:
            client = ns.socket(2, 1)
            client.settimeout(5)
            client.connect(("10.9.0.2", 80))
            conn, _ = server.accept()
            conn.sendall(b"x" * 200_000)
            conn.close()
            got = 0
            while piece := client.recv(65536):
                got += len(piece)
            client.close()
            with ns.socket(2, 2) as sock:
                sock.sendto(b"nobody", ("10.9.0.2", 9))
                stack.create_connection(("127.0.0.1", 80), timeout=5).close()
                assert ns.run(["ping", "-c", "1", "-W", "2", "10.9.0.2"]).returncode == 0
        assert capture.dropped == 0
    assert got == 200_000
    rows = fields(ns, path, "frame.interface_name", "frame.packet_flags_direction", "frame.comment", "frame.protocols")
    assert len(rows) == capture.frames
    assert {row[0] for row in rows} == {"ust0", "lo"}
    assert {int(row[1], 0) for row in rows} == {1, 2}
    assert [row[2] for row in rows if row[2]] == ["dropped: UdpNoPorts"]
    assert {"tcp", "udp", "icmp", "arp"} <= {name for row in rows for name in row[3].split(":")}


def test_tcpdump_of_a_running_stack(ns: Any, tmp_path: Path) -> None:
    path = tmp_path / "trace.pcapng"
    up = ns.python("ustack", "up", "ust0", "--address", "10.9.0.2/24", "--host-address", "10.9.0.1/24")
    up.wait_line("ust0 is up")
    writer = ns.python("ustack", "tcpdump", "-w", str(path), "-c", "2", "icmp")
    printer = ns.python("ustack", "tcpdump", "-i", "ust0", "icmp", "or", "udp", "port", "9")
    while True:  # until both listen
        assert ns.run(["ping", "-c", "1", "-W", "2", "10.9.0.2"]).returncode == 0
        if writer.process.poll() is not None and "echo reply" in printer.output():
            break
    with ns.socket(2, 2) as sock:
        sock.sendto(b"x", ("10.9.0.2", 9))
        printer.wait_line(r"ust0 In  IP 10\.9\.0\.1\.\d+ > 10\.9\.0\.2\.9: UDP, length 1 \{dropped: UdpNoPorts\}")
    printer.signal(signal.SIGINT)
    assert printer.wait(10) == 130
    assert writer.process.returncode == 0
    assert [row[0] for row in fields(ns, path, "icmp.type")] == ["8", "0"]
    assert ns.run(["tcpdump", "-r", str(path)]).stdout.count("ICMP echo") == 2
    up.signal(signal.SIGINT)
    assert up.wait(10) == 130
