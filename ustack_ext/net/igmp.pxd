# IGMP, host side: what comes in. What is reported, and when: reports.
from ustack_ext.net.state cimport Net, RxPkt

cdef void igmp_input(Net *n, RxPkt *rx) noexcept nogil
