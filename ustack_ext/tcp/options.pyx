"""TCP options: parse and emit (RFC 9293 §3.1, RFC 7323, 2018, 6691, 7413, 2385, 5482). Knows no connection."""
from libc.stdint cimport uint32_t, uint8_t
from libc.string cimport memcpy, memset

from ustack_ext.tcp.tcb cimport TCP_MAX_WSCALE
from ustack_ext.wire.bytes cimport get_be16, get_be32, put_be16, put_be32

cdef enum:
    KIND_EOL = 0
    KIND_NOP = 1
    KIND_MSS = 2
    KIND_WSCALE = 3
    KIND_SACK_OK = 4
    KIND_SACK = 5
    KIND_TS = 8
    KIND_MD5 = 19
    KIND_UTO = 28
    KIND_FASTOPEN = 34
    FASTOPEN_MIN = 4               # bytes of a cookie (RFC 7413 §4.1.1)
    FASTOPEN_MAX = 16


cdef void options_parse(const uint8_t *p, uint32_t n, bint syn, Options *o) noexcept nogil:
    cdef uint32_t at = 0, size, i
    o.have = 0
    o.nsack = 0
    while at < n:
        if p[at] == KIND_EOL:
            return
        if p[at] == KIND_NOP:
            at += 1
            continue
        if at + 2 > n:
            return
        size = p[at + 1]
        if size < 2 or at + size > n:                   # MUST-7
            return
        if p[at] == KIND_MSS and size == 4 and syn:     # MUST-65: elsewhere it means nothing
            o.mss = get_be16(p + at + 2)
            o.have |= OPT_MSS
        elif p[at] == KIND_WSCALE and size == 3 and syn:
            o.wscale = min(p[at + 2], <uint8_t>TCP_MAX_WSCALE)   # RFC 7323 §2.3
            o.have |= OPT_WSCALE
        elif p[at] == KIND_SACK_OK and size == 2 and syn:
            o.have |= OPT_SACK_OK
        elif p[at] == KIND_TS and size == 10:
            o.tsval = get_be32(p + at + 2)
            o.tsecr = get_be32(p + at + 6)
            o.have |= OPT_TS
        elif p[at] == KIND_SACK and not syn and size >= 10 and (size - 2) % 8 == 0 and size <= 34:
            o.nsack = <uint8_t>((size - 2) // 8)
            for i in range(o.nsack * 2):
                o.sack[i] = get_be32(p + at + 2 + 4 * i)
            o.have |= OPT_SACK
        elif p[at] == KIND_MD5 and size == 18:
            o.md5 = p + at + 2
            o.have |= OPT_MD5
        elif p[at] == KIND_UTO and size == 4:
            o.uto = get_be16(p + at + 2)
            o.have |= OPT_UTO
        elif p[at] == KIND_FASTOPEN and syn and size % 2 == 0 and (
                size == 2 or FASTOPEN_MIN <= size - 2 <= FASTOPEN_MAX):
            o.fastopen_len = <uint8_t>(size - 2)
            memcpy(o.fastopen, p + at + 2, size - 2)
            o.have |= OPT_FASTOPEN
        at += size


cdef inline uint8_t *put_ts(uint8_t *p, const Options *o) noexcept nogil:
    p[0] = KIND_TS
    p[1] = 10
    put_be32(p + 2, o.tsval)
    put_be32(p + 6, o.tsecr)
    return p + 10


cdef inline uint8_t *put_nops(uint8_t *p, int n) noexcept nogil:
    cdef int i
    for i in range(n):
        p[i] = KIND_NOP
    return p + n


cdef inline uint8_t *put_md5(uint8_t *p) noexcept nogil:
    p = put_nops(p, 2)
    p[0] = KIND_MD5
    p[1] = 18
    memset(p + 2, 0, 16)
    return p + 18


cdef inline uint8_t *put_uto(uint8_t *p, const Options *o) noexcept nogil:
    p[0] = KIND_UTO
    p[1] = UTO_LEN
    put_be16(p + 2, o.uto)
    return p + UTO_LEN


cdef uint32_t options_emit_syn(uint8_t *p, const Options *o) noexcept nogil:
    cdef uint8_t *q = put_md5(p) if o.have & OPT_MD5 else p
    q[0] = KIND_MSS
    q[1] = 4
    put_be16(q + 2, o.mss)
    q += 4
    if o.have & OPT_SACK_OK:
        if not o.have & OPT_TS:
            q = put_nops(q, 2)
        q[0] = KIND_SACK_OK
        q[1] = 2
        q += 2
    elif o.have & OPT_TS:
        q = put_nops(q, 2)
    if o.have & OPT_TS:
        q = put_ts(q, o)
    if o.have & OPT_WSCALE:
        q = put_nops(q, 1)
        q[0] = KIND_WSCALE
        q[1] = 3
        q[2] = o.wscale
        q += 3
    if o.have & OPT_FASTOPEN:
        q[0] = KIND_FASTOPEN
        q[1] = 2 + o.fastopen_len
        memcpy(q + 2, o.fastopen, o.fastopen_len)
        q = put_nops(q + q[1], -(q[1]) & 3)
    if o.have & OPT_UTO and q - p <= OPTIONS_MAX - UTO_LEN:
        q = put_uto(q, o)
    return <uint32_t>(q - p)


cdef uint32_t options_emit(uint8_t *p, const Options *o) noexcept nogil:
    cdef uint8_t *q = put_md5(p) if o.have & OPT_MD5 else p
    cdef uint32_t i
    if o.have & OPT_TS:
        q = put_nops(q, 2)
        q = put_ts(q, o)
    if o.have & OPT_UTO:
        q = put_uto(q, o)
    if o.have & OPT_SACK:
        q = put_nops(q, 2)
        q[0] = KIND_SACK
        q[1] = <uint8_t>(2 + 8 * o.nsack)
        for i in range(o.nsack * 2):
            put_be32(q + 2 + 4 * i, o.sack[i])
        q += q[1]
    return <uint32_t>(q - p)
