# What changes a stack from Python shares.
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from ustack_ext.net.state cimport Iface, Net
from ustack_ext.sockets.stackcore cimport StackCore
from ustack_ext.wire.addr cimport Addr

cdef struct Change:                # what is to be done with an interface: of these, what it takes
    Addr address
    int plen
    uint32_t mtu
    bint on
    const uint8_t *mac
    uint8_t proto
    uint16_t port
    uint16_t to_port
    const char *name               # of a VLAN that is to stand on it
    uint32_t vlan_id
    uint32_t priority

ctypedef int (*change_fn)(Net *n, Iface *i, Change *c) noexcept nogil

cdef object answer(int rc, str what)       # -errno as the OSError it is; nothing for 0
# Finds the interface and changes it, under the lock. Raises OSError: ENODEV, and what the change says.
cdef object change_interface(StackCore stack, str name, change_fn change, Change *c, str what=*)
