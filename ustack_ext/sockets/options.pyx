"""Socket options: their values, ranges and defaults as Linux has them (socket(7), tcp(7), ip(7)).

Responsible for: where an option lives (the socket's TcpConf, the Tcb, the UDP socket) and what it may be. Not for: the
platform's numbers and byte layouts (ustack/options.py). The engine's lock is held.
"""
from libc.errno cimport EINVAL, ENOENT, ENOMEM, ENOPROTOOPT, ENOTCONN, EOPNOTSUPP, EPERM
from libc.stdint cimport int16_t, uint8_t, uint16_t, uint32_t
from ustack_ext.base.entry cimport ENTRY_UDP, ENTRY_UDPLITE
from ustack_ext.engine.engine cimport Engine
from ustack_ext.sockets.ipoptions cimport IPOPT_FIRST, ipoption_get, ipoption_set, path_mtu
from ustack_ext.sockets.ready cimport watch_of
from ustack_ext.sockets.state cimport (
    CMSG_PKTINFO, CMSG_TOS, CMSG_TTL, SHAPE_V6, SK_LISTENER, SK_NONE, SK_TCB, SK_UDP, SOCK_V6ONLY, Draft, SockState,
)
from ustack_ext.sockets.stream cimport stream_conf, stream_set_conf
from ustack_ext.tcp.congestion.cc cimport cc_name
from ustack_ext.tcp.ecn cimport ECN_MASK
from ustack_ext.tcp.md5 cimport md5_change, md5_drop
from ustack_ext.tcp.output cimport ts_now
from ustack_ext.tcp.quick cimport QUICK_LEFT
from ustack_ext.tcp.tcb cimport (
    FASTOPEN_CLIENT, REUSE_ADDR, REUSE_PORT, TCP_CLOSED, TCP_MSS_DEFAULT_V4, Bind, Listener, Md5Key, Tcb, TcpConf,
    tcb_notsent,
)
from ustack_ext.tcp.tcp cimport tcp_at_mark, tcp_inq, tcp_rcvbuf, tcp_sndbuf, tcp_take_error
from ustack_ext.tcp.uto cimport UTO_MOST, uto_in_force
from ustack_ext.udp.udp cimport (
    UDP_BOTH, UDP_BOUND, UDP_BROADCAST, UDP_IPV6, UDP_REUSEADDR, UdpSock, udp_set_family,
)

cdef enum:
    MIN_RCVBUF = 2304          # Linux's SOCK_MIN_RCVBUF and SOCK_MIN_SNDBUF
    MIN_SNDBUF = 4608
    MIN_MAXSEG = 88            # Linux's TCP_MIN_MSS and MAX_TCP_WINDOW
    MAX_MAXSEG = 32767
    MAX_KEEPTIME = 32767       # s
    MAX_KEEPCNT = 127
    QUICKACKS = 16             # Linux's TCP_MAX_QUICKACKS
    MAX_SYNCNT = 127
    MAX_LINGER2 = 120          # s, Linux's TCP_FIN_TIMEOUT_MAX
    RTO_MAX_S = 120
    PMTUDISC_WANT = 1          # ip(7)
    PMTUDISC_OMIT = 5


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
        return uto_in_force(conf)
    if which == OPT_QUICKACK:
        return c == NULL or c.quick & QUICK_LEFT != 0
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
    return tcp_mode_get(e, s, conf, c, which)


cdef long long queue_get(const SockState *s, const Tcb *c, int which) noexcept nogil:
    """tcp(7), SIOCINQ, SIOCATMARK, SIOCOUTQ and SIOCOUTQNSD; -EINVAL for a listener."""
    if s.kind == SK_LISTENER:
        return -EINVAL
    if c == NULL:
        return 0
    if which == OPT_INQ:
        return tcp_inq(c)
    if which == OPT_ATMARK:
        return tcp_at_mark(c)
    return c.tx.sndq_bytes if which == OPT_OUTQ else tcb_notsent(c)


cdef uint8_t secs_to_retrans(long long seconds) noexcept nogil:
    """How many SYN-ACK time-outs cover so many seconds (Linux's TCP_DEFER_ACCEPT)."""
    cdef long long period = 1, timeout = 1
    cdef uint8_t n = 1
    if seconds <= 0:
        return 0
    while seconds > period and n < 255:
        n += 1
        timeout = min(2 * timeout, <long long>RTO_MAX_S)
        period += timeout
    return n


cdef long long retrans_to_secs(uint8_t n) noexcept nogil:
    cdef long long period = 0, timeout = 1
    while n > 0:
        period += timeout
        timeout = min(2 * timeout, <long long>RTO_MAX_S)
        n -= 1
    return period


cdef long long tcp_mode_get(Engine *e, SockState *s, const TcpConf *conf, const Tcb *c, int which) noexcept nogil:
    if which == OPT_REUSEPORT:
        return conf.reuseport
    if which == OPT_RCVLOWAT:
        return conf.rcvlowat if conf.rcvlowat else 1
    if which == OPT_CORK:
        return conf.cork
    if which == OPT_SYNCNT:
        return conf.syncnt if conf.syncnt else e.tcp.knobs.syn_retries
    if which == OPT_DEFER_ACCEPT:
        return retrans_to_secs(conf.defer_accept)
    if which == OPT_NOTSENT_LOWAT:
        return conf.notsent_lowat
    if which == OPT_WINDOW_CLAMP:
        return conf.window_clamp
    if which == OPT_LINGER2:
        return <uint32_t>conf.linger2 if conf.linger2 else e.tcp.knobs.fin_timeout
    if which == OPT_FASTOPEN:
        return conf.fastopen
    if which == OPT_FASTOPEN_CONNECT:
        return conf.fastopen_connect
    if which == OPT_FASTOPEN_NO_COOKIE:
        return conf.fastopen_no_cookie
    if which == OPT_UTO:
        return conf.uto
    if which == OPT_TIMESTAMP:
        return ts_now(&e.tcp, c.ts_offset if c != NULL else 0)
    if which == OPT_MTU_DISCOVER:
        return conf.pmtudisc - 1 if conf.pmtudisc else PMTUDISC_WANT
    if which == OPT_RECVERR:
        return conf.recverr
    if which == OPT_OOBINLINE:
        return conf.oobinline
    if which in (OPT_INQ, OPT_OUTQ, OPT_OUTQNSD, OPT_ATMARK):
        return queue_get(s, c, which)
    return -ENOPROTOOPT


cdef long long udp_get(Engine *e, UdpSock *u, int which) noexcept nogil:
    if which == OPT_BROADCAST:
        return (u.flags & UDP_BROADCAST) != 0
    if which == OPT_REUSEADDR:
        return (u.flags & UDP_REUSEADDR) != 0
    if which == OPT_REUSEPORT:
        return u.reuseport
    if which == OPT_RCVLOWAT:
        return 1
    if which == OPT_INQ:
        return u.queue.head.len if u.queue.head != NULL else 0
    if which == OPT_OUTQ:
        return 0
    if which == OPT_RCVBUF:
        return u.rcvbuf
    if which == OPT_SNDBUF:
        return u.sndbuf
    if which == OPT_TOS:
        return u.tos
    if which == OPT_TTL:
        return u.ttl if u.ttl else e.net.knobs.ip_default_ttl
    if which == OPT_MTU:
        return path_mtu(e, u)
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
    if which >= IPOPT_FIRST:
        return ipoption_get(e, s, which)
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
    if which == OPT_V6ONLY:
        return (s.cmsg & SOCK_V6ONLY) != 0
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


cdef void reuse_set(SockState *s, const TcpConf *conf) noexcept nogil:
    """What a port that is bound already allows to others follows the options."""
    cdef Bind *b = NULL
    if s.kind == SK_NONE and s.obj != NULL:
        b = (<Draft *>s.obj).bind
    elif s.kind == SK_LISTENER:
        b = (<Listener *>s.obj).bind
    if b != NULL:
        b.reuse = (REUSE_ADDR if conf.reuseaddr else 0) | (REUSE_PORT if conf.reuseport else 0)


cdef int fastopen_set(Engine *e, SockState *s, TcpConf *conf, int which, long long value) noexcept nogil:
    cdef bint fresh = s.kind == SK_NONE and not (s.obj != NULL and (<Draft *>s.obj).deferred)
    if which == OPT_FASTOPEN:
        if value < 0 or not (fresh or s.kind == SK_LISTENER):
            return -EINVAL
        conf.fastopen = <uint32_t>value
        return 0
    if value < 0 or value > 1:
        return -EINVAL
    if which == OPT_FASTOPEN_CONNECT:
        if not e.tcp.knobs.fastopen & FASTOPEN_CLIENT:
            return -EOPNOTSUPP
        if not fresh:
            return -EINVAL
        conf.fastopen_connect = <uint8_t>value
        return 0
    if not (fresh or s.kind == SK_LISTENER):
        return -EINVAL
    conf.fastopen_no_cookie = <uint8_t>value
    return 0


cdef int tcp_mode_set(Engine *e, SockState *s, TcpConf *conf, int which, long long value) noexcept nogil:
    cdef uint32_t most
    if which == OPT_REUSEPORT:
        conf.reuseport = value != 0
        reuse_set(s, conf)
    elif which == OPT_RCVLOWAT:
        most = (conf.rcvbuf if conf.rcvbuf else e.tcp.knobs.rmem_max) // 2
        conf.rcvlowat = most if value < 0 or value > most else <uint32_t>value
    elif which == OPT_CORK:
        conf.cork = value != 0
    elif which == OPT_SYNCNT:
        if not 1 <= value <= MAX_SYNCNT:
            return -EINVAL
        conf.syncnt = <uint8_t>value
    elif which == OPT_UTO:
        if not 0 <= value <= UTO_MOST:
            return -EINVAL
        conf.uto = <uint32_t>value
        conf.uto_due = value != 0
    elif which == OPT_DEFER_ACCEPT:
        conf.defer_accept = secs_to_retrans(value)
    elif which == OPT_NOTSENT_LOWAT:
        conf.notsent_lowat = <uint32_t>value
    elif which == OPT_WINDOW_CLAMP:
        if value <= 0 and s.kind != SK_NONE:
            return -EINVAL
        conf.window_clamp = <uint32_t>max(value, <long long>MIN_RCVBUF // 2) if value else 0
    elif which == OPT_LINGER2:
        conf.linger2 = -1 if value < 0 else <int16_t>min(value, <long long>MAX_LINGER2)
    elif which == OPT_MTU_DISCOVER:
        if not 0 <= value <= PMTUDISC_OMIT:
            return -EINVAL
        conf.pmtudisc = <uint8_t>value + 1
    elif which == OPT_RECVERR:
        conf.recverr = value != 0
    elif which == OPT_OOBINLINE:
        conf.oobinline = value != 0
    elif which == OPT_TIMESTAMP:
        return -EPERM                            # only a socket in repair mode (tcp(7)) may; there is none here
    else:
        return -ENOPROTOOPT
    return 0


cdef int tcp_set(Engine *e, SockState *s, TcpConf *conf, int which, long long value) noexcept nogil:
    if OPT_KEEPALIVE <= which <= OPT_KEEPCNT:
        return keepalive_set(conf, which, value)
    if OPT_FASTOPEN <= which <= OPT_FASTOPEN_NO_COOKIE:
        return fastopen_set(e, s, conf, which, value)
    if which == OPT_LINGER:
        conf.linger = value >> 32 != 0
        value = <uint32_t>value
        conf.linger_time = 0xFFFF if value > 0xFFFF else <uint16_t>value
    elif which == OPT_REUSEADDR:
        conf.reuseaddr = value != 0
        reuse_set(s, conf)
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
        return tcp_mode_set(e, s, conf, which, value)
    return 0


cdef int udp_set(UdpSock *u, int which, long long value) noexcept nogil:
    if which == OPT_BROADCAST:
        set_bit(&u.flags, UDP_BROADCAST, value != 0)
    elif which == OPT_REUSEADDR:
        set_bit(&u.flags, UDP_REUSEADDR, value != 0)
    elif which == OPT_REUSEPORT:
        u.reuseport = value != 0
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


cdef int v6only_set(SockState *s, bint on) noexcept nogil:
    """ipv6(7): before bind only."""
    cdef UdpSock *u = <UdpSock *>s.obj
    if not s.shape & SHAPE_V6:
        return -ENOPROTOOPT
    if s.kind == SK_UDP and u.flags & UDP_BOUND:
        return -EINVAL
    if s.kind != SK_UDP and (s.kind != SK_NONE or s.obj == NULL or (<Draft *>s.obj).bind != NULL):
        return -EINVAL
    set_bit(&s.cmsg, SOCK_V6ONLY, on)
    if s.kind == SK_UDP and (u.entry.kind == ENTRY_UDP or u.entry.kind == ENTRY_UDPLITE):
        udp_set_family(u, UDP_IPV6 if on else UDP_BOTH)
    return 0


cdef int option_md5(Engine *e, SockState *s, const Md5Key *key) noexcept nogil:
    cdef const TcpConf *now = stream_conf(s) if s.kind != SK_UDP else NULL
    cdef TcpConf conf
    cdef int rc
    if now == NULL:
        return -ENOPROTOOPT if s.kind == SK_UDP else -EINVAL
    conf = now[0]
    rc = md5_change(now.md5, key, &conf.md5)
    if rc == 0:
        rc = stream_set_conf(e, s, &conf)
        md5_drop(conf.md5)                       # whoever keeps it has a hold of its own
    return rc


cdef int option_set(Engine *e, SockState *s, int which, long long value) noexcept nogil:
    cdef const TcpConf *now
    cdef TcpConf conf
    cdef int rc
    if which >= IPOPT_FIRST:
        return ipoption_set(e, s, which, value)
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
    elif which == OPT_V6ONLY:
        return v6only_set(s, value != 0)
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
