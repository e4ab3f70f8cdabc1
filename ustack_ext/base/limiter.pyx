# Token bucket in nanoseconds of credit (limiter.pxd). Who is limited, and by how much, is the caller's business.
from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    SECOND = 1000000000    # ns


cdef void limiter_init(Limiter *l, uint32_t rate, uint32_t burst, uint64_t now) noexcept nogil:
    l.last = now
    l.rate = rate
    l.burst = burst
    l.credit = SECOND // rate * <uint64_t>burst if rate else 0


cdef bint limiter_take(Limiter *l, uint64_t now) noexcept nogil:
    cdef uint64_t cost, full
    if l.rate == 0 or l.burst == 0:
        return False
    cost = SECOND // l.rate
    full = cost * l.burst
    if now > l.last:
        l.credit = full if now - l.last >= full else min(full, l.credit + (now - l.last))
        l.last = now
    if l.credit < cost:
        return False
    l.credit -= cost
    return True
