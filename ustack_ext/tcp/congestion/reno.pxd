from ustack_ext.tcp.congestion.ops cimport CcOps

cdef CcOps *reno_ops() noexcept nogil
