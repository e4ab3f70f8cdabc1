"""The scripts of tests/scripts, each against a fresh stack in virtual time; and that a wrong script is told as such."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tap_harness import packetdrill
from tap_harness.packetdrill.__main__ import main

SCRIPTS = sorted((Path(__file__).resolve().parents[1] / "scripts").glob("*.pkt"))

BASE = """\
0   socket(..., SOCK_STREAM, IPPROTO_TCP) = 3
+0  setsockopt(3, SOL_SOCKET, SO_REUSEADDR, [1], 4) = 0
+0  bind(3, ..., ...) = 0
+0  listen(3, 1) = 0
+0  < S 0:0(0) win 32792 <mss 1000,sackOK,TS val 700 ecr 0,nop,wscale 7>
+0  > S. 0:0(0) ack 1 win 65535 <mss 1460,sackOK,TS val 100 ecr 700,nop,wscale 7>
+.1 < . 1:1(0) ack 1 win 257 <nop,nop,TS val 800 ecr 100>
+0  accept(3, ..., ...) = 4
+0  write(4, ..., 500) = 500
+0  > P. 1:501(500) ack 1 <nop,nop,TS val 200 ecr 800>
+.1 < . 1:1(0) ack 501 win 257 <nop,nop,TS val 900 ecr 200>
+0  %{ assert tcpi_unacked == 0 }%
"""
EARLY_END = """\
+0...1 read(4, ..., 10) = 0
+.2 < F. 1:1(0) ack 501 win 257 <nop,nop,TS val 1100 ecr 300>
*   > . 501:501(0) ack 2 <...>
"""


def run(text: str) -> None:
    packetdrill.run(packetdrill.parse(text, "test.pkt"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_script(path: Path) -> None:
    try:
        packetdrill.run(packetdrill.parse(path.read_text(encoding="utf-8"), str(path)))
    except packetdrill.Mismatch as error:
        pytest.fail(str(error), pytrace=False)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_each_script_says_what_it_shows(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert re.match(r"// (RFC \d+|[a-z]+\(\d\))", first), first


def test_the_base_passes() -> None:
    run(BASE)


@pytest.mark.parametrize(
    ("right", "wrong", "line", "words"),
    [
        ("> P. 1:501", "> . 1:501", 10, "differs   flags: . expected, P. got"),
        ("> P. 1:501(500)", "> P. 1:401(400)", 10, "differs   length: 400 expected, 500 got"),
        ("> P. 1:501(500)", "> P. 2:502(500)", 10, "differs   seq: 2 expected, 1 got"),
        ("(500) ack 1 <", "(500) ack 2 <", 10, "differs   ack: 2 expected, 1 got"),
        ("win 65535", "win 65000", 6, "differs   win: 65000 expected, 65535 got"),
        ("<mss 1460", "<mss 1400", 6, "differs   options: <mss 1400"),
        ("ack 1 <nop,nop,TS val 200 ecr 800>", "ack 1", 10, "differs   options: none expected"),
        ("TS val 200 ecr 800", "TS val 250 ecr 800", 10, "differs   options"),
        ("TS val 200 ecr 800", "TS val 200 ecr 799", 10, "differs   options"),
        ("+0  > P.", "+.1 > P.", 10, "differs   time: 0.200000 expected, 0.100000 got"),
        ("+0  > P.", "+0  > [ect0] P.", 10, "differs   ECN: ect0 expected, noecn got"),
        ("+0  > P.", "+0  > :7 P.", 10, "differs   peer's port: 7 expected, 40000 got"),
        ("500) = 500", "500) = 400", 9, "got       500"),
        ("accept(3, ..., ...) = 4", "read(3, ..., 1) = 0", 8, "got       -1 ENOTCONN"),
        ("unacked == 0 }", "unacked == 1 }", 12, "got       tcpi_unacked = 0"),
        ("assert tcpi_unacked == 0", "assert nobody", 12, "NameError"),
        ("ack 501 win", "ack 401 win", 12, "an assertion does not hold"),
        ("+0  %{", "+0  > . 501:501(0) ack 1\n+0  %{", 12, "the stack sent nothing"),
        ("+0  %{", "+0  read(4, ..., 10) = 10\n+0  %{", 12, "read() blocks"),
        ("+0  %{", "+0...1 read(4, ..., 10) = 10\n+0  %{", 12, "read() still blocks"),
        ("+0  %{", EARLY_END + "+0  %{", 12, "read() returned at another time"),
        (BASE[BASE.index("+.1 < . 1:1(0) ack 501") :], "+9 %{ pass }%", 11, "that no line expects"),
    ],
)
def test_what_differs_is_told(right: str, wrong: str, line: int, words: str) -> None:
    assert BASE.count(right) == 1
    with pytest.raises(packetdrill.Mismatch) as caught:
        run(BASE.replace(right, wrong))
    assert caught.value.line == line, caught.value
    assert words in str(caught.value)


def test_a_wrong_byte_is_seen() -> None:
    with pytest.raises(packetdrill.Mismatch, match="bytes that are not those"):
        run(BASE + '+0 < P. 1:4(3) ack 501 win 257 <nop,nop,TS val 901 ecr 200>\n+0 read(4, "abc", 3) = 3\n')


def test_knobs_are_set() -> None:
    knobs = "`sysctl -q net.ipv4.tcp_timestamps=0 net.ipv4.tcp_rmem='4096 131072 6291456'`\n"
    handshake, timestamps = BASE.split("+.1 <")[0], "sackOK,TS val 100 ecr 700,nop"
    run(knobs + handshake.replace(timestamps, "nop,nop,sackOK,nop"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("--ip_version=ipx\n0 `true`", "ipv4 or ipv6"),
        ("--mtu=many\n0 `true`", "many"),
        ("--frobnicate=1\n0 `true`", "--frobnicate is not known"),
        ("\n0 `rm -r /nowhere`", "only sysctl and sleep"),
        ("\n0 `sysctl -q net.ipv4.tcp_nonsense=1`", "no knob"),
        ("\n0 `sleep long`", "sleep"),
        ("\n0 fcntl(3, 77) = 0", "-1 EBADF"),
        ("\n0 socket(..., SOCK_STREAM) = 3\n0 bind(3) = 0", "wrong arguments"),
    ],
)
def test_what_there_is_not_is_refused(text: str, words: str) -> None:
    with pytest.raises((packetdrill.Unsupported, packetdrill.Mismatch), match=re.escape(words)):
        run(text)


def test_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad, broken = (tmp_path / name for name in ("good.pkt", "bad.pkt", "broken.pkt"))
    good.write_text(BASE)
    bad.write_text(BASE.replace("win 65535", "win 1"))
    broken.write_text("0 < S 0:1(0)")
    assert main([str(good)]) == 0
    assert capsys.readouterr().out == f"{good}: pass\n"
    assert main(["-q", str(good), str(bad)]) == 1
    out = capsys.readouterr().out
    assert f"{bad}:6: a packet is not as the script says" in out
    assert "1 of 2 scripts pass" in out
    assert main([str(broken)]) == 2
    assert capsys.readouterr().err.startswith(f"{broken}:1:7: ")
    assert main([str(tmp_path / "missing.pkt")]) == 2
    assert "No such file" in capsys.readouterr().err
    assert main([str(tmp_path)]) == 2
