"""Socket options: their values, ranges and defaults as Linux has them (socket(7), tcp(7), ip(7)).

Responsible for: where an option lives (the socket's TcpConf, the Tcb, the UDP socket) and what it may be. Not for: the
platform's numbers and byte layouts (ustack/options.py). The engine's lock is held.
"""
from libc.errno cimport EINVAL, ENOENT, ENOMEM, ENOPROTOOPT, ENOTCONN, EPERM
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from ustack_ext.engine.engine cimport Engine
from ustack_ext.sockets.ready cimport watch_of
from ustack_ext.sockets.state cimport (
    CMSG_PKTINFO, CMSG_TOS, CMSG_TTL, SK_LISTENER, SK_NONE, SK_TCB, SK_UDP, Draft, SockState,
)
from ustack_ext.sockets.stream cimport stream_conf, stream_set_conf
from ustack_ext.tcp.congestion.cc cimport cc_name
from ustack_ext.tcp.ecn cimport ECN_MASK
from ustack_ext.tcp.tcb cimport TCP_CLOSED, TCP_MSS_DEFAULT_V4, Tcb, TcpConf
from ustack_ext.tcp.tcp cimport tcp_rcvbuf, tcp_sndbuf, tcp_take_error
from ustack_ext.udp.udp cimport UDP_BROADCAST, UDP_REUSEADDR, UdpSock

cdef enum:
    MIN_RCVBUF = 2304          # Linux's SOCK_MIN_RCVBUF and SOCK_MIN_SNDBUF
    MIN_SNDBUF = 4608
    MIN_MAXSEG = 88            # Linux's TCP_MIN_MSS and MAX_TCP_WINDOW
    MAX_MAXSEG = 32767
    MAX_KEEPTIME = 32767       # s
    MAX_KEEPCNT = 127
    QUICKACKS = 16             # Linux's TCP_MAX_QUICKACKS


cdef uint32_t doubled(long long value, uint32_t least) noexcept nogil:
    """What Linux makes of SO_RCVBUF and SO_SNDBUF: twice the value, for its own overhead; the caller has cut it to
    the maximum.
    """
    cdef long long both = 2 * value
    return least if both < least else <uint32_t>both


cdef bint set_bit(uint8_t *bits, uint8_t bit, bint on) noexcept nogil:
    bits[0] = bits[0] | bit if on else bits[0] & ~bit
    return on


cdef long long tcp_get(Engine *e, SockState *s, const TcpConf *conf, int which) noexcept nogil:
    cdef Tcb *c = <Tcb *>s.obj if s.kind == SK_TCB else NULL
    if which == OPT_KEEPALIVE:
        return conf.keepalive
    if which == OPT_KEEPIDLE:
        return conf.keepidle
    if which == OPT_KEEPINTVL:
        return conf.keepintvl
    if which == OPT_KEEPCNT:
        return conf.keepcnt
    if which == OPT_LINGER:
        return <long long>conf.linger << 32 | conf.linger_time
    if which == OPT_REUSEADDR:
        return conf.reuseaddr
    if which == OPT_NODELAY:
        return conf.nodelay
    if which == OPT_USER_TIMEOUT:
        return conf.user_timeout
    if which == OPT_QUICKACK:
        return c == NULL or c.quick != 0
    if which == OPT_TOS:
        return conf.tos
    if which == OPT_TTL:
        return conf.ttl if conf.ttl else e.net.knobs.ip_default_ttl
    if which == OPT_MAXSEG:
        if c != NULL and c.state != TCP_CLOSED:
            return c.mss
        return conf.maxseg if conf.maxseg else TCP_MSS_DEFAULT_V4
    if which == OPT_RCVBUF:
        return tcp_rcvbuf(&e.tcp, c) if c != NULL else conf.rcvbuf if conf.rcvbuf else e.tcp.knobs.rmem_default
    if which == OPT_SNDBUF:
        return tcp_sndbuf(&e.tcp, c) if c != NULL else conf.sndbuf if conf.sndbuf else e.tcp.knobs.wmem_default
    if which == OPT_MTU:
        return c.dst.mtu if c != NULL and c.dst.iface != NULL else -ENOTCONN
    if which == OPT_CONGESTION:
        return conf.cc
    if which == OPT_MAX_PACING_RATE:
        return conf.max_pacing_rate
    if which == OPT_BROADCAST:
        return 0
    return -ENOPROTOOPT


cdef long long udp_get(Engine *e, UdpSock *u, int which) noexcept nogil:
    if which == OPT_BROADCAST:
        return (u.flags & UDP_BROADCAST) != 0
    if which == OPT_REUSEADDR:
        return (u.flags & UDP_REUSEADDR) != 0
    if which == OPT_RCVBUF:
        return u.rcvbuf
    if which == OPT_SNDBUF:
        return u.sndbuf
    if which == OPT_TOS:
        return u.tos
    if which == OPT_TTL:
        return u.ttl if u.ttl else e.net.knobs.ip_default_ttl
    if which == OPT_MTU:
        return u.dst.mtu if u.dst.iface != NULL else -ENOTCONN
    if which == OPT_KEEPALIVE or which == OPT_LINGER:
        return 0
    return -ENOPROTOOPT


cdef int take_error(SockState *s) noexcept nogil:
    cdef int error
    if s.kind == SK_TCB:
        return tcp_take_error(<Tcb *>s.obj)
    if s.kind != SK_UDP:
        return 0
    error = (<UdpSock *>s.obj).error
    (<UdpSock *>s.obj).error = 0
    return error


cdef long long option_get(Engine *e, SockState *s, int which) noexcept nogil:
    cdef const TcpConf *conf
    if which == OPT_ERROR:
        return take_error(s)
    if which == OPT_ACCEPTCONN:
        return s.kind == SK_LISTENER
    if which == OPT_RECVTTL:
        return (s.cmsg & CMSG_TTL) != 0
    if which == OPT_RECVTOS:
        return (s.cmsg & CMSG_TOS) != 0
    if which == OPT_PKTINFO:
        return (s.cmsg & CMSG_PKTINFO) != 0
    if which == OPT_BUSY_POLL:
        return s.watch.busy_poll if s.watch != NULL else 0
    if s.kind == SK_UDP:
        return udp_get(e, <UdpSock *>s.obj, which)
    conf = stream_conf(s)
    return tcp_get(e, s, conf, which) if conf != NULL else -EINVAL


cdef int keepalive_set(TcpConf *conf, int which, long long value) noexcept nogil:
    if which == OPT_KEEPALIVE:
        conf.keepalive = value != 0
        return 0
    if value < 1 or value > (MAX_KEEPCNT if which == OPT_KEEPCNT else MAX_KEEPTIME):
        return -EINVAL
    if which == OPT_KEEPIDLE:
        conf.keepidle = <uint32_t>value
    elif which == OPT_KEEPINTVL:
        conf.keepintvl = <uint16_t>value
    else:
        conf.keepcnt = <uint8_t>value
    return 0


cdef int congestion_set(Engine *e, TcpConf *conf, long long value) noexcept nogil:
    if cc_name(<int>value) == NULL:
        return -ENOENT
    if not e.tcp.knobs.congestion_allowed >> value & 1:
        return -EPERM
    conf.cc = <uint8_t>value
    return 0


cdef int tcp_set(Engine *e, SockState *s, TcpConf *conf, int which, long long value) noexcept nogil:
    if OPT_KEEPALIVE <= which <= OPT_KEEPCNT:
        return keepalive_set(conf, which, value)
    if which == OPT_LINGER:
        conf.linger = value >> 32 != 0
        value = <uint32_t>value
        conf.linger_time = 0xFFFF if value > 0xFFFF else <uint16_t>value
    elif which == OPT_REUSEADDR:
        conf.reuseaddr = value != 0
        if s.kind == SK_NONE and (<Draft *>s.obj).bind != NULL:
            (<Draft *>s.obj).bind.reuse = conf.reuseaddr
    elif which == OPT_NODELAY:
        conf.nodelay = value != 0
    elif which == OPT_QUICKACK:
        # tcp(7): a hint for the next few segments, not a mode.
        if s.kind == SK_TCB:
            (<Tcb *>s.obj).quick = QUICKACKS if value else 0
    elif which == OPT_USER_TIMEOUT:
        if value < 0:
            return -EINVAL
        conf.user_timeout = <uint32_t>value
    elif which == OPT_MAXSEG:
        if value and not MIN_MAXSEG <= value <= MAX_MAXSEG:
            return -EINVAL
        conf.maxseg = <uint16_t>value
    elif which == OPT_RCVBUF:
        conf.rcvbuf = doubled(value, MIN_RCVBUF)
    elif which == OPT_SNDBUF:
        conf.sndbuf = doubled(value, MIN_SNDBUF)
    elif which == OPT_TOS:
        conf.tos = <uint8_t>value & ~<uint8_t>ECN_MASK       # as Linux: those two bits are TCP's
    elif which == OPT_TTL:
        conf.ttl = <uint8_t>value
    elif which == OPT_CONGESTION:
        return congestion_set(e, conf, value)
    elif which == OPT_MAX_PACING_RATE:
        conf.max_pacing_rate = value
    elif which != OPT_BROADCAST:
        return -ENOPROTOOPT
    return 0


cdef int udp_set(UdpSock *u, int which, long long value) noexcept nogil:
    if which == OPT_BROADCAST:
        set_bit(&u.flags, UDP_BROADCAST, value != 0)
    elif which == OPT_REUSEADDR:
        set_bit(&u.flags, UDP_REUSEADDR, value != 0)
    elif which == OPT_RCVBUF:
        u.rcvbuf = doubled(value, MIN_RCVBUF)
    elif which == OPT_SNDBUF:
        u.sndbuf = doubled(value, MIN_SNDBUF)
    elif which == OPT_TOS:
        u.tos = <uint8_t>value
    elif which == OPT_TTL:
        u.ttl = <uint8_t>value
    elif which != OPT_KEEPALIVE and which != OPT_LINGER:
        return -ENOPROTOOPT
    return 0


cdef int option_set(Engine *e, SockState *s, int which, long long value) noexcept nogil:
    cdef const TcpConf *now
    cdef TcpConf conf
    cdef int rc
    if which == OPT_ERROR or which == OPT_ACCEPTCONN or which == OPT_MTU:
        return -ENOPROTOOPT
    if which == OPT_TTL and value == -1:         # ip(7): back to the default, which is 0 inside
        value = 0
    elif which == OPT_TTL and not 1 <= value <= 255:
        return -EINVAL
    if which == OPT_RECVTTL:
        set_bit(&s.cmsg, CMSG_TTL, value != 0)
    elif which == OPT_RECVTOS:
        set_bit(&s.cmsg, CMSG_TOS, value != 0)
    elif which == OPT_PKTINFO:
        set_bit(&s.cmsg, CMSG_PKTINFO, value != 0)
    elif which == OPT_BUSY_POLL:
        if value < 0:
            return -EINVAL
        if watch_of(s) == NULL:
            return -ENOMEM
        s.watch.busy_poll = <uint32_t>value
    elif s.kind == SK_UDP:
        return udp_set(<UdpSock *>s.obj, which, value)
    else:
        now = stream_conf(s)
        if now == NULL:
            return -EINVAL
        conf = now[0]
        rc = tcp_set(e, s, &conf, which, value)
        return rc if rc != 0 else stream_set_conf(e, s, &conf)
    return 0


def algorithms():
    """The names of the congestion control algorithms there are, in the order of OPT_CONGESTION's numbers."""
    cdef list names = []
    while cc_name(<int>len(names)) != NULL:
        names.append((<bytes>cc_name(<int>len(names))).decode())
    return tuple(names)
