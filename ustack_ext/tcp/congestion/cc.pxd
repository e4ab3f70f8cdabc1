# The registry of congestion control algorithms.
from ustack_ext.tcp.congestion.ops cimport CcOps

cdef CcOps *cc_default() noexcept nogil
