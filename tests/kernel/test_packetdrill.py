"""Scripts that say what Linux does as well as what ustack does, against Linux in real time."""

from __future__ import annotations

from pathlib import Path

import pytest

from tap_harness import packetdrill

pytestmark = pytest.mark.usefixtures("privileged")

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
# Both targets run these (tests/sim/test_scripts.py has all of them on the stack): nothing in them is ustack's own.
BOTH = (
    "abort_with_data_unread", "close_by_peer", "close_by_stack", "cork", "data_in", "delayed_ack", "epoll",
    "fast_open_client", "handshake_active", "handshake_no_options", "linger_zero", "msg_more", "nagle",
    "out_of_window_data", "paws", "reset_for_closed_port", "reset_in_window", "sack_sent", "sendmsg",
    "synack_retransmission", "syn_in_established", "udp_echo",
)  # fmt: skip
WRONG = """\
0   socket(..., SOCK_STREAM, IPPROTO_TCP) = 3
+0  bind(3, ..., ...) = 0
+0  listen(3, 1) = 0
+0  < S 0:0(0) win 1000 <mss 1000>
+0  > S. 0:0(0) ack 1 <mss 1000>
"""


def run(text: str, name: str) -> None:
    # A second: the machine may be doing other things, and what is looked at here is what comes and in which order.
    packetdrill.run(packetdrill.parse("--tolerance_usecs=1000000\n" + text, name), "kernel")


@pytest.mark.parametrize("name", BOTH)
def test_the_kernel_does_what_the_script_says(name: str) -> None:
    try:
        run((SCRIPTS / f"{name}.pkt").read_text(encoding="utf-8"), name)
    except packetdrill.Mismatch as error:
        pytest.fail(str(error), pytrace=False)


def test_what_differs_is_told_of_the_kernel() -> None:
    with pytest.raises(packetdrill.Mismatch, match="<mss 1000> expected, <mss 1460> got"):
        run(WRONG, "wrong.pkt")


def test_a_call_that_blocks_is_seen() -> None:
    with pytest.raises(packetdrill.Mismatch, match=r"accept\(\) blocks"):
        run("\n".join(WRONG.splitlines()[:3]) + "\n+0 accept(3, ..., ...) = 4\n", "blocks.pkt")
