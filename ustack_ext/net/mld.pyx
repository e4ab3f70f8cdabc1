"""Multicast Listener Discovery as a listener hears it: version 2 (RFC 3810), and version 1 (RFC 2710) where a querier
speaks no more; and the solicited-node groups (RFC 4291 §2.7.1).

Responsible for reading queries and other listeners' reports, and for joining the group of each address, so that
switches that snoop let neighbour solicitations through. What is said, and when, is reports'. A message is believed only
from a link-local address, with hop limit 1 and a router alert (§6.2).
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ustack_ext.wire.addr cimport addr_bare_hi, addr_eq, addr_is_link_local, addr_is_v4, addr_zoned
from ustack_ext.wire.bytes cimport get_be16
from ustack_ext.wire.ip6 cimport (
    ICMP6_MLD_QUERY, ICMP6_MLD_REPORT, IP6_HLEN, IPPROTO_HOPOPTS_, addr_get, ip6_has_option,
)
from ustack_ext.base.core cimport count
from ustack_ext.net.groups cimport group_find, group_joined
from ustack_ext.net.mib cimport DropIcmp6Malformed, Icmp6InGroupMembQueries, Icmp6InGroupMembResponses
from ustack_ext.net.ndout cimport addr_solicited_node
from ustack_ext.net.reports cimport (
    LEVEL_2, reports_again, reports_asked, reports_heard, reports_older, reports_own,
)
from ustack_ext.net.state cimport ADDR_CONFLICT, MAX_IFADDRS, MEDIUM_ETHERNET, Group, Groups

cdef enum:
    QUERY_LEN = 24             # version 1's, and that of its reports
    QUERY2_LEN = 28
    ROUTER_ALERT = 5           # the option's type (RFC 2711)


cdef uint32_t response_ms(uint32_t code) noexcept nogil:
    """§5.1.3: a number below 32,768, or a floating-point one."""
    return code if code < 0x8000 else (code & 0xFFF | 0x1000) << ((code >> 12 & 7) + 3)


cdef void query(Net *n, Groups *m, const Addr *group, const uint8_t *p, uint32_t length) noexcept nogil:
    cdef uint32_t most = response_ms(get_be16(p + 4)), many = 0
    if length == QUERY_LEN:                            # §8.1
        most = get_be16(p + 4)
        reports_older(n, m, LEVEL_2, most)
    else:
        many = get_be16(p + 26) if length >= QUERY2_LEN else 0
        if length < QUERY2_LEN or QUERY2_LEN + 16 * many > length:
            count(n.core, DropIcmp6Malformed)
            return
        if p[24] & 7:
            m.robustness = p[24] & 7
    reports_asked(n, m, group, p + QUERY2_LEN, many, most)


cdef bint is_alerting(const RxPkt *rx) noexcept nogil:
    return rx.l3[6] == IPPROTO_HOPOPTS_ and ip6_has_option(rx.l3 + IP6_HLEN, rx.l3_len - IP6_HLEN, ROUTER_ALERT)


cdef void mld_input(Net *n, RxPkt *rx) noexcept nogil:
    cdef bint asks = rx.l4[0] == ICMP6_MLD_QUERY
    cdef Addr group
    count(n.core, Icmp6InGroupMembQueries if asks else Icmp6InGroupMembResponses)
    if rx.l4_len < QUERY_LEN or rx.ttl != 1 or not addr_is_link_local(&rx.src) or not is_alerting(rx):
        count(n.core, DropIcmp6Malformed)
        return
    group = addr_get(rx.l4 + 8)
    group = addr_zoned(&group, rx.iface.index)
    if asks:
        query(n, &rx.iface.mld, &group, rx.l4, rx.l4_len)
    elif rx.l4[0] == ICMP6_MLD_REPORT:
        reports_heard(n, &rx.iface.mld, &group)


# --- the groups of addresses ---

cdef inline Addr all_routers(const Iface *i) noexcept nogil:
    cdef Addr a
    a.hi = <uint64_t>0xFF02 << 48
    a.lo = 2
    return addr_zoned(&a, i.index)


cdef bint needs(const Iface *i, const Addr *group) noexcept nogil:
    """Whether it is the solicited-node group of an address, a tentative one included; or a router's, of all routers."""
    cdef Addr one = all_routers(i)
    cdef int k
    if i.conf.forwarding6 and addr_eq(&one, group):
        return True
    for k in range(MAX_IFADDRS):
        if i.addrs[k].used and i.addrs[k].state != ADDR_CONFLICT and not addr_is_v4(&i.addrs[k].addr):
            one = addr_solicited_node(&i.addrs[k].addr, i.index)
            if addr_eq(&one, group):
                return True
    return False


cdef void join(Net *n, Iface *i, const Addr *group, bint silent) noexcept nogil:
    cdef Group *g = group_find(&i.mld, group)
    if g == NULL or not g.own:
        reports_own(n, i, group, True, silent)


cdef void mld_addresses(Net *n, Iface *i) noexcept nogil:
    cdef bint silent = i.medium != MEDIUM_ETHERNET     # nobody resolves addresses there
    cdef Group *g = i.mld.first
    cdef Addr one
    cdef int k
    while g != NULL:
        if g.own and not needs(i, &g.addr):
            reports_own(n, i, &g.addr, False, silent)
        g = g.next
    for k in range(MAX_IFADDRS):
        if not i.addrs[k].used or i.addrs[k].state == ADDR_CONFLICT or addr_is_v4(&i.addrs[k].addr):
            continue
        one = addr_solicited_node(&i.addrs[k].addr, i.index)
        join(n, i, &one, silent)
    if i.conf.forwarding6:
        one = all_routers(i)
        join(n, i, &one, silent)


cdef void mld_announce(Net *n, Iface *i) noexcept nogil:
    if i.medium == MEDIUM_ETHERNET:
        reports_again(n, &i.mld)


cdef bint mld_listens(Iface *i, const Addr *group) noexcept nogil:
    cdef uint64_t prefix = addr_bare_hi(group.hi) >> 48
    if (prefix == 0xFF02 or prefix == 0xFF01 or prefix == 0xFF05) and addr_bare_hi(group.hi) << 16 == 0:
        if group.lo == 1 and prefix != 0xFF05:
            return i.six.on                            # all nodes (RFC 4291 §2.7.1)
        if group.lo == 2 and i.conf.forwarding6:
            return i.six.on                            # all routers
    return group_joined(i, group)
