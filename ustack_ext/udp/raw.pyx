"""Raw IP sockets (raw(7); RFC 3542 §3 for IPv6): packets of one protocol, beside whoever else they are for.

Responsible for choosing the sockets, for ICMP_FILTER and ICMP6_FILTER, IPV6_CHECKSUM and IP_HDRINCL. Not for queues
(recv). IPv4 packets come with their header, put together from fragments; IPv6's come without it and without extension
headers, ICMPv6's after their checksum was verified. A program gets what net has found whole and for this host.

What a raw socket sends to a group is not heard by this host's own sockets.
"""
from libc.errno cimport EINVAL, EMSGSIZE, ENOBUFS
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy

from ustack_ext.wire.addr cimport addr_is_multicast, addr_is_v4
from ustack_ext.wire.checksum cimport csum_fold, csum_partial, csum_pseudo, csum_store
from ustack_ext.wire.headers cimport ICMP_HLEN, IPPROTO_ICMP_
from ustack_ext.wire.ip6 cimport IPPROTO_ICMPV6_
from ustack_ext.base.buf cimport Buf, buf_alloc, buf_unref
from ustack_ext.base.core cimport count
from ustack_ext.base.entry cimport ENTRY_RAW
from ustack_ext.net.mib cimport DropRawChecksum
from ustack_ext.net.net cimport net_output
from ustack_ext.net.state cimport RX_LOOPBACK, RxPkt, tx_init, tx_payload
from ustack_ext.net.whole cimport output_whole
from ustack_ext.udp.demux cimport match_score
from ustack_ext.udp.errqueue cimport queue_icmp_error
from ustack_ext.udp.member cimport wants
from ustack_ext.udp.pathmtu cimport learn_path_mtu, tell_path_mtu
from ustack_ext.udp.rawmore cimport rawmore_free, rawmore_new
from ustack_ext.udp.recv cimport deliver_copy, filter_keeps, meta_fill, set_error
from ustack_ext.udp.state cimport UDP_CONNECTED, UDP_IPV4, UdpMeta, hops_for, pmtudisc_for, tx_hops, wants_errors

cdef enum:
    IPPROTO_RAW_ = 255
    ICMP6_CHECKSUM_AT = 2


cdef void watch(Udp *u) noexcept nogil:
    u.net.packets = NULL
    if u.raws != NULL:
        u.net.packets = raw_input
    u.net.hook_user = u


cdef int raw_attach(Udp *u, UdpSock *s, uint8_t proto) noexcept nogil:
    cdef int status = rawmore_new(s, &u.raws, ENTRY_RAW)
    if status != 0:
        return status
    s.proto = proto
    s.lport = proto                                    # as Linux: getsockname() says so
    s.raw.header = proto == IPPROTO_RAW_
    if proto == IPPROTO_ICMPV6_ and s.family != UDP_IPV4:
        s.raw.checksum_at = ICMP6_CHECKSUM_AT          # RFC 3542 §3.1
    watch(u)
    return 0


cdef void raw_detach(Udp *u, UdpSock *s) noexcept nogil:
    rawmore_free(s, &u.raws)
    watch(u)


# --- in ---

cdef bint type_refused(const UdpSock *s, const RxPkt *rx) noexcept nogil:
    """raw(7), RFC 3542 §3.2. ICMP_FILTER knows 32 types, and lets the others through."""
    cdef uint8_t type
    if s.proto != (IPPROTO_ICMP_ if s.family == UDP_IPV4 else IPPROTO_ICMPV6_):
        return False
    if rx.l4_len < ICMP_HLEN:
        return True
    type = rx.l4[0]
    if s.family == UDP_IPV4 and type >= 32:
        return False
    return s.raw.refused[type >> 5] >> (type & 31) & 1


cdef bint checksum_good(const UdpSock *s, const RxPkt *rx) noexcept nogil:
    if s.raw.checksum_at < 0 or rx.flags & RX_LOOPBACK:
        return True
    return csum_fold(csum_partial(rx.l4, rx.l4_len, csum_pseudo(&rx.src, &rx.dst, rx.proto, rx.l4_len))) == 0


cdef void give(Udp *u, UdpSock *s, const RxPkt *rx) noexcept nogil:
    cdef bint four = s.family == UDP_IPV4
    cdef const uint8_t *data = rx.l3 if four else rx.l4
    cdef uint32_t whole = rx.l3_len if four else rx.l4_len
    cdef uint32_t length = whole
    cdef UdpMeta meta
    if not four and not checksum_good(s, rx):
        count(u.core, DropRawChecksum)
        return
    if s.filter != NULL and not filter_keeps(u, s, rx, data, whole, 0, &length):
        return
    meta_fill(&meta, rx, 0)
    deliver_copy(u, s, &meta, data, length)


cdef bint raw_input(void *user, RxPkt *rx) noexcept nogil:
    """net's hook. True: some socket is there for the protocol, whatever its filters say."""
    cdef Udp *u = <Udp *>user
    cdef UdpSock *s = u.raws
    cdef bint taken = False
    while s != NULL:
        if (s.proto == rx.proto and match_score(s, &rx.dst, &rx.src, s.rport, rx.iface.index) > 0
                and wants(s, rx)):
            taken = True
            if not type_refused(s, rx):
                give(u, s, rx)
        s = s.raw.next
    return taken


cdef void raw_icmp_error(Udp *u, IcmpError *e) noexcept nogil:
    """As Linux: a socket that is not connected hears of errors only if it asked (IP_RECVERR)."""
    cdef UdpSock *s = u.raws
    cdef bint hard
    while s != NULL:
        if s.proto != e.proto or match_score(s, &e.src, &e.dst, s.rport, 0) == 0:
            s = s.raw.next
            continue
        if e.error == EMSGSIZE:
            learn_path_mtu(u, s, e)
        if wants_errors(s, &e.dst) or s.flags & UDP_CONNECTED:
            hard = e.hard
            if e.error == EMSGSIZE:
                hard = pmtudisc_for(s, &e.dst) != 0
            if wants_errors(s, &e.dst):
                queue_icmp_error(u, s, e, 0)
            if hard or wants_errors(s, &e.dst):
                set_error(u, s, e.error)
        s = s.raw.next


# --- out ---

cdef int send_with_checksum(Udp *u, UdpSock *s, Dst *d, const Addr *src, const Addr *dst, bint df,
                            const TxPkt *t) noexcept nogil:
    """IPV6_CHECKSUM: in a copy, because the bytes are the application's."""
    cdef uint32_t at = 0, where = <uint32_t>s.raw.checksum_at
    cdef Buf *b
    cdef TxPkt f
    cdef int k, status
    if where + 2 > t.payload_len:
        return -EINVAL
    b = buf_alloc(&u.core.pool, t.payload_len)
    if b == NULL:
        return -ENOBUFS
    for k in range(1, t.niov):
        memcpy(b.data + at, t.iov[k].base, t.iov[k].len)
        at += <uint32_t>t.iov[k].len
    csum_store(b.data + where, 0)
    csum_store(b.data + where, csum_fold(csum_partial(b.data, at, csum_pseudo(src, dst, s.proto, at))))
    tx_init(&f)
    tx_payload(&f, b.data, at)
    status = net_output(u.net, d, src, dst, s.proto, tx_hops(&f, hops_for(u, s, dst)), s.tos, df, &f)
    buf_unref(&u.core.pool, b)
    return status


cdef int raw_send(Udp *u, UdpSock *s, Dst *d, const Addr *src, const Addr *dst, bint df, TxPkt *t) noexcept nogil:
    cdef int hops = hops_for(u, s, dst)
    cdef int status
    if s.raw.header:
        return output_whole(u.net, d, src, dst, t)
    if hops == 0 and addr_is_multicast(dst):           # it stays on this host, where nobody hears it
        return 0
    if s.raw.checksum_at >= 0 and not addr_is_v4(dst):
        status = send_with_checksum(u, s, d, src, dst, df, t)
    else:
        status = net_output(u.net, d, src, dst, s.proto, tx_hops(t, hops), s.tos, df, t)
    if status == -EMSGSIZE:
        tell_path_mtu(u, s, dst, d.mtu)
    return status
