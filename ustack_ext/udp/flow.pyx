"""The forwarder of datagrams: flows to any destination.

Responsible for datagrams that no socket takes: the first of each flow makes a socket of its own, bound to the original
destination and connected to who sent it, in which it and a few more wait until somebody has decided; the same for echo
requests, where that is wanted. Not for which packets to foreign addresses come this far (net/foreign).

A forwarder's sockets are found by four-tuple, in a table of their own (flowtable): thousands may have one port. The
undecided are as many as the backlog at most; then the oldest makes room.
"""
from libc.errno cimport EBUSY, ENOENT, ENOMEM, ETIMEDOUT
from libc.string cimport memcpy, memset

from ustack_ext.base.core cimport count
from ustack_ext.base.entry cimport ENTRY_LISTENER, ENTRY_UDP
from ustack_ext.base.event cimport EV_READABLE, EV_WRITABLE, event_forget, event_raise
from ustack_ext.base.slab cimport slab_alloc, slab_destroy, slab_free, slab_init
from ustack_ext.base.table cimport table_bucket, table_buckets, table_destroy, table_init
from ustack_ext.base.wheel cimport wheel_arm, wheel_cancel
from ustack_ext.net.foreign cimport FLOW_DROP, foreign_refuse, foreign_set
from ustack_ext.net.mib cimport DropFlowBacklog, DropFlowTimeout, FlowAccepts, FlowRefusals, FlowUdpRequests
from ustack_ext.net.state cimport FOREIGN_PING, FOREIGN_UDP
from ustack_ext.udp.flowtable cimport flow_decided, flow_enter, flow_find
from ustack_ext.udp.life cimport udp_close, udp_open
from ustack_ext.udp.recv cimport deliver, set_error
from ustack_ext.udp.state cimport (
    UDP_BOUND, UDP_CONNECTED, UDP_IPV4, UDP_IPV6, UDP_IS_PING, UDP_LADDR_GIVEN, UdpFlow,
)
from ustack_ext.wire.addr cimport addr_is_v4
from ustack_ext.wire.bytes cimport get_be16, put_be16
from ustack_ext.wire.headers cimport ICMP_ECHO, ICMP_HLEN, IPPROTO_ICMP_, IPPROTO_UDP_, UDP_HLEN
from ustack_ext.wire.ip6 cimport ICMP6_ECHO, IPPROTO_ICMPV6_

cdef enum:
    FLOWS_MAX = 1 << 20
    HELD = 16384               # bytes of truesize that an undecided flow may hold


cdef int flows_init(Udp *u) noexcept nogil:
    slab_init(&u.flows.slab, sizeof(UdpFlow), FLOWS_MAX)
    return 0 if table_init(&u.flows.table, 16) == 0 else -ENOMEM


cdef void flows_destroy(Udp *u) noexcept nogil:
    cdef uint32_t k
    for k in range(table_buckets(&u.flows.table)):
        while table_bucket(&u.flows.table, k)[0] != NULL:
            udp_close(u, <UdpSock *>table_bucket(&u.flows.table, k)[0])
    table_destroy(&u.flows.table)
    slab_destroy(&u.flows.slab)


cdef int flows_open(Udp *u, uint32_t backlog, uint64_t patience, bint pings, void *user) noexcept nogil:
    if u.flows.on:
        return -EBUSY
    u.flows.source.kind = ENTRY_LISTENER
    u.flows.source.user = user
    u.flows.source.native = 1
    u.flows.backlog = backlog
    u.flows.patience = patience
    u.flows.on = 1
    u.flows.pings = pings
    foreign_set(u.net, FOREIGN_UDP | (FOREIGN_PING if pings else 0), True)
    return 0


cdef Source *flows_event(Udp *u) noexcept nogil:
    return &u.flows.source


cdef void flows_close(Udp *u) noexcept nogil:
    if not u.flows.on:
        return
    foreign_set(u.net, FOREIGN_UDP | FOREIGN_PING, False)
    u.flows.on = 0
    while u.flows.oldest != NULL:
        udp_close(u, u.flows.oldest)
    event_forget(&u.core.events, &u.flows.source)
    u.flows.source.user = NULL


cdef UdpSock *flow_open(Udp *u, const Addr *laddr, uint16_t lport, const Addr *raddr, uint16_t rport) noexcept nogil:
    cdef UdpFlow *f
    cdef UdpSock *s
    if u.flows.undecided >= u.flows.backlog:
        count(u.core, DropFlowBacklog)
        udp_close(u, u.flows.oldest)
    f = <UdpFlow *>slab_alloc(&u.flows.slab)
    s = udp_open(u, ENTRY_UDP) if f != NULL else NULL
    if s == NULL:
        if f != NULL:
            slab_free(&u.flows.slab, f)
        count(u.core, DropFlowBacklog)
        return NULL
    s.flow = f
    s.laddr = laddr[0]
    s.raddr = raddr[0]
    s.lport = lport
    s.rport = rport
    s.family = UDP_IPV4 if addr_is_v4(laddr) else UDP_IPV6
    s.flags = UDP_BOUND | UDP_CONNECTED | UDP_LADDR_GIVEN
    s.rcvbuf = HELD
    u.flows.serial += 1
    f.serial = u.flows.serial
    flow_enter(u, s)
    wheel_arm(&u.core.wheel, &s.entry, u.core.now + u.flows.patience)
    count(u.core, FlowUdpRequests)
    event_raise(&u.core.events, &u.flows.source, EV_READABLE)
    return s


cdef void flow_ping(Udp *u, RxPkt *rx) noexcept nogil:
    cdef uint16_t ident = get_be16(rx.l4 + 4)
    cdef UdpSock *s = flow_find(u, &rx.dst, 0, &rx.src, ident)
    if s == NULL:
        s = flow_open(u, &rx.dst, 0, &rx.src, ident)
        if s == NULL:
            return
        s.flags |= UDP_IS_PING
    s.flow.active = u.core.now
    deliver(u, s, rx, rx.l4, rx.l4_len, ident, True)


cdef bint flow_take(Udp *u, FlowId *id) noexcept nogil:
    cdef UdpSock *s = u.flows.untaken
    if s == NULL:
        return False
    u.flows.untaken = s.flow.newer
    id.laddr = s.laddr
    id.raddr = s.raddr
    id.lport = s.lport
    id.rport = s.rport
    id.serial = s.flow.serial
    return True


cdef UdpSock *undecided(Udp *u, const FlowId *id) noexcept nogil:
    cdef UdpSock *s = flow_find(u, &id.laddr, id.lport, &id.raddr, id.rport)
    return s if s != NULL and not s.flow.decided and s.flow.serial == id.serial else NULL


cdef int flow_accept(Udp *u, const FlowId *id, uint64_t idle, void *user, UdpSock **out) noexcept nogil:
    cdef UdpSock *s = undecided(u, id)
    if s == NULL:
        return -ENOENT
    flow_decided(u, s)
    s.rcvbuf = u.rmem_default
    s.source.user = user
    s.flow.idle = idle
    wheel_cancel(&u.core.wheel, &s.entry)
    if idle > 0:
        wheel_arm(&u.core.wheel, &s.entry, s.flow.active + idle)
    event_raise(&u.core.events, &s.source, EV_READABLE | EV_WRITABLE)
    count(u.core, FlowAccepts)
    out[0] = s
    return 0


cdef uint8_t proto_of(const UdpSock *s) noexcept nogil:
    if not s.flags & UDP_IS_PING:
        return IPPROTO_UDP_
    return IPPROTO_ICMP_ if addr_is_v4(&s.laddr) else IPPROTO_ICMPV6_


cdef void quote_echo(const UdpSock *s, uint8_t *to) noexcept nogil:
    """The header of the first request that waits, which is as long as UDP's."""
    if s.queue.head != NULL:
        memcpy(to, s.queue.head.data + s.queue.head.off, ICMP_HLEN)
    else:
        to[0] = ICMP_ECHO if addr_is_v4(&s.laddr) else ICMP6_ECHO
        put_be16(to + 4, s.rport)


cdef int flow_refuse(Udp *u, const FlowId *id, int how, uint8_t code) noexcept nogil:
    cdef UdpSock *s = undecided(u, id)
    cdef uint8_t quoted[UDP_HLEN]
    if s == NULL:
        return -ENOENT
    if how != FLOW_DROP:
        memset(quoted, 0, UDP_HLEN)
        if s.flags & UDP_IS_PING:
            quote_echo(s, quoted)
        else:
            put_be16(quoted, s.rport)
            put_be16(quoted + 2, s.lport)
            put_be16(quoted + 4, <uint16_t>(UDP_HLEN + (s.queue.head.len if s.queue.head != NULL else 0)))
        foreign_refuse(u.net, &s.raddr, &s.laddr, proto_of(s), quoted, UDP_HLEN, code)
    udp_close(u, s)
    count(u.core, FlowRefusals)
    return 0


cdef void flow_timer(Udp *u, Entry *e) noexcept nogil:
    cdef UdpSock *s = <UdpSock *>e
    if not s.flow.decided:
        count(u.core, DropFlowTimeout)
        udp_close(u, s)
    elif u.core.now - s.flow.active >= s.flow.idle:
        set_error(u, s, ETIMEDOUT)
    else:
        wheel_arm(&u.core.wheel, &s.entry, s.flow.active + s.flow.idle)
