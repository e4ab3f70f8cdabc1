# The scoreboard: records of sent segments, each in flight, SACKed, lost, or lost and sent again (RFC 2018, 6675 §3).
from libc.stdint cimport uint32_t, uint64_t
from ustack_ext.tcp.options cimport Options
from ustack_ext.tcp.tcb cimport Seg, Tcb, Tcp

cdef struct Delivery:              # what one ACK told us
    uint32_t bytes                 # newly acknowledged or SACKed
    # transmission time of the newest never-retransmitted segment cumulatively acknowledged; 0: none
    uint64_t rtt_xmit
    bint dsack                     # it reports a duplicate (RFC 2883)
    # never-retransmitted data below RecoveryPoint was newly acknowledged or SACKed: it arrived as it was sent at first
    bint original
    bint resent                    # retransmitted data was cumulatively acknowledged
    bint echoes                    # it has a time stamp: of what was sent at `echo` (ms of our clock)
    uint32_t echo


cdef inline uint32_t seg_size(const Seg *s) noexcept nogil:
    return s.end - s.seq


# The first record from s on that is lost and not sent again; NULL: none.
cdef Seg *board_next_lost(Tcb *c, Seg *s) noexcept nogil
# it left again: in flight, if it was lost, and its ACKs are ambiguous from here on
cdef void board_resent(Tcb *c, Seg *s) noexcept nogil
cdef void board_lose(Tcb *c, Seg *s) noexcept nogil            # no-op for what is SACKed or marked already
# all that is marked and not sent again: in flight after all
cdef void board_unlose(Tcb *c) noexcept nogil
# the cumulative part up to `ack`: records go, SND.UNA advances, the send queue is drained
cdef void board_ack(Tcp *t, Tcb *c, uint32_t ack, Delivery *d) noexcept nogil
cdef void board_sack(Tcp *t, Tcb *c, uint32_t ack, const Options *o, Delivery *d) noexcept nogil
# whether the first block reports a duplicate, which is counted as evidence against a loss (tcp/undo)
cdef bint board_dsack(Tcp *t, Tcb *c, uint32_t ack, const Options *o) noexcept nogil
# RFC 8985 §6.2 step 3: an original arrived late, below the highest SACKed
cdef void board_reordered(Tcp *t, Tcb *c) noexcept nogil
cdef void board_forget_sacks(Tcb *c) noexcept nogil            # the receiver dropped what it had SACKed
