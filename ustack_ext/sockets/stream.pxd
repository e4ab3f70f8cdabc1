# TCP sockets: one attempt of each call, without waiting. The engine's lock is held.
from libc.stdint cimport uint16_t
from ustack_ext.engine.engine cimport Engine
from ustack_ext.sockets.state cimport Op, SockState
from ustack_ext.tcp.tcb cimport TcpConf
from ustack_ext.wire.addr cimport Addr

cdef int stream_open(Engine *e, SockState *s) noexcept nogil                   # 0 or -ENOMEM
cdef long stream_attempt(Engine *e, SockState *s, Op *op) noexcept nogil       # count, 0, -EAGAIN, -errno or OP_GROW
cdef int stream_bind(Engine *e, SockState *s, const Addr *a, uint16_t port) noexcept nogil
cdef int stream_listen(Engine *e, SockState *s, int backlog) noexcept nogil
cdef int stream_shutdown(Engine *e, SockState *s, int how) noexcept nogil
cdef bint stream_begin_linger(Engine *e, SockState *s) noexcept nogil          # close() has something to wait for
cdef void stream_release(Engine *e, SockState *s, bint abort) noexcept nogil   # gives everything back to the engine
cdef void stream_forget(SockState *s) noexcept nogil                           # ... which is not ours any more (fork)
# its options, wherever they are now; NULL: closed
cdef const TcpConf *stream_conf(SockState *s) noexcept nogil
cdef int stream_set_conf(Engine *e, SockState *s, const TcpConf *conf) noexcept nogil       # 0 or -ENOMEM
cdef int stream_names(SockState *s, Addr *laddr, uint16_t *lport, Addr *raddr, uint16_t *rport) noexcept nogil
