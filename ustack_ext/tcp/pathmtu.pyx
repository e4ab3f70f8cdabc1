"""How large a segment the path carries, and finding it out.

Path MTU discovery: a router's fragmentation-needed (RFC 1191) or packet-too-big (RFC 8201), believed only when it
quotes a sequence number in flight (RFC 5927 §7). The estimate is the destination's (net/pmtu); what was in flight and
is too long for it is sent again at once, cut anew, and no congestion is concluded from it.

Packetization layer path MTU discovery (RFC 4821, 8899), by tcp_mtu_probing, where no router speaks: after retries1
time-outs in a row the path is taken for a black hole and tcp_base_mss is used; larger segments are then tried, one at a
time. The first try is the largest size there may be, but after a black hole, where that has just failed; then the range
is halved. A probe carries data: one that arrives costs nothing, one that doesn't is sent again as ordinary segments.

The range is the destination's too. A router's word bounds it from above. Whether data is acknowledged tells what
arrives: no forged message moves it.
"""
from libc.stdint cimport uint16_t, uint32_t

from ustack_ext.base.core cimport count
from ustack_ext.net.mib cimport TCPMTUPFail, TCPMTUPSuccess
from ustack_ext.net.net cimport net_resolve
from ustack_ext.net.pmtu cimport pmtu_find, pmtu_get, pmtu_search, pmtu_too_big
from ustack_ext.net.state cimport Pmtu
from ustack_ext.tcp.output cimport mtu_of_mss, transmit_new, update_mss
from ustack_ext.tcp.recovery cimport recovery_pipe, recovery_resize
from ustack_ext.tcp.sendqueue cimport sendq_unsent
from ustack_ext.tcp.seq cimport seq_geq
from ustack_ext.tcp.tcb cimport (
    CA_OPEN, PROBE_LOST, PROBE_NONE, PROBE_OUT, TCP_CLOSE_WAIT, TCP_ESTABLISHED, TCP_REORDERING, TF_CONNECTED,
    TF_FIN_SENT, Tcb, Tcp, has_gap,
)

cdef enum:
    PROBE_CWND = 11                # segments of congestion window below which nothing is tried, as Linux


cdef void path_too_big(Tcp *t, Tcb *c, uint32_t mtu) noexcept nogil:
    cdef uint32_t before = c.mss
    if not c.flags & TF_CONNECTED or net_resolve(t.net, &c.dst, &c.laddr, &c.raddr) != 0:
        return
    if not pmtu_too_big(t.net, &c.raddr, mtu, c.dst.mtu):
        return
    update_mss(t, c)
    if c.mss < before:
        recovery_resize(t, c)


cdef inline uint32_t base_size(const Tcp *t, const Tcb *c, uint32_t mss) noexcept nogil:
    """The size of a packet with a segment of so much payload and options, but not below what is still sensible."""
    mss = max(max(mss, t.knobs.mtu_probe_floor), t.knobs.min_snd_mss)
    return mtu_of_mss(c, mss)


cdef void path_black_hole(Tcp *t, Tcb *c) noexcept nogil:
    cdef Pmtu *p
    cdef uint32_t low
    if t.knobs.mtu_probing == 0 or not c.flags & TF_CONNECTED:
        return
    p = pmtu_get(t.net, &c.raddr)
    if p == NULL:
        return
    low = base_size(t, c, t.knobs.base_mss)
    if p.probing:
        low = min(low, base_size(t, c, p.low // 2))
    p.top_failed = 1
    pmtu_search(t.net, p, low, 0)
    c.tx.probe = PROBE_NONE
    update_mss(t, c)


cdef void judge(Tcp *t, Tcb *c, Pmtu *p) noexcept nogil:
    """The last probe: arrived, or alone lost."""
    if c.tx.probe == PROBE_LOST:
        count(t.core, TCPMTUPFail)
        p.top_failed = 1
        pmtu_search(t.net, p, p.low, c.tx.probe_mtu - 1)
        c.tx.probe = PROBE_NONE
    elif c.tx.probe == PROBE_OUT and seq_geq(c.snd_una, c.tx.probe_end):
        count(t.core, TCPMTUPSuccess)
        pmtu_search(t.net, p, max(p.low, c.tx.probe_mtu), p.high)
        c.tx.probe = PROBE_NONE
        update_mss(t, c)


cdef uint32_t next_size(Tcp *t, Tcb *c, const Pmtu *p) noexcept nogil:
    """Bytes of IP to try; 0: the search is over."""
    cdef uint32_t top = min(c.dst.mtu, mtu_of_mss(c, c.peer_mss))
    if p.high != 0:
        top = min(top, p.high)
    if top <= p.low or top - p.low < t.knobs.probe_threshold:
        return 0
    return top if not p.top_failed else (top + p.low + 1) // 2


cdef void path_probe(Tcp *t, Tcb *c) noexcept nogil:
    cdef Pmtu *p
    cdef uint32_t size, n, needed
    cdef uint16_t mss = c.mss
    if c.state != TCP_ESTABLISHED and c.state != TCP_CLOSE_WAIT:
        return
    if c.tx.probe == PROBE_NONE and (c.ca_state != CA_OPEN or c.cwnd < PROBE_CWND * <uint32_t>mss or has_gap(c)
                                     or sendq_unsent(c) <= mss):
        return
    p = pmtu_find(t.net, &c.raddr)
    if p == NULL or not p.probing:
        return
    if c.tx.probe != PROBE_NONE:
        judge(t, c, p)
        return                                               # the next one with the next ACK
    if c.dst.generation != t.net.generation or c.flags & TF_FIN_SENT:
        update_mss(t, c)
        return
    size = next_size(t, c, p)
    if size == 0:
        return
    n = size - (mtu_of_mss(c, mss) - mss)
    needed = n + (TCP_REORDERING + 1) * <uint32_t>mss       # what follows it must be able to tell that it is lost
    if (n <= mss or sendq_unsent(c) < needed or c.snd_una + c.snd_wnd - c.snd_nxt < needed or c.snd_wnd < needed
            or recovery_pipe(c) + n > c.cwnd):
        return
    c.mss = <uint16_t>n                                      # one segment, not to be cut
    if transmit_new(t, c, n, False, False):
        c.tx.probe = PROBE_OUT
        c.tx.probe_end = c.snd_nxt
        c.tx.probe_mtu = <uint16_t>size
    c.mss = mss
