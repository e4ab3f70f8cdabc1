"""The table of a forwarder's sockets, by four-tuple, and the list of those that are undecided.

Responsible for both; not for what a flow is or becomes (flow).
"""
from ustack_ext.base.slab cimport slab_free
from ustack_ext.base.table cimport table_first, table_hash, table_insert, table_next, table_remove
from ustack_ext.base.wheel cimport wheel_cancel
from ustack_ext.udp.state cimport UdpFlow
from ustack_ext.wire.addr cimport addr_eq


cdef inline uint32_t flow_hash(Udp *u, const Addr *laddr, uint16_t lport, const Addr *raddr,
                               uint16_t rport) noexcept nogil:
    return table_hash(&u.net.key, laddr.hi, laddr.lo, raddr.hi, raddr.lo, <uint32_t>lport << 16 | rport)


cdef UdpSock *flow_find(Udp *u, const Addr *laddr, uint16_t lport, const Addr *raddr, uint16_t rport) noexcept nogil:
    cdef Entry *e = table_first(&u.flows.table, flow_hash(u, laddr, lport, raddr, rport))
    cdef UdpSock *s
    while e != NULL:
        s = <UdpSock *>e
        if s.rport == rport and s.lport == lport and addr_eq(&s.raddr, raddr) and addr_eq(&s.laddr, laddr):
            return s
        e = table_next(e)
    return NULL


cdef void flow_enter(Udp *u, UdpSock *s) noexcept nogil:
    s.flow.older = u.flows.newest
    if u.flows.newest == NULL:
        u.flows.oldest = s
    else:
        u.flows.newest.flow.newer = s
    u.flows.newest = s
    if u.flows.untaken == NULL:
        u.flows.untaken = s
    u.flows.undecided += 1
    table_insert(&u.flows.table, &s.entry, flow_hash(u, &s.laddr, s.lport, &s.raddr, s.rport))
    u.flows.live += 1


cdef void flow_decided(Udp *u, UdpSock *s) noexcept nogil:
    cdef UdpFlow *f = s.flow
    if u.flows.untaken == s:
        u.flows.untaken = f.newer
    if f.older == NULL:
        u.flows.oldest = f.newer
    else:
        f.older.flow.newer = f.newer
    if f.newer == NULL:
        u.flows.newest = f.older
    else:
        f.newer.flow.older = f.older
    f.older = NULL
    f.newer = NULL
    f.decided = 1
    u.flows.undecided -= 1


cdef void flow_leave(Udp *u, UdpSock *s) noexcept nogil:
    if not s.flow.decided:
        flow_decided(u, s)
    table_remove(&u.flows.table, &s.entry)
    u.flows.live -= 1
    wheel_cancel(&u.core.wheel, &s.entry)
    slab_free(&u.flows.slab, s.flow)
    s.flow = NULL
