"""The Internet Group Management Protocol as a host hears it: version 3 (RFC 3376), and versions 2 (RFC 2236) and 1
(RFC 1112) where a querier speaks no more.

Responsible for reading queries, and other hosts' reports. What is said, and when, is reports'.
"""
from libc.stdint cimport uint8_t, uint32_t

from ustack_ext.wire.addr cimport Addr, addr_v4
from ustack_ext.wire.bytes cimport get_be16, get_be32
from ustack_ext.wire.checksum cimport csum_fold, csum_partial
from ustack_ext.base.core cimport count
from ustack_ext.net.mib cimport DropIgmpMalformed, IgmpInQueries, IgmpInReports
from ustack_ext.net.reports cimport LEVEL_1, LEVEL_2, reports_asked, reports_heard, reports_older
from ustack_ext.net.state cimport Groups

cdef enum:
    IGMP_QUERY = 0x11
    IGMP_V1_REPORT = 0x12
    IGMP_V2_REPORT = 0x16
    QUERY_LEN = 8              # of versions 1 and 2
    QUERY3_LEN = 12
    TENTH = 100                # ms: the unit of response times
    V1_RESPONSE_MS = 10000


cdef uint32_t code_value(uint8_t code) noexcept nogil:
    """§4.1.1: a number below 128, or a floating-point one."""
    return code if code < 128 else <uint32_t>(code & 15 | 16) << ((code >> 4 & 7) + 3)


cdef void query(Net *n, Groups *m, const uint8_t *p, uint32_t length) noexcept nogil:
    cdef Addr group = addr_v4(get_be32(p + 4))
    cdef uint32_t most = code_value(p[1]) * TENTH, many = 0
    count(n.core, IgmpInQueries)
    if length == QUERY_LEN:
        most = V1_RESPONSE_MS if p[1] == 0 else <uint32_t>p[1] * TENTH
        reports_older(n, m, LEVEL_1 if p[1] == 0 else LEVEL_2, most)
    else:
        many = get_be16(p + 10)
        if length < QUERY3_LEN or QUERY3_LEN + 4 * many > length:
            count(n.core, DropIgmpMalformed)
            return
        if p[8] & 7:
            m.robustness = p[8] & 7
    reports_asked(n, m, &group, p + QUERY3_LEN, many, most)


cdef void igmp_input(Net *n, RxPkt *rx) noexcept nogil:
    cdef const uint8_t *p = rx.l4
    cdef Addr group
    if rx.l4_len < QUERY_LEN or csum_fold(csum_partial(p, rx.l4_len, 0)) != 0:
        count(n.core, DropIgmpMalformed)
        return
    if p[0] == IGMP_QUERY:
        query(n, &rx.iface.igmp, p, rx.l4_len)
        return
    count(n.core, IgmpInReports)
    if p[0] == IGMP_V1_REPORT or p[0] == IGMP_V2_REPORT:
        group = addr_v4(get_be32(p + 4))
        reports_heard(n, &rx.iface.igmp, &group)
