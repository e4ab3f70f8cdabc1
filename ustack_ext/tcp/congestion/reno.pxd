# NewReno as a CcOps table (RFC 5681, 6582).
from ustack_ext.tcp.congestion.ops cimport CcOps

cdef const CcOps *reno_ops() noexcept nogil
