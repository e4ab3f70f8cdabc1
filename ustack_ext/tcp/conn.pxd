# The table of connections: finding, making and ending them; local ports.
from libc.stdint cimport UINT64_MAX, uint16_t, uint32_t, uint64_t
from ustack_ext.wire.addr cimport Addr
from ustack_ext.base.entry cimport Entry
from ustack_ext.base.event cimport event_raise
from ustack_ext.base.wheel cimport wheel_arm
from ustack_ext.tcp.tcb cimport TF_DIRTY, Bind, Conn, Listener, Tcb, Tcp, tcb_deadline

cdef uint32_t conn_hash(Tcp *t, const Addr *laddr, uint16_t lport, const Addr *raddr, uint16_t rport) noexcept nogil
cdef Conn *conn_find(Tcp *t, const Addr *laddr, uint16_t lport, const Addr *raddr, uint16_t rport) noexcept nogil
# the same, with conn_hash of the four-tuple
cdef Conn *conn_find_hashed(Tcp *t, uint32_t hash, const Addr *laddr, uint16_t lport, const Addr *raddr,
                            uint16_t rport) noexcept nogil
# a specific address before the wildcard
cdef Listener *listener_find(Tcp *t, const Addr *laddr, uint16_t lport, const Addr *raddr,
                             uint16_t rport) noexcept nogil
# RFC 6528
cdef uint32_t isn(Tcp *t, const Addr *laddr, uint16_t lport, const Addr *raddr, uint16_t rport) noexcept nogil
cdef uint32_t ts_offset_of(Tcp *t, const Addr *laddr, const Addr *raddr, uint16_t lport, uint16_t rport) noexcept nogil

cdef Tcb *tcb_new(Tcp *t) noexcept nogil                               # zeroed, defaults set, timers off; NULL: limit
cdef void tally_take(Tcp *t, Tcb *c) noexcept nogil                    # before it counts its first data
cdef void tcb_insert(Tcp *t, Tcb *c, uint32_t hash) noexcept nogil     # into the table; hash: conn_hash of its tuple
cdef void tcb_queue(Tcp *t, Tcb *c) noexcept nogil
cdef void fastopen_done(Tcp *t, Tcb *c) noexcept nogil                  # the handshake of a TF_FASTOPEN is over
cdef void forward_done(Tcp *t, Tcb *c) noexcept nogil                   # ... of a forwarder's, or nothing
# CLOSED: out of the table, timers off, nothing more is sent. error (positive errno, 0: none) is what the application
# learns. Freed when nobody holds it.
cdef void tcb_done(Tcp *t, Tcb *c, int error) noexcept nogil
cdef void tcb_release(Tcp *t, Tcb *c) noexcept nogil                   # the application lets go of a CLOSED one

cdef void acceptq_push(Listener *l, Tcb *c) noexcept nogil             # at its end; the listener's until it is popped
cdef Tcb *acceptq_pop(Listener *l) noexcept nogil                      # NULL: empty
cdef Tcb *aq_next(const Tcb *c) noexcept nogil

cdef int bind_port(Tcp *t, const Addr *a, uint16_t port, int reuse, Bind **out) noexcept nogil      # REUSE_*
cdef void bind_free(Tcp *t, Bind *b) noexcept nogil
cdef bint bind_blocks_listen(Tcp *t, Bind *b) noexcept nogil           # another listener has the address and port
# 0: all are taken
# nobody has it, or only a TIME-WAIT that may be used again (tcp_tw_reuse)
cdef bint tuple_unused(Tcp *t, const Addr *laddr, uint16_t lport, const Addr *raddr, uint16_t rport) noexcept nogil
cdef uint16_t ephemeral_port(Tcp *t, const Addr *laddr, const Addr *raddr, uint16_t rport) noexcept nogil


cdef inline void tcb_dirty(Tcp *t, Tcb *c) noexcept nogil:
    """It has something to send, or its timer changed."""
    if not c.flags & TF_DIRTY:
        tcb_queue(t, c)


cdef inline void tcb_set_timer(Tcp *t, Tcb *c) noexcept nogil:
    """Arms the wheel for its earliest deadline, or leaves it armed for an earlier moment: it looks again when it fires,
    as deadlines mostly move away.
    """
    cdef uint64_t at = tcb_deadline(c, t.core.now)
    if not (c.entry.armed and c.entry.deadline <= at) and at != UINT64_MAX:
        wheel_arm(&t.core.wheel, &c.entry, at)


cdef inline void tcb_raise(Tcp *t, Tcb *c, int bits) noexcept nogil:
    event_raise(&t.core.events, &c.source, <uint16_t>bits)
