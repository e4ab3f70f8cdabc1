# Received datagrams: into which socket's queue, and out of it into the application's memory.
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from ustack_ext.base.iov cimport IoVec
from ustack_ext.net.state cimport RxPkt
from ustack_ext.udp.state cimport Udp, UdpMeta, UdpSock

# Queues [data, data + length), which lies in rx.buf, on the socket. last: nobody else needs rx.buf's bytes.
cdef void deliver(Udp *u, UdpSock *s, RxPkt *rx, uint8_t *data, uint32_t length, uint16_t sport,
                  bint last) noexcept nogil
# A copy of [data, data + length) on a raw or packet socket.
cdef void deliver_copy(Udp *u, UdpSock *s, const UdpMeta *meta, const uint8_t *data, uint32_t length) noexcept nogil
cdef void meta_fill(UdpMeta *meta, const RxPkt *rx, uint16_t sport) noexcept nogil
# What the socket's filter says of `whole` bytes at `data`: False, or *length cut down (`header` bytes are always kept).
cdef bint filter_keeps(Udp *u, UdpSock *s, const RxPkt *rx, const uint8_t *data, uint32_t whole, uint32_t header,
                       uint32_t *length) noexcept nogil
cdef long take(Udp *u, UdpSock *s, const IoVec *iov, int niov, bint peek, UdpMeta *meta, uint32_t *full) noexcept nogil
cdef void set_error(Udp *u, UdpSock *s, int error) noexcept nogil
