# The TCP user timeout option (RFC 5482).
from libc.stdint cimport uint16_t, uint32_t
from ustack_ext.tcp.tcb cimport Tcb, Tcp, TcpConf

cdef enum:
    UTO_MOST = 0x7FFF * 60         # s; the longest that it can say

cdef uint16_t uto_wire(uint32_t seconds) noexcept nogil                  # seconds, above 0, as the option has them
cdef void uto_arrives(Tcp *t, Tcb *c, uint16_t wire) noexcept nogil      # an acceptable segment had the option
cdef void uto_told(Tcp *t, Tcb *c) noexcept nogil                        # a segment without SYN had ours
cdef uint32_t uto_in_force(const TcpConf *conf) noexcept nogil           # the user timeout, ms; 0: by retries
