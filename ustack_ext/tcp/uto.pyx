"""The TCP user timeout option (RFC 5482): how long either side keeps a connection whose data nobody acknowledges.

Off until TCP_UTO says what to advertise (§3.1: ADV_UTO and ENABLED). It goes with the SYN and with the first segment
after it, for a SYN may have been answered by a cookie, and again when it changes. What the peer says is advice: it
sets the time-out where the application has not (CHANGEABLE), within limits.
"""
from libc.stdint cimport uint16_t, uint32_t

from ustack_ext.tcp.conf cimport conf_set
from ustack_ext.tcp.tcb cimport Tcb, Tcp, TcpConf

cdef enum:
    MINUTES = 0x8000               # the granularity bit
    LEAST_S = 100                  # L_LIMIT (§3.1, RFC 1122 §4.2.3.5): nobody can make us give up sooner
    MOST_S = 3600                  # U_LIMIT: nor keep what we have sent for longer
    S_MS = 1000


cdef uint16_t uto_wire(uint32_t seconds) noexcept nogil:
    if seconds < MINUTES:
        return <uint16_t>seconds
    return <uint16_t>(MINUTES | min((seconds + 59) // 60, <uint32_t>(MINUTES - 1)))


cdef void uto_arrives(Tcp *t, Tcb *c, uint16_t wire) noexcept nogil:
    cdef TcpConf conf
    cdef uint32_t seconds = (wire & (MINUTES - 1)) * 60 if wire & MINUTES else wire
    if c.conf.uto == 0 or seconds == 0 or seconds == c.conf.uto_peer:        # §3.2: 0 is reserved
        return
    conf = c.conf[0]
    conf.uto_peer = seconds
    conf_set(t, &c.conf, &conf)                              # without memory: as if it had not come


cdef void uto_told(Tcp *t, Tcb *c) noexcept nogil:
    cdef TcpConf conf = c.conf[0]
    conf.uto_due = 0
    conf_set(t, &c.conf, &conf)                              # without memory: it is told again


cdef uint32_t uto_in_force(const TcpConf *conf) noexcept nogil:
    """§3.1: USER_TIMEOUT = min(U_LIMIT, max(ADV_UTO, REMOTE_UTO, L_LIMIT))."""
    if conf.user_timeout or not conf.uto_peer or not conf.uto:
        return conf.user_timeout
    return min(<uint32_t>MOST_S, max(conf.uto, conf.uto_peer, <uint32_t>LEAST_S)) * S_MS
