"""Echo requests through a raw socket of the host, where it has no ping sockets for us.

Responsible for the identifier and the checksum, and for telling answers to us from everything else that such a socket
hears. Not for the socket (driver/hostio), or flows (service/relay).
"""
from ustack_ext.wire.bytes cimport get_be16, put_be16
from ustack_ext.wire.checksum cimport csum_fold, csum_partial, csum_store
from ustack_ext.wire.headers cimport ICMP_ECHO, ICMP_ECHOREPLY, ICMP_HLEN, IP4_HLEN
from ustack_ext.wire.ip6 cimport ICMP6_ECHO, ICMP6_ECHOREPLY


cdef void echo_ask(uint8_t *p, uint32_t length, bint four, uint16_t ident) noexcept nogil:
    if length < ICMP_HLEN:
        return
    p[0] = ICMP_ECHO if four else ICMP6_ECHO
    put_be16(p + 2, 0)
    put_be16(p + 4, ident)
    if four:                       # of ICMPv6 the kernel makes it (RFC 3542 §3.1)
        csum_store(p + 2, csum_fold(csum_partial(p, length, 0)))


cdef bint echo_answer(IoVec *iov, bint four, uint16_t ident) noexcept nogil:
    cdef const uint8_t *p = <const uint8_t *>iov.base
    cdef size_t skip = 0
    if four:                       # the IP header comes with it
        if iov.len < IP4_HLEN:
            return False
        skip = <size_t>(p[0] & 15) * 4
    if iov.len < skip + ICMP_HLEN:
        return False
    p += skip
    if p[0] != (ICMP_ECHOREPLY if four else ICMP6_ECHOREPLY) or get_be16(p + 4) != ident:
        return False
    iov.base = <void *>p
    iov.len -= skip
    return True
