# Socket addresses between Python's tuples and the stack's Addr.
from libc.stdint cimport uint16_t
from ustack_ext.sockets.stackcore cimport StackCore
from ustack_ext.wire.addr cimport Addr

# six: of an AF_INET6 socket. The stack knows the interfaces that a zone may name.
cdef int parse_address(StackCore stack, bint six, object address, str caller, Addr *a, uint16_t *port) except -1
cdef str format_host(const Addr *a)                        # as it is; without its zone
cdef tuple format_address(const Addr *a, uint16_t port, bint six)   # `::` (not given) is 0.0.0.0 for AF_INET
cdef Addr addr_from_int(object number) except *            # 128 bits
cdef bytes addr_to_bytes(const Addr *a)                    # 16, as on the wire; IPv4 as ::ffff:a.b.c.d
