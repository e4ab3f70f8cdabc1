"""RFC 1122, 768, 791, 792, 6864, 6633: what a host does with IP, ICMP and UDP."""

from __future__ import annotations

import errno
from typing import Any

from scapy.layers.inet import ICMP, IP, UDP, fragment
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from tap_harness.conformance.probe import Probe, Sock
from tap_harness.conformance.registry import MAY, MUST, SHOULD, NotApplicable, document
from tap_harness.conformance.rfc9293_ip import icmp
from tap_harness.conformance.target import StackTarget
from tap_harness.packets import payload

R = document("1122", "Requirements for Internet Hosts")
A = document("826", "An Ethernet Address Resolution Protocol")
C = document("5227", "IPv4 Address Conflict Detection")
BROADCAST = "ff:ff:ff:ff:ff:ff"
CLOSED = 4711  # a UDP port that nobody has


def answers(p: Probe, layer: Any, seconds: float | None = None) -> list[Packet]:
    """The packets with that layer that come in so many seconds (soon)."""
    found = []
    while (packet := p.peer.take(lambda one: layer in one, p.soon if seconds is None else seconds)) is not None:
        found.append(packet)
    return found


def echo(p: Probe, data: bytes = b"echo", **header: Any) -> Packet:
    """An echo request."""
    made: Any = p.peer.ip_header(**header) / ICMP(type=8, id=7, seq=1) / Raw(data)
    return made


def replied(p: Probe, seconds: float | None = None) -> bool:
    """Whether an echo reply comes."""
    return any(packet[ICMP].type == 0 for packet in answers(p, ICMP, seconds))


def errors(p: Probe, kind: int, seconds: float | None = None) -> list[Packet]:
    """ICMP errors of that type."""
    return [packet for packet in answers(p, ICMP, seconds) if packet[ICMP].type == kind]


def resent(p: Probe, packet: Packet, **fields: Any) -> None:
    """Send a packet with fields of its IP header changed after checksum and lengths were worked out."""
    made = IP(bytes(packet))
    for name, value in fields.items():
        setattr(made, name, value)
    if "chksum" not in fields:
        del made.chksum
    p.peer.send(IP(bytes(made)))


# -- IP (§3.2.1)


@R.check("§3.2.1.1", "a datagram of another version than 4 is dropped without a word", MUST)
def version(p: Probe) -> None:
    resent(p, echo(p), version=5)
    p.require(not answers(p, IP), "something came")


@R.check("§3.2.1.2", "a datagram with a wrong header checksum is dropped without a word", MUST)
def header_checksum(p: Probe) -> None:
    right = IP(bytes(echo(p))).chksum
    for wrong in (right ^ 1, right ^ 0x4000, 0):
        resent(p, echo(p), chksum=wrong)
        p.require(not answers(p, IP), "something came")


@R.check("§3.2.1.3", "a datagram for another host is dropped without a word, and not forwarded", MUST)
def not_ours(p: Probe) -> None:
    p.peer.send(echo(p, dst="192.0.2.77"))
    p.peer.send(p.peer.ip_header(dst="192.0.2.77") / UDP(sport=5, dport=CLOSED))
    p.require(not answers(p, IP), "something came")


@R.check("§3.2.1.3", "a source that is no host's (broadcast, multicast, loopback, 0.0.0.0) is not answered", MUST)
def bad_source(p: Probe) -> None:
    network = p.target.address.rpartition(".")[0]
    for source in ("255.255.255.255", "224.0.0.9", "127.0.0.1", "0.0.0.0", f"{network}.255"):
        p.peer.send(echo(p, src=source))
        p.require(not answers(p, IP), f"{source} is answered")


@R.check("§3.2.1.6", "the TOS of an echo request is that of the reply", SHOULD)
def tos_reflected(p: Probe) -> None:
    p.peer.send(echo(p, tos=0x20))
    found = answers(p, ICMP)
    p.require(found and found[0][IP].tos == 0x20, f"it is {found[0][IP].tos if found else None}")


@R.check("§3.2.1.7", "no datagram is sent with a TTL of zero, and one with a TTL of 1 or 0 is taken", MUST)
def time_to_live(p: Probe) -> None:
    for ttl in (1, 0):
        p.peer.send(echo(p, ttl=ttl))
        found = answers(p, ICMP)
        p.require(found, f"an echo request with TTL {ttl} is not answered")
        p.require(found[0][IP].ttl > 0, "the answer has TTL 0")


@R.check("§3.2.1.7", "the default TTL can be set", MUST)
def default_ttl(p: Probe) -> None:
    p.target.sysctl("net.ipv4.ip_default_ttl", 77)
    conn = p.established()
    conn.send(b"x")
    p.require(conn.data()[IP].ttl == 77, "it has no effect")


@R.check("§3.2.1.8", "an IP header that is longer than the datagram, or shorter than 20, is dropped", MUST)
def header_length(p: Probe) -> None:
    for length in (0, 4, 15):
        resent(p, echo(p, b""), ihl=length)
        p.require(not replied(p), f"IHL {length} is answered")


# -- reassembly (§3.3.2)


def pieces(p: Probe, size: int = 1000, ident: int = 99, step: int = 400) -> list[Packet]:
    """An echo request in fragments."""
    return list(fragment(IP(bytes(echo(p, bytes(size), id=ident, flags=0))), fragsize=step))


@R.check("§3.3.2", "fragments are put together, in any order", MUST)
def reassembly(p: Probe) -> None:
    for number, order in enumerate(((0, 1, 2), (2, 1, 0), (1, 2, 0))):
        parts = pieces(p, ident=100 + number)
        for index in order:
            p.peer.send(parts[index])
        found = answers(p, ICMP)
        p.require(found and len(bytes(found[0][ICMP].payload)) == 1000, f"order {order} is not answered")


@R.check("§3.3.2", "datagrams of at least 576 bytes can be put together, and of the interface's MTU", MUST)
def reassembly_size(p: Probe) -> None:
    for number, size in enumerate((548, 1472, 8000)):
        for part in pieces(p, size, 200 + number, 480):
            p.peer.send(part)
        p.require(size > 1472 or replied(p, 0.1), f"{size + 28} bytes are not answered")
        p.peer.discard(p.soon)


@R.check(
    "§3.3.2",
    "when a fragment is missing for too long, ICMP says so (time exceeded, code 1)",
    MUST,
    takes=120,
)
def reassembly_timeout(p: Probe) -> None:
    parts = pieces(p, ident=300)
    p.peer.send(parts[0])
    p.wait(130)
    found = errors(p, 11)
    p.require(found and found[0][ICMP].code == 1, "it did not")


@R.check("§3.3.2", "no such message if the first fragment has not come", MUST, takes=120)
def reassembly_timeout_silent(p: Probe) -> None:
    p.peer.send(pieces(p, ident=301)[1])
    p.wait(130)
    p.require(not errors(p, 11), "there is one")


@R.check(
    "§3.3.2",
    "the time for it is between 60 and 120 s",
    SHOULD,
    takes=120,
    because={
        "stack": "net.ipv4.ipfrag_time is Linux's 30 s: half a minute is long for a datagram, and memory is bound"
    },
)
def reassembly_time(p: Probe) -> None:
    parts = pieces(p, ident=302)
    p.peer.send(parts[0])
    p.wait(55)
    p.require(not errors(p, 11), "it is given up before 55 s")


@R.check("§3.3.2", "a datagram of more than 65535 bytes is not put together (RFC 791)", MUST)
def ping_of_death(p: Probe) -> None:
    p.peer.send(p.peer.ip_header(id=400, flags="MF") / ICMP(type=8, id=7, seq=1) / Raw(bytes(792)))
    p.peer.send(p.peer.ip_header(id=400, flags=0, frag=8189, proto=1) / Raw(bytes(1000)))
    p.require(not replied(p), "it is answered")
    p.peer.ping(within=1.0)


# -- ICMP (§3.2.2)


@R.check("§3.2.2", "an ICMP message of an unknown type is dropped without a word", MUST)
def icmp_unknown(p: Probe) -> None:
    for kind in (1, 2, 7, 41, 255):
        p.peer.send(p.peer.ip_header() / ICMP(type=kind) / Raw(b"x" * 32))
    p.require(not answers(p, IP), "something came")


@R.check("§3.2.2", "no ICMP error is sent about an ICMP error", MUST)
def icmp_about_icmp(p: Probe) -> None:
    quoted = bytes(p.peer.ip_header(proto=200) / Raw(b"12345678"))
    p.peer.send(p.peer.ip_header() / ICMP(type=3, code=3) / Raw(quoted))
    p.require(not answers(p, ICMP), "one was")


@R.check("§3.2.2", "no ICMP error is sent about a broadcast or multicast, or to a source that is no host's", MUST)
def icmp_about_broadcast(p: Probe) -> None:
    made: Any
    for address, mac in (("255.255.255.255", BROADCAST), ("10.9.0.255", BROADCAST), ("224.0.0.1", "01:00:5e:00:00:01")):
        made = p.peer.ip_header(dst=address) / UDP(sport=5, dport=CLOSED) / Raw(b"x")
        p.peer.send_ether(Ether(src=p.peer.mac, dst=mac) / made)
        p.require(not answers(p, ICMP), f"one was, about a datagram to {address}")
    p.peer.send_ether(
        Ether(src=p.peer.mac, dst=BROADCAST) / p.peer.ip_header() / UDP(sport=5, dport=CLOSED) / Raw(b"x")
    )
    p.require(not answers(p, ICMP), "one was, about a link-layer broadcast")


@R.check("§3.2.2", "no ICMP error is sent about a fragment that is not the first", MUST)
def icmp_about_fragment(p: Probe) -> None:
    p.peer.send(p.peer.ip_header(id=500, flags=0, frag=10, proto=200) / Raw(b"x" * 16))
    p.require(not answers(p, ICMP), "one was")


@R.check("§3.2.2", "an ICMP error quotes the IP header and at least 8 octets as they came", MUST)
def icmp_quote(p: Probe) -> None:
    sent = IP(bytes(p.peer.ip_header(id=1234) / UDP(sport=5, dport=CLOSED) / Raw(b"quoted")))
    p.peer.send(sent)
    found = errors(p, 3)
    p.require(found, "no error came")
    quoted = bytes(found[0][ICMP].payload)
    p.require(quoted[:28] == bytes(sent)[:28], "the quotation is not what was sent")


@R.check("§3.2.2.1", "an unknown transport protocol brings protocol unreachable", SHOULD)
def protocol_unreachable(p: Probe) -> None:
    p.peer.send(p.peer.ip_header(proto=200) / Raw(b"x" * 16))
    found = errors(p, 3)
    p.require(found and found[0][ICMP].code == 2, "it does not")


@R.check("§3.2.2.3", "no source quench is sent (RFC 6633)", MUST)
def no_source_quench(p: Probe) -> None:
    for _ in range(300):
        p.peer.send(p.peer.ip_header() / UDP(sport=5, dport=CLOSED) / Raw(b"x"))
    p.require(not errors(p, 4), "one was")


@R.check("§3.2.2.6", "an echo request is answered with its data, from the address that was asked", MUST)
def echo_reply(p: Probe) -> None:
    for size in (0, 1, 56, 1472):
        p.peer.send(echo(p, b"d" * size))
        found = answers(p, ICMP)
        p.require(found and found[0][IP].src == p.target.address, f"{size} bytes are not answered")
        p.require(bytes(found[0][ICMP].payload)[:size] == b"d" * size, "other data came")
        p.require((found[0][ICMP].id, found[0][ICMP].seq) == (7, 1), "another identifier came")


@R.check("§3.2.2.6", "an echo request to a broadcast address may be dropped", MAY)
def echo_broadcast(p: Probe) -> None:
    p.peer.send_ether(Ether(src=p.peer.mac, dst=BROADCAST) / echo(p, dst="10.9.0.255"))
    p.require(not replied(p), "it is answered")


@R.check("§3.2.2", "an ICMP message with a wrong checksum is dropped (RFC 792)", MUST)
def icmp_checksum(p: Probe) -> None:
    p.peer.send(p.peer.ip_header() / ICMP(type=8, id=7, seq=1, chksum=0x1234) / Raw(b"x"))
    p.require(not replied(p), "it is answered")


@R.check("§3.2.2.9", "an address mask request is not answered", MUST)
def address_mask(p: Probe) -> None:
    p.peer.send(p.peer.ip_header() / ICMP(type=17, id=7, seq=1))
    p.require(not answers(p, ICMP), "it is")


# -- UDP (§4.1)


def bound(p: Probe, port: int = 7777) -> Sock:
    """A UDP socket of the target."""
    sock = p.socket(datagram=True)
    sock.raw.bind(("", port))
    return sock


def datagrams(sock: Sock) -> list[bytes]:
    """Everything that waits."""
    found: list[bytes] = []
    try:
        while True:
            found.append(sock.raw.recv(65536))
    except BlockingIOError:
        return found


def udp(p: Probe, data: bytes = b"data", port: int = 7777, header: dict[str, Any] | None = None, **fields: Any) -> None:
    """Send a datagram to the target."""
    made: Any = p.peer.ip_header(**(header or {})) / UDP(sport=6666, dport=port, **fields) / Raw(data)
    p.peer.send(made)
    p.target.pump()


@R.check("§4.1.3.1", "a datagram to a port that nobody has brings port unreachable", SHOULD)
def port_unreachable(p: Probe) -> None:
    udp(p, port=CLOSED)
    found = errors(p, 3)
    p.require(found and found[0][ICMP].code == 3, "it does not")


@R.check("§4.1.3.3", "ICMP errors are told to the application of a connected socket", MUST)
def udp_error(p: Probe) -> None:
    sock = p.socket(datagram=True)
    sock.raw.connect((p.peer.ip, 9))
    sock.send(b"x")
    sent = p.peer.take(lambda packet: UDP in packet, p.within(1.0))
    if sent is None:
        raise p.wrong("a datagram")
    icmp(p, sent, 3, 3)
    p.require(sock.error() == errno.ECONNREFUSED, "it is not told")


@R.check("§4.1.3.4", "a checksum is sent unless the application says otherwise", MUST)
def udp_checksum_sent(p: Probe) -> None:
    bound(p).sendto(b"odd", (p.peer.ip, 9))
    sent = p.peer.take(lambda packet: UDP in packet, p.within(1.0))
    if sent is None:
        raise p.wrong("a datagram")
    again = IP(bytes(sent[IP])[: sent[IP].len])
    del again[UDP].chksum
    p.require(sent[UDP].chksum != 0 and IP(bytes(again))[UDP].chksum == sent[UDP].chksum, "it is wrong or missing")


@R.check("§4.1.3.4", "a datagram with a wrong checksum is dropped without a word", MUST)
def udp_checksum(p: Probe) -> None:
    sock = bound(p)
    udp(p, chksum=0x1234)
    udp(p, port=CLOSED, chksum=0x1234)
    p.require(datagrams(sock) == [], "it was delivered")
    p.require(not answers(p, ICMP), "it was answered")


@R.check("§4.1.3.4", "a datagram without a checksum is taken", MAY)
def udp_no_checksum(p: Probe) -> None:
    sock = bound(p)
    udp(p, b"unchecked", chksum=0)
    p.require(datagrams(sock) == [b"unchecked"], "it is not")


@R.check("§4.1.1", "a length field that is less than 8 or more than came is an error, and the datagram dropped", MUST)
def udp_length(p: Probe) -> None:
    sock = bound(p)
    for length in (0, 7, 100):
        udp(p, len=length, chksum=0)
    p.require(datagrams(sock) == [], "one was delivered")
    udp(p, b"padded", len=10, chksum=0)
    p.require(datagrams(sock) == [b"pa"], "what follows the datagram was delivered with it")


@R.check("§4.1.3.5", "an answer comes from the address that was asked", SHOULD)
def udp_source(p: Probe) -> None:
    sock = bound(p)
    udp(p)
    sock.sendto(b"answer", (p.peer.ip, 6666))
    sent = p.peer.take(lambda packet: UDP in packet, p.within(1.0))
    p.require(sent is not None and sent[IP].src == p.target.address, "it does not")


@R.check("§4.1.3.6", "a datagram from a broadcast or multicast address is dropped", MUST)
def udp_bad_source(p: Probe) -> None:
    sock = bound(p)
    for source in ("255.255.255.255", "224.0.0.9"):
        udp(p, header={"src": source})
    p.require(datagrams(sock) == [], "it was delivered")


@R.check("§4.1.1", "an empty datagram is delivered", MUST)
def udp_empty(p: Probe) -> None:
    sock = bound(p)
    udp(p, b"")
    p.require(datagrams(sock) == [b""], "it is not")


R.not_applicable("§4.1.3.2", "received IP options are given to the application", "sockets have no such call here", MUST)
R.not_applicable("§3.3.1.2", "several gateways, and dead ones found out", "routes are the embedder's to set", MUST)


@R.check("§4.2.2.13", "a half-duplex close with unread data sends a RST", SHOULD)
def half_duplex_reset(p: Probe) -> None:
    conn = p.established()
    conn.flow.send("PA", b"unread")
    conn.flow.collect(p.within(0.3))
    conn.sock.close()
    p.reset(conn.flow)


@R.check(
    "§3.2.1.5",
    "the identification of what cannot be fragmented means nothing; of the rest it differs (RFC 6864)",
    SHOULD,
)
def identification(p: Probe) -> None:
    conn = p.established()
    seen = []
    for _ in range(4):
        conn.send(b"x")
        packet = conn.data()
        seen.append((str(packet[IP].flags), packet[IP].id))
        conn.flow.send("A")
    alike = [ident for flags, ident in seen if "DF" not in flags]
    p.require(len(set(alike)) == len(alike), f"they are {seen}")
    p.require(payload(packet) == b"x", "other data")


# -- ARP


def request(p: Probe, target: str | None = None, **fields: Any) -> None:
    """An ARP request of the peer."""
    made = ARP(**{"op": 1, "hwsrc": p.peer.mac, "psrc": p.peer.ip, "pdst": target or p.target.address, **fields})
    p.peer.send_ether(Ether(src=p.peer.mac, dst=BROADCAST) / made)


@A.check("§p1", "a request for the own address is answered to its sender alone", MUST)
def arp_reply(p: Probe) -> None:
    request(p)
    found = answers(p, ARP)
    p.require(len(found) == 1 and found[0][ARP].op == 2, "no reply")
    p.require(found[0][Ether].dst == p.peer.mac, f"it went to {found[0][Ether].dst}")
    p.require((found[0][ARP].psrc, found[0][ARP].pdst) == (p.target.address, p.peer.ip), "other addresses")


@A.check("§p1", "a request for another address is not answered", MUST)
def arp_other(p: Probe) -> None:
    request(p, "10.9.0.77")
    p.require(not answers(p, ARP), "it is")


@A.check("§p1", "another hardware or protocol type, another length, another operation: dropped", MUST)
def arp_types(p: Probe) -> None:
    wrong: list[dict[str, Any]] = [{"hwtype": 6}, {"ptype": 0x86DD}, {"op": 9}]
    for fields in wrong:
        request(p, **fields)
        p.require(not answers(p, ARP), f"a request with {fields} is answered")


@A.check("§p1", "the sender of a request is known afterwards: nothing is asked before it is answered", SHOULD)
def arp_learns(p: Probe) -> None:
    request(p)
    answers(p, ARP)
    conn, _ = p.connecting()
    p.require(not [one for one in answers(p, ARP) if one[ARP].op == 1], "it is asked for")
    conn.flow.inject("RA", seq=0)


@A.check(
    "§p1",
    "a new link-layer address in a request for us replaces the old one at once",
    SHOULD,
    because={"stack": "anybody can send such a request: the old address is asked first, and replaced if it is silent"},
)
def arp_moves(p: Probe) -> None:
    p.peer.ping(within=1.0)
    request(p, hwsrc="02:00:00:00:00:99")
    answers(p, ARP)
    p.peer.send(echo(p))
    found = answers(p, ICMP)
    p.require(found and found[0][Ether].dst == "02:00:00:00:00:99", "the answer went to the old one")


@A.check("§p1", "a new link-layer address replaces the old one when that no longer answers", MUST)
def arp_moves_in_time(p: Probe) -> None:
    p.peer.ping(within=1.0)
    p.peer.arp = False
    deadline = p.now() + 20
    new = "02:00:00:00:00:99"
    request(p, hwsrc=new)
    while p.now() < deadline:
        packet = p.peer.next(0.5)
        if packet is None:
            p.peer.send(echo(p))
        elif ICMP in packet and packet[Ether].dst == new:
            return
        elif ARP in packet and packet[ARP].op == 1 and packet[Ether].dst == BROADCAST:
            reply = ARP(op=2, hwsrc=new, psrc=p.peer.ip, hwdst=packet[ARP].hwsrc, pdst=p.target.address)
            p.peer.send_ether(Ether(src=new, dst=packet[ARP].hwsrc) / reply)
    raise p.wrong("answers to the new address within 20 s")


@R.check("§2.3.2.2", "a packet waits while its next hop's address is asked for", SHOULD)
def arp_queue(p: Probe) -> None:
    p.peer.arp = False
    sock = p.socket(datagram=True)
    sock.sendto(b"waits", (p.target.other_address, 9))
    asked = p.peer.take(lambda one: ARP in one, p.within(1.0))
    if asked is None or asked[ARP].pdst != p.target.other_address:
        raise p.wrong("a request for the next hop", asked)
    reply = ARP(
        op=2, hwsrc="02:00:00:00:00:03", psrc=p.target.other_address, hwdst=asked[ARP].hwsrc, pdst=p.target.address
    )
    p.peer.send_ether(Ether(src="02:00:00:00:00:03", dst=asked[ARP].hwsrc) / reply)
    sent = p.peer.take(lambda one: UDP in one, p.within(1.0))
    p.require(sent is not None and sent[Ether].dst == "02:00:00:00:00:03", "the packet was lost")


@R.check("§2.3.2.1", "an address is asked for no more than once a second", MUST)
def arp_flood(p: Probe) -> None:
    p.peer.arp = False
    sock = p.socket(datagram=True)
    for _ in range(20):
        sock.sendto(b"x", (p.target.other_address, 9))
    count = len(answers(p, ARP, 0.9))
    p.require(count <= 2, f"{count} requests in 0.9 s")


@R.check("§2.3.2.1", "an entry that is out of date is found out", MUST, takes=600)
def arp_timeout(p: Probe) -> None:
    p.peer.ping(within=1.0)
    p.wait(600)
    p.peer.discard()
    p.peer.send(echo(p))
    p.peer.arp = False
    asked = p.peer.take(lambda one: ARP in one and one[ARP].op == 1, p.within(30))
    p.require(asked is not None, "after ten minutes nothing is asked anew")


# -- address conflicts


FRESH = "10.9.0.50"


def probing(p: Probe) -> None:
    """Let the stack begin to use an address, with care. Raises NotApplicable elsewhere."""
    if not isinstance(p.target, StackTarget):
        raise NotApplicable("address conflicts are left to a program of the distribution")
    p.peer.arp = False
    stack = p.target.stack
    name = next(one.name for one in stack.interfaces() if one.medium == "ethernet")
    stack.add_address(name, f"{FRESH}/24", probe=True)
    p.target.pump()


@C.check("§2.1.1", "an address is probed for three times before it is used: requests with sender address 0.0.0.0", MUST)
def conflict_probes(p: Probe) -> None:
    probing(p)
    found = answers(p, ARP, 12.0)
    probes = [one for one in found if one[ARP].psrc == "0.0.0.0" and one[ARP].pdst == FRESH]
    p.require(len(probes) == 3, f"{len(probes)} probes")
    p.require(all(one[ARP].op == 1 for one in probes), "they are no requests")


@C.check("§2.3", "then it is announced twice", MUST)
def conflict_announced(p: Probe) -> None:
    probing(p)
    said = [one for one in answers(p, ARP, 12.0) if one[ARP].psrc == one[ARP].pdst == FRESH]
    p.require(len(said) == 2, f"{len(said)} announcements")


def _conflict(p: Probe, sender: str) -> None:
    probing(p)
    p.wait(0.5)
    request(p, FRESH, psrc=sender, hwsrc="02:00:00:00:00:66")
    p.wait(12)
    p.peer.discard()
    request(p, FRESH)
    p.require(not answers(p, ARP), "it is answered for")


@C.check("§2.1.1", "an address that somebody has is not used", MUST)
def conflict_found(p: Probe) -> None:
    _conflict(p, FRESH)


@C.check("§2.1.1", "an address that somebody else probes for is not used", MUST)
def conflict_of_probes(p: Probe) -> None:
    _conflict(p, "0.0.0.0")


@C.check("§2.4", "a conflict afterwards is answered by one announcement in ten seconds", MUST)
def conflict_defended(p: Probe) -> None:
    if p.target.name != "stack":
        raise NotApplicable("the kernel leaves it to a program of the distribution")
    p.wait(11)
    p.peer.discard()
    for _ in range(3):
        request(p, "10.9.0.77", psrc=p.target.address, hwsrc="02:00:00:00:00:66")
    found = [one for one in answers(p, ARP, 1.0) if one[ARP].psrc == p.target.address]
    p.require(len(found) <= 1, f"{len(found)} announcements")
