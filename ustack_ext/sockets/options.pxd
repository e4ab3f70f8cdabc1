# Socket options, by the stack's own numbers (the platform's are ustack/options.py's business).
from ustack_ext.engine.engine cimport Engine
from ustack_ext.sockets.state cimport SockState
from ustack_ext.tcp.tcb cimport Md5Key

cpdef enum Opt:
    OPT_ERROR
    OPT_ACCEPTCONN
    OPT_REUSEADDR
    OPT_BROADCAST
    OPT_KEEPALIVE
    OPT_KEEPIDLE
    OPT_KEEPINTVL
    OPT_KEEPCNT
    OPT_LINGER                 # l_onoff << 32 | l_linger
    OPT_RCVBUF
    OPT_SNDBUF
    OPT_NODELAY
    OPT_MAXSEG
    OPT_USER_TIMEOUT
    OPT_QUICKACK
    OPT_TTL
    OPT_TOS
    OPT_RECVTTL
    OPT_RECVTOS
    OPT_PKTINFO
    OPT_MTU
    OPT_BUSY_POLL              # us
    OPT_CONGESTION             # an index of algorithms()
    OPT_MAX_PACING_RATE        # bytes/s; 0: none
    OPT_V6ONLY
    OPT_REUSEPORT
    OPT_RCVLOWAT
    OPT_CORK
    OPT_SYNCNT
    OPT_DEFER_ACCEPT           # s
    OPT_NOTSENT_LOWAT
    OPT_WINDOW_CLAMP
    OPT_LINGER2                # s
    OPT_FASTOPEN               # of a listener
    OPT_FASTOPEN_CONNECT
    OPT_FASTOPEN_NO_COOKIE
    OPT_TIMESTAMP
    OPT_UTO                    # s; 0: off
    OPT_MTU_DISCOVER
    OPT_RECVERR
    OPT_INQ                    # bytes received and not read (SIOCINQ)
    OPT_OUTQ                   # bytes not acknowledged (SIOCOUTQ)
    OPT_OUTQNSD                # bytes not sent (SIOCOUTQNSD)
    OPT_OOBINLINE
    OPT_ATMARK                 # the next byte to be read is urgent (SIOCATMARK)

cdef long long option_get(Engine *e, SockState *s, int which) noexcept nogil               # the value, or -errno
# TCP_MD5SIG: a key, or with key.len 0 none any more, for some peers. 0 or -errno.
cdef int option_md5(Engine *e, SockState *s, const Md5Key *key) noexcept nogil
cdef int option_set(Engine *e, SockState *s, int which, long long value) noexcept nogil    # 0 or -errno
