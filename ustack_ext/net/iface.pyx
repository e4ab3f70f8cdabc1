"""Interfaces, the addresses they have, and the questions asked of addresses (RFC 1122 §3.2.1.3, §3.3.4).

Responsible for the list of interfaces, the packed lists of local and broadcast addresses that input compares with, the
connected routes, and source address choice for IPv4. Not for finding out whether an address is free (arp).
"""
from libc.errno cimport EADDRNOTAVAIL, EEXIST, EINVAL, ENETUNREACH, ENOBUFS
from libc.stdint cimport UINT64_MAX, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset, strcmp, strlen

from ustack_ext.wire.addr cimport (addr_has_zone, addr_in_prefix, addr_is_any, addr_is_link_local,
                                   addr_is_multicast, addr_is_v4,
                                   addr_mask, addr_none, addr_v4, addr_zone, V4_BITS)
from ustack_ext.wire.ip6 cimport IP6_MIN_MTU
from ustack_ext.base.entry cimport ENTRY_GROUPS, ENTRY_IFACE6, ENTRY_IFADDR
from ustack_ext.base.wheel cimport wheel_cancel
from ustack_ext.net.state cimport (
    ADDR_CONFLICT, IFA_STATIC, IFNAME_MAX, IPMTU_MIN, IP_MAX, MAX_IFACES, MAX_IFADDRS, MEDIUM_LOOPBACK, ROUTER_4,
    ROUTER_6, RT_TABLE_MAIN, Route,
)
from ustack_ext.net.capture cimport capture_forget
from ustack_ext.net.groups cimport groups_forget
from ustack_ext.net.source6 cimport source6
from ustack_ext.net.route cimport (net_changed, route_forget_iface, route_forget_routers, route_forget_source,
                                   route_insert, route_lookup)
from ustack_ext.net.rule cimport route_for

cdef enum:
    ACCEPT_RA_ALWAYS = 2           # net.ipv6.conf.IF.accept_ra: routers, too


cdef Iface *iface_insert(Net *n, const char *name, int medium, const uint8_t *mac, uint32_t mtu, uint32_t offloads,
                         transmit_fn transmit, void *link) noexcept nogil:
    """A new interface, up, without addresses. NULL if the list is full, memory short, or the MTU below RFC 791's 68."""
    cdef Iface *i
    cdef int k
    if n.n_ifaces >= MAX_IFACES or mtu < IPMTU_MIN:
        return NULL
    i = <Iface *>calloc(1, sizeof(Iface))
    if i == NULL:
        return NULL
    i.net = n
    i.six.iface = i
    i.six.entry.kind = ENTRY_IFACE6
    i.six.conf = n.knobs.conf6
    i.igmp.iface = i
    i.igmp.entry.kind = ENTRY_GROUPS
    i.mld.iface = i
    i.mld.entry.kind = ENTRY_GROUPS
    i.mld.six = 1
    i.index = 1
    for k in range(n.n_ifaces):              # an index is not used again while a later interface lives
        if n.ifaces[k].index >= i.index:
            i.index = n.ifaces[k].index + 1
    memcpy(i.name, name, min(strlen(name), <size_t>(IFNAME_MAX - 1)))
    i.medium = medium
    i.up = 1
    if mac != NULL:
        memcpy(i.mac, mac, 6)
    i.mtu = mtu
    i.offloads = offloads
    i.gso_max = IP_MAX
    i.transmit = transmit
    i.link = link
    i.conf.forwarding = n.knobs.ip_forward
    i.conf.forwarding6 = n.knobs.forwarding6
    i.conf.send_redirects = 1
    n.ifaces[n.n_ifaces] = i
    n.n_ifaces += 1
    if medium == MEDIUM_LOOPBACK and n.lo == NULL:
        n.lo = i
    knobs_changed(n)
    return i


cdef void knobs_changed(Net *n) noexcept nogil:
    cdef int k
    cdef IfaceKnobs *conf
    n.routers = (ROUTER_4 if n.knobs.ip_forward else 0) | (ROUTER_6 if n.knobs.forwarding6 else 0)
    n.by_interface = n.knobs.rp_filter != 0 or n.knobs.strong_es or n.knobs.strong_es6
    for k in range(n.n_ifaces):
        conf = &n.ifaces[k].conf
        if conf.forwarding:
            n.routers |= ROUTER_4
        if conf.rp_filter:
            n.by_interface = 1
    net_changed(n)


cdef void forwarding_changed(Net *n, Iface *only, bint six) noexcept nogil:
    cdef int k
    cdef Iface *i
    for k in range(n.n_ifaces):
        i = n.ifaces[k]
        if only != NULL and i != only:
            continue
        if only == NULL and not six:
            i.conf.forwarding = n.knobs.ip_forward
        elif only == NULL:
            i.conf.forwarding6 = n.knobs.forwarding6
        if six and i.conf.forwarding6 and i.six.conf.accept_ra < ACCEPT_RA_ALWAYS:
            route_forget_routers(n, i)


cdef void iface_free(Net *n, Iface *i) noexcept nogil:
    cdef int k, at = -1
    for k in range(n.n_ifaces):
        if n.ifaces[k] == i:
            at = k
    if at < 0:
        return
    for k in range(MAX_IFADDRS):
        wheel_cancel(&n.core.wheel, &i.addrs[k].entry)
    wheel_cancel(&n.core.wheel, &i.six.entry)
    groups_forget(n, &i.igmp)
    groups_forget(n, &i.mld)
    capture_forget(n, i)
    route_forget_iface(n, i)
    n.n_ifaces -= 1
    for k in range(at, n.n_ifaces):
        n.ifaces[k] = n.ifaces[k + 1]
    n.ifaces[n.n_ifaces] = NULL
    if n.lo == i:
        n.lo = NULL
    free(i)
    rebuild(n)


cdef Iface *iface_find(Net *n, const char *name) noexcept nogil:
    cdef int k
    for k in range(n.n_ifaces):
        if strcmp(n.ifaces[k].name, name) == 0:
            return n.ifaces[k]
    return NULL


cdef Iface *iface_by_index(Net *n, uint32_t index) noexcept nogil:
    cdef int k
    for k in range(n.n_ifaces):
        if <uint32_t>n.ifaces[k].index == index:
            return n.ifaces[k]
    return NULL


cdef Iface *iface_of(const Net *n, const Addr *a) noexcept nogil:
    cdef int k
    if not addr_is_any(a):
        for k in range(n.n_ifaces):
            if addr_find(n.ifaces[k], a) != NULL:
                return n.ifaces[k]
    return NULL


cdef Addr prefix_broadcast(const Addr *a, int plen) noexcept nogil:
    cdef Addr b = addr_mask(a, plen)         # IPv4 only: plen is 96 and above
    b.lo |= (<uint64_t>1 << (128 - plen)) - 1
    return b


cdef void rebuild(Net *n) noexcept nogil:
    """Packs the usable addresses and the broadcast addresses of their prefixes (none for /31 and /32, RFC 3021)."""
    cdef int k, j
    cdef IfAddr *ia
    n.n_locals = 0
    n.n_broadcasts = 0
    for k in range(n.n_ifaces):
        for j in range(MAX_IFADDRS):
            ia = &n.ifaces[k].addrs[j]
            if not addr_usable(ia):
                continue
            n.locals[n.n_locals] = ia.addr
            n.n_locals += 1
            if addr_is_v4(&ia.addr) and ia.plen <= 126 and n.ifaces[k].medium != MEDIUM_LOOPBACK:
                n.broadcasts[n.n_broadcasts] = prefix_broadcast(&ia.addr, ia.plen)
                n.n_broadcasts += 1
    net_changed(n)


cdef IfAddr *addr_find(Iface *i, const Addr *a) noexcept nogil:
    cdef int k
    for k in range(MAX_IFADDRS):
        if i.addrs[k].used and addr_eq(&i.addrs[k].addr, a):
            return &i.addrs[k]
    return NULL


cdef int addr_insert(Net *n, Iface *i, const Addr *a, int plen, AddrState state, IfAddr **out) noexcept nogil:
    """Gives the interface an address that is not used yet. -EINVAL, -EEXIST, -ENOBUFS (no room)."""
    cdef int k
    cdef IfAddr *ia
    if addr_is_any(a) or addr_is_multicast(a) or addr_is_broadcast(a) or plen > 128 or plen < 0:
        return -EINVAL
    if addr_is_v4(a) and plen < V4_BITS:
        return -EINVAL
    if not addr_is_v4(a) and i.mtu < IP6_MIN_MTU:            # RFC 8200 §5: no link for IPv6
        return -EINVAL
    if addr_find(i, a) != NULL:
        return -EEXIST
    for k in range(MAX_IFADDRS):
        ia = &i.addrs[k]
        if not ia.used:
            memset(ia, 0, sizeof(IfAddr))
            ia.entry.kind = ENTRY_IFADDR
            ia.addr = a[0]
            ia.plen = plen
            ia.used = 1
            ia.state = state
            ia.iface = i
            ia.preferred_until = UINT64_MAX
            ia.valid_until = UINT64_MAX
            out[0] = ia
            return 0
    return -ENOBUFS


cdef int addr_activate(Net *n, IfAddr *ia) noexcept nogil:
    cdef Addr prefix = addr_mask(&ia.addr, ia.plen)
    cdef Addr none = addr_none()
    cdef int status = 0
    ia.state = ADDR_PREFERRED
    # Whether a router's prefix is on the link, too, it says for itself (RFC 4861 §6.3.4).
    if ia.plen < 128 and (ia.kind == IFA_STATIC or addr_is_link_local(&ia.addr)):
        status = route_insert(n, RT_TABLE_MAIN, &prefix, ia.plen, &none, ia.iface, 0, 0, &ia.addr)
        if status == -EEXIST:                # a second address of the same prefix
            status = 0
    rebuild(n)
    return status


cdef void addr_deprecate(Net *n, IfAddr *ia) noexcept nogil:
    ia.state = ADDR_DEPRECATED
    rebuild(n)


cdef void addr_disable(Net *n, IfAddr *ia, AddrState state) noexcept nogil:
    """The address stays on the list but is not used any more; another of the same prefix takes over the connected
    route."""
    cdef int k
    cdef IfAddr *other
    cdef bint was = addr_usable(ia)
    ia.state = state
    wheel_cancel(&n.core.wheel, &ia.entry)
    if was:
        route_forget_source(n, ia.iface, &ia.addr)
        for k in range(MAX_IFADDRS):
            other = &ia.iface.addrs[k]
            if (other.used and other.state == ADDR_PREFERRED and other.plen == ia.plen
                    and addr_in_prefix(&other.addr, &ia.addr, ia.plen)):
                addr_activate(n, other)
                break
    rebuild(n)


cdef int addr_remove(Net *n, Iface *i, const Addr *a) noexcept nogil:
    cdef IfAddr *ia = addr_find(i, a)
    if ia == NULL:
        return -EADDRNOTAVAIL
    addr_disable(n, ia, ADDR_CONFLICT)
    ia.used = 0
    return 0


cdef Iface *iface_for_group(Net *n, const Addr *src, const Addr *dst) noexcept nogil:
    """Where broadcasts and multicasts go: the connected prefix's interface; for 255.255.255.255 and groups the
    interface of the zone, or of the source address, else where the routes say, else the first that is up. NULL if there
    is none."""
    cdef int k
    cdef Iface *i
    cdef Iface *first = NULL
    cdef Route *r
    if addr_has_zone(dst) and addr_zone(dst) != 0:
        return iface_by_index(n, addr_zone(dst))
    if addr_is_broadcast(dst) or addr_is_multicast(dst):
        for k in range(n.n_ifaces):
            i = n.ifaces[k]
            if i.medium == MEDIUM_LOOPBACK or not i.up:
                continue
            if not addr_is_any(src) and addr_find(i, src) != NULL:
                return i
            if first == NULL:
                first = i
    r = route_lookup(n, dst, NULL)
    return r.iface if r != NULL and r.iface.medium != MEDIUM_LOOPBACK else first


cdef const Addr *iface_address(Iface *i, const Addr *near) noexcept nogil:
    """The interface's address in `near`'s prefix, else its first usable one, else NULL."""
    cdef int k
    cdef const Addr *first = NULL
    cdef IfAddr *ia
    for k in range(MAX_IFADDRS):
        ia = &i.addrs[k]
        if not ia.used or ia.state != ADDR_PREFERRED or addr_is_v4(&ia.addr) != addr_is_v4(near):
            continue
        if addr_in_prefix(near, &ia.addr, ia.plen):
            return &ia.addr
        if first == NULL:
            first = &ia.addr
    return first


cdef int source_for(Net *n, const Addr *dst, Addr *source) noexcept nogil:
    """RFC 1122 §3.3.4.3: the route's preferred source, else the interface's address nearest to the next hop, else any
    of ours.

    To ourselves: the destination itself (127.0.0.1 for all of 127/8). For a group with no address anywhere: 0.0.0.0, so
    that a DHCP client can speak. 0, -ENETUNREACH or -EADDRNOTAVAIL.
    """
    cdef Route *r
    cdef Iface *i
    cdef const Addr *a
    cdef const Addr *hop = dst
    cdef Addr none = addr_none()
    cdef int k
    if addr_is_loopback(dst):
        source[0] = addr_v4(0x7F000001) if addr_is_v4(dst) else dst[0]
        return 0
    if is_ours(n, dst):
        source[0] = dst[0]
        return 0
    if addr_is_link_local(dst) and addr_zone(dst) == 0:        # on which link? (Linux)
        return -EINVAL
    if is_our_broadcast(n, dst) or addr_is_multicast(dst):
        source[0] = addr_none()
        i = iface_for_group(n, source, dst)
        if i == NULL:
            return -ENETUNREACH
        if not addr_is_v4(dst):
            return source6(n, i, dst, source)
        a = iface_address(i, dst)
        source[0] = a[0] if a != NULL else addr_v4(0)
        return 0
    r = route_for(n, &none, dst, NULL, NULL)
    if r == NULL:
        return -ENETUNREACH
    if not addr_is_any(&r.source) and is_ours(n, &r.source):
        source[0] = r.source
        return 0
    if not addr_is_v4(dst):
        return source6(n, r.iface, dst, source)
    if not addr_is_any(&r.gateway):
        hop = &r.gateway
    a = iface_address(r.iface, hop)
    k = 0
    while a == NULL and k < n.n_ifaces:
        if n.ifaces[k].medium != MEDIUM_LOOPBACK:
            a = iface_address(n.ifaces[k], hop)
        k += 1
    if a == NULL:
        return -EADDRNOTAVAIL
    source[0] = a[0]
    return 0
