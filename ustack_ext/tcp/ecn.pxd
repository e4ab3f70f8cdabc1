# Explicit congestion notification (RFC 3168), both sides.
from libc.stdint cimport uint8_t
from ustack_ext.tcp.tcb cimport TF_ECN_OK, Tcb, Tcp
from ustack_ext.wire.headers cimport TH_ECE

cdef enum:
    ECN_MASK = 3               # of TOS or traffic class
    ECN_ECT0 = 2
    ECN_CE = 3

# Of a received segment, `flags` are those of its TCP header, `tos` is its IP header's.
# Whether a SYN asks for ECN, and we are to answer that we have it.
cdef bint ecn_asked(const Tcp *t, uint8_t flags, uint8_t tos) noexcept nogil
# The flags of a SYN of ours, sent for the first time or again.
cdef uint8_t ecn_syn_flags(const Tcp *t, Tcb *c, bint again) noexcept nogil
# The answer to it.
cdef void ecn_answered(Tcb *c, uint8_t flags) noexcept nogil
# A segment with data was received on a connection with TF_ECN_OK: a mark in its IP header, a CWR in TCP's.
cdef void ecn_data(Tcb *c, uint8_t flags, uint8_t tos) noexcept nogil
# New data leaves on such a connection: the codepoint it goes with; CWR is added to *flags where it is due.
cdef uint8_t ecn_mark(Tcb *c, uint8_t *flags) noexcept nogil


cdef inline uint8_t ecn_answer(const Tcb *c) noexcept nogil:
    """What a SYN-ACK of ours adds to its flags."""
    return TH_ECE if c.flags & TF_ECN_OK else 0
