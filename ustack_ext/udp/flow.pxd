# The forwarder of datagrams: the first of a flow to any address and port waits in a socket of its own for a decision.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from ustack_ext.base.entry cimport Entry
from ustack_ext.base.event cimport Source
from ustack_ext.net.foreign cimport FlowId
from ustack_ext.net.state cimport RxPkt
from ustack_ext.udp.state cimport Udp, UdpSock
from ustack_ext.wire.addr cimport Addr

cdef int flows_init(Udp *u) noexcept nogil                         # 0 or -ENOMEM
cdef void flows_destroy(Udp *u) noexcept nogil
# Begins to take datagrams. backlog: flows that may be undecided at a time. pings: echo requests, too: a flow is what
# one host asks another for with one identifier; its socket's datagrams are ICMP messages, its local port is 0, that of
# the peer the identifier. 0 or -EBUSY.
cdef int flows_open(Udp *u, uint32_t backlog, uint64_t patience, bint pings, void *user) noexcept nogil
cdef void flow_ping(Udp *u, RxPkt *rx) noexcept nogil              # an echo request to a foreign address
cdef Source *flows_event(Udp *u) noexcept nogil                    # raised as readable when there is a request
cdef void flows_close(Udp *u) noexcept nogil                       # the undecided are forgotten
# A new flow's socket, undecided. NULL: no room.
cdef UdpSock *flow_open(Udp *u, const Addr *laddr, uint16_t lport, const Addr *raddr, uint16_t rport) noexcept nogil
cdef bint flow_take(Udp *u, FlowId *id) noexcept nogil             # the next request; False: there is none
# The flow's socket, connected, its first datagrams in the queue. idle: ns without a datagram after which it fails with
# ETIMEDOUT; 0: never. 0 or -ENOENT: the request is gone.
cdef int flow_accept(Udp *u, const FlowId *id, uint64_t idle, void *user, UdpSock **out) noexcept nogil
cdef int flow_refuse(Udp *u, const FlowId *id, int how, uint8_t code) noexcept nogil        # 0 or -ENOENT
cdef void flow_timer(Udp *u, Entry *e) noexcept nogil
