# Socket addresses between Python's tuples and the stack's Addr.
from libc.stdint cimport uint16_t
from ustack_ext.wire.addr cimport Addr

cdef int parse_address(object address, str caller, Addr *a, uint16_t *port) except -1
cdef int parse_host(object host, Addr *a) except -1
cdef str format_host(const Addr *a)                        # `::` (not given) is 0.0.0.0
cdef tuple format_address(const Addr *a, uint16_t port)
cdef Addr addr_from_int(object number) except *            # 128 bits
