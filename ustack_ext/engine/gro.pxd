# Software receive offload: what of a batch is one run of one TCP flow goes through TCP once.
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from ustack_ext.base.iov cimport OFF_GSO_TCP4, OFF_GSO_TCP6, Offload
from ustack_ext.net.state cimport (
    MEDIUM_LOOPBACK, RX_IP_BROADCAST, RX_IP_MULTICAST, RX_LINK_BROADCAST, Buf, Iface, Net, RxPkt,
)
from ustack_ext.tcp.tcb cimport Tcp
from ustack_ext.wire.bytes cimport get_be16, get_be32
from ustack_ext.wire.headers cimport TCP_HLEN, TH_ACK, TH_PSH

cdef enum:
    GRO_FLOWS = 8
    GRO_TS_HLEN = 32           # a TCP header with timestamps and nothing else
    GRO_TS = 0x0101080A        # NOP, NOP, kind 8, length 10

cdef struct Held:              # a packet being put together
    RxPkt rx                   # the first segment's; the others are in rx.more
    Buf *tail                  # of rx.more
    uint32_t ports             # as they are in the header
    uint32_t next_seq
    uint32_t tsval             # of the last segment
    uint32_t hlen              # of the TCP header
    uint32_t payload           # bytes in all
    uint16_t longest           # payload of one segment

cdef struct Gro:
    uint32_t count
    Held held[GRO_FLOWS]       # oldest first

# A frame that net has not seen: True where it goes on where a run ends and differs from it in nothing else; it is then
# taken, with the reference, and counted as net would. False: nothing was done.
cdef bint gro_next(Gro *g, Tcp *t, Net *net, Iface *i, Buf *buf, const Offload *off) noexcept nogil
# gro_input's work where the segment may be part of a run: it takes over the reference to rx.buf, or False: not taken.
cdef bint gro_take(Gro *g, Tcp *t, RxPkt *rx, uint32_t hlen) noexcept nogil
cdef void gro_settle(Gro *g, Tcp *t, const RxPkt *rx) noexcept nogil       # what is held of its flow goes to TCP
cdef void gro_flush(Gro *g, Tcp *t) noexcept nogil                         # everything held goes to TCP
cdef void gro_clear(Gro *g, Tcp *t) noexcept nogil                         # everything held is dropped


cdef inline uint32_t gro_hlen(const RxPkt *rx) noexcept nogil:
    """The length of the TCP header if the segment is plain data that may be part of a run, else 0.

    Nothing may be held on the loopback, which runs inside a poll, and there is no use where a link merges itself.
    """
    cdef uint16_t word
    if rx.l4_len <= TCP_HLEN:
        return 0
    word = get_be16(rx.l4 + 12) & ~TH_PSH              # data offset, reserved bits, flags
    if word == (GRO_TS_HLEN << 10 | TH_ACK):
        if rx.l4_len <= GRO_TS_HLEN or get_be32(rx.l4 + TCP_HLEN) != GRO_TS:
            return 0
    elif word != (TCP_HLEN << 10 | TH_ACK):
        return 0
    if (rx.gso_size != 0 or rx.flags & (RX_LINK_BROADCAST | RX_IP_BROADCAST | RX_IP_MULTICAST)
            or rx.iface.offloads & (OFF_GSO_TCP6 if rx.l3[0] >> 4 == 6 else OFF_GSO_TCP4)
            or rx.iface.medium == MEDIUM_LOOPBACK):
        return 0
    return word >> 10


cdef inline bint gro_input(Gro *g, Tcp *t, RxPkt *rx, bint whole) noexcept nogil:
    """A TCP packet came in. True: it is held, with the reference to its buffer. False: it is TCP's turn, at once.

    `whole`: the packet lies in the buffer it was received in (it was not put together from fragments).
    """
    cdef uint32_t hlen
    if g.count == 0 and (rx.l4_len <= GRO_TS_HLEN or rx.l4[13] != TH_ACK):
        return False                                   # no run is there, and this begins none
    hlen = gro_hlen(rx)
    if hlen != 0 and whole:
        return gro_take(g, t, rx, hlen)
    if g.count > 0:
        gro_settle(g, t, rx)
    return False
