"""The size of segments: RFC 9293 §3.7.1 (MUST-16, MUST-67), RFC 1191 and 4821."""
from libc.stdint cimport uint16_t, uint32_t

from ustack_ext.net.net cimport net_resolve, net_route_mtu
from ustack_ext.net.pmtu cimport pmtu_find, pmtu_get, pmtu_search
from ustack_ext.net.state cimport IP_MAX, Dst, Pmtu
from ustack_ext.tcp.md5 cimport md5_key
from ustack_ext.tcp.options cimport MD5_LEN, TS_LEN
from ustack_ext.tcp.tcb cimport TF_TS_OK, Tcb, Tcp
from ustack_ext.wire.addr cimport Addr, addr_is_v4

cdef enum:
    MSS_MAX = 0xFFFF               # an MSS has 16 bits


cdef uint16_t mss_for_mtu(const Addr *peer, uint32_t mtu) noexcept nogil:
    cdef uint32_t headers = IP4_TCP_HEADERS if addr_is_v4(peer) else IP6_TCP_HEADERS
    return <uint16_t>min(mtu - headers if mtu > headers + 1 else 1, <uint32_t>MSS_MAX)


cdef inline uint32_t options_of(const Tcb *c, bint is_signed) noexcept nogil:
    """Bytes of options in every segment of the connection."""
    return (TS_LEN if c.flags & TF_TS_OK else 0) + (MD5_LEN if is_signed else 0)


cdef uint32_t mtu_of_mss(const Tcb *c, uint32_t mss) noexcept nogil:
    """The packet that a segment with so much payload and options is."""
    return (mss + options_of(c, md5_key(c.conf.md5, &c.raddr) != NULL)
            + (IP4_TCP_HEADERS if addr_is_v4(&c.raddr) else IP6_TCP_HEADERS))


cdef uint16_t mss_to_tell(Tcp *t, const Dst *d, const Addr *peer, uint16_t maxseg) noexcept nogil:
    """MUST-67: MMS_R - 20, not reduced for options. From the route's MTU: what the path in our direction carries says
    nothing of the other (RFC 1191 §3.1).
    """
    cdef uint16_t mss = mss_for_mtu(peer, net_route_mtu(t.net, d, peer))
    if maxseg:
        mss = min(mss, maxseg)
    if t.knobs.mss_clamp:
        mss = min(mss, <uint16_t>t.knobs.mss_clamp)
    return mss


cdef uint32_t proved_mtu(Tcp *t, Tcb *c) noexcept nogil:
    """What packetization layer discovery lets a packet be (RFC 4821 §7.1)."""
    cdef Pmtu *p
    if t.knobs.mtu_probing == 0:
        return IP_MAX
    p = pmtu_find(t.net, &c.raddr)
    if t.knobs.mtu_probing > 1 and (p == NULL or not p.probing):
        p = pmtu_get(t.net, &c.raddr)
        if p != NULL:
            pmtu_search(t.net, p, mtu_of_mss(c, t.knobs.base_mss), 0)
    return p.low if p != NULL and p.probing else IP_MAX


cdef void update_mss(Tcp *t, Tcb *c) noexcept nogil:
    """MUST-16: Eff.snd.MSS = min(peer's MSS, what the route carries) less our options; floor tcp_min_snd_mss."""
    cdef uint32_t mss = c.peer_mss, proved = proved_mtu(t, c)
    cdef uint32_t most = IP_MAX
    cdef bint is_signed = md5_key(c.conf.md5, &c.raddr) != NULL
    cdef uint32_t options = options_of(c, is_signed)
    if net_resolve(t.net, &c.dst, &c.laddr, &c.raddr) == 0:
        mss = min(mss, <uint32_t>mss_for_mtu(&c.raddr, min(c.dst.mtu, proved)))
        most = gso_room(c.dst.iface, &c.raddr)
    if t.knobs.mss_clamp:
        mss = min(mss, t.knobs.mss_clamp)
    if c.conf.maxseg:
        mss = min(mss, <uint32_t>c.conf.maxseg)
    mss = max(mss, t.knobs.min_snd_mss + options) - options
    c.mss = <uint16_t>mss
    # whoever cuts a superframe can't sign its pieces
    c.gso_segs = 1 if is_signed else <uint16_t>max(1, (most - GSO_HEADERS) // mss)
