# A router's redirects.
from ustack_ext.net.state cimport Dst, Net, RxPkt

# The packet leaves by the interface it came in by: tells its sender, if he is a neighbour, who is the better next hop.
cdef void redirect_about(Net *n, const RxPkt *rx, const Dst *d) noexcept nogil
