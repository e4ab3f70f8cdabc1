# The receive queue (in order) and the out-of-order ranges; what SACK blocks say of them.
from libc.stdint cimport uint32_t, uint8_t
from ustack_ext.base.buf cimport Buf
from ustack_ext.base.iov cimport IoVec
from ustack_ext.tcp.options cimport Options
from ustack_ext.tcp.tcb cimport Reasm, Tcb, Tcp

cdef struct Lent:                  # a piece of the receive queue, with a reference to its buffer
    Buf *buf
    uint8_t *data
    uint32_t len

# In-order payload: linked by reference to `buf`, or copied into the tail when small. False: out of memory, nothing
# kept.
cdef bint rcvq_append(Tcp *t, Tcb *c, Buf *buf, uint8_t *data, uint32_t n) noexcept nogil
# The same for a run of received buffers, each with its payload, as far as they can be linked as they are: their
# references go over. What is left stays in *run. Bytes taken.
cdef uint32_t rcvq_append_run(Tcp *t, Tcb *c, Buf **run) noexcept nogil
# Copies `most` bytes at most out, from `skip` bytes on (which only a `peek` may have); they stay where it is a `peek`.
cdef uint32_t rcvq_read(Tcp *t, Tcb *c, const IoVec *iov, int niov, bint peek, uint32_t skip,
                        uint32_t most) noexcept nogil
cdef void rcvq_drop(Tcp *t, Tcb *c, uint32_t n) noexcept nogil
# Takes up to `most` bytes out by reference, in up to `room` pieces; they count as unread until rcvq_unlend(). 0: no
# memory.
cdef uint32_t rcvq_lend(Tcp *t, Tcb *c, uint32_t most, Lent *out, int room, int *taken) noexcept nogil
cdef void rcvq_unlend(Tcp *t, Tcb *c, uint32_t n) noexcept nogil
cdef void rcvq_clear(Tcp *t, Tcb *c) noexcept nogil
# Out-of-order payload [seq, seq+n). False: dropped (limits). First copy of a byte wins.
cdef bint ofo_insert(Tcp *t, Tcb *c, Buf *buf, uint8_t *data, uint32_t seq, uint32_t n, uint32_t limit) noexcept nogil
# Moves what RCV.NXT has reached to the receive queue and advances RCV.NXT.
cdef void ofo_collect(Tcp *t, Tcb *c) noexcept nogil
# What c.reasm is; it is made where there is none. NULL: no memory.
cdef Reasm *reasm_of(Tcp *t, Tcb *c) noexcept nogil
cdef void forget_if_empty(Tcp *t, Tcb *c) noexcept nogil                    # gives c.reasm back if it says nothing
cdef void ofo_clear(Tcp *t, Tcb *c) noexcept nogil
# Fills o.sack with up to `room` blocks: the D-SACK first if one is pending, then the ranges touched last (RFC 2018 §4,
# RFC 2883 §4). c.reasm is there.
cdef void ofo_report(Tcp *t, Tcb *c, Options *o, uint32_t room) noexcept nogil
# [seq, end) came twice: the next ACK says so. False: it will not (no SACK, no memory).
cdef bint dsack_note(Tcp *t, Tcb *c, uint32_t seq, uint32_t end) noexcept nogil
