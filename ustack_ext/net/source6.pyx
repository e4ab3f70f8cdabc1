"""Default source address selection for IPv6 (RFC 6724 §5), with the default policy table (§2.1).

Candidates (§4) are the usable addresses of all interfaces; for groups and link-local destinations those of the outgoing
interface alone. Not done: rule 4 (no mobile addresses here) and 5.5 (which router gave which prefix is not kept).
"""
from libc.errno cimport EADDRNOTAVAIL
from libc.stdint cimport uint64_t

from ustack_ext.wire.addr cimport addr_eq, addr_is_multicast, addr_is_v4, addr_scope
from ustack_ext.net.state cimport ADDR_DEPRECATED, ADDR_PREFERRED, IFA_TEMPORARY, MAX_IFADDRS, IfAddr

cdef extern from * nogil:
    int __builtin_clzll(unsigned long long) noexcept


cdef int label(const Addr *a) noexcept nogil:
    """RFC 6724 §2.1."""
    if a.hi == 0:
        return 0 if a.lo == 1 else 4 if a.lo >> 32 == 0xFFFF else 3 if a.lo >> 32 == 0 else 1
    if a.hi >> 48 == 0x2002:
        return 2
    if a.hi >> 32 == 0x20010000:
        return 5
    if a.hi >> 57 == 0x7E:                             # fc00::/7
        return 13
    if a.hi >> 54 == 0x3FB:                            # fec0::/10
        return 11
    return 12 if a.hi >> 48 == 0x3FFE else 1


cdef int common_length(const IfAddr *ia, const Addr *dst) noexcept nogil:
    """§2.2: leading bits in common, no more than the source's prefix has."""
    cdef uint64_t hi = ia.addr.hi ^ dst.hi, lo = ia.addr.lo ^ dst.lo
    cdef int n = __builtin_clzll(hi) if hi != 0 else 64 + (__builtin_clzll(lo) if lo != 0 else 64)
    return min(n, ia.plen)


cdef bint is_better(const Net *n, const IfAddr *a, const IfAddr *b, const Iface *out, const Addr *dst) noexcept nogil:
    """Whether `a` is to be preferred to `b`: the rules of §5 in their order."""
    cdef int sa = addr_scope(&a.addr), sb = addr_scope(&b.addr), sd = addr_scope(dst)
    cdef bint same_a = addr_eq(&a.addr, dst), same_b = addr_eq(&b.addr, dst)
    if same_a != same_b:                                                     # 1
        return same_a
    if sa != sb:                                                             # 2
        return sa >= sd if sa < sb else sb < sd
    if (a.state == ADDR_DEPRECATED) != (b.state == ADDR_DEPRECATED):         # 3
        return b.state == ADDR_DEPRECATED
    if (a.iface == out) != (b.iface == out):                                 # 5
        return a.iface == out
    if (label(&a.addr) == label(dst)) != (label(&b.addr) == label(dst)):     # 6
        return label(&a.addr) == label(dst)
    if (a.kind == IFA_TEMPORARY) != (b.kind == IFA_TEMPORARY):               # 7, with Linux's knob
        return (a.kind == IFA_TEMPORARY) == (a.iface.six.conf.use_tempaddr > 1)
    return common_length(a, dst) > common_length(b, dst)                     # 8


cdef int source6(Net *n, const Iface *out, const Addr *dst, Addr *source) noexcept nogil:
    cdef bint here = addr_is_multicast(dst) or addr_scope(dst) == 2
    cdef const IfAddr *best = NULL
    cdef const IfAddr *ia
    cdef int k, j
    for k in range(n.n_ifaces):
        if (here and n.ifaces[k] != out) or (n.ifaces[k] == n.lo and out != n.lo):
            continue
        for j in range(MAX_IFADDRS):
            ia = &n.ifaces[k].addrs[j]
            if not ia.used or addr_is_v4(&ia.addr) or (ia.state != ADDR_PREFERRED and ia.state != ADDR_DEPRECATED):
                continue
            if best == NULL or is_better(n, ia, best, out, dst):
                best = ia
    if best == NULL:
        return -EADDRNOTAVAIL
    source[0] = best.addr
    return 0
