# A forwarder's sockets: by four-tuple, and those that wait for a decision in order.
from libc.stdint cimport uint16_t, uint32_t
from ustack_ext.base.entry cimport Entry
from ustack_ext.udp.state cimport Udp, UdpSock
from ustack_ext.wire.addr cimport Addr

cdef UdpSock *flow_find(Udp *u, const Addr *laddr, uint16_t lport, const Addr *raddr, uint16_t rport) noexcept nogil
cdef void flow_enter(Udp *u, UdpSock *s) noexcept nogil            # its addresses are set; undecided
cdef void flow_decided(Udp *u, UdpSock *s) noexcept nogil          # it leaves the undecided
cdef void flow_leave(Udp *u, UdpSock *s) noexcept nogil            # it is being closed
