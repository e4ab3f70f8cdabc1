# Loss detection and recovery: the scoreboard (RFC 2018, 6675's conservation), RACK-TLP (8985), PRR (6937), NewReno
# without SACK (6582), RTO (6298 §5, 5681 §3.1).
from libc.stdint cimport uint32_t, uint64_t
from ustack_ext.tcp.options cimport Options
from ustack_ext.tcp.tcb cimport TF_SACK_OK, Seg, Tcb, Tcp

# An acceptable ACK: cumulative part up to `ack`, SACK blocks in o. `duplicate`: by RFC 5681 §2's definition. Updates
# RTT, scoreboard, cwnd, timers.
cdef void recovery_ack(Tcp *t, Tcb *c, uint32_t ack, const Options *o, bint duplicate) noexcept nogil
# SACK blocks while nothing is outstanding: a duplicate that they report can still undo the last recovery
cdef void recovery_late(Tcp *t, Tcb *c, uint32_t ack, const Options *o) noexcept nogil
cdef void recovery_sent(Tcp *t, Tcb *c, Seg *s) noexcept nogil             # new data left
cdef void recovery_resent(Tcp *t, Tcb *c, Seg *s) noexcept nogil           # a lost (or probed) segment left again
cdef Seg *recovery_next_lost(Tcb *c) noexcept nogil                        # what to retransmit first; NULL: nothing
# the retransmission timer fired: mark, collapse the window
# data of our SYN that the SYN-ACK did not acknowledge goes again; no sign of congestion (RFC 7413 §4.2.2)
cdef void recovery_refused(Tcp *t, Tcb *c) noexcept nogil
cdef void recovery_rto(Tcp *t, Tcb *c) noexcept nogil
cdef void recovery_reo_timer(Tcp *t, Tcb *c) noexcept nogil
# the path carries less than was sent
cdef void recovery_resize(Tcp *t, Tcb *c) noexcept nogil
# restarts RTO or TLP from now, or stops it with nothing outstanding
cdef void recovery_arm(Tcp *t, Tcb *c) noexcept nogil


cdef inline uint32_t recovery_pipe(const Tcb *c) noexcept nogil:
    """Bytes believed in the network: flight, less what duplicate ACKs of a peer without SACK stand for (c.tx.sacked is
    an estimate then)."""
    if c.flags & TF_SACK_OK:
        return c.tx.flight
    return c.tx.flight - min(c.tx.flight, c.tx.sacked)
