"""Scripts that say what Linux does as well as what ustack does, against Linux in real time."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tap_harness import packetdrill
from tap_harness.ends import FOUR, Ends

pytestmark = pytest.mark.usefixtures("privileged")

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
# Both targets run these (tests/sim/test_scripts.py has all of them on the stack): nothing in them is ustack's own.
BOTH = (
    "abort_with_data_unread", "close_by_peer", "close_by_stack", "cork", "data_in", "delayed_ack", "epoll",
    "handshake_active", "handshake_no_options", "linger_zero", "msg_more", "nagle", "out_of_window_data", "paws",
    "reset_for_closed_port", "sack_sent", "sendmsg", "udp_echo",
)  # fmt: skip
SLOW = ("fast_open_client", "reset_in_window", "synack_retransmission", "syn_in_established")
# What follows from the sizes of the headers: the MSS, and what is taken for one that is not said (RFC 9293 MUST-15).
OVER_IPV6 = {"1460": "1440", "536": "1220", "537": "1221", "1072": "2440", "1073": "2441"}
WRONG = """\
0   socket(..., SOCK_STREAM, IPPROTO_TCP) = 3
+0  bind(3, ..., ...) = 0
+0  listen(3, 1) = 0
+0  < S 0:0(0) win 1000 <mss 1000>
+0  > S. 0:0(0) ack 1 <mss 1000>
"""


def run(text: str, name: str, ends: Ends) -> None:
    # A second: the machine may be doing other things, and what is looked at here is what comes and in which order.
    if ends.six:
        text = "--ip_version=ipv6\n" + re.sub(r"\d+", lambda number: OVER_IPV6.get(number[0], number[0]), text)
    packetdrill.run(packetdrill.parse("--tolerance_usecs=1000000\n" + text, name), "kernel")


@pytest.mark.parametrize("name", BOTH)
def test_the_kernel_does_what_the_script_says(name: str, ends: Ends) -> None:
    does_what_the_script_says(name, ends)


@pytest.mark.ipv4("seconds of waiting for timers, which are TCP's")
@pytest.mark.parametrize("name", SLOW)
def test_the_kernel_does_what_the_script_says_in_time(name: str) -> None:
    does_what_the_script_says(name, FOUR)


def does_what_the_script_says(name: str, ends: Ends) -> None:
    try:
        run((SCRIPTS / f"{name}.pkt").read_text(encoding="utf-8"), name, ends)
    except packetdrill.Mismatch as error:
        pytest.fail(str(error), pytrace=False)


def test_what_differs_is_told_of_the_kernel(ends: Ends) -> None:
    with pytest.raises(packetdrill.Mismatch, match=f"<mss 1000> expected, <mss {ends.mss}> got"):
        run(WRONG, "wrong.pkt", ends)


def test_a_call_that_blocks_is_seen(ends: Ends) -> None:
    with pytest.raises(packetdrill.Mismatch, match=r"accept\(\) blocks"):
        run("\n".join(WRONG.splitlines()[:3]) + "\n+0 accept(3, ..., ...) = 4\n", "blocks.pkt", ends)
