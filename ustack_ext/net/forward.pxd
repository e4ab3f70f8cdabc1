# Forwarding between interfaces, and the reverse path filter.
from ustack_ext.net.state cimport Net, RxPkt

# A packet that is for somebody else, its IP header and source found good: sends it on, or says why not to its sender.
# The Drop counter it falls under, or MIB_COUNT.
cdef int forward_input(Net *n, RxPkt *rx) noexcept nogil
# RFC 3704: whether the source can be where the packet came from.
cdef bint reverse_path_ok(Net *n, const RxPkt *rx) noexcept nogil
