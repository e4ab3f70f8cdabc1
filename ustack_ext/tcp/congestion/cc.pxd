# The registry of congestion control algorithms, and what TCP says to a connection's own.
from libc.stdint cimport uint32_t, uint64_t
from ustack_ext.tcp.congestion.ops cimport Acked, CcEvent, CcOps
from ustack_ext.tcp.tcb cimport Tcb, Tcp

cdef const CcOps *cc_ops(const Tcb *c) noexcept nogil
cdef const char *cc_name(int which) noexcept nogil                         # a CcId's; NULL: there is none
# The connection's algorithm has become another one: what the last one knew is dropped, cwnd and ssthresh stay.
cdef void cc_switch(Tcp *t, Tcb *c) noexcept nogil
cdef void cc_on_ack(Tcp *t, Tcb *c, const Acked *a) noexcept nogil
cdef void cc_event(Tcp *t, Tcb *c, CcEvent what) noexcept nogil
# Congestion was found with so many bytes in flight: what cwnd and ssthresh were is kept in c.tx for cc_undo, ssthresh
# is lowered. cwnd is the caller's.
cdef void cc_reduce(Tcp *t, Tcb *c, uint32_t flight) noexcept nogil
# The last cc_reduce was for nothing.
cdef void cc_undo(Tcp *t, Tcb *c) noexcept nogil
# Data goes out and nothing was in flight: after more than an RTO of that the window is cut.
cdef void cc_start(Tcp *t, Tcb *c) noexcept nogil
# SO_MAX_PACING_RATE changed.
cdef void cc_pace(Tcp *t, Tcb *c) noexcept nogil
# Bytes/s that the connection is paced at, or would be (as Linux's sk_pacing_rate); 0: nothing is known.
cdef uint64_t cc_pacing_rate(const Tcb *c) noexcept nogil
# What c.tx.cc says of the path is too old (cc_stale_at): cwnd is cut, and c.tx.cc may go.
cdef void cc_forget(Tcp *t, Tcb *c) noexcept nogil
# When what c.tx.cc says of the path is not to be used any more, ns, nothing being in flight.
cdef uint64_t cc_stale_at(Tcp *t, const Tcb *c) noexcept nogil
