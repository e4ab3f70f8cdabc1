"""The same segments to Linux and to ustack: the answers are compared, flag by flag and number by number.

What Linux does differently on purpose, or the RFC leaves open, is not in the scripts. Answers are those of the moment:
timers are left out, because Linux's time is real.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from scapy.layers.inet import TCP

from tap_harness.ends import Ends
from tap_harness.flow import Flow
from tap_harness.lab import CLOSED_PORT, STATES, Lab
from tap_harness.linux_carrier import LinuxCarrier
from tap_harness.packets import payload

DELAYED_ACK = 0.15  # seconds in which an answer that was delayed has come, and a retransmission has not

Transcript = list[Any]


@pytest.fixture
def labs(privileged: None, ends: Ends) -> Iterator[dict[str, Lab]]:
    """The same laboratory twice."""
    with contextlib.ExitStack() as cleanup:
        linux, ours = Lab(LinuxCarrier(ends.stack_net), ends), Lab(ends=ends)
        for lab in (linux, ours):
            cleanup.callback(lab.close)
        yield {"linux": linux, "ustack": ours}


def heard(lab: Lab, flow: Flow, within: float = DELAYED_ACK) -> Transcript:
    """What the stack says now, in numbers relative to the beginning of the conversation; and where it stands."""
    found = []
    while (packet := flow.next(0 if found else within)) is not None:
        flags = str(packet[TCP].flags)
        if "S" in flags:
            flow.irs = packet[TCP].seq
        seq, ack = flow.relative(packet)
        if "R" in flags:  # with or without an acknowledgement: the RFC asks for the sequence number only
            flags, ack = "R", 0
        found.append((flags, seq, ack if "A" in flags else 0, payload(packet)))
    return [*found, lab.state_of(flow)]


def compare(labs: dict[str, Lab], script: Callable[[Lab], Transcript]) -> None:
    found = {name: script(lab) for name, lab in labs.items()}
    assert found["ustack"] == found["linux"]


def data_in_and_out_of_order(lab: Lab) -> Transcript:
    situation = lab.established()
    flow, said = situation.flow, []
    for offset, data in [
        (0, b"abc"),
        (6, b"ghi"),
        (6, b"ghi"),
        (3, b"def"),
        (3, b"def"),
        (0, b"abcdefghi"),
        (7, b"hijkl"),
    ]:
        flow.inject("PA", data, seq=flow.isn + 1 + offset)
        said.append(heard(lab, flow))
    return [*said, lab.read(situation.sock)]


def close_by_the_stack(lab: Lab) -> Transcript:
    situation = lab.established()
    flow = situation.flow
    lab.shutdown(situation.sock)
    said = [heard(lab, flow)]
    flow.rcv += 1
    for flags, data in [("A", b""), ("PA", b"still open"), ("FA", b"")]:
        flow.send(flags, data)
        said.append(heard(lab, flow))
    flow.inject("FA", seq=flow.snd - 1)
    return [*said, heard(lab, flow), lab.read(situation.sock)]


def close_by_the_peer(lab: Lab) -> Transcript:
    situation = lab.established()
    flow = situation.flow
    flow.send("FPA", b"last words")
    said = [heard(lab, flow), lab.read(situation.sock)]
    lab.write(situation.sock, b"answer")
    said.append(heard(lab, flow))
    flow.rcv += 6
    flow.send("A")
    situation.sock.close()
    lab.carrier.pump()
    said.append(heard(lab, flow))
    flow.rcv += 1
    flow.send("A")
    return [*said, heard(lab, flow)]


def simultaneous_close(lab: Lab) -> Transcript:
    situation = lab.established()
    flow = situation.flow
    lab.shutdown(situation.sock)
    said = [heard(lab, flow)]
    flow.send("FA")
    said.append(heard(lab, flow))
    flow.rcv += 1
    flow.send("A")
    return [*said, heard(lab, flow)]


def close_with_unread_data(lab: Lab) -> Transcript:
    situation = lab.established()
    situation.flow.send("PA", b"unread")
    said = [heard(lab, situation.flow)]
    situation.sock.close()
    lab.carrier.pump()
    return [*said, heard(lab, situation.flow)]


def data_after_close(lab: Lab) -> Transcript:
    situation = lab.established()
    flow = situation.flow
    situation.sock.close()
    lab.carrier.pump()
    said = [heard(lab, flow)]
    flow.rcv += 1
    flow.send("PA", b"too late")
    return [*said, heard(lab, flow)]


def resets_around_the_window(lab: Lab) -> Transcript:
    situation = lab.established()
    flow, said = situation.flow, []
    for offset in (-1, -1000, 1, 1000, 1 << 20, 0):
        lab.carrier.advance(1)  # challenges are rate limited
        flow.inject("R", seq=flow.snd + offset)
        said.append(heard(lab, flow, 0))
    flow.inject("A")
    return [*said, heard(lab, flow)]


def syns_into_a_connection(lab: Lab) -> Transcript:
    situation = lab.established()
    flow, said = situation.flow, []
    for flags, offset in [("S", 0), ("S", 100), ("S", -100), ("SA", 0), ("SA", -1), ("SF", 5)]:
        lab.carrier.advance(1)
        flow.inject(flags, seq=flow.snd + offset)
        said.append(heard(lab, flow, 0))
    return said


def acknowledgements_that_lie(lab: Lab) -> Transcript:
    situation = lab.established()
    flow, said = situation.flow, []
    for offset in (1, 1000, -(1 << 20), 1 << 30):
        lab.carrier.advance(1)
        flow.inject("PA", b"x", ack=flow.rcv + offset)
        said.append(heard(lab, flow, 0))
    return [*said, lab.read(situation.sock)]


def outside_the_window(lab: Lab) -> Transcript:
    situation = lab.established()
    flow, said = situation.flow, []
    for flags, data, offset in [
        ("A", b"", -1),
        ("A", b"", 1 << 24),
        ("PA", b"x", -5),
        ("PA", b"x", 1 << 24),
        ("FA", b"", 1 << 24),
    ]:
        lab.carrier.advance(1)
        flow.inject(flags, data, seq=flow.snd + offset)
        said.append(heard(lab, flow, 0))
    return said


def no_connection(lab: Lab) -> Transcript:
    flow = lab.flow(CLOSED_PORT)
    said = []
    for flags, data in [
        ("S", b""),
        ("S", b"data"),
        ("A", b""),
        ("SA", b""),
        ("FPU", b""),
        ("", b""),
        ("R", b""),
        ("RA", b""),
        ("F", b"x"),
    ]:
        flow.inject(flags, data, ack=12345 if "A" in flags else 0)
        while (packet := flow.next(0)) is not None:
            said.append((flags, str(packet[TCP].flags), packet[TCP].seq, packet[TCP].ack))
    return said


def simultaneous_open(lab: Lab) -> Transcript:
    situation = lab.connecting()
    flow = situation.flow
    flow.send("S", options=[("MSS", 1460)])
    said = [heard(lab, flow, 0)]
    flow.send("A")
    return [*said, heard(lab, flow)]


SCRIPTS = [
    data_in_and_out_of_order,
    close_by_the_stack,
    close_by_the_peer,
    simultaneous_close,
    close_with_unread_data,
    data_after_close,
    resets_around_the_window,
    syns_into_a_connection,
    acknowledgements_that_lie,
    outside_the_window,
    no_connection,
    simultaneous_open,
]


@pytest.mark.parametrize("script", SCRIPTS)
def test_same_answers(labs: dict[str, Lab], script: Callable[[Lab], Transcript]) -> None:
    compare(labs, script)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("flags", ["", "A", "R", "S", "SF", "SR", "FSRPAU"])
def test_same_answer_in_every_state(labs: dict[str, Lab], state: str, flags: str) -> None:
    """One segment exactly in order."""
    if state == "TIME-WAIT" and flags:
        pytest.skip("optional: Linux lets a RST end TIME-WAIT (RFC 1337), a SYN may or may not reopen it (MAY-2)")
    if state == "SYN-RECEIVED" and flags in ("S", "SF"):
        pytest.skip("optional: Linux resets here, RFC 5961 §4.2 challenges")

    def script(lab: Lab) -> Transcript:
        situation = lab.reach(state)
        lab.peer.discard()
        situation.flow.inject(flags, ack=situation.flow.rcv)
        return heard(lab, situation.flow, 0)

    compare(labs, script)


def test_it_can_tell_a_difference(labs: dict[str, Lab]) -> None:
    with pytest.raises(AssertionError):
        compare(labs, lambda lab: [str(type(lab.carrier))])
