# The lists of raw and packet sockets.
from ustack_ext.udp.state cimport Udp, UdpSock

cdef int rawmore_new(UdpSock *s, UdpSock **head, int kind) noexcept nogil          # 0 or -ENOMEM
cdef void rawmore_free(UdpSock *s, UdpSock **head) noexcept nogil
