"""Payload that isn't copied: received data lent to the application, and data sent from the application's own memory.

Not here: the queues themselves (tcp/reassembly, tcp/sendqueue), nor whose the memory is (base/buf, sockets/lend).
"""
from libc.errno cimport EAGAIN, ENOBUFS
from libc.stdint cimport uint8_t, uint32_t

from ustack_ext.base.buf cimport Buf, Owner, buf_foreign
from ustack_ext.base.iov cimport IoVec
from ustack_ext.tcp.conn cimport tally_take
from ustack_ext.tcp.reassembly cimport Lent, rcvq_lend, rcvq_unlend
from ustack_ext.tcp.sendqueue cimport sendq_link, tx_take
from ustack_ext.tcp.tcb cimport TF_DEAD, TF_WANT_ROOM, Tcb, Tcp
from ustack_ext.tcp.user cimport consumed, may_send, nothing_queued, queued, send_is_full, taken, wait_for_memory
from ustack_ext.tcp.urgent cimport has_mark, urgent_reach

cdef enum:
    MOST = 1 << 30                 # bytes a call: sequence numbers in the queue stay comparable


cdef long tcp_lend(Tcp *t, Tcb *c, size_t most, Lent *out, int room, int *count) noexcept nogil:
    cdef uint32_t n = c.rcvq_bytes, skip
    count[0] = 0
    if has_mark(c):
        n = urgent_reach(t, c, False, &skip)
        most = min(most, <size_t>n)
    if n == 0:
        return nothing_queued(c)
    n = rcvq_lend(t, c, <uint32_t>min(most, <size_t>MOST), out, room, count)
    if n == 0:
        return -ENOBUFS
    taken(t, c, n)
    return n


cdef void tcp_give_back(Tcp *t, Tcb *c, uint32_t n) noexcept nogil:
    rcvq_unlend(t, c, n)
    if not c.flags & TF_DEAD:
        consumed(t, c, 0)


cdef long tcp_send_room(Tcp *t, Tcb *c) noexcept nogil:
    cdef int err = may_send(c)
    if err != 0:
        return err
    if c.tx.sndq_bytes >= c.sndbuf:
        c.flags |= TF_WANT_ROOM
        return 0
    if not tx_take(t, c):
        return -ENOBUFS
    return c.sndbuf - c.tx.sndq_bytes


cdef void tcp_send_block(Tcp *t, Tcb *c, Buf *b) noexcept nogil:
    if c.tally == &t.no_tally:
        tally_take(t, c)
    sendq_link(c, b)
    queued(t, c, False)


cdef void tcp_send_later(Tcp *t, Tcb *c) noexcept nogil:
    c.flags |= TF_WANT_ROOM
    wait_for_memory(t, c)


cdef long tcp_send_owned(Tcp *t, Tcb *c, const IoVec *iov, Owner *o, bint bounded, bint more) noexcept nogil:
    cdef int err = may_send(c)
    cdef size_t n = min(iov.len, <size_t>MOST)
    cdef Buf *b
    if err != 0 or n == 0:
        return err
    if send_is_full(c):
        c.flags |= TF_WANT_ROOM
        return -EAGAIN
    if not tx_take(t, c):
        return -ENOBUFS
    if c.tally == &t.no_tally:
        tally_take(t, c)
    if bounded and n > c.sndbuf - c.tx.sndq_bytes:
        n = c.sndbuf - c.tx.sndq_bytes
        c.flags |= TF_WANT_ROOM
    b = buf_foreign(&t.core.pool, o, <uint8_t *>iov.base, <uint32_t>n)
    if b == NULL:
        c.flags |= TF_WANT_ROOM
        wait_for_memory(t, c)
        return -EAGAIN
    sendq_link(c, b)
    queued(t, c, more)
    return b.len
