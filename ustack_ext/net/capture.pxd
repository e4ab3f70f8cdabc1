# Frames of a stack written down, for whoever takes them away: see capture.pyx. All under the engine's lock.
from libc.stdint cimport uint8_t, uint64_t
from ustack_ext.base.buf cimport Buf
from ustack_ext.net.state cimport Capture, Iface, Net

cdef enum:
    CAPTURE_LEAST = 4096               # bytes of Capture.size

# Takes over `data`, of c.size bytes, and what else the caller filled in.
cdef void capture_start(Net *n, Capture *c) noexcept nogil
cdef void capture_stop(Net *n, Capture *c) noexcept nogil         # no-op if it isn't going on
# What was written down since the last time; `empty`, of c.size bytes, takes its place.
cdef uint8_t *capture_take(Capture *c, uint8_t *empty, size_t *used) noexcept nogil
# Net.frames is what the captures there are, and the sockets above, need.
cdef void capture_watch(Net *n) noexcept nogil
cdef void capture_forget(Net *n, const Iface *i) noexcept nogil   # the interface goes
# A frame comes in; and, when everything was done with it, what became of it, by the counters `before` that.
cdef void capture_in(Net *n, Iface *i, Buf *b) noexcept nogil
cdef void capture_explain(Net *n, const uint64_t *before) noexcept nogil
cdef void lost(Net *n, int reason) noexcept nogil


cdef inline void capture_lost(Net *n, int reason) noexcept nogil:
    """The frame that was sent last was not: a counter."""
    if n.captures != NULL:
        lost(n, reason)
