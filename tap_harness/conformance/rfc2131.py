"""RFC 2131: what a DHCP client sends, believes and does with its address; RFC 2132 where an option's meaning counts."""

from __future__ import annotations

from itertools import pairwise

from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

from tap_harness.conformance.probe import Probe
from tap_harness.conformance.probe_dhcp import (
    ACK,
    ADDRESS,
    DECLINE,
    DISCOVER,
    LEASE,
    MASK,
    NAK,
    OFFER,
    RELEASE,
    REQUEST,
    SERVER,
    Server4,
    options,
)
from tap_harness.conformance.registry import MUST, SHOULD, document

R = document("2131", "Dynamic Host Configuration Protocol")
SOON = "it waits one second at most, so that a host is there soon; RFC 2131 says one to ten"
FOREVER = 0xFFFFFFFF


def near(p: Probe, what: str, found: float, low: float, high: float) -> None:
    p.require(low <= found <= high, f"{what} {found:.2f} s, not {low:g} to {high:g} s")


@R.check("§4.1", "a DHCPDISCOVER goes from 0.0.0.0, port 68, to 255.255.255.255, port 67", MUST)
def discover(p: Probe) -> None:
    server = Server4(p)
    found = server.next(DISCOVER)
    ends = found[IP].src, found[IP].dst, found[UDP].sport, found[UDP].dport, found[Ether].dst
    wanted = ("0.0.0.0", "255.255.255.255", 68, 67, "ff:ff:ff:ff:ff:ff")
    p.require(ends == wanted, f"it goes from and to {ends}")


@R.check(
    "§2", "the fields of a DHCPDISCOVER: BOOTREQUEST, the client's hardware address, no addresses, the cookie", MUST
)
def fields(p: Probe) -> None:
    server = Server4(p)
    bootp = server.next(DISCOVER)[BOOTP]
    mac = bytes.fromhex(server.mac.replace(":", ""))
    p.require((bootp.op, bootp.htype, bootp.hlen, bootp.hops) == (1, 1, 6, 0), "op, htype, hlen or hops is wrong")
    p.require(bytes(bootp.chaddr[:6]) == mac, "chaddr is not its hardware address")
    found = [bootp.ciaddr, bootp.yiaddr, bootp.siaddr, bootp.giaddr]
    p.require(found == ["0.0.0.0"] * 4, f"its addresses are {found}")
    p.require(bytes(bootp.payload.underlayer.options) == b"\x63\x82\x53\x63", "there is no magic cookie")


@R.check("§4.1", "retransmissions come after 4, 8, 16, 32 and 64 seconds, each within a second of it", MUST, takes=90)
def retransmission(p: Probe) -> None:
    server = Server4(p)
    times = []
    for _ in range(6):
        server.next(DISCOVER, 70)
        times.append(server.now())
    for (before, after), due in zip(pairwise(times), (4, 8, 16, 32, 64), strict=True):
        near(p, "a retransmission came after", after - before, due - 1, due + 1)


@R.check("§4.4.1", "the first message waits a random time between one and ten seconds", SHOULD, because={"stack": SOON})
def first_delay(p: Probe) -> None:
    server = Server4(p)
    server.next(DISCOVER)
    near(p, "the first message came after", server.now(), 1, 10)


@R.check(
    "§4.4.1", "a DHCPREQUEST for an offer is broadcast, with the server's identifier and the address, ciaddr 0", MUST
)
def request(p: Probe) -> None:
    server = Server4(p)
    found = server.offered()
    said = options(found)
    p.require(found[IP].dst == "255.255.255.255", f"it goes to {found[IP].dst}")
    p.require(said.get("server_id") == SERVER, f"its server identifier is {said.get('server_id')}")
    p.require(said.get("requested_addr") == ADDRESS, f"the requested address is {said.get('requested_addr')}")
    p.require(found[BOOTP].ciaddr == "0.0.0.0", f"ciaddr is {found[BOOTP].ciaddr}")


@R.check("§4.4.1", "a DHCPREQUEST for an offer has the offer's xid, and the secs of the DHCPDISCOVER", MUST)
def same_transaction(p: Probe) -> None:
    server = Server4(p)
    first = server.next(DISCOVER)
    server.say(first, OFFER)
    found = server.next(REQUEST)
    p.require(found[BOOTP].xid == first[BOOTP].xid, "its xid is another")
    p.require(found[BOOTP].secs == first[BOOTP].secs, f"secs is {found[BOOTP].secs}, and was {first[BOOTP].secs}")


@R.check("§4.2", "a client identifier is the same in all messages", MUST)
def same_identifier(p: Probe) -> None:
    server = Server4(p)
    first = server.next(DISCOVER)
    server.say(first, OFFER)
    found = options(server.next(REQUEST)).get("client_id")
    p.require(found == options(first).get("client_id"), f"it is {found!r}, and was {options(first).get('client_id')!r}")


@R.check("§3.5", "a list of parameters in the DHCPDISCOVER is in the DHCPREQUEST, too", MUST)
def same_list(p: Probe) -> None:
    server = Server4(p)
    first = server.next(DISCOVER)
    server.say(first, OFFER)
    found = options(server.next(REQUEST)).get("param_req_list")
    p.require(found == options(first).get("param_req_list"), f"the list is {found}")


@R.check("§4.4.1", "an answer with another xid is not listened to", MUST)
def other_transaction(p: Probe) -> None:
    server = Server4(p)
    first = server.next(DISCOVER)
    server.say(first, OFFER, xid=first[BOOTP].xid ^ 1)
    server.silent(2)
    server.say(first, OFFER)
    found = server.next(REQUEST)
    server.say(found, NAK, xid=found[BOOTP].xid ^ 1)
    server.say(found, ACK, xid=found[BOOTP].xid ^ 1)
    p.require(not server.is_used(), "an address is used that another's DHCPACK is about")


@R.check("§4.4.1", "a request (BOOTREQUEST) or an answer for another hardware address is not listened to", MUST)
def not_for_us(p: Probe) -> None:
    server = Server4(p)
    first = server.next(DISCOVER)
    server.say(first, OFFER, op=1)
    server.say(first, OFFER, chaddr=b"\x02\0\0\0\0\x55" + bytes(10))
    server.silent(2)


@R.check("§4.3.1", "an offer without a server identifier or a lease time is not taken", MUST)
def useless_offer(p: Probe) -> None:
    server = Server4(p)
    first = server.next(DISCOVER)
    server.say(first, OFFER, ("server_id", None))
    server.say(first, OFFER, ("lease_time", None))
    server.silent(2)


@R.check("§3.1, 5", "the address of a DHCPACK is probed for by ARP before it is used", SHOULD, takes=12)
def probes(p: Probe) -> None:
    server = Server4(p)
    server.say(server.offered(), ACK)

    def probe(packet: Packet) -> bool:
        return ARP in packet and (packet[ARP].psrc, packet[ARP].pdst) == ("0.0.0.0", ADDRESS)

    p.require(server.take(probe, 5) is not None, "there is no ARP request from 0.0.0.0 for it")


@R.check("§3.1, 5", "an address that somebody has is declined, and not used", MUST, takes=12)
def decline(p: Probe) -> None:
    server = Server4(p)
    server.owner = "02:00:00:00:00:77"
    server.say(server.offered(), ACK)
    found = server.next(DECLINE)
    said = options(found)
    p.require(found[IP].dst == "255.255.255.255", f"it goes to {found[IP].dst}")
    p.require((said.get("requested_addr"), said.get("server_id")) == (ADDRESS, SERVER), f"it says {said}")
    p.require(found[BOOTP].ciaddr == "0.0.0.0", f"ciaddr is {found[BOOTP].ciaddr}")
    server.owner = ""
    p.require(not server.is_used(), "it is used")


@R.check("§3.1, 5", "after a DHCPDECLINE the client waits ten seconds before it begins again", SHOULD, takes=25)
def after_decline(p: Probe) -> None:
    server = Server4(p)
    server.owner = "02:00:00:00:00:77"
    server.say(server.offered(), ACK)
    server.next(DECLINE)
    began = server.now()
    server.next(DISCOVER, 25)
    near(p, "it began again after", server.now() - began, 10, 25)


@R.check("§3.1, 5", "after a DHCPNAK the client begins anew", MUST)
def refused(p: Probe) -> None:
    server = Server4(p)
    found = server.offered()
    server.say(found, NAK)
    again = server.next(DISCOVER, 20)
    p.require(again[BOOTP].xid != found[BOOTP].xid, "it has the same xid")


@R.check("§3.1, 5", "a DHCPREQUEST that nobody answers is repeated, and then the client begins anew", MUST, takes=120)
def unanswered(p: Probe) -> None:
    server = Server4(p)
    server.offered()
    server.next(REQUEST, 20)

    def begins(packet: Packet) -> bool:
        return DHCP in packet and server.kind(packet) == DISCOVER

    p.require(server.take(begins, 130) is not None, "it does not begin anew")


@R.check(
    "§4.4.5", "at T1, half of the lease, the server is asked by unicast, with ciaddr, without options 50 and 54", MUST
)
def renewing(p: Probe) -> None:
    server = Server4(p)
    began = server.bind()
    found = server.next(REQUEST, LEASE)
    near(p, "it came after", server.now() - began, LEASE * 0.5 - 1, LEASE * 0.5 + LEASE * 0.02)
    extending(p, found, SERVER)


def extending(p: Probe, found: Packet, dst: str) -> None:
    said = options(found)
    p.require(found[IP].dst == dst, f"it goes to {found[IP].dst}")
    p.require((found[IP].src, found[BOOTP].ciaddr) == (ADDRESS, ADDRESS), "it is not from its address, and for it")
    p.require("requested_addr" not in said, "it has a requested address")
    p.require("server_id" not in said, "it has a server identifier")


@R.check("§4.4.5", "at T2, 7/8 of the lease, everybody is asked, with ciaddr, without options 50 and 54", MUST)
def rebinding(p: Probe) -> None:
    server = Server4(p)
    began = server.bind()

    def broadcast(packet: Packet) -> bool:
        return DHCP in packet and packet[IP].dst == "255.255.255.255"

    found = server.take(broadcast, LEASE)
    if found is None:
        raise p.wrong("a broadcast DHCPREQUEST")
    near(p, "it came after", server.now() - began, LEASE * 0.875 - 1, LEASE * 0.875 + LEASE * 0.02)
    extending(p, found, "255.255.255.255")


@R.check(
    "§4.4.5", "between T1 and T2 a DHCPREQUEST is repeated after half of the time that is left, but a minute", SHOULD
)
def renewing_again(p: Probe) -> None:
    server = Server4(p)
    began = server.bind()
    server.next(REQUEST, LEASE)
    first = server.now()
    server.next(REQUEST, LEASE)
    left = began + LEASE * 0.875 - first
    near(p, "it came after", server.now() - first, left / 2 - 2, left / 2 + 2)


@R.check("§4.4.5", "when the lease is over the address is used no longer, and the client begins anew", MUST)
def expiry(p: Probe) -> None:
    server = Server4(p)
    began = server.bind()

    def begins(packet: Packet) -> bool:
        return DHCP in packet and server.kind(packet) == DISCOVER

    p.require(server.take(begins, LEASE + 20) is not None, "it does not begin anew")
    near(p, "it began after", server.now() - began, LEASE - 1, LEASE + 11)
    p.require(not server.is_used(), "the address is used still")


@R.check("§4.4.5", "options 58 and 59 say when T1 and T2 are", MUST)
def given_times(p: Probe) -> None:
    server = Server4(p)
    began = server.bind(("renewal_time", 300), ("rebinding_time", 600))
    server.next(REQUEST, LEASE)
    near(p, "T1 came after", server.now() - began, 299, 320)

    def broadcast(packet: Packet) -> bool:
        return DHCP in packet and packet[IP].dst == "255.255.255.255"

    p.require(server.take(broadcast, LEASE) is not None, "there is no broadcast DHCPREQUEST")
    near(p, "T2 came after", server.now() - began, 599, 620)


@R.check("§4.4.5", "a DHCPACK at T1 lets the lease begin anew", MUST)
def renewed(p: Probe) -> None:
    server = Server4(p)
    server.bind()
    found = server.next(REQUEST, LEASE)
    again = server.now()
    server.say(found, ACK, dst=ADDRESS, ciaddr=ADDRESS)
    server.silent(LEASE * 0.5 - 10)
    server.next(REQUEST, 100)
    near(p, "T1 came after", server.now() - again, LEASE * 0.5 - 1, LEASE * 0.52)
    p.require(server.is_used(), "the address is used no longer")


@R.check("§4.4.5", "a DHCPNAK at T1 ends the use of the address at once", MUST)
def renewal_refused(p: Probe) -> None:
    server = Server4(p)
    server.bind()
    server.say(server.next(REQUEST, LEASE), NAK)
    p.require(not server.is_used(), "the address is used still")
    server.next(DISCOVER, 20)


@R.check("§3.3", "a lease time of 0xffffffff never ends", MUST, takes=10)
def for_ever(p: Probe) -> None:
    server = Server4(p)
    server.bind(("lease_time", FOREVER))
    server.silent(10 * 86400.0)
    p.require(server.is_used(), "the address is used no longer")


@R.check("§4.4.6", "an address that is given back: DHCPRELEASE to the server, with ciaddr, without option 50", MUST)
def release(p: Probe) -> None:
    server = Server4(p)
    server.bind()
    server.client.release()
    found = server.next(RELEASE)
    said = options(found)
    p.require((found[IP].dst, found[BOOTP].ciaddr) == (SERVER, ADDRESS), "it is not for the server and the address")
    p.require(said.get("server_id") == SERVER, f"its server identifier is {said.get('server_id')}")
    p.require("requested_addr" not in said, "it has a requested address")
    p.require(not server.is_used(), "the address is used still")


@R.check("§4.1", "options that go on in `file` and `sname` (option 52) are read", MUST, takes=12)
def overload(p: Probe) -> None:
    server = Server4(p)
    first = server.next(DISCOVER)
    server.say(first, OFFER)
    found = server.next(REQUEST)
    mask = b"\x01\x04" + bytes(map(int, MASK.split(".")))
    file = b"\x33\x04" + LEASE.to_bytes(4, "big") + mask + b"\xff"
    server.say(found, ACK, ("dhcp-option-overload", 1), ("lease_time", None), ("subnet_mask", None), file=file)
    server.quiet(12)
    p.require(server.is_used(), "the address is not used")


@R.check("§4.1", "what is malformed changes nothing", MUST)
def malformed(p: Probe) -> None:
    server = Server4(p)
    first = server.next(DISCOVER)
    head = bytes(BOOTP(op=2, xid=first[BOOTP].xid, chaddr=first[BOOTP].chaddr, yiaddr=ADDRESS))
    cookie = b"\x63\x82\x53\x63"
    for raw in (
        b"",
        head[:200],
        head[:236] + b"\0\0\0\0" + b"\x35\x01\x02\xff",
        head[:236] + cookie + b"\x35\x01",
        head[:236] + cookie + b"\x35\xff\x02",
        head[:236] + cookie + b"\x35\x01\x02" + b"\x36\x03\x0a\0\0" + b"\x33\x04\0\0\x0e\x10\xff",
        head[:236] + cookie + b"\x34\x01\x03" * 40,
    ):
        server.put(raw)
    server.silent(2)
    server.say(first, OFFER)
    server.next(REQUEST)
