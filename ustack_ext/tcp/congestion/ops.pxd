# What a congestion control algorithm is: a table of functions over the connection's cwnd and ssthresh (bytes).
from libc.stdint cimport uint32_t
from ustack_ext.tcp.tcb cimport Tcb

cdef struct CcOps:
    const char *name
    # `acked` bytes were newly delivered while nothing is being recovered and the window was the limit.
    void (*on_ack)(Tcb *c, uint32_t acked) noexcept nogil
    # The slow-start threshold after a loss (fast recovery or time-out), given the bytes in flight.
    uint32_t (*ssthresh)(Tcb *c, uint32_t flight) noexcept nogil
