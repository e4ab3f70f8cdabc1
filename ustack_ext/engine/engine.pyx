"""One stack: the tables, input, poll, flush.

Sans-I/O: time, seed and frames come in, frames go out through an interface's transmit. Here layers meet: a frame's
verdict from net goes to the transport it names, a timer to the layer that armed it. Nothing below knows of this file.
"""
from libc.stdint cimport UINT64_MAX, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from ustack_ext.base.buf cimport (
    Buf, Owner, buf_alloc, buf_unref, bufq_clear, bufq_pop, bufq_push, pool_destroy, pool_init,
)
from ustack_ext.base.core cimport MAX_COUNTERS
from ustack_ext.base.entry cimport ENTRY_SYNREQ, ENTRY_TCB, ENTRY_TIMEWAIT, ENTRY_UDP, Entry
from ustack_ext.base.iov cimport OFF_CSUM_VERIFIED, OFF_CSUM_WANTED, IoVec, Offload
from ustack_ext.base.rng cimport rng_init
from ustack_ext.base.wheel cimport wheel_destroy, wheel_expire, wheel_first, wheel_init, wheel_wake
from ustack_ext.engine.gro cimport gro_clear, gro_flush, gro_input, gro_next
from ustack_ext.net.capture cimport capture_explain, capture_in
from ustack_ext.net.net cimport (
    icmp_send_unreach, iface_add, iface_add_addr, net_destroy, net_init, net_input, net_timer,
)
from ustack_ext.net.state cimport (
    MEDIUM_ETHERNET, MEDIUM_LOOPBACK, NET_ECHO_REPLY, NET_ECHO_REQUEST, NET_ICMP_ERROR, NET_TCP, NET_UDP, NET_UDPLITE,
    NET_UNKNOWN_PROTO, IcmpError, Iface, RxPkt,
)
from ustack_ext.tcp.tcp cimport (
    tcp_ahead, tcp_destroy, tcp_flush, tcp_icmp_error, tcp_init, tcp_input, tcp_timer, tcp_timer_settle,
)
from ustack_ext.udp.lite cimport lite_input
from ustack_ext.udp.raw cimport raw_icmp_error
from ustack_ext.udp.udp cimport flow_ping, flow_timer, ping_input, udp_destroy, udp_icmp_error, udp_init, udp_input
from ustack_ext.wire.addr cimport V4_BITS, Addr, addr_v4
from ustack_ext.wire.headers cimport (
    ETH_HLEN, ICMP_UNREACH_PROTOCOL, IPPROTO_ICMP_, IPPROTO_TCP_, IPPROTO_UDPLITE_, IPPROTO_UDP_,
)
from ustack_ext.wire.ip6 cimport IPPROTO_ICMPV6_

cdef enum:
    LOOPBACK_MTU = 65536 - 64          # one datagram and its headers in a large buffer
    LOOPBACK_LIMIT = 1024              # frames
    LOOPBACK_ROUND = 256               # frames one poll takes up, so that two local peers can't hold the engine
    LOCALHOST = 0x7F000001


cdef int loopback_transmit(void *link, const IoVec *iov, int niov, const Offload *off) noexcept nogil:
    """Copies the packet into the engine's own queue; engine_poll takes it up."""
    cdef Engine *e = <Engine *>link
    cdef size_t n = 0
    cdef int i
    cdef Buf *b
    if e.loopback.count >= e.loopback_limit:
        return -1
    for i in range(niov):
        n += iov[i].len
    b = buf_alloc(&e.core.pool, <uint32_t>n)
    if b == NULL:
        return -1
    for i in range(niov):
        memcpy(b.data + b.len, iov[i].base, iov[i].len)
        b.len += <uint32_t>iov[i].len
    bufq_push(&e.loopback, b)
    return 0


cdef Engine *engine_new(const uint8_t *seed, uint64_t budget, uint64_t now) noexcept nogil:
    cdef Engine *e = <Engine *>calloc(1, sizeof(Engine))
    cdef Addr lo = addr_v4(LOCALHOST)
    cdef Addr lo6
    if e == NULL:
        return NULL
    e.core.now = now
    rng_init(&e.core.rng, seed)
    pool_init(&e.core.pool, budget)
    wheel_init(&e.core.wheel, now)
    e.loopback_limit = LOOPBACK_LIMIT
    if (net_init(&e.net, &e.core) != 0 or udp_init(&e.udp, &e.core, &e.net) != 0
            or tcp_init(&e.tcp, &e.core, &e.net) != 0):
        engine_free(e)
        return NULL
    # Its own checksums never travel: both directions are declared verified.
    e.lo = iface_add(&e.net, b"lo", MEDIUM_LOOPBACK, NULL, LOOPBACK_MTU, OFF_CSUM_WANTED, loopback_transmit, e)
    if e.lo == NULL or iface_add_addr(&e.net, e.lo, &lo, V4_BITS + 8, False) != 0:
        engine_free(e)
        return NULL
    lo6.hi = 0
    lo6.lo = 1
    if iface_add_addr(&e.net, e.lo, &lo6, 128, False) != 0:
        engine_free(e)
        return NULL
    return e


cdef Owner *engine_free(Engine *e) noexcept nogil:
    cdef Owner *owners
    bufq_clear(&e.loopback, &e.core.pool)
    gro_clear(&e.gro, &e.tcp)
    tcp_destroy(&e.tcp)
    udp_destroy(&e.udp)
    net_destroy(&e.net)
    wheel_destroy(&e.core.wheel)
    owners = e.core.pool.returned
    pool_destroy(&e.core.pool)
    free(e)
    return owners


cdef void deliver(Engine *e, int verdict, RxPkt *rx, IcmpError *err) noexcept nogil:
    if verdict == NET_TCP:
        tcp_input(&e.tcp, rx)
    elif verdict == NET_UDP:
        udp_input(&e.udp, rx)
    elif verdict == NET_UDPLITE:
        lite_input(&e.udp, rx)
    elif verdict == NET_ECHO_REPLY:
        ping_input(&e.udp, rx)
    elif verdict == NET_ECHO_REQUEST:
        flow_ping(&e.udp, rx)
    elif verdict == NET_UNKNOWN_PROTO:
        icmp_send_unreach(&e.net, rx, ICMP_UNREACH_PROTOCOL, 0)
    elif verdict == NET_ICMP_ERROR:
        if e.udp.raws != NULL:
            raw_icmp_error(&e.udp, err)
        if err.proto == IPPROTO_TCP_:
            tcp_icmp_error(&e.tcp, err)
        elif err.proto in (IPPROTO_UDP_, IPPROTO_UDPLITE_, IPPROTO_ICMP_, IPPROTO_ICMPV6_):
            udp_icmp_error(&e.udp, err)


cdef void engine_ahead(Engine *e, const Iface *iface, Buf **bufs, int n) noexcept nogil:
    if n > 1 and engine_many(e):
        tcp_ahead(&e.tcp, bufs, n, ETH_HLEN if iface.medium == MEDIUM_ETHERNET else 0)


cdef void engine_input(Engine *e, Iface *iface, Buf *buf, const Offload *off) noexcept nogil:
    cdef RxPkt rx
    cdef IcmpError err
    cdef Buf *owned = NULL
    cdef int verdict
    if e.net.captures != NULL:
        captured_input(e, iface, buf, off)
        return
    if e.gro.count > 0 and not engine_watched(e) and gro_next(&e.gro, &e.tcp, &e.net, iface, buf, off):
        return
    verdict = net_input(&e.net, iface, buf, off, &rx, &err, &owned)
    if verdict == NET_TCP and gro_input(&e.gro, &e.tcp, &rx, owned == NULL):
        return
    deliver(e, verdict, &rx, &err)
    if owned != NULL:
        buf_unref(&e.core.pool, owned)
    buf_unref(&e.core.pool, buf)


cdef void captured_input(Engine *e, Iface *iface, Buf *buf, const Offload *off) noexcept nogil:
    """engine_input while frames are written down: each goes its way alone, so that what is dropped is this one."""
    cdef uint64_t before[MAX_COUNTERS]
    cdef RxPkt rx
    cdef IcmpError err
    cdef Buf *owned = NULL
    memcpy(before, e.core.counters, sizeof(before))
    capture_in(&e.net, iface, buf)
    deliver(e, net_input(&e.net, iface, buf, off, &rx, &err, &owned), &rx, &err)
    capture_explain(&e.net, before)
    if owned != NULL:
        buf_unref(&e.core.pool, owned)
    buf_unref(&e.core.pool, buf)


cdef inline bint engine_watched(const Engine *e) noexcept nogil:
    """Somebody sees each frame or packet: none goes the short way past net_input."""
    return e.net.frames != NULL or e.net.packets != NULL


cdef void expire(Engine *e) noexcept nogil:
    cdef Entry *t = wheel_expire(&e.core.wheel, e.core.now)
    while t != NULL:
        if t.kind == ENTRY_TCB or t.kind == ENTRY_SYNREQ or t.kind == ENTRY_TIMEWAIT:
            tcp_timer(&e.tcp, t)
        elif t.kind == ENTRY_UDP:
            flow_timer(&e.udp, t)
        else:
            net_timer(&e.net, t)
        t = wheel_expire(&e.core.wheel, e.core.now)


cdef void engine_input_end(Engine *e) noexcept nogil:
    if e.gro.count > 0:
        gro_flush(&e.gro, &e.tcp)


cdef void engine_poll(Engine *e) noexcept nogil:
    cdef int left = LOOPBACK_ROUND
    cdef Offload off
    cdef Buf *b
    engine_input_end(e)
    expire(e)
    tcp_flush(&e.tcp)
    off.flags = OFF_CSUM_VERIFIED
    off.gso_size = 0
    while left > 0 and e.loopback.count > 0:
        b = bufq_pop(&e.loopback)
        engine_input(e, e.lo, b, &off)
        left -= 1
        if e.loopback.count == 0:
            tcp_flush(&e.tcp)
    tcp_flush(&e.tcp)


cdef uint64_t engine_next(Engine *e) noexcept nogil:
    cdef Entry *first
    if e.loopback.count > 0 or e.gro.count > 0 or e.tcp.dirty_head != NULL:
        return e.core.now
    while True:
        first = wheel_first(&e.core.wheel)
        if first == NULL:
            return UINT64_MAX
        if first.kind != ENTRY_TCB or tcp_timer_settle(&e.tcp, first):
            return first.deadline


cdef uint64_t engine_wake(Engine *e) noexcept nogil:
    if e.loopback.count > 0 or e.gro.count > 0 or e.tcp.dirty_head != NULL:
        return e.core.now
    return wheel_wake(&e.core.wheel)
