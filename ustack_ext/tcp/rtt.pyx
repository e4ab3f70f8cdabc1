"""Round-trip time and the retransmission time-out: RFC 6298 with Linux's constants (the 200 ms floor is on the variance
term, 120 s ceiling).
"""
from libc.stdint cimport int32_t, uint32_t

from ustack_ext.tcp.tcb cimport TF_RTT_SEEN, Tcb, Tcp

cdef void rtt_init(Tcp *t, Tcb *c) noexcept nogil:
    c.min_rtt = <uint32_t>0xFFFFFFFF


cdef void rtt_sample(Tcp *t, Tcb *c, uint32_t us) noexcept nogil:
    cdef int32_t err
    us = max(us, <uint32_t>1)
    c.min_rtt = min(c.min_rtt, us)
    if not c.flags & TF_RTT_SEEN:                       # (2.2)
        c.flags |= TF_RTT_SEEN
        c.srtt = us
        c.rttvar = us // 2
    else:                                               # (2.3): RTTVAR before SRTT
        err = <int32_t>(us - c.srtt)
        c.rttvar = <uint32_t>(<int32_t>c.rttvar + ((err if err >= 0 else -err) - <int32_t>c.rttvar) // 4)
        c.srtt = <uint32_t>(<int32_t>c.srtt + err // 8)
        c.srtt = max(c.srtt, <uint32_t>1)
