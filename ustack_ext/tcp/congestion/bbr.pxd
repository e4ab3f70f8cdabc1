# BBR version 1 as a CcOps table (draft-cardwell-iccrg-bbr-congestion-control-00, as Linux has it).
from libc.stdint cimport uint32_t, uint64_t, uint16_t, uint8_t
from ustack_ext.tcp.congestion.ops cimport CcOps
from ustack_ext.tcp.tcb cimport Tcb

cdef enum BbrMode:
    BBR_STARTUP                    # the rate grows by the round until the path is full
    BBR_DRAIN                      # ... and the queue that made is drained
    BBR_PROBE_BW                   # a little more, a little less, the same: in turn
    BBR_PROBE_RTT                  # nearly nothing in flight, to see the path without a queue

cdef struct Best:                  # the largest value in a window of rounds: its three candidates, best first
    uint64_t value[3]
    uint32_t round[3]

cdef struct Bbr:
    Best bw                        # bytes/s, over ten rounds
    uint64_t min_rtt_at            # ns, when min_rtt was seen
    uint64_t probe_rtt_done_at     # ns; 0: not yet known
    uint64_t round_end             # the round ends when so many bytes are delivered
    uint64_t cycle_at              # ns, when this phase of PROBE_BW began
    uint64_t full_bw               # bytes/s
    uint64_t epoch_at              # ns: ACKs are counted from here to see how they clump
    uint32_t epoch_acked
    uint32_t extra[2]              # bytes acknowledged beyond what the bandwidth explains, over two times five rounds
    uint32_t min_rtt               # us
    uint32_t rounds
    uint32_t prior_cwnd
    uint16_t pacing_gain           # of 256
    uint16_t cwnd_gain
    uint8_t mode
    uint8_t ca_state               # at the last ACK
    uint8_t round_start
    uint8_t conserving             # the first round of recovery: a segment for a segment
    uint8_t idle_restart
    uint8_t probe_round_done
    uint8_t phase                  # of PROBE_BW
    uint8_t full_rounds            # rounds without growth
    uint8_t full                   # the path's bandwidth has been found
    uint8_t seen_rtt
    uint8_t extra_rounds
    uint8_t extra_at

cdef const CcOps *bbr_ops() noexcept nogil
cdef const Bbr *bbr_state(const Tcb *c) noexcept nogil                     # NULL: the connection has none
