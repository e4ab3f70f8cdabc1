"""SYN cookies: RFC 4987 §3.6, in Linux's form.

The initial sequence number is a keyed hash of the four-tuple, plus the peer's own initial number, with the minute in
its upper byte and the index of an MSS, hidden by a second keyed hash of that minute, in the others. Window scale and
SACK go into the last bits of the timestamp, which the peer sends back. A cookie is good for one to two minutes, and
only for a listener that has sent one of late.
"""
from libc.stdint cimport uint16_t, uint32_t, uint8_t

from ustack_ext.base.core cimport count
from ustack_ext.base.table cimport siphash
from ustack_ext.net.mib cimport SyncookiesFailed, SyncookiesRecv, SyncookiesSent
from ustack_ext.tcp.conn cimport ts_offset_of
from ustack_ext.tcp.options cimport OPT_TS
from ustack_ext.tcp.seq cimport seq_gt
from ustack_ext.tcp.tcb cimport TCP_MAX_WSCALE, TF_SACK_OK, TF_TS_OK, TF_WS_OK
from ustack_ext.wire.addr cimport Addr

cdef enum:
    MINUTES = 2                    # how long a cookie is good, the present minute counted
    VALID_S = 60 * MINUTES         # how long after the last one a listener looks for cookies
    NS = 1000000000
    COOKIE_BITS = 24
    COOKIE_MASK = (1 << COOKIE_BITS) - 1
    TS_BITS = 6                    # of the timestamp: four of window scale, one of SACK
    TS_MASK = (1 << TS_BITS) - 1
    TS_NO_WSCALE = 15
    TS_SACK = 16
    N_MSS = 8

cdef struct Hashed:
    Addr laddr
    Addr raddr
    uint32_t ports
    uint32_t minute

cdef uint16_t[8] MSS_TABLE
MSS_TABLE[:] = [216, 536, 1220, 1300, 1400, 1440, 1460, 8940]


cdef uint32_t minute_now(const Tcp *t) noexcept nogil:
    return <uint32_t>(t.core.now // NS // 60)


cdef uint32_t hashed(Tcp *t, const SynReq *r, uint32_t minute, int which) noexcept nogil:
    cdef Hashed h
    h.laddr = r.laddr
    h.raddr = r.raddr
    h.ports = (<uint32_t>r.lport << 16) | r.rport
    h.minute = minute
    return <uint32_t>siphash(&t.cookie_key[which], &h, sizeof(Hashed))


cdef uint32_t mss_index(uint16_t mss) noexcept nogil:
    """The largest that is no larger."""
    cdef uint32_t i = N_MSS - 1
    while i > 0 and MSS_TABLE[i] > mss:
        i -= 1
    return i


cdef void cookie_make(Tcp *t, Listener *l, SynReq *r) noexcept nogil:
    cdef uint32_t minute = minute_now(t), index = mss_index(r.mss)
    r.marks = 0                                              # ECN: no bit is left to keep it in
    if not r.opts & TF_TS_OK:
        r.opts = 0
    r.iss = hashed(t, r, 0, 0) + r.irs + (minute << COOKIE_BITS)
    r.iss += (hashed(t, r, minute, 1) + index) & COOKIE_MASK
    l.cookie_s = <uint32_t>(t.core.now // NS) + 1
    count(t.core, SyncookiesSent)


cdef uint32_t cookie_ts(Tcp *t, const SynReq *r) noexcept nogil:
    cdef uint32_t now = <uint32_t>(t.core.now // 1000000), bits = TS_NO_WSCALE, ts
    if r.opts & TF_WS_OK:
        bits = r.snd_wscale
    if r.opts & TF_SACK_OK:
        bits |= TS_SACK
    ts = (now & ~<uint32_t>TS_MASK) | bits
    if seq_gt(ts, now):                                      # never a time that has not been yet
        ts -= TS_MASK + 1
    return ts + r.ts_offset


cdef bint take_options(Tcp *t, SegIn *s, SynReq *r) noexcept nogil:
    """What our SYN-ACK's timestamp said; False: it asks for what is switched off."""
    cdef uint32_t bits
    r.opts = 0
    if not s.o.have & OPT_TS:
        return True
    if not t.knobs.timestamps:
        return False
    r.opts = TF_TS_OK
    r.ts_recent = s.o.tsval
    bits = (s.o.tsecr - r.ts_offset) & TS_MASK
    if bits & TS_SACK:
        if not t.knobs.sack:
            return False
        r.opts |= TF_SACK_OK
    bits &= TS_NO_WSCALE
    if bits != TS_NO_WSCALE:
        if not t.knobs.window_scaling or bits > TCP_MAX_WSCALE:
            return False
        r.opts |= TF_WS_OK
        r.snd_wscale = <uint8_t>bits
    return True


cdef bint cookie_check(Tcp *t, Listener *l, SegIn *s, SynReq *r) noexcept nogil:
    cdef uint32_t value, age, index, now = <uint32_t>(t.core.now // NS) + 1
    if not t.knobs.syncookies or l.cookie_s == 0 or now - l.cookie_s > VALID_S:
        return False
    r.laddr = s.rx.dst
    r.raddr = s.rx.src
    r.lport = s.h.dport
    r.rport = s.h.sport
    r.listener = l
    r.irs = s.h.seq - 1
    r.iss = s.h.ack - 1
    value = r.iss - hashed(t, r, 0, 0) - r.irs
    age = (minute_now(t) - (value >> COOKIE_BITS)) & 0xFF
    index = N_MSS
    if age < MINUTES:
        index = (value - hashed(t, r, minute_now(t) - age, 1)) & COOKIE_MASK
    if index >= N_MSS:
        count(t.core, SyncookiesFailed)
        return False
    r.mss = MSS_TABLE[index]
    r.ts_offset = ts_offset_of(t, &r.laddr, &r.raddr, r.lport, r.rport)
    r.retries = 1                                            # nothing to measure a round trip by
    if not take_options(t, s, r):
        count(t.core, SyncookiesFailed)
        return False
    count(t.core, SyncookiesRecv)
    return True
