"""The way out of one interface: for sockets that name it (IP_PKTINFO, IP_MULTICAST_IF, SO_BINDTODEVICE).

Responsible for the same answers as output_resolve's, with the interface given.
"""
from libc.errno cimport EHOSTUNREACH, ENETDOWN, ENETUNREACH, ENOBUFS
from libc.string cimport memset

from ustack_ext.wire.addr cimport addr_is_any, addr_is_multicast, addr_is_v4, addr_v4, addr_zoned
from ustack_ext.net.iface cimport iface_address, is_our_broadcast, is_ours
from ustack_ext.net.neigh cimport neigh_create, neigh_find
from ustack_ext.net.rule cimport route_for
from ustack_ext.net.source6 cimport source6
from ustack_ext.net.state cimport MEDIUM_ETHERNET, NUD_FAILED, Route


cdef int resolve_via(Net *n, Dst *d, Iface *i, Addr *src, const Addr *dst) noexcept nogil:
    cdef const Addr *own
    cdef Addr there = addr_zoned(dst, i.index)
    cdef const Addr *hop = &there
    cdef Route *r = NULL
    cdef int status
    memset(d, 0, sizeof(d[0]))
    if not i.up:
        return -ENETDOWN
    d.mtu = i.mtu
    if is_ours(n, dst):
        i = n.lo
        if i == NULL:
            return -ENETUNREACH
        d.mtu = i.mtu
        if addr_is_any(src):
            src[0] = dst[0]
    elif not (is_our_broadcast(n, dst) or addr_is_multicast(dst)):
        r = route_for(n, src, &there, NULL, i)
        if r == NULL:
            return -ENETUNREACH
        if not addr_is_any(&r.gateway):
            hop = &r.gateway
        if r.mtu != 0 and r.mtu < i.mtu:
            d.mtu = r.mtu
        if i.medium == MEDIUM_ETHERNET:
            d.neigh = neigh_find(n, i, hop)
            if d.neigh == NULL:
                d.neigh = neigh_create(n, i, hop)
            if d.neigh == NULL:
                return -ENOBUFS
            if d.neigh.state == NUD_FAILED:
                return -EHOSTUNREACH
    if addr_is_any(src) and not addr_is_v4(dst):
        status = source6(n, i, &there, src)
        if status != 0:
            return status
    elif addr_is_any(src):
        own = iface_address(i, hop)
        if own != NULL:
            src[0] = own[0]
        else:
            src[0] = addr_v4(0)
    d.iface = i
    d.generation = n.generation
    return 0
