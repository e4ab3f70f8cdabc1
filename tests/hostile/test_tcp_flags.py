"""All 64 flag sets in every state: the answer, and where the connection goes, are what RFC 9293 §3.10.7 says.

As amended by RFC 5961 (challenge ACKs) and RFC 1337 (a RST does not end TIME-WAIT). Where the RFC leaves a choice,
every choice is accepted. attacks: SYN+FIN, SYN+RST, null, Christmas tree, split handshake.
"""

from __future__ import annotations

import pytest
from scapy.layers.inet import TCP

from tap_harness.lab import STATES, SYNCHRONIZED, Lab, Situation
from tap_harness.packets import describe

ALL_FLAGS = ["".join(letter for bit, letter in enumerate("FSRPAU") if number >> bit & 1) for number in range(64)]
SILENCE = ""
DELAYED_ACK = 0.19  # seconds an answer may take: less than the shortest retransmission time


def closed_or_listen(state: str, flags: str) -> set[str]:
    """§3.10.7.1 and §3.10.7.2."""
    if "R" in flags:
        return {SILENCE}
    if "A" in flags:
        return {"R"}
    if state == "CLOSED":
        return {"RA"}
    if "S" in flags:
        return {"SA", SILENCE} if "F" in flags else {"SA"}
    return {SILENCE}


def syn_sent(flags: str) -> set[str]:
    """§3.10.7.3, the ACK being acceptable."""
    if "R" in flags or "S" not in flags:
        return {SILENCE}
    if "F" in flags:
        return {"A", SILENCE} if "A" in flags else {"SA", SILENCE}
    return {"A"} if "A" in flags else {"SA"}


def synchronized(state: str, flags: str) -> set[str]:
    """§3.10.7.4 for a segment exactly at RCV.NXT that acknowledges all we sent."""
    if "R" in flags:
        return {SILENCE}
    if "S" in flags:
        if state == "SYN-RECEIVED":  # a passive open may go back to LISTEN
            return {"A", SILENCE, "R", "RA", "SA"}
        if state == "TIME-WAIT":  # MAY-2: a new connection
            return {"A", "SA", SILENCE, "R"}
        return {"A"}
    if "A" not in flags:
        return {SILENCE, "A"} if state == "TIME-WAIT" else {SILENCE}
    if "F" in flags and state in ("SYN-RECEIVED", "ESTABLISHED", "FIN-WAIT-1", "FIN-WAIT-2"):
        return {"A"}
    if "F" in flags or state == "TIME-WAIT":
        return {"A", SILENCE}
    return {SILENCE}


def allowed(state: str, flags: str) -> set[str]:
    if state in ("CLOSED", "LISTEN"):
        return closed_or_listen(state, flags)
    return syn_sent(flags) if state == "SYN-SENT" else synchronized(state, flags)


def next_states(state: str, flags: str) -> set[str]:
    """Where the connection may be afterwards."""
    if state in ("CLOSED", "LISTEN"):
        return (
            {"SYN-RECEIVED", "CLOSED"}
            if "S" in flags and not set(flags) & {"R", "A"} and state == "LISTEN"
            else {"CLOSED"}
        )
    if state == "SYN-SENT":
        if "R" in flags:
            return {"CLOSED"} if "A" in flags else {state}
        if "S" not in flags:
            return {state}
        after = {"ESTABLISHED"} if "A" in flags else {"SYN-RECEIVED"}
        return after | ({"CLOSE-WAIT", state} if "F" in flags else set())
    if "R" in flags:
        return {"TIME-WAIT", "CLOSED"} if state == "TIME-WAIT" else {"CLOSED"}
    if "S" in flags:
        return {state, "CLOSED", "SYN-RECEIVED"} if state in ("SYN-RECEIVED", "TIME-WAIT") else {state}
    if "A" not in flags:
        return {state}
    acked = {"SYN-RECEIVED": "ESTABLISHED", "FIN-WAIT-1": "FIN-WAIT-2", "CLOSING": "TIME-WAIT", "LAST-ACK": "CLOSED"}
    after_ack = acked.get(state, state)
    if "F" not in flags:
        return {after_ack}
    finned = {"ESTABLISHED": "CLOSE-WAIT", "FIN-WAIT-2": "TIME-WAIT"}
    return {finned.get(after_ack, after_ack)}


def answers(situation: Situation, patience: float = 0.0) -> list[str]:
    """What the stack says, as flags without PSH: at once, or if nothing comes within `patience` seconds."""
    found = []
    while (packet := situation.flow.next(0 if found else patience)) is not None:
        found.append(str(packet[TCP].flags).replace("P", ""))
    return found


@pytest.mark.rfc("9293", "3.10.7", "MUST-10", "MUST-11")
@pytest.mark.rfc("5961", "3", "4")
@pytest.mark.parametrize("state", STATES)
def test_every_flag_set(lab: Lab, state: str) -> None:
    health = lab.health
    wrong = []
    for flags in ALL_FLAGS:
        lab.carrier.advance(1.0)  # challenge ACKs are rate limited
        lab.peer.discard()
        situation = lab.reach(state)
        flow = situation.flow
        lab.peer.discard()
        if state in ("CLOSED", "LISTEN", "SYN-SENT"):
            flow.inject(flags, ack=flow.rcv)
        else:
            flow.inject(flags, ack=flow.rcv if "A" in flags else 0)
        permitted = allowed(state, flags)
        found = answers(situation, 0 if SILENCE in permitted else DELAYED_ACK)
        after = lab.state_of(flow)
        if not (found == [] and SILENCE in permitted) and not (len(found) == 1 and found[0] in permitted):
            wrong.append(f"{flags or 'none':7} answered {found or 'with silence'}, allowed {sorted(permitted)}")
        if after not in next_states(state, flags):
            wrong.append(f"{flags or 'none':7} went to {after}, allowed {sorted(next_states(state, flags))}")
        lab.tidy(situation)
    assert not wrong, f"in {state}:\n" + "\n".join(wrong)
    health.check()


@pytest.mark.rfc("9293", "3.10.7.4")
@pytest.mark.parametrize("offset", [-5000, 1 << 20, 1 << 31], ids=["old", "ahead", "opposite"])
@pytest.mark.parametrize("state", SYNCHRONIZED)
def test_every_flag_set_outside_the_window(lab: Lab, state: str, offset: int) -> None:
    """Never more than an ACK, never a change of state (RFC 9293 §3.10.7.4, first)."""
    wrong = []
    for flags in ALL_FLAGS:
        lab.carrier.advance(1.0)
        situation = lab.reach(state)
        flow = situation.flow
        lab.peer.discard()
        flow.inject(flags, b"data" if "P" in flags else b"", seq=flow.snd + offset, ack=flow.rcv)
        found = answers(situation)
        reopened = state == "TIME-WAIT" and "S" in flags and not set(flags) & {"R", "A"}
        if found not in ([], ["A"]) and not reopened and not (state == "SYN-RECEIVED" and found == ["SA"]):
            wrong.append(f"{flags or 'none':7} answered {found}")
        if "R" in flags and found:
            wrong.append(f"{flags:7} (a reset) was answered {found}")
        if lab.state_of(flow) != state and not reopened:
            wrong.append(f"{flags or 'none':7} went to {lab.state_of(flow)}")
        lab.tidy(situation)
    assert not wrong, f"in {state}:\n" + "\n".join(wrong)


@pytest.mark.rfc("9293", "3.10.7.1")
@pytest.mark.parametrize("flags", ["", "S", "F", "SF", "PU", "A", "SA", "FA"])
@pytest.mark.parametrize("size", [0, 1, 100])
def test_numbers_of_the_reset_for_no_connection(lab: Lab, flags: str, size: int) -> None:
    flow = lab.flow(9)
    flow.inject(flags, b"x" * size, seq=0xFFFFFFF0, ack=0x80000001 if "A" in flags else 0)
    if "A" in flags:
        flow.expect("R", seq=0x80000001, ack=0)
    else:
        length = size + ("S" in flags) + ("F" in flags)
        flow.expect("RA", seq=0, ack=(0xFFFFFFF0 + length) % (1 << 32))
    lab.peer.expect_nothing(5)


@pytest.mark.rfc("9293", "3.10.7.3")
@pytest.mark.parametrize("ack_offset", [-1, 1, 1 << 31])
@pytest.mark.parametrize("flags", ["A", "SA", "FA"])
def test_syn_sent_with_an_unacceptable_ack(lab: Lab, flags: str, ack_offset: int) -> None:
    """RST with its numbers, and the connection attempt goes on."""
    situation = lab.connecting()
    flow = situation.flow
    bad = (flow.rcv + ack_offset) % (1 << 32)
    flow.inject(flags, ack=bad)
    flow.expect("R", seq=bad, ack=0)
    flow.inject("RA", ack=bad)  # the same as a reset: dropped in silence
    assert set(answers(situation)) <= {"S"}  # Linux takes it as a hint to repeat its SYN
    assert lab.state_of(flow) == "SYN-SENT"
    flow.send("SA")
    assert "A" in answers(situation)
    assert lab.state_of(flow) == "ESTABLISHED"


def test_describes_what_it_saw(lab: Lab) -> None:
    """The table above judges by flags; this pins that the peer reads the stack's packets at all."""
    flow = lab.flow()
    answer = flow.handshake()
    assert describe(answer).startswith(f"80>{flow.sport} [SA]")
