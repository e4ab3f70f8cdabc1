"""Datagram sockets come and go.

Responsible for making one and for all that goes with it. What it is bound to and does is udp's.
"""
from libc.stdint cimport uint8_t

from ustack_ext.base.bpf cimport bpf_free
from ustack_ext.base.buf cimport bufq_clear
from ustack_ext.base.entry cimport ENTRY_PACKET, ENTRY_PING, ENTRY_RAW
from ustack_ext.base.event cimport event_forget
from ustack_ext.base.slab cimport slab_alloc, slab_free
from ustack_ext.base.table cimport table_remove
from ustack_ext.udp.flowtable cimport flow_leave
from ustack_ext.udp.member cimport more_free
from ustack_ext.udp.packet cimport packet_detach
from ustack_ext.udp.raw cimport raw_detach
from ustack_ext.udp.state cimport UDP_BOUND, UDP_IPV4, UDP_IPV6, UDP_IS_PING
from ustack_ext.wire.addr cimport addr_any6, addr_none, addr_v4


cdef UdpSock *udp_open(Udp *u, int kind) noexcept nogil:
    cdef UdpSock *s = <UdpSock *>slab_alloc(&u.slab)
    if s == NULL:
        return NULL
    s.entry.kind = <uint8_t>kind
    s.source.kind = s.entry.kind
    s.flags = UDP_IS_PING if kind == ENTRY_PING else 0
    s.rcvbuf = u.rmem_default
    s.sndbuf = u.wmem_default
    s.hops = -1
    s.laddr = udp_wildcard(s)
    return s


cdef void udp_set_family(UdpSock *s, int family) noexcept nogil:
    s.family = <uint8_t>family
    if not s.flags & UDP_BOUND:
        s.laddr = udp_wildcard(s)


cdef void udp_close(Udp *u, UdpSock *s) noexcept nogil:
    more_free(u, s)
    bpf_free(s.filter)
    if s.entry.kind == ENTRY_RAW:
        raw_detach(u, s)
    elif s.entry.kind == ENTRY_PACKET:
        packet_detach(u, s)
    u.mem_used -= s.rcv_used
    bufq_clear(&s.queue, &u.core.pool)
    if s.flow != NULL:
        flow_leave(u, s)
    else:
        table_remove(&u.socks, &s.entry)
    event_forget(&u.core.events, &s.source)
    slab_free(&u.slab, s)


cdef Addr udp_wildcard(const UdpSock *s) noexcept nogil:
    return addr_v4(0) if s.family == UDP_IPV4 else addr_any6() if s.family == UDP_IPV6 else addr_none()
