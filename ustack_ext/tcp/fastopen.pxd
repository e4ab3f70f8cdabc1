# TCP Fast Open (RFC 7413): the server's cookies, and what a client remembers of servers.
from libc.stdint cimport uint8_t, uint16_t
from ustack_ext.tcp.tcb cimport FastopenPeer, Tcp, TcpConf
from ustack_ext.wire.addr cimport Addr

cdef enum:
    FASTOPEN_COOKIE = 8            # bytes of the cookies made here, as Linux

cdef void fastopen_cookie(Tcp *t, const Addr *client, const Addr *server, uint8_t *out) noexcept nogil
cdef bint fastopen_cookie_right(Tcp *t, const Addr *client, const Addr *server, const uint8_t *cookie,
                                uint8_t n) noexcept nogil
cdef FastopenPeer *fastopen_find(Tcp *t, const Addr *server) noexcept nogil                 # NULL: nothing is known
cdef void fastopen_learn(Tcp *t, const Addr *server, uint16_t mss, const uint8_t *cookie, uint8_t n) noexcept nogil
# A SYN with data had no answer: none to that server for a minute, and twice as long each time.
cdef void fastopen_lost(Tcp *t, const Addr *server) noexcept nogil
# Whether a SYN to that server may have data now; *peer: what is known of it
cdef bint fastopen_may_send(Tcp *t, const Addr *server, const TcpConf *conf, FastopenPeer **peer) noexcept nogil
