"""RFC 4861, 4862, 6724: neighbours and routers, addresses of one's own, and which of them is used."""

from __future__ import annotations

import itertools
import socket
from typing import Any

from scapy.layers.inet import UDP
from scapy.layers.inet6 import (
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6ND_RS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptMTU,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from tap_harness.conformance.probe import Probe
from tap_harness.conformance.probe6 import ALL_NODES, ALL_ROUTERS, DATA, PEER, PEER_LL, SOLICITED, TARGET, THIRD, Six
from tap_harness.conformance.registry import MUST, SHOULD, document

N = document("4861", "Neighbor Discovery for IPv6")
A = document("4862", "IPv6 Stateless Address Autoconfiguration")
S = document("6724", "Default Address Selection for IPv6")
PREFIX = "2001:db8:5::"


def solicitation(six: Six, **fields: Any) -> Packet:
    """A valid one for the target's address."""
    header = IPv6(**{"src": PEER, "dst": SOLICITED, "hlim": 255, **fields})
    return header / ICMPv6ND_NS(tgt=TARGET) / ICMPv6NDOptSrcLLAddr(lladdr=six.mac)


def advertisement(six: Six, *options: Any, prefix: str = PREFIX, **fields: Any) -> Packet:
    """A router's, with a prefix for addresses unless options are given."""
    body = ICMPv6ND_RA(**{"routerlifetime": 1800, "chlim": 0, **fields})
    packet: Any = IPv6(src=PEER_LL, dst=ALL_NODES, hlim=255) / body / ICMPv6NDOptSrcLLAddr(lladdr=six.mac)
    for option in options or (
        ICMPv6NDOptPrefixInfo(prefix=prefix, prefixlen=64, validlifetime=7200, preferredlifetime=3600),
    ):
        packet = packet / option
    return packet


def under_prefix(p: Probe, prefix: str = PREFIX) -> list[str]:
    return [one for one in p.target.addresses6() if one.startswith(prefix.removesuffix("::"))]


# -- Neighbor Discovery: messages


@N.check("§7.2.4", "a solicitation is answered with a solicited advertisement that has the link-layer address", MUST)
def solicited(p: Probe) -> None:
    six = Six(p)
    six.send(solicitation(six))
    found = six.expect(ICMPv6ND_NA, tgt=TARGET, S=1)
    p.require(found[IPv6].hlim == 255, "the hop limit is not 255")
    p.require(found[ICMPv6NDOptDstLLAddr].lladdr == six.target_mac, "the link-layer address is another")
    p.require(found[IPv6].dst == PEER, "it goes to somebody else")


@N.check("§7.2.4", "a solicitation without a source is answered to all nodes, unsolicited", MUST)
def solicited_by_nobody(p: Probe) -> None:
    six = Six(p)
    six.send(IPv6(src="::", dst=SOLICITED, hlim=255) / ICMPv6ND_NS(tgt=TARGET))
    found = six.expect(ICMPv6ND_NA, tgt=TARGET, S=0)
    p.require(found[IPv6].dst == ALL_NODES, "it goes to somebody else")


@N.check("§7.1.1", "a solicitation that did not come with a hop limit of 255 is discarded", MUST)
def hop_limit(p: Probe) -> None:
    six = Six(p)
    six.send(solicitation(six, hlim=254))
    six.silent(ICMPv6ND_NA)


@N.check("§7.1.1", "a solicitation with a wrong code, target, option length or source option is discarded", MUST)
def bad_solicitations(p: Probe) -> None:
    six = Six(p)
    header = IPv6(src=PEER, dst=SOLICITED, hlim=255)
    nobody = IPv6(src="::", dst=SOLICITED, hlim=255)
    six.send(header / ICMPv6ND_NS(tgt=TARGET, code=1))
    six.send(header / ICMPv6ND_NS(tgt="ff02::2"))
    six.send(header / ICMPv6ND_NS(tgt=TARGET) / Raw(b"\x01\x00" + bytes(6)))
    six.send(nobody / ICMPv6ND_NS(tgt=TARGET) / ICMPv6NDOptSrcLLAddr(lladdr=six.mac))
    six.send(IPv6(src="::", dst=TARGET, hlim=255) / ICMPv6ND_NS(tgt=TARGET))
    six.silent(ICMPv6ND_NA)
    six.ping()


@N.check("§4.6", "options that are not known are skipped", MUST)
def unknown_option(p: Probe) -> None:
    six = Six(p)
    six.send(IPv6(src=PEER, dst=SOLICITED, hlim=255) / ICMPv6ND_NS(tgt=TARGET) / Raw(b"\xfd\x01" + bytes(6)))
    six.expect(ICMPv6ND_NA, tgt=TARGET)


def ask_for(p: Probe, six: Six, address: str = THIRD, zone: int = 0) -> None:
    """The target has something to send to a neighbour that it does not know."""
    sock = p.target.socket6(socket.SOCK_DGRAM)
    try:
        sock.sendto(DATA, (address, 9, 0, zone))
        p.target.pump()
    finally:
        sock.close()


@N.check("§7.2.2", "a neighbour is asked for with multicast solicitations a second apart, three at most", MUST)
def resolution(p: Probe) -> None:
    six = Six(p)
    ask_for(p, six)
    times = []
    while six.take(lambda packet: ICMPv6ND_NS in packet and packet[ICMPv6ND_NS].tgt == THIRD, 2.5) is not None:
        times.append(p.now())
    p.require(len(times) == 3, f"{len(times)} solicitations were sent")
    p.require(all(p.close_to(b - a, 1.0) for a, b in itertools.pairwise(times)), "not a second apart")


@N.check("§7.2.2", "what waited for the neighbour is sent once the address is known", MUST)
def queued(p: Probe) -> None:
    six = Six(p)
    ask_for(p, six)
    asked = six.expect(ICMPv6ND_NS, tgt=THIRD)
    p.require(asked[ICMPv6NDOptSrcLLAddr].lladdr == six.target_mac, "it does not say who asks")
    body = ICMPv6ND_NA(S=1, O=1, R=0, tgt=THIRD) / ICMPv6NDOptDstLLAddr(lladdr="02:00:00:00:00:77")
    six.send(IPv6(src=THIRD, dst=asked[IPv6].src, hlim=255) / body)
    found = six.expect(UDP)
    p.require(found[Ether].dst == "02:00:00:00:00:77", "it goes to another link-layer address")


@N.check("§7.2.5", "an advertisement of a neighbour that nobody knows makes no entry", SHOULD)
def unasked(p: Probe) -> None:
    six = Six(p)
    body = ICMPv6ND_NA(S=0, O=1, R=0, tgt=THIRD) / ICMPv6NDOptDstLLAddr(lladdr="02:00:00:00:00:77")
    six.send(IPv6(src=THIRD, dst=ALL_NODES, hlim=255) / body)
    ask_for(p, six)
    six.expect(ICMPv6ND_NS, tgt=THIRD)


@N.check("§7.3.3", "a neighbour used after 30 seconds is asked, by unicast, whether it is still there", MUST, takes=50)
def reachability(p: Probe) -> None:
    six = Six(p)
    six.quiet()
    p.wait(46)  # more than 1.5 times the base reachable time
    six.quiet()
    six.answers = False
    six.send(six.header() / ICMPv6EchoRequest(id=7, seq=3, data=DATA))
    found = six.take(lambda packet: ICMPv6ND_NS in packet and packet[ICMPv6ND_NS].tgt == PEER, 7)
    if found is None:
        raise p.wrong("a solicitation by unicast")
    p.require(found[IPv6].dst == PEER and found[Ether].dst == six.mac, "it is not by unicast")


@N.check("§8.1", "a redirect that did not come from the router in use, or not with 255 hops, is discarded", MUST)
def redirect_ignored(p: Probe) -> None:
    six = Six(p)
    for src, hops in ((PEER_LL, 254), (PEER, 255)):
        body = ICMPv6ND_Redirect(tgt=THIRD, dst=PEER) / ICMPv6NDOptDstLLAddr(lladdr="02:00:00:00:00:77")
        six.send(IPv6(src=src, dst=TARGET, hlim=hops) / body)
    p.require(six.ping()[Ether].dst == six.mac, "the redirect was followed")


# -- routers


@N.check("§6.3.7", "routers are asked for when an interface comes up", SHOULD, takes=10)
def router_solicitation(p: Probe) -> None:
    six = Six(p, routers=True)
    found = six.expect(ICMPv6ND_RS, 8)
    p.require(found[IPv6].hlim == 255, "the hop limit is not 255")
    p.require(found[IPv6].dst == ALL_ROUTERS, "it does not go to all routers")
    p.require(found[IPv6].src != "::" or ICMPv6NDOptSrcLLAddr not in found, "a source option without a source")


def advertised(p: Probe, *options: Any, **fields: Any) -> Six:
    six = Six(p, routers=True)
    p.wait(3)
    six.quiet()
    six.send(advertisement(six, *options, **fields))
    p.wait(3)
    six.quiet()
    return six


@N.check("§6.3.4", "an advertisement's router is used for what is not on the link", MUST, takes=8)
def default_router(p: Probe) -> None:
    six = advertised(p)
    own = under_prefix(p)[0]
    six.send(IPv6(src="2001:db8:99::1", dst=own) / ICMPv6EchoRequest(data=DATA))
    p.require(six.expect(ICMPv6EchoReply)[Ether].dst == six.mac, "the reply goes to somebody else")


@N.check("§6.3.4", "a router lifetime of zero ends that", MUST, takes=8)
def router_gone(p: Probe) -> None:
    six = advertised(p)
    own = under_prefix(p)[0]
    six.send(advertisement(six, routerlifetime=0))
    six.send(IPv6(src="2001:db8:99::1", dst=own) / ICMPv6EchoRequest(data=DATA))
    six.silent(ICMPv6EchoReply)


@N.check("§6.3.4", "an advertisement's hop limit is used for what is sent", MUST, takes=8)
def advertised_hops(p: Probe) -> None:
    six = advertised(p, chlim=33)
    six.send(IPv6(src="2001:db8:99::1", dst=under_prefix(p)[0]) / ICMPv6EchoRequest(data=DATA))
    p.require(six.expect(ICMPv6EchoReply)[IPv6].hlim == 33, "the hop limit is another")


@N.check("§6.3.4", "an advertised MTU that the link carries is used", MUST, takes=8)
def advertised_mtu(p: Probe) -> None:
    six = advertised(p, ICMPv6NDOptMTU(mtu=1300), ICMPv6NDOptPrefixInfo(prefix=PREFIX, prefixlen=64))
    six.send(IPv6(src="2001:db8:99::1", dst=under_prefix(p)[0]) / ICMPv6EchoRequest(data=bytes(1400)))
    p.require(len(bytes(six.expect(IPv6, nh=44)[IPv6])) <= 1300, "a packet is longer")


@N.check("§6.1.2", "an advertisement that is not link-local's, or not with 255 hops, is discarded", MUST, takes=8)
def bad_advertisements(p: Probe) -> None:
    six = Six(p, routers=True)
    p.wait(3)
    for header in (IPv6(src=PEER, dst=ALL_NODES, hlim=255), IPv6(src=PEER_LL, dst=ALL_NODES, hlim=64)):
        six.send(header / ICMPv6ND_RA() / ICMPv6NDOptPrefixInfo(prefix=PREFIX, prefixlen=64))
    p.wait(2)
    p.require(not under_prefix(p), "an address was made")


# -- addresses


@A.check("§5.3", "an interface has a link-local address", MUST, takes=6)
def link_local(p: Probe) -> None:
    Six(p, routers=True)
    p.wait(4)
    p.require(any(one.startswith("fe80:") for one in p.target.addresses6()), "there is none")


@A.check("§5.5.3", "a prefix with the autonomous flag makes an address", MUST, takes=8)
def autoconfigured(p: Probe) -> None:
    advertised(p)
    p.require(len(under_prefix(p)) == 1, f"addresses: {p.target.addresses6()}")


@A.check("§5.5.3", "a prefix without the flag, link-local, or preferred beyond its validity makes none", MUST, takes=8)
def not_autoconfigured(p: Probe) -> None:
    advertised(
        p,
        ICMPv6NDOptPrefixInfo(prefix=PREFIX, prefixlen=64, A=0),
        ICMPv6NDOptPrefixInfo(prefix="fe80::", prefixlen=64),
        ICMPv6NDOptPrefixInfo(prefix="2001:db8:6::", prefixlen=64, validlifetime=10, preferredlifetime=20),
    )
    mine = [one for one in p.target.addresses6() if not one.startswith("fe80:")]
    p.require(not mine, f"addresses were made: {mine}")


@A.check("§5.5.3 (e)", "a valid lifetime below two hours does not shorten what an address has left", MUST, takes=12)
def two_hours(p: Probe) -> None:
    six = advertised(p)
    option = ICMPv6NDOptPrefixInfo(prefix=PREFIX, prefixlen=64, validlifetime=1, preferredlifetime=1)
    six.send(advertisement(six, option))
    p.wait(3)
    p.require(under_prefix(p), "the address is gone")


@A.check("§5.4.2", "an address is asked for, from nobody, before it is used", MUST, takes=8)
def duplicate_detection(p: Probe) -> None:
    six = Six(p, routers=True)
    if p.target.name == "kernel":
        p.target.sysctl("net.ipv6.conf.ust0.accept_dad", 1)
    p.wait(3)
    six.quiet()
    six.send(advertisement(six))
    asked = six.take(lambda f: ICMPv6ND_NS in f and f[IPv6].src == "::" and f[ICMPv6ND_NS].tgt.startswith("2001"), 2.5)
    p.require(asked is not None, "nobody was asked")


@A.check("§5.4.3", "an address that somebody else has is not used", MUST, takes=8)
def duplicate_found(p: Probe) -> None:
    six = Six(p, routers=True)
    if p.target.name == "kernel":
        p.target.sysctl("net.ipv6.conf.ust0.accept_dad", 1)
    p.wait(3)
    six.quiet()
    six.send(advertisement(six))
    asked = six.take(lambda f: ICMPv6ND_NS in f and f[IPv6].src == "::" and f[ICMPv6ND_NS].tgt.startswith("2001"), 2.5)
    if asked is None:
        raise p.wrong("a solicitation for the new address")
    theirs = asked[ICMPv6ND_NS].tgt
    body = ICMPv6ND_NA(S=0, O=1, R=0, tgt=theirs) / ICMPv6NDOptDstLLAddr(lladdr=six.mac)
    six.send(IPv6(src=theirs, dst=ALL_NODES, hlim=255) / body)
    p.wait(2)
    p.require(theirs not in p.target.addresses6(), "it is used all the same")


# -- selection


@S.check("§5 rule 2", "the source's scope is that of the destination", MUST)
def scope(p: Probe) -> None:
    six = Six(p)
    ask_for(p, six, "ff02::1234", p.target.interface())
    p.require(six.expect(UDP)[IPv6].src == "fe80::2", "a global source for a link-local group")
    ask_for(p, six, PEER)
    p.require(six.expect(UDP)[IPv6].src == TARGET, "another source")


@S.check("§5 rule 1", "to an address of its own a host speaks from that address", MUST)
def same_address(p: Probe) -> None:
    Six(p)
    receiver, sender = p.target.socket6(socket.SOCK_DGRAM), p.target.socket6(socket.SOCK_DGRAM)
    try:
        receiver.bind(("::", 7000))
        sender.sendto(DATA, (TARGET, 7000))
        p.target.pump()
        p.require(receiver.recvfrom(100)[1][0] == TARGET, "another source")
    finally:
        receiver.close()
        sender.close()


@S.check("§5 rule 3", "a deprecated address is not chosen while there is another", MUST, takes=14)
def deprecated(p: Probe) -> None:
    six = advertised(p)
    second = "2001:db8:6::"
    six.send(advertisement(six, prefix=second))
    p.wait(3)
    old = ICMPv6NDOptPrefixInfo(prefix=PREFIX, prefixlen=64, validlifetime=7200, preferredlifetime=0)
    six.send(advertisement(six, old))
    p.wait(2)
    six.quiet()
    ask_for(p, six, "2001:db8:5:1::9")  # its longest match is the deprecated one
    found = six.expect(UDP)[IPv6].src
    p.require(found.startswith("2001:db8:6:"), f"the source is {found}")


@S.check("§5 rule 8", "of equals the one with the longest matching prefix is chosen", MUST, takes=12)
def longest_match(p: Probe) -> None:
    six = advertised(p)
    six.send(advertisement(six, prefix="2001:db8:6::"))
    p.wait(3)
    six.quiet()
    for destination, prefix in (("2001:db8:5:1::9", "2001:db8:5:"), ("2001:db8:6:1::9", "2001:db8:6:")):
        ask_for(p, six, destination)
        found = six.expect(UDP)[IPv6].src
        p.require(found.startswith(prefix), f"the source for {destination} is {found}")
