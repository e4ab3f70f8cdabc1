# What datagram sockets learn of the paths they send by, and are told of it (IPV6_RECVPATHMTU).
from libc.stdint cimport uint32_t
from ustack_ext.wire.addr cimport Addr
from ustack_ext.net.state cimport IcmpError
from ustack_ext.udp.state cimport Udp, UdpSock

# A router says "too big" (EMSGSIZE) of what the socket may have sent.
cdef void learn_path_mtu(Udp *u, UdpSock *s, const IcmpError *e) noexcept nogil
# For whoever asked by IPV6_RECVPATHMTU: the path to `dst` carries packets of `mtu` bytes.
cdef void tell_path_mtu(Udp *u, UdpSock *s, const Addr *dst, uint32_t mtu) noexcept nogil
# The socket is not interested any more, or has read it.
cdef void forget_path_mtu(UdpSock *s) noexcept nogil


cdef inline bint path_mtu_waits(const UdpSock *s) noexcept nogil:
    return s.more != NULL and s.more.path_mtu != 0
