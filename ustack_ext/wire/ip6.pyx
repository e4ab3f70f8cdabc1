"""What wire/ip6.pxd has not inline: the options of IPv6's extension headers (RFC 8200 §4.2), ICMPv6's header (RFC 4443
§2.1), the options of Neighbor Discovery (RFC 4861 §4.6).

Layouts only: what follows from a field is net/'s business.
"""
from libc.stdint cimport uint8_t, uint32_t

from ustack_ext.wire.checksum cimport csum_partial, csum_pseudo, csum_right
from ustack_ext.wire.headers cimport WIRE_CHECKSUM

cdef enum:
    OPT_PAD1 = 0
    OPT_PADN = 1
    OPT_ROUTER_ALERT = 5           # RFC 2711: for routers
    OPTIONS_MAX = 8                # that are no padding: Linux's max_hbh_opts_number and max_dst_opts_number


cdef OptionVerdict ip6_options_check(const uint8_t *p, uint32_t n, uint32_t *where) noexcept nogil:
    cdef uint32_t at = 2, known = 0
    cdef uint8_t kind
    while at < n:
        kind = p[at]
        where[0] = at
        if kind == OPT_PAD1:
            at += 1
            continue
        if at + 2 > n or at + 2 + p[at + 1] > n:
            return OPTION_MALFORMED
        if kind != OPT_PADN:
            known += 1
            if known > OPTIONS_MAX:
                return OPTION_DROP
            if kind != OPT_ROUTER_ALERT and kind >> 6 != 0:
                return OPTION_DROP if kind >> 6 == 1 else OPTION_TELL if kind >> 6 == 2 else OPTION_TELL_UNICAST
        at += 2 + <uint32_t>p[at + 1]
    return OPTION_FINE


cdef bint ip6_has_option(const uint8_t *p, uint32_t n, uint8_t type) noexcept nogil:
    cdef uint32_t at = 2, length = ext6_length(p, n)
    while at + 2 <= length:
        if p[at] == type:
            return True
        at += 1 if p[at] == OPT_PAD1 else 2 + <uint32_t>p[at + 1]
    return False


cdef WireStatus icmp6_parse(const uint8_t *p, uint32_t n, const Addr *src, const Addr *dst, Icmp6Hdr *h,
                            bint csum_ok) noexcept nogil:
    if n < ICMP6_HLEN:
        return WIRE_TRUNCATED
    if not csum_ok and not csum_right(csum_partial(p, n, csum_pseudo(src, dst, IPPROTO_ICMPV6_, n))):
        return WIRE_CHECKSUM
    h.type = p[0]
    h.code = p[1]
    h.rest = get_be32(p + 4)
    return WIRE_OK


cdef uint32_t icmp6_emit(uint8_t *p, const Icmp6Hdr *h) noexcept nogil:
    p[0] = h.type
    p[1] = h.code
    put_be16(p + 2, 0)
    put_be32(p + 4, h.rest)
    return ICMP6_HLEN


cdef bint nd_options_whole(const uint8_t *p, uint32_t n) noexcept nogil:
    cdef uint32_t at = 0
    while at < n:
        if at + 2 > n or p[at + 1] == 0 or at + <uint32_t>p[at + 1] * 8 > n:
            return False
        at += <uint32_t>p[at + 1] * 8
    return True


cdef const uint8_t *nd_option(const uint8_t *p, uint32_t n, uint8_t type, uint32_t least) noexcept nogil:
    cdef uint32_t at = 0
    while at + 8 <= n and p[at + 1] != 0:
        if p[at] == type and <uint32_t>p[at + 1] * 8 >= least and at + <uint32_t>p[at + 1] * 8 <= n:
            return p + at
        at += <uint32_t>p[at + 1] * 8
    return NULL
