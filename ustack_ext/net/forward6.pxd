# Forwarding of IPv6 between interfaces.
from ustack_ext.net.state cimport Net, RxPkt

# A packet that is for somebody else, its header and source found good, its hop-by-hop options read: sends it on, or
# says why not to its sender. The Drop counter it falls under, or MIB_COUNT.
cdef int forward6_input(Net *n, RxPkt *rx) noexcept nogil
