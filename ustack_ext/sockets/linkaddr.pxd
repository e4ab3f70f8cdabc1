# Addresses of packet sockets between Python's tuples and the stack's interfaces.
from libc.stdint cimport uint16_t, uint32_t
from ustack_ext.sockets.stackcore cimport StackCore
from ustack_ext.sockets.state cimport SockState
from ustack_ext.udp.state cimport LinkMeta
from ustack_ext.wire.addr cimport Addr

# (ifname, proto[, pkttype[, hatype[, addr]]]): to.lo is the address, the first byte highest of 48 bits, to.hi its
# length
cdef int parse_link(StackCore stack, object address, str caller, uint32_t *ifindex, uint16_t *proto,
                    Addr *to) except -1
cdef tuple format_link(StackCore stack, const LinkMeta *m)
cdef tuple link_name(StackCore stack, SockState *s)            # what a packet socket is bound to. OSError: closed
