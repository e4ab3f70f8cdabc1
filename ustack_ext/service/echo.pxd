# Echo requests and answers as a raw socket of the host has them (raw(7)): nobody else does identifier and checksum.
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from ustack_ext.base.iov cimport IoVec

# Makes the ICMP message at p a request of ours.
cdef void echo_ask(uint8_t *p, uint32_t length, bint four, uint16_t ident) noexcept nogil
# Whether what was received is the answer to one; *iov is then the ICMP message alone.
cdef bint echo_answer(IoVec *iov, bint four, uint16_t ident) noexcept nogil
