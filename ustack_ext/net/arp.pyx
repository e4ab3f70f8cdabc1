"""ARP for Ethernet and IPv4: what received packets may do (RFC 826), and address conflict detection (RFC 5227).

Responsible for judging packets and for the life of our own addresses; the table is neigh's.

The rules, stricter than RFC 826 where it trusts:
- malformed: sender link address zero or a group, sender address of a group, loopback or class E;
- senders that are not on the interface's link by our routes are not listened to;
- an entry is *created* only for the sender of a request for one of our addresses (it is about to hear from us); replies
  and gratuitous packets never create one, they only touch what is there (see neigh for what they may change there);
- a sender that uses our address is a conflict: counted, and answered by one announcement in ten seconds (RFC 5227
  §2.4 (c): the address is kept; a link-local one is given up at the second conflict in that time, RFC 3927 §2.5 (b));
- requests are answered for the addresses of the interface they came in on, unless arp_ignore says otherwise, and by
  unicast.
"""
from libc.stdint cimport uint64_t
from libc.string cimport memcmp

from ustack_ext.wire.addr cimport Addr, addr_in_prefix, addr_is_any, addr_is_v4, addr_to_v4, addr_v4
from ustack_ext.wire.headers cimport ARP_REPLY, ARP_REQUEST, WIRE_OK, ArpPkt, arp_parse
from ustack_ext.base.core cimport count
from ustack_ext.base.rng cimport rng_below
from ustack_ext.base.wheel cimport wheel_arm
from ustack_ext.net.frame cimport frame_arp, mac_is_group, mac_is_zero
from ustack_ext.net.iface cimport addr_activate, addr_disable, addr_find
from ustack_ext.net.mib cimport (ArpConflicts, ArpInReplies, ArpInRequests, DropArpMalformed, DropArpNotOurs, MIB_COUNT)
from ustack_ext.net.neigh cimport (NEWS_ANSWER, NEWS_ONE_WAY, NEWS_RUMOUR, NeighNews, neigh_create, neigh_find,
                                   neigh_learn)
from ustack_ext.net.route cimport route_lookup
from ustack_ext.net.state cimport (ADDR_CONFLICT, ADDR_PREFERRED, ADDR_TENTATIVE, MEDIUM_ETHERNET, MEDIUM_LOOPBACK,
                                   Neigh, Route)

cdef enum:                     # arp_ignore
    ARP_ANY = 0                # answer for any address of ours
    ARP_SAME_NET = 2           # ... of the interface, to who is in its prefix
    ARP_NONE = 8

cdef enum:                     # RFC 5227 §1.1
    PROBE_NUM = 3
    ANNOUNCE_NUM = 2
    LINK_LOCAL = 0xA9FE        # 169.254/16

cdef extern from *:
    """
    #define ARP_MS 1000000ULL
    #define ARP_PROBE_WAIT (1000 * ARP_MS)
    #define ARP_PROBE_MIN (1000 * ARP_MS)
    #define ARP_PROBE_MAX (2000 * ARP_MS)
    #define ARP_ANNOUNCE_WAIT (2000 * ARP_MS)
    #define ARP_ANNOUNCE_INTERVAL (2000 * ARP_MS)
    #define ARP_DEFEND_INTERVAL (10000 * ARP_MS)
    """
    const uint64_t ARP_PROBE_WAIT, ARP_PROBE_MIN, ARP_PROBE_MAX, ARP_ANNOUNCE_WAIT, ARP_ANNOUNCE_INTERVAL
    const uint64_t ARP_DEFEND_INTERVAL


# --- our own addresses ---

cdef void announce(Net *n, IfAddr *ia) noexcept nogil:
    """An ARP announcement: a broadcast request with both protocol addresses ours (RFC 5227 §3)."""
    cdef uint32_t ip = addr_to_v4(&ia.addr)
    frame_arp(n, ia.iface, NULL, ARP_REQUEST, ip, NULL, ip)


cdef void arp_start(Net *n, IfAddr *ia) noexcept nogil:
    if ia.iface.medium != MEDIUM_ETHERNET or not addr_is_v4(&ia.addr):
        return
    if ia.state == ADDR_TENTATIVE:
        ia.probes_left = PROBE_NUM
        ia.announces_left = ANNOUNCE_NUM
        wheel_arm(&n.core.wheel, &ia.entry, n.core.now + rng_below(&n.core.rng, <uint32_t>ARP_PROBE_WAIT))
    else:
        announce(n, ia)        # not probed, so not RFC 5227's business: one gratuitous ARP as Linux's arp_notify sends


cdef void arp_timer(Net *n, IfAddr *ia) noexcept nogil:
    """RFC 5227 §2.1.1 and §2.3: probes, one to two seconds apart; two quiet seconds; announcements."""
    cdef uint64_t pause
    if ia.state == ADDR_TENTATIVE and ia.probes_left > 0:
        frame_arp(n, ia.iface, NULL, ARP_REQUEST, 0, NULL, addr_to_v4(&ia.addr))
        ia.probes_left -= 1
        pause = ARP_ANNOUNCE_WAIT
        if ia.probes_left > 0:
            pause = ARP_PROBE_MIN + rng_below(&n.core.rng, <uint32_t>(ARP_PROBE_MAX - ARP_PROBE_MIN))
        wheel_arm(&n.core.wheel, &ia.entry, n.core.now + pause)
        return
    if ia.state == ADDR_TENTATIVE:
        addr_activate(n, ia)
    if ia.state == ADDR_PREFERRED and ia.announces_left > 0:
        announce(n, ia)
        ia.announces_left -= 1
        if ia.announces_left > 0:
            wheel_arm(&n.core.wheel, &ia.entry, n.core.now + ARP_ANNOUNCE_INTERVAL)


cdef void conflict(Net *n, IfAddr *ia) noexcept nogil:
    """Somebody else uses, or probes for, the address."""
    count(n.core, ArpConflicts)
    if ia.state == ADDR_TENTATIVE:
        addr_disable(n, ia, ADDR_CONFLICT)
    elif ia.state == ADDR_PREFERRED:
        if ia.last_defence == 0 or n.core.now - ia.last_defence >= ARP_DEFEND_INTERVAL:
            ia.last_defence = n.core.now if n.core.now != 0 else 1
            announce(n, ia)
        elif addr_to_v4(&ia.addr) >> 16 == LINK_LOCAL:
            addr_disable(n, ia, ADDR_CONFLICT)


# --- packets ---

cdef bint plausible_sender(const Addr *a) noexcept nogil:
    """An address a host can have: not 0/8, 127/8, 224/4 or 240/4."""
    cdef uint32_t first = addr_to_v4(a) >> 24
    return first != 0 and first != 127 and first < 224


cdef IfAddr *wanted_address(Net *n, Iface *i, const Addr *target, const Addr *sender) noexcept nogil:
    """Our address that is asked for, if it is to be answered (Linux's arp_ignore)."""
    cdef uint8_t ignore = max(n.knobs.arp_ignore, i.conf.arp_ignore)
    cdef IfAddr *own = addr_find(i, target)
    cdef int k = 0
    while own == NULL and ignore == ARP_ANY and k < n.n_ifaces:
        if n.ifaces[k].medium != MEDIUM_LOOPBACK:
            own = addr_find(n.ifaces[k], target)
        k += 1
    if own == NULL or ignore == ARP_NONE or own.state == ADDR_TENTATIVE:
        return own if own != NULL and own.state == ADDR_TENTATIVE and own.iface == i else NULL
    if ignore == ARP_SAME_NET and not addr_is_any(sender) and not addr_in_prefix(sender, &own.addr, own.plen):
        return NULL
    return own


cdef bint on_link(Net *n, Iface *i, const Addr *a) noexcept nogil:
    cdef Route *r = route_lookup(n, a, i)
    return r != NULL and addr_is_any(&r.gateway)


cdef int probe_input(Net *n, Iface *i, IfAddr *target, const ArpPkt *p) noexcept nogil:
    """Sender address 0: an RFC 5227 probe. It is answered, never learned from."""
    if p.op != ARP_REQUEST:
        return DropArpMalformed
    if target == NULL:
        return DropArpNotOurs
    if target.state == ADDR_TENTATIVE:
        conflict(n, target)            # RFC 5227 §2.1.1: two hosts after the same address
    elif target.state == ADDR_PREFERRED:
        frame_arp(n, i, p.sha, ARP_REPLY, p.tpa, p.sha, 0)
    return MIB_COUNT


cdef int arp_input(Net *n, Iface *i, const uint8_t *p, uint32_t length, bint to_us) noexcept nogil:
    """to_us: the frame was sent to our own link address, not to a group."""
    cdef ArpPkt a
    cdef Addr sender, target_addr
    cdef IfAddr *own
    cdef IfAddr *target
    cdef Neigh *e
    cdef NeighNews news = NEWS_RUMOUR
    if arp_parse(p, length, &a) != WIRE_OK or mac_is_group(a.sha) or mac_is_zero(a.sha):
        return DropArpMalformed
    count(n.core, ArpInRequests if a.op == ARP_REQUEST else ArpInReplies)
    if memcmp(a.sha, i.mac, 6) == 0:
        return DropArpNotOurs          # our own packet, reflected
    sender = addr_v4(a.spa)
    target_addr = addr_v4(a.tpa)
    target = wanted_address(n, i, &target_addr, &sender)
    if a.spa == 0:
        return probe_input(n, i, target, &a)
    if not plausible_sender(&sender):
        return DropArpMalformed
    own = addr_find(i, &sender)
    if own != NULL:
        conflict(n, own)
        return MIB_COUNT
    if target != NULL and target.state != ADDR_PREFERRED:
        target = NULL
    if not on_link(n, i, &sender):
        return DropArpNotOurs
    e = neigh_find(n, i, &sender)
    if target != NULL and a.op == ARP_REQUEST:
        if e == NULL:
            e = neigh_create(n, i, &sender)
            if e != NULL:
                e.probes = 1           # being told is as good as having asked: what it says is taken
        news = NEWS_ONE_WAY
    elif target != NULL and to_us:
        news = NEWS_ANSWER
    if e != NULL:
        neigh_learn(n, e, a.sha, news)
    if target != NULL and a.op == ARP_REQUEST:
        frame_arp(n, i, a.sha, ARP_REPLY, a.tpa, a.sha, a.spa)
        return MIB_COUNT
    return MIB_COUNT if e != NULL else DropArpNotOurs
