"""The world of one fuzzing run: made, fed with frames, taken apart.

Whatever the engine sends is checked (headers, lengths, checksums) and kept for programs to answer. Not here: what a
program does (fz_ops), what must hold afterwards (fz_check).
"""
from libc.stdint cimport UINT64_MAX, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset
from ustack_ext.base.buf cimport Buf, buf_alloc
from ustack_ext.base.event cimport Source, event_pop
from ustack_ext.base.iov cimport OFF_CSUM_VERIFIED, OFF_CSUM_WANTED, OFF_GSO_TCP4, IoVec, Offload
from ustack_ext.engine.engine cimport engine_enter, engine_free, engine_input, engine_new, engine_next, engine_poll
from ustack_ext.net.capture cimport capture_start, capture_stop, capture_take
from ustack_ext.net.net cimport iface_add, iface_add_addr, iface_autoconf, iface_remove, net_neigh_set, route_add
from ustack_ext.net.state cimport MEDIUM_ETHERNET, MEDIUM_IP, RT_TABLE_MAIN, Iface
from ustack_ext.tcp.tcp cimport tcp_close, tcp_close_listener
from ustack_ext.udp.state cimport UDP_BOUND
from ustack_ext.udp.udp cimport udp_close
from ustack_ext.wire.addr cimport Addr, V4_BITS, addr_none, addr_v4
from ustack_ext.wire.checksum cimport csum_fold, csum_partial, csum_pseudo, csum_store
from ustack_ext.wire.headers cimport (ARP_LEN, ETH_HLEN, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, IP4_MF, IPPROTO_ICMP_,
                                      IPPROTO_TCP_, IPPROTO_UDPLITE_, IPPROTO_UDP_, WIRE_OK, ArpPkt, EthHdr, Ip4Hdr, TcpHdr, UdpHdr,
                                      arp_parse, eth_parse, ip4_parse, tcp_parse, udp_parse)
from ustack_ext.wire.ip6 cimport (
    IP6_HLEN, IPPROTO_FRAGMENT_, IPPROTO_HOPOPTS_, IPPROTO_ICMPV6_, Ip6Hdr, ip6_parse,
)

cdef enum:
    MTU = 1500
    CAPTURE_ROOM = 8192
    CAPTURE_SNAPLEN = 300
    CLOSING_POLLS = 4000           # far more than every retransmission of every held connection
    FIRST_NOW = 1000000000
    DUE_ROUNDS = 100               # what is due at one moment is done in few rounds, or never

cdef uint8_t OUR_MAC[6]
cdef uint8_t PEER_MAC[6]
for _i in range(6):
    OUR_MAC[_i] = 0x02
    PEER_MAC[_i] = 0x06


# ---- what is sent ----

cdef const char *bad_transport(const Ip4Hdr *h, const uint8_t *p, uint32_t n) noexcept nogil:
    cdef Addr src = addr_v4(h.src), dst = addr_v4(h.dst)
    cdef TcpHdr t
    cdef UdpHdr u
    if h.frag_off or h.flags & IP4_MF:
        return NULL
    if h.proto == IPPROTO_TCP_:
        if tcp_parse(p, n, &t) != WIRE_OK:
            return b"sent: malformed TCP header"
        if csum_fold(csum_partial(p, n, csum_pseudo(&src, &dst, IPPROTO_TCP_, n))) != 0:
            return b"sent: TCP checksum"
    elif h.proto == IPPROTO_UDP_:
        if udp_parse(p, n, &u) != WIRE_OK or u.length != n:
            return b"sent: malformed UDP header"
        if u.checksum and csum_fold(csum_partial(p, n, csum_pseudo(&src, &dst, IPPROTO_UDP_, n))) != 0:
            return b"sent: UDP checksum"
    elif h.proto == IPPROTO_ICMP_:
        if n < 8 or csum_fold(csum_partial(p, n, 0)) != 0:
            return b"sent: ICMP checksum"
    elif h.proto == IPPROTO_UDPLITE_:
        if n < 8:
            return b"sent: malformed UDP-Lite header"
    else:
        return b"sent: unknown protocol"
    return NULL


cdef const char *bad_packet6(const uint8_t *p, uint32_t n, uint32_t mtu) noexcept nogil:
    cdef Ip6Hdr h
    cdef uint32_t at = IP6_HLEN
    if ip6_parse(p, n, &h) != WIRE_OK or IP6_HLEN + h.payload_len != n:
        return b"sent: malformed IPv6 header"
    if n > mtu:
        return b"sent: longer than the MTU"
    if h.next == IPPROTO_HOPOPTS_ and h.payload_len >= 8 and p[at + 1] == 0:     # MLD's router alert
        h.next = p[at]
        at += 8
    if h.next == IPPROTO_FRAGMENT_:
        return NULL
    if h.next != IPPROTO_TCP_ and h.next != IPPROTO_UDP_ and h.next != IPPROTO_UDPLITE_ and h.next != IPPROTO_ICMPV6_:
        return b"sent: unknown protocol"
    if csum_fold(csum_partial(p + at, n - at, csum_pseudo(&h.src, &h.dst, h.next, n - at))) != 0:
        return b"sent: checksum over IPv6"
    return NULL


cdef const char *bad_packet(const uint8_t *p, uint32_t n, uint32_t mtu) noexcept nogil:
    cdef Ip4Hdr h
    if n > 0 and p[0] >> 4 == 6:
        return bad_packet6(p, n, mtu)
    if ip4_parse(p, n, &h) != WIRE_OK:
        return b"sent: malformed IP header"
    if n > mtu:
        return b"sent: longer than the MTU"
    return bad_transport(&h, p + h.hlen, h.total_len - h.hlen)


cdef const char *bad_frame(int medium, const uint8_t *p, uint32_t n, uint32_t mtu) noexcept nogil:
    cdef EthHdr eth
    cdef ArpPkt arp
    if medium == MEDIUM_IP:
        return bad_packet(p, n, mtu)
    if eth_parse(p, n, &eth) != WIRE_OK:
        return b"sent: no Ethernet header"
    if eth.ethertype == ETHERTYPE_ARP:
        if arp_parse(p + ETH_HLEN, n - ETH_HLEN, &arp) != WIRE_OK:
            return b"sent: malformed ARP"
        return NULL
    if eth.ethertype != ETHERTYPE_IPV4 and eth.ethertype != ETHERTYPE_IPV6:
        return b"sent: unknown EtherType"
    return bad_packet(p + ETH_HLEN, n - ETH_HLEN, mtu)


cdef const char *bad_offload(const World *w, uint32_t n, const Offload *off) noexcept nogil:
    """Does what the link was asked to do, on w.out; then the packet must be right like any other."""
    cdef uint32_t at = off.csum_start + off.csum_offset
    if off.flags & ~(OFF_CSUM_WANTED | OFF_GSO_TCP4 | OFF_CSUM_VERIFIED) or (off.flags and not w.offloads):
        return b"sent: an offload the link does not have"
    if off.flags & OFF_GSO_TCP4 and (off.gso_size == 0 or off.gso_size > MTU - 40 or not off.flags & OFF_CSUM_WANTED):
        return b"sent: segmentation without sense"
    if off.flags & OFF_CSUM_WANTED:
        if at + 2 > n or off.csum_start > n:
            return b"sent: checksum field outside the frame"
        csum_store(<uint8_t *>w.out + at, csum_fold(csum_partial(w.out + off.csum_start, n - off.csum_start, 0)))
    return NULL


cdef int transmit(void *link, const IoVec *iov, int niov, const Offload *off) noexcept nogil:
    cdef World *w = <World *>link
    cdef uint32_t n = 0, slot
    cdef const char *bad
    cdef int i
    for i in range(niov):
        if n + iov[i].len > sizeof(w.out):
            world_fail(w, b"sent: longer than any frame")
            return -1
        memcpy(w.out + n, iov[i].base, iov[i].len)
        n += <uint32_t>iov[i].len
    bad = bad_offload(w, n, off)
    if bad == NULL:
        bad = bad_frame(w.medium, w.out, n, 65535 if off.flags & OFF_GSO_TCP4 else MTU)
    if bad != NULL:
        world_fail(w, bad)
    slot = w.captures % CAPTURES
    w.captured_len[slot] = min(n, <uint32_t>CAPTURE_MAX)
    memcpy(w.captured[slot], w.out, w.captured_len[slot])
    w.captures += 1
    return -1 if w.tx_fail and w.captures % w.tx_fail == 0 else 0


cdef const uint8_t *world_captured(World *w, uint8_t back, uint32_t *n) noexcept nogil:
    cdef uint32_t slot
    if w.captures == 0:
        return NULL
    slot = (w.captures - 1 - back % min(w.captures, <uint32_t>CAPTURES)) % CAPTURES
    n[0] = w.captured_len[slot]
    return w.captured[slot]


# ---- captures ----

cdef bint world_capture(World *w) noexcept nogil:
    cdef Capture *c = <Capture *>calloc(1, sizeof(Capture))
    if c == NULL:
        return False
    c.size = c.enough = CAPTURE_ROOM
    c.snaplen = CAPTURE_SNAPLEN
    c.data = <uint8_t *>malloc(CAPTURE_ROOM)
    w.spare = <uint8_t *>malloc(CAPTURE_ROOM)
    w.capture = c
    capture_start(&w.e.net, c)
    return c.data != NULL and w.spare != NULL


cdef void look_at_capture(World *w) noexcept nogil:
    """Whole blocks, one after another, each with its length on both sides."""
    cdef size_t used, at = 0
    cdef uint32_t length, again
    w.spare = capture_take(w.capture, w.spare, &used)
    while at + 12 <= used:
        memcpy(&length, w.spare + at + 4, 4)
        if length < 12 or length % 4 != 0 or at + length > used:
            break
        memcpy(&again, w.spare + at + length - 4, 4)
        if again != length:
            break
        at += length
    if at != used:
        world_fail(w, b"captured: no whole blocks")


cdef void end_capture(World *w) noexcept nogil:
    if w.capture == NULL:
        return
    capture_stop(&w.e.net, w.capture)
    free(w.capture.data)
    free(w.capture)
    free(w.spare)
    w.capture = NULL


# ---- life ----

cdef void limit_memory(World *w, uint8_t config) noexcept nogil:
    """Some runs have little of something, so that every refusal is met."""
    if config & 0x10:
        w.e.tcp.segs.limit = 24
    if config & 0x20:
        w.e.tcp.tcbs.limit = 12
        w.e.tcp.timewaits.limit = 2
        w.e.tcp.synreqs.limit = 4
        w.e.tcp.reasms.limit = 3
    if config & 0x40:
        w.e.net.knobs.gc_thresh3 = 4
        w.e.net.knobs.ipfrag_high_thresh = 20000
        w.e.net.knobs.unres_qlen = 2
        w.e.tcp.knobs.max_tw_buckets = 2
        w.e.tcp.knobs.max_orphans = 3
    if config & 0x80:
        w.tx_fail = 5


cdef void world_plug(World *w) noexcept nogil:
    cdef Addr us = addr_v4(US), peer = addr_v4(PEER), none = addr_none(), any4 = addr_v4(0)
    cdef Addr us6, link6
    cdef bint ethernet = w.medium == MEDIUM_ETHERNET
    us6.hi = <uint64_t>0xFD09 << 48                    # fd09::2, fe80::2
    link6.hi = <uint64_t>0xFE80 << 48
    us6.lo = link6.lo = 2
    w.iface = iface_add(&w.e.net, b"fuzz0", w.medium, OUR_MAC if ethernet else NULL, MTU,
                        OFF_CSUM_WANTED | OFF_GSO_TCP4 if w.offloads else 0, transmit, w)
    iface_add_addr(&w.e.net, w.iface, &us, V4_BITS + 24, False)
    iface_add_addr(&w.e.net, w.iface, &us6, 64, False)
    iface_add_addr(&w.e.net, w.iface, &link6, 64, False)
    iface_autoconf(&w.e.net, w.iface)
    if ethernet:
        net_neigh_set(&w.e.net, w.iface, &peer, PEER_MAC)
    route_add(&w.e.net, RT_TABLE_MAIN, &any4, V4_BITS, &peer if ethernet else &none, w.iface, 0, 0, &none)


cdef void world_unplug(World *w) noexcept nogil:
    iface_remove(&w.e.net, w.iface)
    w.iface = NULL


cdef bint world_open(World *w, int medium, uint8_t config, bint offloads) noexcept nogil:
    cdef uint8_t seed[32]
    cdef uint64_t budget = 16 << 20
    memset(w, 0, <size_t>(<char *>&w.frame - <char *>w))
    memset(seed, 7, sizeof(seed))
    if config & 3:
        budget = 65536 << (2 * (config & 3))       # 256 KiB, 1 MiB, 4 MiB
    w.e = engine_new(seed, budget, FIRST_NOW)
    if w.e == NULL:
        return False
    w.medium = MEDIUM_ETHERNET if medium == 0 else MEDIUM_IP
    w.offloads = offloads
    world_plug(w)
    if config & 4:
        w.e.tcp.knobs.timestamps = 0
    if config & 8:
        w.e.tcp.knobs.sack = 0
    limit_memory(w, config)
    engine_poll(w.e)
    return True


cdef void world_fail(World *w, const char *what) noexcept nogil:
    if w.failed != NULL:
        return
    w.failed = what
    if w.looked_at != NULL:
        w.failed_state = w.looked_at.state
        w.failed_flags = w.looked_at.flags


cdef void world_feed(World *w, const uint8_t *frame, uint32_t n, bint at_end) noexcept nogil:
    """at_end: the frame's last byte is the buffer's last, so that AddressSanitizer sees every byte read past it."""
    cdef Buf *b = buf_alloc(&w.e.core.pool, n + 64)
    cdef Offload off
    if b == NULL:
        return
    memset(&off, 0, sizeof(off))
    if w.offloads and n > 200:                     # as a link hands in what it put together
        off.flags = OFF_GSO_TCP4
        off.gso_size = 100
    b.off = b.cap - n if at_end else 64
    b.len = n
    memcpy(b.data + b.off, frame, n)
    w.settled = False
    engine_input(w.e, w.iface, b, &off if w.offloads else NULL)


cdef void world_poll(World *w) noexcept nogil:
    """As a driver does: until nothing is due any more."""
    cdef Source *s
    cdef int rounds = 0
    engine_poll(w.e)
    while engine_next(w.e) <= w.e.core.now and rounds < DUE_ROUNDS:
        engine_poll(w.e)
        rounds += 1
    s = event_pop(&w.e.core.events)
    while s != NULL:
        s.pending = 0
        s = event_pop(&w.e.core.events)
    w.settled = True
    if w.capture != NULL:
        look_at_capture(w)


cdef Tcb *world_tcb(World *w, uint8_t which) noexcept nogil:
    cdef int i
    for i in range(TCBS):
        if w.tcbs[(which + i) % TCBS] != NULL:
            return w.tcbs[(which + i) % TCBS]
    return NULL


cdef bint world_hold(World *w, Tcb *c) noexcept nogil:
    cdef int i
    for i in range(TCBS):
        if w.tcbs[i] == NULL:
            w.tcbs[i] = c
            return True
    tcp_close(&w.e.tcp, c)
    return False


cdef void world_close(World *w) noexcept nogil:
    cdef int i
    cdef uint64_t due
    for i in range(TCBS):
        if w.tcbs[i] != NULL:
            tcp_close(&w.e.tcp, w.tcbs[i])
            w.tcbs[i] = NULL
    for i in range(LISTENERS):
        if w.listeners[i] != NULL:
            tcp_close_listener(&w.e.tcp, w.listeners[i])
            w.listeners[i] = NULL
    for i in range(UDPS):
        if w.udps[i] != NULL:
            udp_close(&w.e.udp, w.udps[i])
            w.udps[i] = NULL
    world_poll(w)
    for i in range(CLOSING_POLLS):
        due = engine_next(w.e)
        if due == UINT64_MAX:
            break
        engine_enter(w.e, due)
        world_poll(w)
    if engine_next(w.e) != UINT64_MAX:
        world_fail(w, b"end: timers that never end")
    if w.e.core.pool.live != 0 or w.e.core.pool.used != 0:
        world_fail(w, b"end: buffers left over")
    if w.e.tcp.tcbs.live or w.e.tcp.synreqs.live or w.e.tcp.timewaits.live or w.e.tcp.segs.live:
        world_fail(w, b"end: connections left over")
    if w.e.tcp.reasms.live or w.e.tcp.binds_slab.live or w.e.tcp.listeners_slab.live or w.e.tcp.n_orphans:
        world_fail(w, b"end: TCP objects left over")
    if w.e.udp.slab.live or w.e.net.frag_slab.live or w.e.net.frag_memory or w.e.tcp.ofo_memory:
        world_fail(w, b"end: datagram objects left over")
    world_drop(w)


cdef void world_drop(World *w) noexcept nogil:
    cdef int i
    for i in range(UDPS):                          # the engine knows of those that are bound; the others are who opened them's
        if w.udps[i] != NULL and not w.udps[i].flags & UDP_BOUND:
            udp_close(&w.e.udp, w.udps[i])
    end_capture(w)
    engine_free(w.e)
    w.e = NULL
