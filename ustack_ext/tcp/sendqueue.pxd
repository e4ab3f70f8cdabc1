# The send queue: blocks of bytes from SND.UNA to the last byte written, and the records of what was sent (Seg) over
# them.
from libc.stdint cimport uint32_t, uint8_t
from ustack_ext.base.buf cimport Buf
from ustack_ext.base.iov cimport IoVec
from ustack_ext.net.state cimport TxPkt
from ustack_ext.tcp.tcb cimport Seg, Tcb, Tcp

# Copies up to `limit` bytes of iov to the queue's end. Returns bytes taken (short: out of buffers).
cdef uint32_t sendq_append(Tcp *t, Tcb *c, const IoVec *iov, int niov, uint32_t limit) noexcept nogil
cdef void sendq_link(Tcb *c, Buf *b) noexcept nogil                         # a block, with bytes or without, at the end
cdef void sendq_drop(Tcp *t, Tcb *c, uint32_t n) noexcept nogil             # n acknowledged bytes leave the head
cdef void sendq_clear(Tcp *t, Tcb *c) noexcept nogil                        # bytes and records; gives c.tx back
# Makes sure that c has a sending side of its own (c.tx). False: no memory.
cdef bint tx_take(Tcp *t, Tcb *c) noexcept nogil
cdef void chrono_set(Tcp *t, Tcb *c, uint8_t what) noexcept nogil            # Chrono; the time till now is counted
cdef void tx_give(Tcp *t, Tcb *c) noexcept nogil                            # nothing is queued, nothing in flight
cdef uint32_t sendq_unsent(const Tcb *c) noexcept nogil
# Adds n bytes starting at (block, off) to the packet; false when they are in too many pieces.
cdef bint sendq_gather(Buf *block, uint32_t off, uint32_t n, TxPkt *pkt) noexcept nogil
cdef void sendq_advance(Buf **block, uint32_t *off, uint32_t n) noexcept nogil

cdef Seg *seg_append(Tcp *t, Tcb *c, uint32_t seq, uint32_t end, int flags) noexcept nogil     # NULL: out of records
# s keeps [seq, at); returns the new [at, end), or NULL
cdef Seg *seg_split(Tcp *t, Tcb *c, Seg *s, uint32_t at) noexcept nogil
cdef void seg_sent_now(Tcp *t, Tcb *c, Seg *s) noexcept nogil               # to the end of the time order
cdef void seg_untime(Tcb *c, Seg *s) noexcept nogil                         # out of the time order (SACKed, lost)
# Records into it again, where their last transmission belongs; they are linked by tnext, in order of sequence.
cdef void seg_timed_again(Tcb *c, Seg *chain) noexcept nogil
cdef void seg_free_head(Tcp *t, Tcb *c) noexcept nogil
