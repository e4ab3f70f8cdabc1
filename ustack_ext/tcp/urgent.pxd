# Urgent data (RFC 9293 §3.8.5, RFC 6093): the mark in what is received, the pointer in what is sent.
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from ustack_ext.base.iov cimport IoVec
from ustack_ext.tcp.tcb cimport Tcb, Tcp

# ---- received ----

# The urgent pointer of a segment that began at `seq`: RFC 9293 §3.10.7.4, sixth.
cdef void urgent_arrives(Tcp *t, Tcb *c, uint32_t seq, uint16_t pointer) noexcept nogil
# How many bytes of the receive queue one read may take: up to the mark. *skip: octets to pass over first, because they
# are urgent and not in line; where not `peek` they are gone already, and *skip says so. There is a mark.
cdef uint32_t urgent_reach(Tcp *t, Tcb *c, bint peek, uint32_t *skip) noexcept nogil
# The application has read on: a mark that lies behind is forgotten.
cdef void urgent_passed(Tcp *t, Tcb *c) noexcept nogil
# recv(MSG_OOB): 1 and the octet, 0 at the end of the stream, -EINVAL: none, or it is in line; -EAGAIN: on its way.
cdef long tcp_recv_urgent(Tcp *t, Tcb *c, const IoVec *iov, int niov, bint peek) noexcept nogil
# sockatmark(): the next byte to be read is the urgent one.
cdef bint tcp_at_mark(const Tcb *c) noexcept nogil
# SIOCINQ: bytes that can be read before the mark.
cdef uint32_t tcp_inq(const Tcb *c) noexcept nogil
# EV_URGENT, EV_OOB. There is a mark.
cdef uint16_t urgent_ready(const Tcb *c) noexcept nogil
# Octets at the head of the queue that a read does not give: 1 at the mark of urgent data that is not in line.
cdef uint32_t urgent_hidden(const Tcb *c) noexcept nogil


cdef inline bint has_mark(const Tcb *c) noexcept nogil:
    """Whether urgent data is announced or here, and reading hasn't passed it."""
    return c.reasm != NULL and c.reasm.urgent != 0

# ---- sent ----

# What is in the send queue now is urgent. c has a sending side.
cdef void tcp_mark_urgent(Tcb *c) noexcept nogil
# TH_URG and *pointer where a segment that begins at seq has to say so, else 0. c.tx.urgent is set.
cdef uint8_t urgent_pointer(Tcb *c, uint32_t seq, uint16_t *pointer) noexcept nogil
