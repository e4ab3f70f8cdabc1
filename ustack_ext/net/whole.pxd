# Packets that come with their IP header.
from ustack_ext.wire.addr cimport Addr
from ustack_ext.net.state cimport Dst, Net, TxPkt

# Sends what is t's payload, an IP packet, towards dst (which need not be what its header says). 0 or -errno: -EINVAL
# (shorter than a header), -EMSGSIZE (longer than the way carries), and net_output's.
cdef int output_whole(Net *n, Dst *d, const Addr *src, const Addr *dst, TxPkt *t) noexcept nogil
