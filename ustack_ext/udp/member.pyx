"""Memberships of datagram sockets (RFC 3376 §3.1, §3.2; RFC 3810 §4; RFC 3678), and delivery to groups.

Responsible for each socket's list of groups, interfaces and source filters, for what all sockets together want of an
interface, and for who gets a datagram sent to many. Not for telling routers (net/reports). Memory is bounded:
igmp_max_memberships a socket, MEMBERS6_MAX over IPv6; igmp_max_msf and mld_max_msf sources a membership.
"""
from libc.errno cimport EADDRINUSE, EADDRNOTAVAIL, EINVAL, ENOBUFS, ENODEV, ENOMEM
from libc.stdlib cimport calloc, free

from ustack_ext.wire.addr cimport addr_eq, addr_is_any, addr_is_multicast, addr_is_v4, addr_none, addr_zoned
from ustack_ext.base.buf cimport bufq_clear
from ustack_ext.base.core cimport count
from ustack_ext.net.iface cimport iface_by_index, iface_for_group
from ustack_ext.net.mib cimport UdpIgnoredMulti
from ustack_ext.net.reports cimport reports_set
from ustack_ext.net.state cimport RX_IP_MULTICAST
from ustack_ext.udp.demux cimport first_on_port, match_score, next_on_port
from ustack_ext.udp.recv cimport deliver
from ustack_ext.udp.state cimport MEMBER_SOURCES, family_of, udp_counter

cdef enum:
    MEMBERS6_MAX = 256         # a socket's; Linux: what optmem_max has room for
    PMTUDISC_WANT = 1          # ipv6(7): the default


cdef UdpMore *udp_more(UdpSock *s) noexcept nogil:
    cdef int k
    if s.more == NULL:
        s.more = <UdpMore *>calloc(1, sizeof(UdpMore))
        if s.more != NULL:
            for k in range(2):
                s.more.ways[k].group_ttl = 1
                s.more.ways[k].group_loop = 1
                s.more.ways[k].group_all = 1
            s.more.ways[1].pmtudisc = PMTUDISC_WANT
    return s.more


cdef void more_free(Udp *u, UdpSock *s) noexcept nogil:
    if s.more == NULL:
        return
    while s.more.members != NULL:
        drop(u, s, s.more.members)
    u.mem_used -= s.more.errors_used
    bufq_clear(&s.more.errors, &u.core.pool)
    free(s.more)
    s.more = NULL


# --- what all want together ---

cdef bint has(const Addr *sources, int many, const Addr *a) noexcept nogil:
    cdef int k
    for k in range(many):
        if addr_eq(&sources[k], a):
            return True
    return False


cdef int tell(Udp *u, const Addr *group, uint32_t ifindex) noexcept nogil:
    """RFC 3376 §3.2: EXCLUDE what all that exclude do, less what any other includes; if nobody excludes, INCLUDE all
    that anybody does. Too many to keep: all of them, which the sockets' filters then sort."""
    cdef Iface *i = iface_by_index(u.net, ifindex)
    cdef Addr sources[MEMBER_SOURCES]
    cdef int n = 0, k, at
    cdef bint exclude = False, overflow = False
    cdef Member *m = u.members
    if i == NULL:
        return 0
    while m != NULL:                                   # the first that excludes gives the list to begin with
        if not exclude and m.exclude and m.ifindex == ifindex and addr_eq(&m.group, group):
            exclude = True
            n = m.n_sources
            for k in range(n):
                sources[k] = m.sources[k]
        m = m.after
    m = u.members
    while m != NULL:
        if m.ifindex != ifindex or not addr_eq(&m.group, group):
            m = m.after
            continue
        if exclude:
            at = 0
            for k in range(n):
                if has(m.sources, m.n_sources, &sources[k]) == (m.exclude != 0):
                    sources[at] = sources[k]
                    at += 1
            n = at
        else:
            for k in range(m.n_sources):
                if has(sources, n, &m.sources[k]):
                    continue
                if n == MEMBER_SOURCES:
                    overflow = True
                    break
                sources[n] = m.sources[k]
                n += 1
        m = m.after
    return reports_set(u.net, i, group, exclude or overflow, sources, 0 if overflow else n)


# --- a socket's list ---

cdef Member *udp_membership(UdpSock *s, const Addr *group, uint32_t ifindex) noexcept nogil:
    """ifindex 0: on any interface. The group's zone does not count: it is the interface's."""
    cdef Member *m = s.more.members if s.more != NULL else NULL
    cdef Addr here
    while m != NULL:
        here = addr_zoned(group, m.ifindex)
        if addr_eq(&m.group, &here) and (ifindex == 0 or m.ifindex == ifindex):
            return m
        m = m.next
    return NULL


cdef void drop(Udp *u, UdpSock *s, Member *m) noexcept nogil:
    cdef Member **at = &s.more.members
    cdef Addr group = m.group
    cdef uint32_t ifindex = m.ifindex
    while at[0] != m:
        at = &at[0].next
    at[0] = m.next
    s.more.ways[family_of(&group)].n_members -= 1
    if m.before != NULL:
        m.before.after = m.after
    else:
        u.members = m.after
    if m.after != NULL:
        m.after.before = m.before
    free(m)
    tell(u, &group, ifindex)


cdef Member *add(Udp *u, UdpSock *s, const Addr *group, uint32_t ifindex, bint exclude, int *status) noexcept nogil:
    cdef Member *m = NULL
    status[0] = -ENOMEM
    if udp_more(s) == NULL:
        return NULL
    if addr_is_v4(group) and s.more.ways[0].n_members >= u.net.knobs.igmp_max_memberships:
        status[0] = -ENOBUFS
        return NULL
    if s.more.ways[1].n_members >= MEMBERS6_MAX:
        return NULL
    m = <Member *>calloc(1, sizeof(Member))
    if m == NULL:
        return NULL
    m.group = addr_zoned(group, ifindex)
    m.ifindex = ifindex
    m.exclude = exclude
    m.next = s.more.members
    s.more.members = m
    s.more.ways[family_of(group)].n_members += 1
    m.after = u.members
    if m.after != NULL:
        m.after.before = m
    u.members = m
    status[0] = 0
    return m


cdef int place_of(const Member *m, const Addr *source) noexcept nogil:
    cdef int k
    for k in range(m.n_sources):
        if addr_eq(&m.sources[k], source):
            return k
    return -1


cdef uint32_t most_sources(const Udp *u, const Addr *group) noexcept nogil:
    return min(<uint32_t>MEMBER_SOURCES, u.net.knobs.igmp_max_msf if addr_is_v4(group) else u.net.knobs.mld_max_msf)


cdef int add_source(Udp *u, Member *m, const Addr *source) noexcept nogil:
    if place_of(m, source) >= 0:
        return -EADDRNOTAVAIL
    if m.n_sources >= most_sources(u, &m.group):
        return -ENOBUFS
    m.sources[m.n_sources] = source[0]
    m.n_sources += 1
    return 0


cdef int drop_source(Member *m, const Addr *source) noexcept nogil:
    cdef int k = place_of(m, source)
    if k < 0:
        return -EADDRNOTAVAIL
    m.n_sources -= 1
    m.sources[k] = m.sources[m.n_sources]
    return 0


cdef int change_source(Udp *u, UdpSock *s, Member *m, int action, const Addr *group, uint32_t ifindex,
                       const Addr *given) noexcept nogil:
    """As Linux: a filter's mode follows the call while the list is empty, and is not mixed then."""
    cdef bint exclude = action == MEMBER_BLOCK or action == MEMBER_UNBLOCK
    cdef Addr zoned = addr_zoned(given, m.ifindex if m != NULL else ifindex)
    cdef const Addr *source = &zoned
    cdef int status
    if m == NULL and action == MEMBER_JOIN_SOURCE:
        m = add(u, s, group, ifindex, False, &status)
        if m == NULL:
            return status
        m.sources[0] = source[0]
        m.n_sources = 1
        return tell(u, &m.group, m.ifindex)
    if m == NULL:
        return -EINVAL
    if (m.exclude != 0) != exclude:
        if m.n_sources != 0:
            return -EINVAL
        if action != MEMBER_JOIN_SOURCE:
            return -EADDRNOTAVAIL
        m.exclude = 0
    if action == MEMBER_BLOCK or action == MEMBER_JOIN_SOURCE:
        status = add_source(u, m, source)
    else:
        status = drop_source(m, source)
    if status != 0:
        return status
    if m.n_sources == 0 and not m.exclude:
        drop(u, s, m)
        return 0
    return tell(u, &m.group, m.ifindex)


cdef int udp_member(Udp *u, UdpSock *s, int action, const Addr *group, uint32_t ifindex,
                    const Addr *source) noexcept nogil:
    cdef Addr none = addr_none()
    cdef Iface *i
    cdef Member *m
    cdef int status
    if not addr_is_multicast(group):
        return -EINVAL
    if ifindex != 0:
        i = iface_by_index(u.net, ifindex)
    else:
        i = iface_for_group(u.net, &none, group)
    if i == NULL:
        return -ENODEV
    m = udp_membership(s, group, ifindex)
    if action == MEMBER_JOIN:
        m = udp_membership(s, group, <uint32_t>i.index)
        if m != NULL:
            return -EADDRINUSE
        m = add(u, s, group, i.index, True, &status)
        return tell(u, &m.group, i.index) if m != NULL else status
    if action == MEMBER_LEAVE:
        if m == NULL:
            return -EADDRNOTAVAIL
        drop(u, s, m)
        return 0
    if source == NULL or addr_is_any(source) or addr_is_multicast(source) or addr_is_v4(source) != addr_is_v4(group):
        return -EINVAL
    return change_source(u, s, m, action, group, i.index, source)


cdef int udp_filter(Udp *u, UdpSock *s, const Addr *group, uint32_t ifindex, bint exclude, const Addr *sources,
                    int many) noexcept nogil:
    cdef Member *m = udp_membership(s, group, ifindex)
    cdef int k
    if not addr_is_multicast(group):
        return -EINVAL
    if <uint32_t>many > most_sources(u, group):
        return -ENOBUFS
    if m == NULL:
        return -EINVAL
    if not exclude and many == 0:                     # RFC 3678 §3: nothing is wanted any more
        drop(u, s, m)
        return 0
    m.exclude = exclude
    m.n_sources = <uint8_t>many
    for k in range(many):
        m.sources[k] = addr_zoned(&sources[k], m.ifindex)
    return tell(u, &m.group, m.ifindex)


# --- what comes ---

cdef bint wants(const UdpSock *s, const RxPkt *rx) noexcept nogil:
    """Whether the socket's filters let a group's datagram through; without a membership, IP_MULTICAST_ALL (ip(7))."""
    cdef Member *m
    if not rx.flags & RX_IP_MULTICAST or s.more == NULL:
        return True
    m = s.more.members
    while m != NULL:
        if m.ifindex == <uint32_t>rx.iface.index and addr_eq(&m.group, &rx.dst):
            return (place_of(m, &rx.src) >= 0) != (m.exclude != 0)
        m = m.next
    return s.more.ways[family_of(&rx.dst)].group_all != 0


cdef void deliver_group(Udp *u, RxPkt *rx, int kind, uint8_t *data, uint32_t length, uint16_t sport,
                        uint16_t dport) noexcept nogil:
    cdef UdpSock *s = first_on_port(u, dport, kind)
    cdef bint any = False
    while s != NULL:
        if match_score(s, &rx.dst, &rx.src, sport, rx.iface.index) > 0 and wants(s, rx):
            deliver(u, s, rx, data, length, sport, False)
            any = True
        s = next_on_port(s)
    if not any:
        count(u.core, udp_counter(kind, UdpIgnoredMulti))
