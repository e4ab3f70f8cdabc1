"""Path MTU and datagram sockets: RFC 8201 §5.2, RFC 3542 §11.3 (IPV6_RECVPATHMTU), ip(7) and ipv6(7).

Responsible for what a socket learns from "too big" and when it is told; not for the cache (net/pmtu) nor for errors and
their queue (udp, errqueue).

A socket without a peer has nothing that the quoted packet could be compared with but its own port, so that anybody may
say anything about any destination. What it learns is no less needed: over IPv6 nobody else cuts its datagrams. So the
cache takes such news at a limited rate, and each only if it is less than what is assumed now; a lie costs smaller
datagrams to one destination for net.ipv4.route.mtu_expires.
"""
from libc.stdint cimport uint8_t
from libc.string cimport memset

from ustack_ext.wire.addr cimport addr_eq, addr_is_v4
from ustack_ext.base.event cimport EV_READABLE, event_raise
from ustack_ext.base.limiter cimport limiter_take
from ustack_ext.net.net cimport net_resolve
from ustack_ext.net.pmtu cimport pmtu_too_big
from ustack_ext.net.state cimport Dst
from ustack_ext.udp.state cimport UDP_CONNECTED, pmtudisc_for

cdef enum:
    PMTUDISC_DO = 2
    PMTUDISC_PROBE = 3


cdef bint learns(const UdpSock *s, const Addr *dst) noexcept nogil:
    """Over IPv4 only who sets DF, as routers cut for all others; over IPv6 everybody (RFC 8201 §4) but those whom no
    path interests (IPV6_PMTUDISC_INTERFACE and beyond)."""
    cdef uint8_t mode = pmtudisc_for(s, dst)
    if addr_is_v4(dst):
        return 0 < mode <= PMTUDISC_DO
    return mode <= PMTUDISC_PROBE


cdef void learn_path_mtu(Udp *u, UdpSock *s, const IcmpError *e) noexcept nogil:
    cdef bint sure = s.flags & UDP_CONNECTED and addr_eq(&s.raddr, &e.dst)
    cdef Dst now
    if not learns(s, &e.dst) or not (sure or limiter_take(&u.hearsay, u.core.now)):
        return
    memset(&now, 0, sizeof(now))
    if net_resolve(u.net, &now, &e.src, &e.dst) != 0:
        return
    pmtu_too_big(u.net, &e.dst, e.mtu, now.mtu)
    if net_resolve(u.net, &now, &e.src, &e.dst) == 0:  # of several sockets each is told
        tell_path_mtu(u, s, &e.dst, now.mtu)


cdef void tell_path_mtu(Udp *u, UdpSock *s, const Addr *dst, uint32_t mtu) noexcept nogil:
    """The latest is told: one a socket, as Linux keeps it."""
    if s.more == NULL or not s.more.wants_path or addr_is_v4(dst):
        return
    s.more.path_mtu = mtu
    s.more.path_to = dst[0]
    event_raise(&u.core.events, &s.source, EV_READABLE)


cdef void forget_path_mtu(UdpSock *s) noexcept nogil:
    if s.more != NULL:
        s.more.path_mtu = 0
