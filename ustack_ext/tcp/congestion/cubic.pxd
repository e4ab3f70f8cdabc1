# CUBIC as a CcOps table (RFC 9438), with HyStart++ (RFC 9406).
from libc.stdint cimport uint32_t, uint64_t
from ustack_ext.tcp.congestion.hystart cimport HyStart
from ustack_ext.tcp.congestion.ops cimport CcOps

cdef struct Curve:                 # W_cubic of one stage of congestion avoidance
    uint64_t epoch                 # ns when it began; 0: it has not
    uint32_t w_max                 # bytes: the window before the last reduction
    uint32_t origin                # bytes: the plateau
    uint32_t k                     # ticks from the epoch to the plateau
    uint32_t w_est                 # bytes: what Reno would have

cdef struct Cubic:
    HyStart hystart
    uint32_t cwnd_prior
    Curve now
    Curve before                   # the last reduction, for an undo
    uint64_t last_ack              # ns of the last ACK that the window grew by
    uint32_t tick                  # for which target and w_cubic hold
    uint32_t target
    uint32_t w_cubic
    uint32_t est_acked             # w_est's remainder

cdef const CcOps *cubic_ops() noexcept nogil
# The arithmetic. A tick is 1/1024 s.
cdef uint32_t cube_root(uint64_t x) noexcept nogil
cdef uint32_t curve_k(uint32_t w_max, uint32_t cwnd, uint32_t mss) noexcept nogil
cdef uint32_t curve_at(const Curve *v, uint32_t tick, uint32_t mss) noexcept nogil
