"""Packetdrill's language: what a script says, and where a text that is none goes wrong."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tap_harness.packetdrill import SyntaxFault, parse
from tap_harness.packetdrill.script import ANY, Call, Code, Command, Icmp, Tcp, Udp, When
from tap_harness.packetdrill.wire import option_bytes, read_options

SECOND = 10**9


def only(text: str) -> object:
    """The action of a script of one event."""
    (event,) = parse(text).events
    return event.action


@pytest.mark.parametrize(
    ("written", "when"),
    [
        ("0", When(0)),
        ("1.25", When(1_250_000_000)),
        ("+.1", When(SECOND // 10, True)),
        ("+0", When(0, True)),
        ("*", When(None)),
        (".1~.3", When(SECOND // 10, False, 3 * SECOND // 10)),
        ("+0~+.2", When(0, True, SECOND // 5)),
        ("+~+.2", When(0, True, SECOND // 5)),
    ],
)
def test_times(written: str, when: When) -> None:
    (event,) = parse(f"{written} > . 1:1(0) ack 1").events
    assert event.when == when


@pytest.mark.parametrize(
    ("written", "end"), [("0...0.200", 200), ("+0...+0.2", 200), (".1....3", 300), ("+0.1...1", 1000)]
)
def test_blocking_calls(written: str, end: int) -> None:
    action = only(f"{written} read(3, ..., 10) = 0")
    assert isinstance(action, Call)
    assert action.end == end * 10**6


def test_a_segment_with_everything() -> None:
    text = "+0 < [ce] PS.EW 1:1001(1000) ack 7 win 257 urg 3 <mss 1460,nop,wscale 7,sackOK,TS val 1 ecr 0x10,eol>"
    options = (("mss", 1460), ("nop",), ("wscale", 7), ("sackOK",), ("TS", 1, 16), ("eol",))
    assert only(text) == Tcp(True, "SP.EW", 1, 1000, 7, 257, 3, options, "ce")


def test_what_is_not_written_is_not_looked_at() -> None:
    assert only("0 > . 5:5(0) <...>") == Tcp(False, ".", 5, 0, options=None)
    assert only("0 > R 5:5(0)") == Tcp(False, "R", 5, 0, options=())
    assert only("0 < - 5:15(10)") == Tcp(True, "", 5, 10)
    assert only("0 < :77 S 0:0(0)") == Tcp(True, "S", 0, 0, port=77)


def test_sequence_numbers_wrap() -> None:
    assert only("0 < P. 4294967290:4(10) ack 1") == Tcp(True, "P.", 4294967290, 10, 1)


def test_sack_blocks() -> None:
    action = only("0 > . 1:1(0) ack 1 <nop,nop,sack 1:1001 2001:3001>")
    assert isinstance(action, Tcp)
    assert action.options == (("nop",), ("nop",), ("sack", (1, 1001), (2001, 3001)))


def test_other_packets() -> None:
    assert only("0 < [ect0] udp (100)") == Udp(True, 100, "ect0")
    assert only("0 < icmp unreachable frag_needed mtu 1400 [1:1461(1460)]") == Icmp(3, 4, 1400, 1)
    assert only("0 < icmp time_exceeded [udp (5)]") == Icmp(11, 0, 0, None)


def test_calls() -> None:
    assert only("0 setsockopt(3, SOL_SOCKET, SO_REUSEADDR, [1], 4) = 0") == Call("setsockopt", (3, 1, 2, [1], 4), 0)
    assert only("0 read(4, ..., 10) = -1 EAGAIN (Resource temporarily unavailable)") == Call(
        "read", (4, ANY, 10), -1, "EAGAIN"
    )
    assert only('0 write(4, "a\\x00\\n", 3) = ...') == Call("write", (4, b"a\0\n", 3), ANY)
    assert only("0 poll([{fd=4, events=POLLIN|POLLOUT, revents=0}], 1, -1) = 0") == Call(
        "poll", ([{"fd": 4, "events": 5, "revents": 0}], 1, -1), 0
    )
    address = '{sa_family = AF_INET, sin_port = htons(80), sin_addr = inet_addr("10.0.0.1")}'
    action = only(f"0 connect(3, {address}, ...) = 0")
    assert isinstance(action, Call)
    assert action.arguments[1] == {"sa_family": 2, "sin_port": 80, "sin_addr": b"10.0.0.1"}


def test_commands_options_comments_and_code() -> None:
    script = parse(
        """#!/usr/bin/env packetdrill
        // a comment
        --mtu=1400
        --tolerance_usecs=10000
        `sysctl -q net.ipv4.tcp_sack=0`   /* another,
        of two lines */
        +1 %{ a = 1
        assert a == 1
        if a:
            pass }%
        # the end
        """
    )
    assert script.options == {"mtu": "1400", "tolerance_usecs": "10000"}
    command, code = script.events
    assert command.action == Command("sysctl -q net.ipv4.tcp_sack=0")
    assert isinstance(code.action, Code)
    assert (code.line, code.action.line) == (7, 7)
    exec(compile(code.action.text, "code", "exec"), {})


@pytest.mark.parametrize(
    ("text", "line", "column", "words"),
    [
        ("0 < S 0:0(1) win 5", 1, 7, "0:0(1): 0 + 1 is 1, not 0"),
        ("\n  // first\n0 frob(3) = 0", 3, 3, "'frob' is no system call"),
        ("0 < X 0:0(0)", 1, 5, "'X' is no TCP flag"),
        ("0 < PSP 0:0(0)", 1, 5, "names a flag twice"),
        ("0 < S 0:0(0) ack 5", 1, 5, "ack without the flag"),
        ("0 > . 1:1(0) ack 1 <mss>", 1, 24, "expected a segment size"),
        ("0 > . 1:1(0) ack 1 <foo 3>", 1, 21, "'foo' is no TCP option"),
        ("0 > . 1:1(0) ack 1 <nop nop>", 1, 25, "expected ,"),
        ("0 < . 1:1(0) ack 1 <sack 1:2 3:4 5:6 7:8,TS val 1 ecr 1>", 1, 20, "more than 40 bytes"),
        ("0 < S 0:0(0) win 70000", 1, 18, "70000 is more than 65535"),
        ("0 < S 0:0(0) <...>", 1, 14, "says nothing of what to send"),
        ("0 < [ect7] S 0:0(0)", 1, 6, "'ect7' is none of"),
        ("0 > icmp unreachable host_unreachable [1:1(0)]", 1, 5, "only understood inbound"),
        ("0 < icmp unreachable gone [1:1(0)]", 1, 22, "'gone' is none of"),
        ("0 close(3) = -1 EFOO", 1, 17, "'EFOO' is no error"),
        ("0 close(3) = -1", 1, 16, "expected the name of the error"),
        ("0 close(3)", 1, 11, "expected = and the result"),
        ("0 close(3 4) = 0", 1, 11, "expected ,"),
        ("0 socket(..., SOCK_BAD, 0) = 3", 1, 15, "'SOCK_BAD' is not a name"),
        ('0 write(3, "abc, 3) = 3', 1, 12, 'the closing "'),
        ("0 bind(3, foo(1), 2) = 0", 1, 11, "foo() is not known"),
        ("0 `true", 1, 3, "the closing `"),
        ("0 %{ assert (\n }%", 1, None, "(Python)"),
        ("0 %{ x", 1, 3, "the closing }%"),
        ("0...1 < S 0:0(0)", 1, 7, "only a system call has an end time"),
        ("3...1 read(3, ..., 1) = 0", 1, 1, "ends before it begins"),
        (".2~.1 > . 1:1(0)", 1, 1, "ends before it begins"),
        ("+.1~.2 > . 1:1(0)", 1, 5, "both relative"),
        ("--=3", 1, 1, "is not --option=value"),
        ("< S 0:0(0)", 1, 1, "expected a time"),
        ("0", 1, 2, "expected < or >"),
        ("0 close(" + "[" * 5000, None, None, "nested too deep"),
    ],
)
def test_no_script(text: str, line: int | None, column: int | None, words: str) -> None:
    with pytest.raises(SyntaxFault) as caught:
        parse(text, "bad.pkt")
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"bad.pkt:{caught.value.line}:{caught.value.column}: ")
    assert line in (None, caught.value.line)
    assert column in (None, caught.value.column)


PIECES = ["0", "+", ".1", "*", "~", "...", "<", ">", "S", ".", "1:1(0)", "ack", "win", "<mss", "close(", "3", ")", "=",
          "-1", "%{", "}%", "`", "[", "{", '"', "udp", "icmp", "//", "--x=1", "\n", "\0", "9" * 30]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=20), st.sampled_from(["", " "]))
def test_any_text_is_a_script_or_a_fault(pieces: list[str], between: str) -> None:
    with contextlib.suppress(SyntaxFault):
        parse(between.join(pieces))


def test_options_on_the_wire() -> None:
    options = (
        ("mss", 1460),
        ("sackOK",),
        ("TS", 1, 2),
        ("nop",),
        ("wscale", 7),
        ("sack", (1, 2), (3, 4)),
        ("nop",),
        ("nop",),
    )
    raw = option_bytes(options)
    assert len(raw) % 4 == 0
    assert read_options(raw) == options
    assert read_options(b"\x08\x0a\x00") == (("broken 080a00",),)
    assert read_options(b"\x02\x00") == (("broken 0200",),)
    assert read_options(b"\xfe\x03\x05") == (("kind 254 05",),)
