"""RFC 8415: what a DHCPv6 client sends, believes and does with its addresses."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from scapy.layers import dhcp6 as d6
from scapy.layers.inet import UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from tap_harness.conformance.probe import Probe
from tap_harness.conformance.probe_dhcp import ADDRESS6, SERVER_DUID, Server6, duid, transaction
from tap_harness.conformance.registry import MUST, document
from tap_harness.conformance.rfc2131 import near

R = document("8415", "Dynamic Host Configuration Protocol for IPv6")
SOL_MAX_RT, NO_ADDRESSES, UNSPECIFIED = 82, 2, 1


def wanted(packet: Packet) -> list[int]:
    return list(packet[d6.DHCP6OptOptReq].reqopts) if d6.DHCP6OptOptReq in packet else []


def bound(p: Probe, packet: Packet) -> None:
    found = packet[d6.DHCP6OptIA_NA].ianaopts if d6.DHCP6OptIA_NA in packet else []
    addresses = [one.addr for one in found if isinstance(one, d6.DHCP6OptIAAddress)]
    p.require(addresses == [ADDRESS6], f"its addresses are {addresses}")


@R.check("§18.2", "messages go from a link-local address, port 546, to ff02::1:2, port 547", MUST)
def where_to(p: Probe) -> None:
    server = Server6(p)
    found = server.next(d6.DHCP6_Solicit)
    p.require(found[IPv6].src.startswith("fe80:"), f"it is from {found[IPv6].src}")
    ends = found[IPv6].dst, found[UDP].sport, found[UDP].dport, found[Ether].dst
    p.require(ends == ("ff02::1:2", 546, 547, "33:33:00:01:00:02"), f"it goes to {ends}")


@R.check("§18.2.1", "a Solicit has a Client Identifier, an Elapsed Time of 0 and an IA; no Server Identifier", MUST)
def solicit(p: Probe) -> None:
    server = Server6(p)
    found = server.next(d6.DHCP6_Solicit)
    client = duid(found, d6.DHCP6OptClientId) or b""
    p.require(3 <= len(client) <= 130, f"its DUID has {len(client)} bytes")
    p.require(d6.DHCP6OptElapsedTime in found, "there is no Elapsed Time option")
    p.require(found[d6.DHCP6OptElapsedTime].elapsedtime == 0, "the elapsed time of the first message is not 0")
    p.require(d6.DHCP6OptIA_NA in found, "there is no IA_NA")
    p.require(d6.DHCP6OptServerId not in found, "there is a Server Identifier")


@R.check("§18.2.1", "SOL_MAX_RT is asked for in the Option Request option of Solicit, Request, Renew and Rebind", MUST)
def asks_for_the_limit(p: Probe) -> None:
    server = Server6(p)
    found = server.next(d6.DHCP6_Solicit)
    p.require(SOL_MAX_RT in wanted(found), "a Solicit does not ask for it")
    server.say(found, d6.DHCP6_Advertise, d6.DHCP6OptPref(prefval=255))
    found = server.next(d6.DHCP6_Request)
    p.require(SOL_MAX_RT in wanted(found), "a Request does not ask for it")
    server.say(found, d6.DHCP6_Reply)
    server.quiet(5)
    found = server.next(d6.DHCP6_Renew, 1100)
    p.require(SOL_MAX_RT in wanted(found), "a Renew does not ask for it")
    rebind = server.take(lambda packet: d6.DHCP6_Rebind in packet, 1100)
    p.require(rebind is not None and SOL_MAX_RT in wanted(rebind), "a Rebind does not ask for it")


@R.check("§15", "retransmissions: the first after more than SOL_TIMEOUT, then about twice as long each time", MUST)
def retransmission(p: Probe) -> None:
    server = Server6(p)
    times, found = [], []
    for _ in range(6):
        found.append(server.next(d6.DHCP6_Solicit, 60))
        times.append(server.now())
    gaps = [after - before for before, after in pairwise(times)]
    p.require(1.0 < gaps[0] <= 1.1 + 1e-6, f"the first came after {gaps[0]:.3f} s")
    for before, after in pairwise(gaps):
        p.require(1.9 * before - 0.01 <= after <= 2.1 * before + 0.01, f"{after:.2f} s came after {before:.2f} s")
    p.require(len({transaction(one) for one in found}) == 1, "a retransmission has another transaction id")
    elapsed = [one[d6.DHCP6OptElapsedTime].elapsedtime / 100 for one in found]
    for said, when in zip(elapsed, times, strict=True):
        near(p, "the elapsed time is", said, when - times[0] - 0.02, when - times[0] + 0.02)


@R.check(
    "§18.2.1", "retransmissions of a Solicit come no rarer than SOL_MAX_RT, which a server may set", MUST, takes=600
)
def limit(p: Probe) -> None:
    server = Server6(p)
    first = server.next(d6.DHCP6_Solicit)
    limit_option = d6.DHCP6OptSolMaxRT(max_rt=60) if hasattr(d6, "DHCP6OptSolMaxRT") else None
    if limit_option is None:
        limit_option = d6.DHCP6OptUnknown(optcode=SOL_MAX_RT, optlen=4, data=(60).to_bytes(4, "big"))
    server.say(first, d6.DHCP6_Advertise, limit_option, ia=None)
    times = [server.now()]
    for _ in range(9):
        server.next(d6.DHCP6_Solicit, 200)
        times.append(server.now())
    near(p, "the last came after", times[-1] - times[-2], 54, 66)


@R.check(
    "§18.2.9", "until the first retransmission is due Advertises are collected, and the preferred one is taken", MUST
)
def best(p: Probe) -> None:
    server = Server6(p)
    first = server.next(d6.DHCP6_Solicit)
    other = b"\0\3\0\1other!"
    server.say(first, d6.DHCP6_Advertise, d6.DHCP6OptPref(prefval=1), server=other)
    server.say(first, d6.DHCP6_Advertise, d6.DHCP6OptPref(prefval=7))
    server.say(first, d6.DHCP6_Advertise, server=b"\0\3\0\1third!")
    server.silent(0.5)
    found = server.next(d6.DHCP6_Request)
    p.require(duid(found, d6.DHCP6OptServerId) == SERVER_DUID, "another server was chosen")


@R.check("§18.2.1", "an Advertise with a preference of 255 is taken at once", MUST)
def at_once(p: Probe) -> None:
    server = Server6(p)
    first = server.next(d6.DHCP6_Solicit)
    server.say(first, d6.DHCP6_Advertise, d6.DHCP6OptPref(prefval=255))
    server.next(d6.DHCP6_Request, 0.2)


@R.check(
    "§16.3", "an Advertise without identifiers, with another client's, or another transaction id: passed over", MUST
)
def not_for_us(p: Probe) -> None:
    server = Server6(p)
    first = server.next(d6.DHCP6_Solicit)
    most = d6.DHCP6OptPref(prefval=255)
    changes: list[dict[str, Any]] = [
        {"server": None}, {"client": None}, {"client": b"\0\3\0\1nobody"}, {"trid": transaction(first) ^ 1},
    ]  # fmt: skip
    for change in changes:
        server.say(first, d6.DHCP6_Advertise, most, **change)
    server.silent(0.8)


@R.check("§18.2.9", "an Advertise that has no addresses is not taken", MUST)
def no_addresses(p: Probe) -> None:
    server = Server6(p)
    first = server.next(d6.DHCP6_Solicit)
    most = d6.DHCP6OptPref(prefval=255)
    server.say(first, d6.DHCP6_Advertise, most, status=NO_ADDRESSES)
    server.say(first, d6.DHCP6_Advertise, most, d6.DHCP6OptStatusCode(statuscode=NO_ADDRESSES), ia=None)
    server.next(d6.DHCP6_Solicit, 3)


@R.check("§18.2.2", "a Request has both identifiers, the IA, and a transaction id of its own", MUST)
def request(p: Probe) -> None:
    server = Server6(p)
    first = server.next(d6.DHCP6_Solicit)
    server.say(first, d6.DHCP6_Advertise, d6.DHCP6OptPref(prefval=255))
    found = server.next(d6.DHCP6_Request)
    p.require(duid(found, d6.DHCP6OptServerId) == SERVER_DUID, "its Server Identifier is another")
    p.require(duid(found, d6.DHCP6OptClientId) == duid(first, d6.DHCP6OptClientId), "its Client Identifier is another")
    p.require(found[d6.DHCP6OptIA_NA].iaid == first[d6.DHCP6OptIA_NA].iaid, "its IAID is another")
    p.require(transaction(found) != transaction(first), "its transaction id is the Solicit's")


@R.check("§18.2.2", "a Request that nobody answers is repeated ten times, and then servers are looked for anew", MUST)
def unanswered(p: Probe) -> None:
    server = Server6(p)
    server.requested()
    count = 1
    while (found := server.take(lambda packet: UDP in packet and packet[UDP].dport == 547, 60)) is not None:
        if d6.DHCP6_Solicit in found:
            break
        count += 1
    p.require(found is not None, "no Solicit comes")
    p.require(count == 10, f"it was sent {count} times")


@R.check("§16.10", "a Reply without identifiers, with another client's, or another transaction id is passed over", MUST)
def reply_not_for_us(p: Probe) -> None:
    server = Server6(p)
    found = server.requested()
    changes: list[dict[str, Any]] = [
        {"server": None}, {"client": None}, {"client": b"\0\3\0\1nobody"}, {"trid": transaction(found) ^ 1},
    ]  # fmt: skip
    for change in changes:
        server.say(found, d6.DHCP6_Reply, **change)
    server.quiet(0.8)
    p.require(not server.is_used(), "the address is used")


@R.check("§18.2.10.1", "an address is probed for before it is used, and declined if somebody has it", MUST)
def decline(p: Probe) -> None:
    server = Server6(p)
    server.taken = True
    server.say(server.requested(), d6.DHCP6_Reply)
    found = server.next(d6.DHCP6_Decline)
    bound(p, found)
    p.require(duid(found, d6.DHCP6OptServerId) == SERVER_DUID, "its Server Identifier is another")
    server.taken = False
    p.require(not server.is_used(), "the address is used")


@R.check("§18.2.4", "at T1 the server is asked for more time, by Renew", MUST)
def renew(p: Probe) -> None:
    server = Server6(p)
    began = server.bind()
    found = server.next(d6.DHCP6_Renew, 2000)
    near(p, "it came after", server.now() - began, 999, 1002)
    p.require(duid(found, d6.DHCP6OptServerId) == SERVER_DUID, "its Server Identifier is another")
    bound(p, found)
    server.say(found, d6.DHCP6_Reply)
    server.silent(990)


@R.check("§18.2.5", "at T2 any server is asked, by Rebind without a Server Identifier", MUST)
def rebind(p: Probe) -> None:
    server = Server6(p)
    began = server.bind()
    found = server.take(lambda packet: d6.DHCP6_Rebind in packet, 3000)
    if found is None:
        raise p.wrong("a Rebind")
    near(p, "it came after", server.now() - began, 1999, 2002)
    p.require(d6.DHCP6OptServerId not in found, "there is a Server Identifier")
    bound(p, found)


@R.check("§18.2.10.1", "when the valid lifetime is over the address is used no longer", MUST)
def expiry(p: Probe) -> None:
    server = Server6(p)
    began = server.bind()
    server.quiet(began + 3990 - server.now())
    p.require(server.is_used(), "it is used no longer before that")
    server.quiet(12)
    p.require(not server.is_used(), "it is used still")


@R.check("§18.2.10.1", "a valid lifetime of 0 in a Reply takes an address away at once", MUST)
def withdrawn(p: Probe) -> None:
    server = Server6(p)
    server.bind()
    found = server.next(d6.DHCP6_Renew, 2000)
    server.say(found, d6.DHCP6_Reply, lifetimes=(0, 0))
    server.quiet(1)
    p.require(not server.is_used(), "it is used still")


@R.check(
    "§18.2.7", "an address that is given back: Release, with the identifiers and the address; no more use of it", MUST
)
def release(p: Probe) -> None:
    server = Server6(p)
    server.bind()
    server.client.release()
    found = server.next(d6.DHCP6_Release)
    p.require(duid(found, d6.DHCP6OptServerId) == SERVER_DUID, "its Server Identifier is another")
    bound(p, found)
    p.require(not server.is_used(), "the address is used still")


@R.check("§21.4", "an IA whose T1 is later than its T2 is not taken", MUST)
def wrong_times(p: Probe) -> None:
    server = Server6(p)
    server.say(server.requested(), d6.DHCP6_Reply, times=(2000, 1000))
    server.quiet(3)
    p.require(not server.is_used(), "it is used")


@R.check("§21.6", "an address whose preferred lifetime is longer than its valid one is not taken", MUST)
def wrong_lifetimes(p: Probe) -> None:
    server = Server6(p)
    server.say(server.requested(), d6.DHCP6_Reply, lifetimes=(4000, 3000))
    server.quiet(3)
    p.require(not server.is_used(), "it is used")


@R.check("§18.2.10", "a Reply with UnspecFail is followed by the same message again, not sooner than it was due", MUST)
def unspecified(p: Probe) -> None:
    server = Server6(p)
    found = server.requested()
    server.say(found, d6.DHCP6_Reply, d6.DHCP6OptStatusCode(statuscode=UNSPECIFIED), ia=None)
    server.silent(0.8)
    server.next(d6.DHCP6_Request, 3)
