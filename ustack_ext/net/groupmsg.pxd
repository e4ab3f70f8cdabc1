# IGMP and MLD messages on their way out.
from libc.stdint cimport uint8_t, uint32_t
from ustack_ext.wire.addr cimport Addr
from ustack_ext.net.state cimport Groups, Net

cdef enum:
    GROUP_HEADERS4 = 24        # bytes in front of a message: the IP header, and the router alert
    GROUP_HEADERS6 = 48

# Sends `length` bytes of message, whose checksum is made here, to a group.
cdef void group_send(Net *n, Groups *m, const Addr *to, uint8_t *message, uint32_t length) noexcept nogil
