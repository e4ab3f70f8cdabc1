# Packet sockets: frames of an interface as they are (packet(7)).
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from ustack_ext.base.iov cimport IoVec
from ustack_ext.net.state cimport Iface
from ustack_ext.udp.state cimport LinkMeta, Udp, UdpSock

cdef enum:
    ETH_P_ALL = 3

# Makes a new socket one for frames of an EtherType (0: none yet). cooked: without link header. 0 or -ENOMEM.
cdef int packet_attach(Udp *u, UdpSock *s, uint16_t ethertype, bint cooked) noexcept nogil
cdef void packet_detach(Udp *u, UdpSock *s) noexcept nogil
# ifindex 0: every interface; ethertype 0: as before. 0 or -ENODEV.
cdef int packet_bind(Udp *u, UdpSock *s, uint32_t ifindex, uint16_t ethertype) noexcept nogil
# One frame out. ifindex 0: the one it is bound to. mac: the destination's 48 bits, halen bytes of it given. Bytes, or
# -ENXIO (no interface), -ENETDOWN, -EINVAL (no header, no address), -EMSGSIZE, -ENOBUFS.
cdef long packet_send(Udp *u, UdpSock *s, const IoVec *iov, int niov, uint32_t ifindex, uint16_t ethertype,
                      uint64_t mac, uint32_t halen) noexcept nogil
cdef uint16_t packet_hatype(const Iface *i) noexcept nogil             # ARPHRD_*
