"""Windows, segment sizes and when small segments may be sent: silly-window avoidance on both sides, Nagle, MSS, window
scale, PSH.
"""

from __future__ import annotations

import itertools
import socket

import pytest
from scapy.layers.inet import TCP
from scapy.layers.l2 import Ether

from tap_harness.diff import ANY
from tap_harness.lab import PORT, Lab
from tap_harness.packets import payload
from ustack import sim

TIMESTAMPS = [("MSS", 1460), ("SAckOK", b""), ("Timestamp", (1000, 0)), ("NOP", None), ("WScale", 7)]


def test_syn_options_are_linuxs_in_linuxs_order(lab: Lab) -> None:
    situation = lab.connecting()
    lab.carrier.advance(1.1)
    syn = situation.flow.next(1)
    assert [name for name, _ in syn[TCP].options] == ["MSS", "SAckOK", "Timestamp", "NOP", "WScale"]
    assert dict(syn[TCP].options)["WScale"] == 7


@pytest.mark.rfc("9293", "MUST-67")
@pytest.mark.rfc("7323", "2.2")
def test_syn_ack_answers_only_what_was_offered(lab: Lab) -> None:
    flow = lab.flow(PORT)
    answer = flow.handshake([("MSS", 1460)])
    assert answer[TCP].options == [("MSS", 1460)]
    other = lab.flow(PORT)
    answer = other.handshake(TIMESTAMPS)
    assert [name for name, _ in answer[TCP].options] == ["MSS", "SAckOK", "Timestamp", "NOP", "WScale"]


@pytest.mark.rfc("9293", "MUST-15")
def test_no_mss_option_means_536(lab: Lab) -> None:
    situation = lab.established([])
    lab.write(situation.sock, bytes(2000))
    assert {len(payload(packet)) for packet in situation.flow.collect(0.01)} <= {536, 2000 - 3 * 536}


@pytest.mark.rfc("9293", "MUST-16")
def test_segments_leave_room_for_timestamps(lab: Lab) -> None:
    situation = lab.established(TIMESTAMPS, win=200)
    flow = situation.flow
    flow.options = [("NOP", None), ("NOP", None), ("Timestamp", (1001, 0))]
    flow.send("A", win=200)
    lab.write(situation.sock, bytes(5000))
    sizes = [len(payload(packet)) for packet in flow.collect(0.01)]
    assert sizes[0] == 1448


@pytest.mark.rfc("9293", "SHLD-7")
def test_nagle_holds_the_second_small_segment(lab: Lab) -> None:
    situation = lab.established()
    flow = situation.flow
    lab.write(situation.sock, b"a")
    flow.expect("A", data=b"a")
    lab.write(situation.sock, b"b")
    lab.write(situation.sock, b"c")
    flow.expect_nothing(0.1)
    flow.send("A")
    flow.expect("PA", data=b"bc")


@pytest.mark.rfc("9293", "MUST-17")
def test_nagle_can_be_switched_off(lab: Lab) -> None:
    situation = lab.established()
    situation.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in (b"a", b"b", b"c"):
        lab.write(situation.sock, byte)
        situation.flow.expect("A", data=byte)


@pytest.mark.rfc("9293", "MUST-61")
def test_push_is_on_the_last_segment_of_a_burst(lab: Lab) -> None:
    situation = lab.established()
    lab.write(situation.sock, bytes(4000))
    flags = [packet[TCP].flags & 8 for packet in situation.flow.collect(0.01)]
    assert flags == [0, 0, 8]


@pytest.mark.rfc("9293", "MUST-38")
def test_sender_does_not_fill_a_silly_window(lab: Lab) -> None:
    """Of 100 bytes of window a 5000-byte backlog takes nothing at once; after the override time-out it does
    (§3.8.6.2.1).
    """
    situation = lab.established(win=20000)
    flow = situation.flow
    lab.write(situation.sock, bytes(1460))
    flow.expect("A", data=ANY)
    flow.send("A", win=100)
    lab.write(situation.sock, bytes(5000))
    flow.expect_nothing(0.19)
    packet = flow.expect("A", 0.5, data=ANY)
    assert len(payload(packet)) == 100


@pytest.mark.rfc("9293", "MUST-39")
@pytest.mark.rfc("9293", "SHLD-14")
def test_receiver_opens_the_window_in_useful_steps_and_never_shrinks_it(lab: Lab) -> None:
    situation = lab.established()
    flow, sock = situation.flow, situation.sock
    edges = []
    for _ in range(200):
        flow.send("PA", bytes(1000))
        packets = flow.collect(0.25)
        edges += [(packet[TCP].ack + packet[TCP].window) % 2**32 for packet in packets]
        if packets and packets[-1][TCP].window == 0:
            break
    assert packets[-1][TCP].window == 0
    flow.snd = packets[-1][TCP].ack
    assert all(later >= earlier for earlier, later in itertools.pairwise(edges))
    sock.recv(100)
    lab.carrier.pump()
    flow.expect_nothing(0.1)  # 100 bytes of room are not worth a segment
    sock.recv(60000)
    lab.carrier.pump()
    assert flow.expect("A", 1.0, seq=ANY)[TCP].window >= 1460


@pytest.mark.rfc("9293", "SHLD-15")
@pytest.mark.rfc("9293", "SHLD-16")
@pytest.mark.rfc("9293", "MUST-34")
def test_a_shrunken_window_is_survived(lab: Lab) -> None:
    """The peer takes window back below what was sent: nothing new, but what was sent is retransmitted; growth ends it.
    """
    situation = lab.established()
    flow = situation.flow
    data = bytes(range(250)) * 40
    lab.write(situation.sock, data)
    first = flow.collect(0.05)
    una = first[0][TCP].seq
    flow.inject("A", ack=una, win=1000)
    again = flow.next(1)
    assert again is not None
    assert again[TCP].seq in {packet[TCP].seq for packet in first}
    flow.rcv = una
    assert flow.read(len(data)) == data


def test_window_scale_is_used_after_the_handshake(lab: Lab) -> None:
    """512 units of 2**7 let more than 64 KiB be in flight once the window has grown."""
    situation = lab.established(TIMESTAMPS)
    flow = situation.flow
    flow.options = [("NOP", None), ("NOP", None), ("Timestamp", (1001, 0))]
    flow.send("A", win=4096)
    sent = 0
    for _ in range(6):
        try:
            lab.write(situation.sock, bytes(400_000))
        except BlockingIOError:
            pass
        burst = sum(len(payload(packet)) for packet in flow.collect(0.02))
        sent = max(sent, burst)
        flow.send("A", win=4096)
    assert sent > 65536


def test_window_follows_a_fast_reader() -> None:
    """Dynamic right-sizing: a bulk transfer over 100 ms is not held to 64 KiB a round trip."""
    from ustack import sim

    with sim.Network(seed=3) as net:
        a, b = net.stack("a"), net.stack("b")
        net.wire(a, b, addresses=("10.0.0.1/24", "10.0.0.2/24"), rate=1e9, delay=0.05)
        server = a.create_server(("", 80))
        client = b.create_connection(("10.0.0.1", 80))
        accepted, _ = server.accept()

        def send() -> None:
            client.sendall(bytes(30_000_000))
            client.close()

        net.spawn(send)
        got = 0
        while piece := accepted.recv(1 << 20):
            got += len(piece)
        assert got == 30_000_000
        assert net.now < 6e9  # at 64 KiB a round trip it would take 46 s


@pytest.mark.parametrize("lost", [None, 150])
def test_the_window_grows_with_what_arrives_and_is_there_while_a_loss_is_repaired(lost: int | None) -> None:
    """What right-sizing gives is given by and by, as Linux does: a window that opens at once is a burst at once. And a
    sender is not held up by what waits behind a loss.
    """
    edges: list[int] = []
    arrived: list[int] = []

    with sim.Network(seed=3) as net:
        a, b = net.stack("a"), net.stack("b")
        wire = net.wire(a, b, addresses=("10.0.0.1/24", "10.0.0.2/24"), rate=100e6, delay=0.01)

        def data(frame: bytes, number: int) -> bytes | None:
            arrived.append(len(payload(Ether(frame))))
            return None if len(arrived) == lost else frame

        def ack(frame: bytes, number: int) -> bytes:
            segment = Ether(frame)[TCP]
            if not segment.flags.S:
                edges.append(segment.ack + (segment.window << 7))
            return frame

        with a.create_server(("", 80)) as server, b.create_connection(("10.0.0.1", 80)) as client:
            accepted, _ = server.accept()
            wire.b_to_a.filter, wire.a_to_b.filter = data, ack
            sender = net.spawn(client.sendall, bytes(2_000_000))
            got = 0
            while got < 2_000_000:
                got += len(accepted.recv(1 << 20))
            sender.result()
            (flow,) = (c for c in b.connections() if c.state == "ESTABLISHED")
            accepted.close()
    assert max(arrived) == 1448
    steps = [later - earlier for earlier, later in itertools.pairwise(edges)]
    if lost is None:
        assert max(steps) <= 3 * 2 * 1448 + 128  # two segments an ACK: what they took, and twice that
    assert edges[-1] - 2_000_000 - edges[0] > 500_000  # and it did grow
    assert flow.details["rwnd_limited"] == 0


@pytest.mark.parametrize(("delay", "most"), [(0.000_01, 512 << 10), (0.05, 4 << 20)])
def test_the_send_queue_follows_the_path(delay: float, most: int) -> None:
    """Where round trips are long it grows to tcp_wmem; where they are short, no further than a cache holds."""
    with sim.Network(seed=5) as net:
        stacks = [net.stack("a"), net.stack("b")]
        net.wire(*stacks, addresses=("10.0.0.1/24", "10.0.0.2/24"), rate=1e11, delay=delay)
        server = stacks[0].create_server(("", 80))
        client = stacks[1].create_connection(("10.0.0.1", 80))
        accepted, _ = server.accept()
        sizes = set()

        def receive() -> None:
            while accepted.recv(1 << 20):
                pass

        reader = net.spawn(receive)
        for _ in range(300):
            client.sendall(bytes(100_000))
            sizes.add(client.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF))
        client.close()
        reader.result()
        assert max(sizes) == most
