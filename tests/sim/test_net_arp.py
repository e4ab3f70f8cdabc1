"""ARP and the neighbour table in virtual time: asking, waiting, ageing, doubting; RFC 826, 1122 §2.3.2, 5227, 4861."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from scapy.layers.inet import UDP
from scapy.layers.l2 import ARP, Ether

from tap_harness.lab import Lab
from tap_harness.scapy_peer import BROADCAST
from tests.sim.net_helpers import (
    OTHER_MAC,
    STACK_IP,
    answer,
    arp,
    counted,
    mac_of,
    neighbour,
    requests,
    send,
    sent,
    state,
    udp,
)

SOMEBODY = "10.9.0.7"
SOMEBODYS_MAC = "02:00:00:00:00:07"


@pytest.fixture
def lab() -> Iterator[Lab]:
    made = Lab()
    made.peer.ping()  # the peer knows the stack's link address from here on
    made.peer.discard(120)  # and the stack has forgotten the peer's
    assert made.stack.neighbors() == []
    yield made
    made.close()


def resolved(lab: Lab) -> None:
    """SOMEBODY is REACHABLE."""
    send(lab, udp(lab), b"hello", (SOMEBODY, 9))
    answer(lab, SOMEBODY, SOMEBODYS_MAC)
    sent(lab)
    assert state(lab, SOMEBODY) == "REACHABLE"


@pytest.mark.rfc("826", "request and reply")
def test_datagram_waits_for_the_address(lab: Lab) -> None:
    sock = udp(lab)
    send(lab, sock, b"hello", (SOMEBODY, 9))
    (request,) = sent(lab)
    assert request.dst == BROADCAST
    assert (request[ARP].op, request[ARP].psrc, request[ARP].pdst) == (1, STACK_IP, SOMEBODY)
    assert request[ARP].hwdst == "00:00:00:00:00:00"
    assert state(lab, SOMEBODY) == "INCOMPLETE"
    answer(lab, SOMEBODY, SOMEBODYS_MAC)
    (datagram,) = sent(lab)
    assert datagram.dst == SOMEBODYS_MAC
    assert bytes(datagram[UDP].payload) == b"hello"
    assert state(lab, SOMEBODY) == "REACHABLE"
    send(lab, sock, b"again", (SOMEBODY, 9))
    assert [bytes(packet[UDP].payload) for packet in sent(lab)] == [b"again"]


@pytest.mark.rfc("1122", "2.3.2.1 ARP flood")
def test_requests_are_a_second_apart_and_end(lab: Lab) -> None:
    sock = udp(lab)
    with counted(lab) as grown:
        send(lab, sock, b"1", (SOMEBODY, 9))
        for _ in range(29):
            lab.carrier.advance(0.1)
            send(lab, sock, b"more", (SOMEBODY, 9))
        assert len(requests(sent(lab), SOMEBODY)) == 3
        assert requests(sent(lab, 1.0), SOMEBODY) == []
    assert grown["NeighResolveFailed"] == 1
    assert state(lab, SOMEBODY) == "FAILED"
    with pytest.raises(OSError, match="route"):
        send(lab, sock, b"too early", (SOMEBODY, 9))
    assert requests(sent(lab), SOMEBODY) == []
    lab.carrier.advance(1.0)
    assert neighbour(lab, SOMEBODY) is None
    send(lab, sock, b"a new attempt", (SOMEBODY, 9))
    assert len(requests(sent(lab), SOMEBODY)) == 1


@pytest.mark.rfc("1122", "2.3.2.2 packet queue")
def test_latest_datagrams_are_kept(lab: Lab) -> None:
    """unres_qlen bounds the queue; the oldest is dropped, the order kept."""
    lab.stack.sysctl["net.ipv4.neigh.default.unres_qlen"] = 5
    sock = udp(lab)
    with counted(lab) as grown:
        for number in range(12):
            send(lab, sock, bytes([number]), (SOMEBODY, 9))
    assert grown["NeighQueueDrops"] == 7
    sent(lab)
    answer(lab, SOMEBODY, SOMEBODYS_MAC)
    assert [bytes(packet[UDP].payload) for packet in sent(lab)] == [bytes([number]) for number in range(7, 12)]


@pytest.mark.rfc("1122", "2.3.2.1 cache validation")
def test_unused_entry_is_forgotten(lab: Lab) -> None:
    resolved(lab)
    lab.carrier.advance(46)  # the reachable time is at most 45 s
    assert state(lab, SOMEBODY) == "STALE"
    lab.carrier.advance(60)
    assert neighbour(lab, SOMEBODY) is None
    assert sent(lab) == []


@pytest.mark.rfc("4861", "7.3.3")
def test_stale_entry_is_proved_when_it_is_used(lab: Lab) -> None:
    """The datagram goes out at once; five seconds later the neighbour is asked by unicast, and stays if it answers."""
    resolved(lab)
    lab.carrier.advance(46)
    sock = udp(lab)
    send(lab, sock, b"now", (SOMEBODY, 9))
    assert [packet.dst for packet in sent(lab)] == [SOMEBODYS_MAC]
    assert state(lab, SOMEBODY) == "DELAY"
    assert sent(lab, 4.9) == []
    (probe,) = sent(lab, 0.2)
    assert (probe.dst, probe[ARP].op, probe[ARP].pdst) == (SOMEBODYS_MAC, 1, SOMEBODY)
    assert state(lab, SOMEBODY) == "PROBE"
    answer(lab, SOMEBODY, SOMEBODYS_MAC)
    assert state(lab, SOMEBODY) == "REACHABLE"
    assert sent(lab, 10) == []


@pytest.mark.rfc("1122", "2.3.2.1 (2) unicast poll")
def test_silent_neighbour_is_asked_by_unicast_then_by_broadcast(lab: Lab) -> None:
    resolved(lab)
    lab.carrier.advance(46)
    send(lab, udp(lab), b"now", (SOMEBODY, 9))
    sent(lab)
    probes = sent(lab, 5 + 6.5)
    assert [packet.dst for packet in probes] == [SOMEBODYS_MAC] * 3 + [BROADCAST] * 3
    assert state(lab, SOMEBODY) == "FAILED"


@pytest.mark.rfc("826", "merge")
def test_request_for_our_address_creates_an_entry_and_is_answered_by_unicast(lab: Lab) -> None:
    lab.peer.send_ether(arp(1, psrc=SOMEBODY, pdst=STACK_IP, hwsrc=SOMEBODYS_MAC))
    (reply,) = sent(lab)
    assert reply.dst == SOMEBODYS_MAC
    assert (reply[ARP].op, reply[ARP].psrc, reply[ARP].pdst, reply[ARP].hwdst) == (2, STACK_IP, SOMEBODY, SOMEBODYS_MAC)
    assert (state(lab, SOMEBODY), mac_of(lab, SOMEBODY)) == ("STALE", SOMEBODYS_MAC)


@pytest.mark.rfc("826", "merge")
def test_request_resolves_an_address_we_wait_for(lab: Lab) -> None:
    send(lab, udp(lab), b"hello", (SOMEBODY, 9))
    sent(lab)
    lab.peer.send_ether(arp(1, psrc=SOMEBODY, pdst=STACK_IP, hwsrc=SOMEBODYS_MAC))
    assert [packet.dst for packet in sent(lab) if UDP in packet] == [SOMEBODYS_MAC]
    assert state(lab, SOMEBODY) == "DELAY"


@pytest.mark.rfc("826", "merge")
@pytest.mark.parametrize("target", ["10.9.0.9", "10.9.1.2", "10.9.0.255"])
def test_request_for_others_is_not_answered_and_not_learned(lab: Lab, target: str) -> None:
    lab.peer.send_ether(arp(1, psrc=SOMEBODY, pdst=target, hwsrc=SOMEBODYS_MAC))
    assert sent(lab) == []
    assert neighbour(lab, SOMEBODY) is None


def test_other_link_address_is_believed_when_the_old_one_is_silent(lab: Lab) -> None:
    """A fail-over: the new owner announces itself, the old one does not answer, the new one does."""
    resolved(lab)
    lab.carrier.advance(2)
    lab.peer.send_ether(arp(1, psrc=SOMEBODY, pdst=SOMEBODY, hwsrc=OTHER_MAC))
    assert [packet.dst for packet in sent(lab)] == [SOMEBODYS_MAC]
    assert mac_of(lab, SOMEBODY) == SOMEBODYS_MAC
    assert [packet.dst for packet in sent(lab, 1.1)] == [BROADCAST]
    answer(lab, SOMEBODY, OTHER_MAC)
    assert (state(lab, SOMEBODY), mac_of(lab, SOMEBODY)) == ("REACHABLE", OTHER_MAC)


def test_transport_progress_keeps_an_entry_reachable(lab: Lab) -> None:
    """RFC 4861 §7.3.1: acknowledged data is proof; no probe is needed while a connection moves."""
    situation = lab.established()
    for _ in range(80):
        lab.write(situation.sock, b"x")
        situation.flow.expect(data=b"x")
        situation.flow.send("A")
        lab.carrier.advance(1)
    assert requests(sent(lab), lab.peer.ip) == []
    assert state(lab, lab.peer.ip) == "REACHABLE"
    lab.tidy(situation)


def test_undeliverable_datagram_is_reported_to_a_connected_socket_that_wants_it(lab: Lab) -> None:
    """Resolution that fails comes back as host unreachable: a ping socket hears of it."""
    sock = lab.stack.socket(2, 2, 1)
    sock.setblocking(False)
    send(lab, sock, b"\x08\0\0\0\0\0\0\1payload", (SOMEBODY, 0))
    lab.carrier.advance(3.5)
    with pytest.raises(OSError, match="route"):
        sock.recv(100)


@pytest.mark.parametrize("medium", ["ethernet", "ip"])
def test_nothing_is_left_to_do_on_an_idle_stack(medium: str) -> None:
    """After the neighbours are forgotten there is no deadline: an embedder's loop may sleep for ever."""
    lab = Lab(medium=medium)
    lab.carrier.advance(200)
    assert lab.stack.next_deadline() is None
    assert lab.stack.live()["neighbors"] == 0
    lab.close()


# -- our own addresses


@pytest.mark.rfc("5227", "2.3")
def test_address_without_probing_is_announced_once(lab: Lab) -> None:
    name = next(one.name for one in lab.stack.interfaces() if one.medium == "ethernet")
    lab.stack.add_address(name, "10.9.0.3/24")
    lab.carrier.pump()
    (announcement,) = sent(lab, 30)
    assert (announcement.dst, announcement[ARP].op) == (BROADCAST, 1)
    assert announcement[ARP].psrc == announcement[ARP].pdst == "10.9.0.3"


@pytest.mark.rfc("5227", "2.1.1")
def test_probing_and_announcing(lab: Lab) -> None:
    """Three probes with sender 0 within a second, one to two seconds apart; two seconds later two announcements."""
    name = next(one.name for one in lab.stack.interfaces() if one.medium == "ethernet")
    lab.stack.add_address(name, "10.9.0.3/24", probe=True)
    start = lab.carrier.now()
    seen = []
    while (frame := lab.carrier.receive(20)) is not None:
        seen.append((lab.carrier.now() - start, Ether(frame)[ARP]))
    times = [when for when, _ in seen]
    assert [(packet.op, packet.psrc, packet.pdst) for _, packet in seen] == (
        [(1, "0.0.0.0", "10.9.0.3")] * 3 + [(1, "10.9.0.3", "10.9.0.3")] * 2
    )
    assert 0 <= times[0] <= 1
    assert 1 <= times[1] - times[0] <= 2
    assert 1 <= times[2] - times[1] <= 2
    assert times[3] - times[2] == pytest.approx(2)
    assert times[4] - times[3] == pytest.approx(2)


def address_state(lab: Lab, address: str) -> str:
    return next(a.state for i in lab.stack.interfaces() for a in i.addresses if a.address == address)


@pytest.mark.rfc("5227", "2.1.1")
@pytest.mark.parametrize(
    ("op", "psrc", "pdst"),
    [(1, "0.0.0.0", "10.9.0.3"), (1, "10.9.0.3", "10.9.0.1"), (2, "10.9.0.3", STACK_IP)],
    ids=["another's probe", "request from it", "reply from it"],
)
def test_conflict_while_probing(lab: Lab, op: int, psrc: str, pdst: str) -> None:
    name = next(one.name for one in lab.stack.interfaces() if one.medium == "ethernet")
    lab.stack.add_address(name, "10.9.0.3/24", probe=True)
    assert address_state(lab, "10.9.0.3") == "TENTATIVE"
    lab.carrier.advance(2)
    sent(lab)
    lab.peer.send_ether(arp(op, psrc=psrc, pdst=pdst, hwsrc=OTHER_MAC))
    assert address_state(lab, "10.9.0.3") == "CONFLICT"
    assert sent(lab, 30) == []
    lab.peer.send_ether(arp(1, psrc="10.9.0.1", pdst="10.9.0.3"))
    assert sent(lab) == []


@pytest.mark.rfc("5227", "2.1.1")
def test_tentative_address_is_not_used(lab: Lab) -> None:
    name = next(one.name for one in lab.stack.interfaces() if one.medium == "ethernet")
    lab.stack.add_address(name, "10.9.0.3/24", probe=True)
    lab.peer.send_ether(arp(1, psrc="10.9.0.1", pdst="10.9.0.3"))
    assert [packet for packet in sent(lab) if packet[ARP].op == 2] == []
    with pytest.raises(OSError, match="assign"):
        udp(lab, 5000, "10.9.0.3")


@pytest.mark.rfc("5227", "2.4")
def test_address_is_defended_once_in_ten_seconds(lab: Lab) -> None:
    def conflicts(seconds: int) -> int:
        for _ in range(seconds * 10):
            lab.peer.send_ether(arp(1, psrc=STACK_IP, pdst=STACK_IP, hwsrc=OTHER_MAC))
            lab.carrier.advance(0.1)
        return len(requests(sent(lab), STACK_IP))

    with counted(lab) as grown:
        assert conflicts(9) == 1
        assert conflicts(3) == 1
    assert grown["ArpConflicts"] == 120
    assert address_state(lab, STACK_IP) == "PREFERRED"
    lab.peer.ping()


@pytest.mark.rfc("5227", "2.5")
def test_probe_for_our_address_is_answered(lab: Lab) -> None:
    lab.peer.send_ether(arp(1, psrc="0.0.0.0", pdst=STACK_IP, hwsrc=OTHER_MAC))
    (reply,) = sent(lab)
    assert (reply.dst, reply[ARP].op, reply[ARP].psrc) == (OTHER_MAC, 2, STACK_IP)
    assert neighbour(lab, "0.0.0.0") is None
