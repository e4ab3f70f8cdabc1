"""Explicit congestion notification (RFC 3168): who has it, which packets are capable of it, what a mark brings.

Responsible for the handshake (§6.1.1, with the fallback of §6.1.1.1), for ECT on new data and nothing else (§6.1.2,
6.1.4, 6.1.5), for the echo of a mark until the sender says that it has slowed down (§6.1.3). Not for the slowing down:
tcp/recovery does that once a window. The codepoint of a packet is what RxPkt.tos says, of whichever IP it came by.

A peer that asks for AccECN (RFC 9768) sets a third bit in its SYN; one that doesn't know it answers as to RFC 3168's,
and so does this.
"""
from libc.stdint cimport uint8_t

from ustack_ext.tcp.quick cimport quick_acks
from ustack_ext.tcp.tcb cimport TF_ACK_NOW, TF_ECN_CWR, TF_ECN_ECHO, TF_ECN_OK
from ustack_ext.wire.headers cimport TH_ACK, TH_CWR, TH_ECE

cdef enum:
    ASK = 1                    # tcp_ecn: ask for it and answer; 2: answer; 0: neither
    QUICK_ACKS = 2             # after a mark: the sender's window may be very small


cdef bint ecn_asked(const Tcp *t, uint8_t flags, uint8_t tos) noexcept nogil:
    """§6.1.1: both bits, on a packet that is not capable itself."""
    return t.knobs.ecn != 0 and flags & (TH_ECE | TH_CWR) == TH_ECE | TH_CWR and tos & <uint8_t>ECN_MASK == 0


cdef uint8_t ecn_syn_flags(const Tcp *t, Tcb *c, bint again) noexcept nogil:
    """§6.1.1.1: what a SYN with the bits didn't reach is asked without."""
    if again:
        if t.knobs.ecn_fallback:
            c.flags &= ~<unsigned int>TF_ECN_OK
    elif t.knobs.ecn == ASK:
        c.flags |= TF_ECN_OK
    return TH_ECE | TH_CWR if c.flags & TF_ECN_OK else 0


cdef void ecn_answered(Tcb *c, uint8_t flags) noexcept nogil:
    """ECE alone is yes; both bits come from a host that returns what it was sent (§6.1.1). A SYN that crossed ours is
    no answer.
    """
    if flags & (TH_ACK | TH_ECE | TH_CWR) != TH_ACK | TH_ECE:
        c.flags &= ~<unsigned int>TF_ECN_OK


cdef void ecn_data(Tcb *c, uint8_t flags, uint8_t tos) noexcept nogil:
    if flags & TH_CWR:
        c.flags &= ~<unsigned int>TF_ECN_ECHO
        c.flags |= TF_ACK_NOW                                # it may have one segment in flight, and wait
    if tos & <uint8_t>ECN_MASK == ECN_CE:
        if not c.flags & TF_ECN_ECHO:
            quick_acks(c, QUICK_ACKS)
        c.flags |= TF_ECN_ECHO


cdef uint8_t ecn_mark(Tcb *c, uint8_t *flags) noexcept nogil:
    if c.flags & TF_ECN_CWR:
        c.flags &= ~<unsigned int>TF_ECN_CWR
        flags[0] |= TH_CWR
    return ECN_ECT0
