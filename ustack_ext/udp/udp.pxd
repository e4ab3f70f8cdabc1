# UDP sockets (RFC 768, 1122 §4.1, 8085 §3.1, 5.2) and the unprivileged ping sockets that share their queues.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from ustack_ext.wire.addr cimport Addr
from ustack_ext.base.core cimport Core
from ustack_ext.base.iov cimport IoVec
from ustack_ext.net.state cimport IcmpError, Net, RxPkt
from ustack_ext.udp.state cimport (UDP_BOTH, UDP_BOUND, UDP_BROADCAST, UDP_CONNECTED, UDP_IPV4, UDP_IPV6, UDP_IS_PING,
                                   UDP_LADDR_GIVEN, UDP_REUSEADDR, UDP_SHUT_RD, UDP_SHUT_WR, Udp, UdpMeta, UdpSock)

from ustack_ext.udp.life cimport udp_close, udp_open, udp_set_family
# A forwarder's (udp/flow): requests, and what becomes of them.
from ustack_ext.udp.flow cimport (
    flow_accept, flow_ping, flow_refuse, flow_take, flow_timer, flows_close, flows_event, flows_open,
)

cdef int udp_init(Udp *u, Core *core, Net *net) noexcept nogil
cdef void udp_destroy(Udp *u) noexcept nogil
# port 0: ephemeral (RFC 6056). -EADDRINUSE, -EADDRNOTAVAIL, -EINVAL
cdef int udp_bind(Udp *u, UdpSock *s, const Addr *a, uint16_t port) noexcept nogil
# binds if needed; a NULL: disconnect (AF_UNSPEC)
cdef int udp_connect(Udp *u, UdpSock *s, const Addr *a, uint16_t port) noexcept nogil
# Sends one datagram gathered from iov. to NULL: the connected peer. Bytes sent or -errno (-EDESTADDRREQ, -EMSGSIZE,
# -EACCES for broadcast, -ECONNREFUSED once per ICMP error, ...)
cdef long udp_send(Udp *u, UdpSock *s, const IoVec *iov, int niov, const Addr *to, uint16_t port,
                   int flags) noexcept nogil
# Copies the first datagram into iov, removes it unless peek. Bytes copied or -EAGAIN / -errno; *full = the datagram's
# real length; *meta filled.
cdef long udp_recv(Udp *u, UdpSock *s, const IoVec *iov, int niov, bint peek, UdpMeta *meta,
                   uint32_t *full) noexcept nogil
cdef int udp_shutdown(Udp *u, UdpSock *s, int how) noexcept nogil
cdef uint16_t udp_ready(UdpSock *s) noexcept nogil                                             # EV_* true now
# sends port unreachable itself
cdef void udp_input(Udp *u, RxPkt *rx) noexcept nogil
cdef void udp_icmp_error(Udp *u, IcmpError *e) noexcept nogil
cdef void ping_input(Udp *u, RxPkt *rx) noexcept nogil
