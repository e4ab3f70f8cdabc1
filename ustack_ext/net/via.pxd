# The way out of one interface, whatever the routes of others say.
from ustack_ext.wire.addr cimport Addr
from ustack_ext.net.state cimport Dst, Iface, Net

# Fills *d and, if it is not given (any), *src. 0, -ENETUNREACH, -ENOBUFS, -EHOSTUNREACH, -ENETDOWN.
cdef int resolve_via(Net *n, Dst *d, Iface *i, Addr *src, const Addr *dst) noexcept nogil
