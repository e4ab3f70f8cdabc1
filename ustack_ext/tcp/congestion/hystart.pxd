# HyStart++ (RFC 9406): leaving slow start before the path's queue overflows.
from libc.stdint cimport uint32_t, uint64_t, uint8_t
from ustack_ext.tcp.congestion.ops cimport Acked
from ustack_ext.tcp.tcb cimport Tcb

cdef enum HyPhase:
    HY_OFF                         # RFC 9406 §4.3: only the first slow start, where ssthresh is not known yet
    HY_SLOW_START
    HY_CSS                         # conservative slow start: the delay has grown, perhaps by chance

cdef struct HyStart:
    uint32_t window_end            # the round ends when it is acknowledged
    uint32_t last_min              # smallest round trip of the last round, us
    uint32_t now_min               # ... of this one
    uint32_t baseline              # ... when CSS began
    uint32_t round_us              # when the round began
    uint32_t train_us              # the last ACK of the train that began with it
    uint8_t samples                # in this round, no more than are needed
    uint8_t css_rounds             # that are left
    uint8_t phase                  # HyPhase

cdef void hystart_init(HyStart *h, const Tcb *c) noexcept nogil
# Takes an ACK in slow start: the bytes that cwnd grows by for it. ssthresh becomes cwnd when slow start is over.
cdef uint32_t hystart_ack(HyStart *h, Tcb *c, const Acked *a, uint64_t now) noexcept nogil
