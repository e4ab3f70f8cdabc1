"""Sends datagrams: UDP (RFC 768) and the echo requests of ping sockets.

Responsible for source address, header and checksum. Datagrams may be fragmented, here or on the way: DF is not set, as
there is no path MTU discovery for UDP (RFC 8085 §3.2 leaves sizes to the application), and so no cache that forged
"fragmentation needed" messages could fill.
"""
from libc.errno cimport EACCES, EDESTADDRREQ, EINVAL, EMSGSIZE, ENOBUFS
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from ustack_ext.wire.addr cimport addr_is_any, addr_is_multicast, addr_is_v4
from ustack_ext.wire.bytes cimport get_be16
from ustack_ext.wire.checksum cimport csum_fold, csum_fold32, csum_pseudo, csum_store
from ustack_ext.wire.headers cimport ICMP_ECHO, ICMP_HLEN, IP4_HLEN, IPPROTO_UDP_, UDP_HLEN, UdpHdr, udp_emit
from ustack_ext.wire.ip6 cimport ICMP6_ECHO
from ustack_ext.base.buf cimport Buf, buf_alloc, buf_unref
from ustack_ext.base.core cimport count
from ustack_ext.base.iov cimport OFF_CSUM_WANTED
from ustack_ext.net.mib cimport UdpOutDatagrams, UdpSndbufErrors
from ustack_ext.net.net cimport icmp_send_echo, net_is_broadcast, net_output, net_resolve, net_room, net_source_for
from ustack_ext.net.output cimport tx_csum
from ustack_ext.net.state cimport Dst, TX_IOV_MAX, TxPkt, tx_init, tx_payload, tx_push
from ustack_ext.udp.state cimport UDP_BROADCAST, UDP_CONNECTED, UDP_IS_PING

cdef enum:
    DATAGRAM_MAX = 65535 - IP4_HLEN - UDP_HLEN
    PIECES_MAX = TX_IOV_MAX - 8


cdef int check_destination(Udp *u, const UdpSock *s, const Addr *a) noexcept nogil:
    if net_is_broadcast(u.net, a) and not s.flags & UDP_BROADCAST:
        return -EACCES                                 # SO_BROADCAST was not asked for
    return 0


cdef void push_header(UdpSock *s, const Dst *d, const Addr *src, const Addr *dst, uint16_t port,
                      TxPkt *t) noexcept nogil:
    """The UDP header, its checksum computed or, where the link does that and the datagram fits one packet, prepared."""
    cdef UdpHdr h
    cdef uint8_t *p = tx_push(t, UDP_HLEN)
    cdef uint64_t pseudo
    cdef uint16_t sum
    h.sport = s.lport
    h.dport = port
    h.length = <uint16_t>(UDP_HLEN + t.payload_len)
    h.checksum = 0
    udp_emit(p, &h)
    pseudo = csum_pseudo(src, dst, IPPROTO_UDP_, h.length)
    if d.iface.offloads & OFF_CSUM_WANTED and h.length <= net_room(d, dst):
        t.off.flags |= OFF_CSUM_WANTED
        t.off.csum_start = 0
        t.off.csum_offset = 6
        csum_store(p + 6, <uint16_t>csum_fold32(pseudo))
        return
    sum = csum_fold(tx_csum(t, pseudo))
    csum_store(p + 6, sum if sum != 0 else 0xFFFF)     # RFC 768: zero would say "no checksum"


cdef int send_udp(Udp *u, UdpSock *s, Dst *d, const Addr *src, const Addr *dst, uint16_t port, TxPkt *t) noexcept nogil:
    cdef int status
    cdef uint8_t ttl = s.ttl
    if port == 0:
        return -EINVAL
    status = net_resolve(u.net, d, src, dst)
    if status != 0:
        return status
    push_header(s, d, src, dst, port, t)
    if ttl == 0 and addr_is_multicast(dst):
        ttl = 1                                        # RFC 1112 §6.1
    status = net_output(u.net, d, src, dst, IPPROTO_UDP_, ttl, s.tos, False, t)
    if status == 0:
        count(u.core, UdpOutDatagrams)
    return status


cdef int send_echo(Udp *u, UdpSock *s, Dst *d, const Addr *src, const Addr *dst, const uint8_t *head,
                   TxPkt *t) noexcept nogil:
    """Of the header the application wrote only the sequence number is used: type and code are fixed, identifier and
    checksum ours."""
    if head[0] != (ICMP_ECHO if addr_is_v4(dst) else ICMP6_ECHO) or head[1] != 0:
        return -EINVAL
    return icmp_send_echo(u.net, d, src, dst, s.ttl, s.tos, s.lport, get_be16(head + 6), t)


cdef long total_length(const IoVec *iov, int niov, size_t most) noexcept nogil:
    """Bytes in all pieces, or -EMSGSIZE as soon as they are more than a datagram holds."""
    cdef size_t total = 0
    cdef int k
    for k in range(niov):
        if iov[k].len > most or total + iov[k].len > most:
            return -EMSGSIZE
        total += iov[k].len
    return <long>total


cdef void gather(const IoVec *iov, int niov, uint8_t *to, size_t skip, size_t most) noexcept nogil:
    """Copies at most `most` bytes, after the first `skip`."""
    cdef size_t piece
    cdef int k
    for k in range(niov):
        if iov[k].len <= skip:
            skip -= iov[k].len
            continue
        piece = min(iov[k].len - skip, most)
        memcpy(to, <uint8_t *>iov[k].base + skip, piece)
        to += piece
        most -= piece
        skip = 0
        if most == 0:
            return


cdef Buf *add_payload(Udp *u, const IoVec *iov, int niov, size_t skip, size_t total, TxPkt *t) noexcept nogil:
    """References the application's pieces, or gathers them when they are too many: then the buffer is returned, to be
    released after sending. NULL also when that could not be had: t.payload_len tells."""
    cdef Buf *b = NULL
    cdef int k
    if niov <= PIECES_MAX:
        for k in range(niov):
            if iov[k].len > skip:
                tx_payload(t, <uint8_t *>iov[k].base + skip, <uint32_t>(iov[k].len - skip))
                skip = 0
            else:
                skip -= iov[k].len
        return NULL
    b = buf_alloc(&u.core.pool, <uint32_t>total)
    if b != NULL:
        gather(iov, niov, b.data, skip, total)
        tx_payload(t, b.data, <uint32_t>total)
    return b


cdef long send_datagram(Udp *u, UdpSock *s, const IoVec *iov, int niov, const Addr *to, uint16_t port) noexcept nogil:
    """The socket is bound. Returns the bytes sent or -errno."""
    cdef uint8_t head[ICMP_HLEN]
    # an echo request comes with its ICMP header, a UDP datagram without one
    cdef long total = total_length(iov, niov, DATAGRAM_MAX + (ICMP_HLEN if s.flags & UDP_IS_PING else 0))
    cdef size_t skip = 0
    cdef Addr src = s.laddr
    cdef Dst other
    cdef Dst *d = &s.dst
    cdef TxPkt t
    cdef Buf *gathered
    cdef int status
    if total < 0:
        return total
    if to == NULL:
        if not s.flags & UDP_CONNECTED:
            return -EDESTADDRREQ
        to = &s.raddr
        port = s.rport
    else:
        memset(&other, 0, sizeof(other))
        d = &other
    status = check_destination(u, s, to)
    if status == 0 and (addr_is_any(&src) or addr_is_multicast(&src) or net_is_broadcast(u.net, &src)):
        status = net_source_for(u.net, to, &src)
    if status != 0:
        return status
    if s.flags & UDP_IS_PING:
        if total < ICMP_HLEN:
            return -EINVAL
        skip = ICMP_HLEN
        gather(iov, niov, head, 0, ICMP_HLEN)
    tx_init(&t)
    gathered = add_payload(u, iov, niov, skip, total - skip, &t)
    if t.payload_len != total - skip:
        return -ENOBUFS
    if s.flags & UDP_IS_PING:
        status = send_echo(u, s, d, &src, to, head, &t)
    else:
        status = send_udp(u, s, d, &src, to, port, &t)
    if gathered != NULL:
        buf_unref(&u.core.pool, gathered)
    if status == -ENOBUFS:
        # lost on our side of the wire, as Linux: not the application's error
        count(u.core, UdpSndbufErrors)
        status = 0
    return total if status == 0 else status
