# An open socket as Python holds it, and the one loop that makes a call wait.
from libc.stdint cimport int64_t, uint16_t, uint64_t
from ustack_ext.driver.driver cimport Driver, Waiter
from ustack_ext.sockets.stackcore cimport StackCore
from ustack_ext.sockets.state cimport (
    SHAPE_CODE, SHAPE_COOKED, SHAPE_LITE, SHAPE_PACKET, SHAPE_RAW, SHAPE_STREAM, SHAPE_V6, Op, OpKind, SockState,
)

cdef enum:
    STREAM = 1                     # SOCK_STREAM, SOCK_DGRAM: Linux's numbers, checked in handle.pyx
    DGRAM = 2
    RAW = 3
    PROTO_ICMP = 1
    PROTO_ICMPV6 = 58
    PROTO_UDPLITE = 136

cdef object error(int code)                                        # the OSError for an errno
cdef long check(long result) except -1                             # an attempt's result: a count, or its exception
cdef int closed_error(const SockState *s) noexcept nogil           # -errno
cdef void op_init(Op *op, OpKind kind, int flags, uint16_t want) noexcept nogil

cdef class SocketHandle:
    cdef readonly StackCore stack
    cdef SockState state
    cdef int64_t timeout_ns        # -1: blocking, 0: non-blocking
    cdef object __weakref__

    cdef inline bint is_stream(self) noexcept nogil:
        return self.state.shape & SHAPE_STREAM != 0

    cdef inline int protocol(self) noexcept nogil:
        if self.state.shape & SHAPE_CODE == SHAPE_RAW:
            return self.state.connect
        if self.state.shape & SHAPE_CODE == SHAPE_LITE:
            return PROTO_UDPLITE
        return 0 if self.is_packet() else self.state.shape & SHAPE_CODE

    cdef inline bint is_raw(self) noexcept nogil:
        return self.state.shape & SHAPE_CODE == SHAPE_RAW

    cdef inline bint is_packet(self) noexcept nogil:
        return self.state.shape & SHAPE_CODE == SHAPE_PACKET or self.state.shape & SHAPE_CODE == SHAPE_COOKED

    cdef inline bint is_six(self) noexcept nogil:
        return self.state.shape & SHAPE_V6 != 0

    cdef _adopt(self, StackCore stack, int shape)
    cdef Driver _usable(self)
    # When a call that begins now gives up: ns of the driver's clock, 0 for at once, UINT64_MAX for never.
    cdef uint64_t deadline(self, int flags)
    # Tries `op` until it ends with something else than -EAGAIN. Returns that, or -EAGAIN or OP_TIMED_OUT; raises only
    # what a signal handler raises.
    cdef long perform(self, Op *op, uint64_t deadline) except -0x10002
    cdef long perform_once(self, Op *op, Waiter *w)
    cdef long locked_attempt(self, Driver d, Op *op, Waiter *w) noexcept nogil
    cdef int release(self) except -1
