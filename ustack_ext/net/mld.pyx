"""Multicast Listener Discovery, version 2 (RFC 3810): reports of the solicited-node groups of an interface's addresses.

Responsible for when a report is sent and what stands in it: all groups, without sources. All nodes (ff02::1) is never
reported (§6). A query is believed only from a link-local address with hop limit 1 (§6.2); one answer, after a random
part of the time it allows, serves all that are open, and a flood of them costs no more than that.
"""
from libc.stdint cimport UINT64_MAX, uint8_t, uint32_t

from ustack_ext.wire.addr cimport addr_eq, addr_is_any, addr_is_link_local, addr_is_v4, addr_none, addr_zoned
from ustack_ext.wire.bytes cimport get_be16
from ustack_ext.wire.ip6 cimport addr_get
from ustack_ext.base.core cimport count
from ustack_ext.base.rng cimport rng_below
from ustack_ext.net.iface cimport addr_usable, is_our_group
from ustack_ext.net.mib cimport DropIcmp6Malformed, Icmp6InGroupMembQueries
from ustack_ext.net.ndout cimport (
    MLD_IS_EXCLUDE, MLD_TO_EXCLUDE, MLD_TO_INCLUDE, addr_solicited_node, mld_report,
)
from ustack_ext.net.state cimport ADDR_CONFLICT, MAX_IFADDRS, MEDIUM_ETHERNET

cdef enum:
    MS = 1000000
    QUERY_LEN = 24             # version 1's; version 2 adds to it
    ROBUSTNESS = 2             # times a change is reported (§9.1)
    UNSOLICITED_MS = 1000      # ... at random within this (§9.11)


cdef uint32_t response_ms(uint32_t code) noexcept nogil:
    """§5.1.3: a number below 32,768, or a floating-point one."""
    return code if code < 0x8000 else (code & 0xFFF | 0x1000) << ((code >> 12 & 7) + 3)


cdef void mld_input(Net *n, RxPkt *rx) noexcept nogil:
    cdef Iface *i = rx.iface
    cdef uint64_t at
    cdef Addr group
    count(n.core, Icmp6InGroupMembQueries)
    if rx.l4_len < QUERY_LEN or rx.ttl != 1 or not addr_is_link_local(&rx.src):
        count(n.core, DropIcmp6Malformed)
        return
    group = addr_get(rx.l4 + 8)
    group = addr_zoned(&group, i.index)
    if i.medium != MEDIUM_ETHERNET or not (addr_is_any(&group) or is_our_group(i, &group)):
        return
    at = n.core.now + <uint64_t>rng_below(&n.core.rng, response_ms(get_be16(rx.l4 + 4)) + 1) * MS
    if i.six.answer_at == 0 or at < i.six.answer_at:
        i.six.answer_at = at


cdef void mld_changed(Net *n, Iface *i) noexcept nogil:
    if i.medium == MEDIUM_ETHERNET:
        i.six.reports_left = ROBUSTNESS
        i.six.report_at = n.core.now if n.core.now != 0 else 1


cdef Addr own_address(Iface *i) noexcept nogil:
    """§5.2.13: link-local, or `::` while there is none."""
    cdef int k
    for k in range(MAX_IFADDRS):
        if addr_usable(&i.addrs[k]) and addr_is_link_local(&i.addrs[k].addr):
            return i.addrs[k].addr
    return addr_none()


cdef void mld_left(Net *n, Iface *i, const Addr *group) noexcept nogil:
    cdef Addr src = own_address(i)
    if i.medium == MEDIUM_ETHERNET and i.up:
        mld_report(n, i, &src, group, 1, MLD_TO_INCLUDE)


cdef void report(Net *n, Iface *i, uint8_t record) noexcept nogil:
    cdef Addr src = own_address(i)
    cdef Addr groups[MAX_IFADDRS]
    cdef Addr one
    cdef int k, j, found = 0
    for k in range(MAX_IFADDRS):
        if not i.addrs[k].used or i.addrs[k].state == ADDR_CONFLICT or addr_is_v4(&i.addrs[k].addr):
            continue
        one = addr_solicited_node(&i.addrs[k].addr, i.index)
        j = 0
        while j < found and not addr_eq(&groups[j], &one):
            j += 1
        groups[j] = one
        found = max(found, j + 1)
    if found > 0:
        mld_report(n, i, &src, groups, found, record)


cdef uint64_t mld_timer(Net *n, Iface *i) noexcept nogil:
    cdef uint64_t now = n.core.now
    if i.six.report_at != 0 and i.six.report_at <= now:
        report(n, i, MLD_TO_EXCLUDE)
        i.six.reports_left -= 1
        i.six.report_at = 0
        if i.six.reports_left > 0:
            i.six.report_at = now + 1 + <uint64_t>rng_below(&n.core.rng, UNSOLICITED_MS) * MS
    if i.six.answer_at != 0 and i.six.answer_at <= now:
        report(n, i, MLD_IS_EXCLUDE)
        i.six.answer_at = 0
    return min(i.six.report_at if i.six.report_at != 0 else UINT64_MAX,
               i.six.answer_at if i.six.answer_at != 0 else UINT64_MAX)
