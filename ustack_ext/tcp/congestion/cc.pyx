"""The registry of congestion control algorithms."""
from ustack_ext.tcp.congestion.reno cimport reno_ops


cdef CcOps *cc_default() noexcept nogil:
    return reno_ops()
