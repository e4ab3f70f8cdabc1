# UDP and ping sockets: one attempt of each call, without waiting. The engine's lock is held.
from libc.stdint cimport uint16_t
from ustack_ext.engine.engine cimport Engine
from ustack_ext.sockets.state cimport Op, SockState
from ustack_ext.wire.addr cimport Addr

# proto: of ping and raw sockets IP's, of packet sockets an EtherType. 0 or -ENOMEM
cdef int datagram_open(Engine *e, SockState *s, int proto) noexcept nogil
cdef long datagram_attempt(Engine *e, SockState *s, Op *op) noexcept nogil     # count, 0, -EAGAIN, -errno or OP_GROW
cdef int datagram_bind(Engine *e, SockState *s, const Addr *a, uint16_t port) noexcept nogil
cdef int datagram_shutdown(Engine *e, SockState *s, int how) noexcept nogil
cdef void datagram_release(Engine *e, SockState *s) noexcept nogil
cdef int datagram_names(SockState *s, Addr *laddr, uint16_t *lport, Addr *raddr, uint16_t *rport) noexcept nogil
