# One datagram out.
from libc.stdint cimport uint8_t, uint16_t
from ustack_ext.wire.addr cimport Addr
from ustack_ext.base.iov cimport IoVec
from ustack_ext.udp.state cimport Udp, UdpSock

# Bytes in all pieces, or -EMSGSIZE as soon as they are more than `most`.
cdef long total_length(const IoVec *iov, int niov, size_t most) noexcept nogil
# Copies at most `most` bytes, after the first `skip`.
cdef void gather(const IoVec *iov, int niov, uint8_t *to, size_t skip, size_t most) noexcept nogil
# References [at, at + length). Entries used, or -EMSGSIZE when they would be more than `most`.
cdef int slice_pieces(const IoVec *iov, int niov, size_t at, size_t length, IoVec *out, int most) noexcept nogil
cdef int check_destination(Udp *u, const UdpSock *s, const Addr *a) noexcept nogil
cdef long send_datagram(Udp *u, UdpSock *s, const IoVec *iov, int niov, const Addr *to, uint16_t port) noexcept nogil
