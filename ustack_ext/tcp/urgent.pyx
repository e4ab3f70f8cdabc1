"""Urgent data: RFC 9293 §3.8.5 as BSD and Linux have it (RFC 6093 §2), one octet out of line or all of it in line.

The octets stay where they are in the receive queue; what is kept is the sequence number of the last of them, the mark.
Reads stop before it. Then its octet is passed over (recv(MSG_OOB) gives it), or with SO_OOBINLINE read as any other.
"""
from libc.errno cimport EAGAIN, EINVAL, ENOTCONN
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t

from ustack_ext.base.event cimport EV_OOB, EV_URGENT
from ustack_ext.tcp.conn cimport tcb_raise
from ustack_ext.tcp.reassembly cimport forget_if_empty, rcvq_drop, rcvq_read, reasm_of
from ustack_ext.tcp.sendqueue cimport sendq_unsent
from ustack_ext.tcp.seq cimport seq_geq, seq_gt, seq_leq, seq_lt
from ustack_ext.tcp.tcb cimport (
    TCP_ESTABLISHED, TCP_FIN_WAIT1, TCP_FIN_WAIT2, TF_CONNECTED, TF_DEAD, TF_FIN_RCVD, TF_ORPHAN, TF_RD_SHUT,
    URGENT_NONE, URGENT_PENDING, URGENT_TAKEN, Reasm, Tcb, Tcp,
)
from ustack_ext.wire.headers cimport TH_URG

cdef enum:
    POINTER_MAX = 0xFFFF


# ---- received ----

cdef inline uint32_t to_mark(const Tcb *c) noexcept nogil:
    """Bytes before the mark that were not read yet; a mark that was passed is far away."""
    cdef uint32_t end = c.rcv_nxt - (1 if c.flags & TF_FIN_RCVD else 0)
    return c.reasm.rcv_up - (end - c.rcvq_bytes)


cdef void urgent_arrives(Tcp *t, Tcb *c, uint32_t seq, uint16_t pointer) noexcept nogil:
    cdef uint32_t up = seq + pointer
    cdef Reasm *r
    if c.state != TCP_ESTABLISHED and c.state != TCP_FIN_WAIT1 and c.state != TCP_FIN_WAIT2:
        return
    if pointer != 0 and not t.knobs.stdurg:                  # MUST-62: it names the octet after the urgent data
        up -= 1
    if seq_lt(up, c.rcv_nxt) or c.flags & TF_ORPHAN:         # a pointer to what was received before is old
        return
    if has_mark(c) and not seq_gt(up, c.reasm.rcv_up):
        return
    if has_mark(c) and urgent_hidden(c):                     # else the next read would give it as plain data
        rcvq_drop(t, c, 1)
    r = reasm_of(t, c)
    if r == NULL:
        return
    r.rcv_up = up
    r.urgent = URGENT_PENDING
    tcb_raise(t, c, EV_URGENT)                               # MUST-32


cdef uint32_t urgent_reach(Tcp *t, Tcb *c, bint peek, uint32_t *skip) noexcept nogil:
    cdef uint32_t before = to_mark(c)
    skip[0] = 0
    if before > 0:
        return min(before, c.rcvq_bytes)
    skip[0] = urgent_hidden(c)
    if skip[0] == 0 or peek:
        return c.rcvq_bytes - skip[0]
    rcvq_drop(t, c, 1)
    urgent_passed(t, c)
    return c.rcvq_bytes


cdef void urgent_passed(Tcp *t, Tcb *c) noexcept nogil:
    if <int32_t>to_mark(c) < 0:
        c.reasm.urgent = URGENT_NONE
        forget_if_empty(t, c)


cdef long tcp_recv_urgent(Tcp *t, Tcb *c, const IoVec *iov, int niov, bint peek) noexcept nogil:
    if not has_mark(c) or c.conf.oobinline or c.reasm.urgent == URGENT_TAKEN:
        return -EINVAL
    if to_mark(c) < c.rcvq_bytes:
        if not peek:
            c.reasm.urgent = URGENT_TAKEN
        return rcvq_read(t, c, iov, niov, True, to_mark(c), 1)
    if c.flags & TF_DEAD and not c.flags & TF_CONNECTED:
        return -ENOTCONN
    return 0 if c.flags & (TF_DEAD | TF_FIN_RCVD | TF_RD_SHUT) else -EAGAIN


cdef bint tcp_at_mark(const Tcb *c) noexcept nogil:
    return has_mark(c) and to_mark(c) == 0


cdef uint32_t tcp_inq(const Tcb *c) noexcept nogil:
    if not has_mark(c) or c.conf.oobinline:
        return c.rcvq_bytes
    return min(to_mark(c), c.rcvq_bytes)


cdef uint16_t urgent_ready(const Tcb *c) noexcept nogil:
    if c.reasm.urgent == URGENT_TAKEN:
        return 0
    if to_mark(c) < c.rcvq_bytes:
        return EV_URGENT | EV_OOB
    return 0 if c.flags & TF_FIN_RCVD else EV_URGENT         # after the FIN it will never come


cdef uint32_t urgent_hidden(const Tcb *c) noexcept nogil:
    return to_mark(c) == 0 and c.rcvq_bytes > 0 and not c.conf.oobinline


# ---- sent ----

cdef void tcp_mark_urgent(Tcb *c) noexcept nogil:
    c.tx.snd_up = c.snd_nxt + sendq_unsent(c)
    c.tx.urgent = True


cdef uint8_t urgent_pointer(Tcb *c, uint32_t seq, uint16_t *pointer) noexcept nogil:
    if seq_leq(c.tx.snd_up, c.snd_una):
        c.tx.urgent = False
        return 0
    if seq_geq(seq, c.tx.snd_up):
        return 0
    if c.tx.snd_up - seq > POINTER_MAX and seq_leq(seq + POINTER_MAX, c.snd_nxt):
        return 0                                             # too far off to say, and later segments will
    pointer[0] = <uint16_t>min(c.tx.snd_up - seq, <uint32_t>POINTER_MAX)
    return TH_URG
