# What a congestion control algorithm is: a table of functions over a connection's cwnd and ssthresh (bytes), after
# Linux's tcp_congestion_ops. Which of them are called, and when, is tcp/recovery's and tcp/output's business.
from libc.stdint cimport uint32_t
from ustack_ext.tcp.tcb cimport Tcb, Tcp

cdef enum:
    CWND_MAX = 1 << 30

cdef enum CcId:                    # TcpConf.cc and TcpKnobs.congestion
    CC_RENO
    CC_CUBIC
    CC_BBR
    CC_COUNT

cdef enum CcEvent:
    CC_TX_START                    # data goes out, and nothing was in flight
    CC_CWND_RESTART                # ... for so long that cwnd was cut (RFC 5681 §4.1)
    CC_LOSS                        # a retransmission time-out: cwnd is one segment
    CC_REDUCED                     # recovery or CWR begins: ssthresh has just been lowered
    CC_RECOVERED                   # ... and is over: cwnd is where it goes on from
    CC_UNDONE                      # ... was for nothing: cwnd and ssthresh are what they were

cdef struct Acked:                 # what one ACK said
    uint32_t bytes                 # newly acknowledged or SACKed
    uint32_t rtt                   # us, of the newest segment it covers that was sent once; 0: none
    uint32_t lost                  # bytes newly found lost
    uint32_t prior_flight          # bytes in flight before it came

cdef struct CcOps:
    const char *name
    # Fills in c.tx.cc's state. NULL: the algorithm has none; else on_ack is called with one.
    void (*init)(Tcp *t, Tcb *c) noexcept nogil
    # Bytes were newly delivered while nothing is being recovered and the window was the limit (RFC 7661): cwnd grows.
    void (*on_ack)(Tcp *t, Tcb *c, const Acked *a) noexcept nogil
    # The slow-start threshold after congestion was found, given the bytes in flight then.
    uint32_t (*ssthresh)(Tcp *t, Tcb *c, uint32_t flight) noexcept nogil
    # NULL, or: sets cwnd and the pacing rate on every ACK, in every state, from delivery-rate samples (tx.rate.sample).
    # Then neither on_ack nor proportional rate reduction is asked. Such an algorithm has its state from the first
    # transmission on.
    void (*model)(Tcp *t, Tcb *c, const Acked *a) noexcept nogil
    # May be NULL.
    void (*event)(Tcp *t, Tcb *c, CcEvent what) noexcept nogil
