"""Captures: the frames of a stack's interfaces, as blocks of pcapng, with what became of them.

Responsible for which frames a capture gets, in what order, and for the bounded room between the data plane and whoever
writes the file: what finds no room is counted, nothing waits. Not for files, nor for waking anybody (driver).

A frame that comes in is written down before anything looks at it, and what is sent in answer comes behind it; if some
counter of dropped packets moved meanwhile, the names of such are put into its block as a comment. What goes out is
written down as it is given to the interface: a superframe is one, and a checksum may have been left to the link. The
loopback interface's frames are written down once, as they come in.
"""
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memcpy, memset, strcmp, strlen, strncmp

from ustack_ext.wire.bytes cimport get_be16
from ustack_ext.wire.headers cimport ETH_HLEN
from ustack_ext.wire.pcapng cimport (
    LINKTYPE_ETHERNET, LINKTYPE_RAW, PCAPNG_INBOUND, PCAPNG_OUTBOUND, PCAPNG_PACKET_HEAD, pcapng_comment,
    pcapng_interface, pcapng_packet, pcapng_packet_size,
)
from ustack_ext.base.bpf cimport Bpf, BpfPacket, bpf_run
from ustack_ext.base.core cimport MAX_COUNTERS
from ustack_ext.base.iov cimport IoVec
from ustack_ext.net.mib cimport (DropSocketFilter, DropTxQueueFull, DropTxTooBig, ListenOverflows, MIB_COUNT,
                                 NeighQueueDrops, TCPOFODrop, TCPRcvQDrop, TCPReqQFullDrop, TCPZeroWindowDrop,
                                 UdpMemErrors, UdpNoPorts, UdpRcvbufErrors, mib_name)
from ustack_ext.net.state cimport CaptureIface, MAX_IFACES, MEDIUM_ETHERNET, MEDIUM_LOOPBACK

cdef extern from "<stdint.h>" nogil:
    const size_t NOWHERE "SIZE_MAX"         # of Capture.in_at and out_at

cdef enum:
    COMMENT_MAX = 200              # bytes
    PKTTYPE_OUTGOING = 4           # PACKET_OUTGOING, for filters

# The counters that say why a packet was dropped.
cdef int reasons[MAX_COUNTERS]
cdef int n_reasons = 0


cdef bint says_why(int which) noexcept nogil:
    cdef const char *name = mib_name(which)
    cdef size_t n = strlen(name)
    if which == DropTxQueueFull or which == DropTxTooBig or which == DropSocketFilter:
        return False               # about what was sent meanwhile (capture_lost); of one socket among several
    if strncmp(name, b"Drop", 4) == 0 or (n > 10 and strcmp(name + n - 10, b"CsumErrors") == 0):
        return True
    return (which == UdpNoPorts or which == UdpRcvbufErrors or which == UdpMemErrors or which == TCPRcvQDrop
            or which == TCPZeroWindowDrop or which == TCPOFODrop or which == TCPReqQFullDrop
            or which == ListenOverflows or which == NeighQueueDrops)


cdef void find_reasons() noexcept nogil:
    global n_reasons
    cdef int k
    for k in range(<int>MIB_COUNT):
        if says_why(k):
            reasons[n_reasons] = k
            n_reasons += 1


find_reasons()


# --- which captures there are ---

cdef void capture_watch(Net *n) noexcept nogil:
    n.frames = n.sockets_frames if n.captures == NULL else see


cdef void capture_start(Net *n, Capture *c) noexcept nogil:
    c.next = n.captures
    n.captures = c
    c.in_at = NOWHERE
    c.out_at = NOWHERE
    capture_watch(n)


cdef void capture_stop(Net *n, Capture *c) noexcept nogil:
    cdef Capture **at = &n.captures
    while at[0] != NULL and at[0] != c:
        at = &at[0].next
    if at[0] == c:
        at[0] = c.next
    capture_watch(n)


cdef uint8_t *capture_take(Capture *c, uint8_t *empty, size_t *used) noexcept nogil:
    cdef uint8_t *full = c.data
    used[0] = c.used
    c.data = empty
    c.used = 0
    c.told = 0
    c.in_at = NOWHERE
    c.out_at = NOWHERE
    return full


cdef void capture_forget(Net *n, const Iface *i) noexcept nogil:
    cdef Capture *c = n.captures
    cdef int k
    while c != NULL:
        for k in range(MAX_IFACES):
            if c.known[k].index == i.index:
                c.known[k].index = 0   # the next with this index is another
        c = c.next


cdef int number_of(Capture *c, Iface *i) noexcept nogil:
    """The interface's number in the file, which hears of it now if it has not; -1: not wanted, or no room."""
    cdef CaptureIface *k = NULL
    cdef bint ether = i.medium == MEDIUM_ETHERNET
    cdef size_t n
    cdef int j
    for j in range(MAX_IFACES):
        if c.known[j].index == i.index:
            return c.known[j].id
        if c.known[j].index == 0 and k == NULL:
            k = &c.known[j]
    if c.name[0] != 0 and strcmp(c.name, i.name) != 0:
        k.index = i.index
        k.id = -1
        return -1
    n = pcapng_interface(c.data + c.used, c.size - c.used, LINKTYPE_ETHERNET if ether else LINKTYPE_RAW, c.snaplen,
                         i.name, i.mac if ether else NULL)
    if n == 0:
        c.dropped += 1
        return -1
    c.used += n
    k.index = i.index
    k.id = c.ids
    c.ids += 1
    return k.id


# --- a frame ---

cdef uint32_t kept(const Bpf *program, const Iface *i, const uint8_t *frame, uint32_t length, bint out) noexcept nogil:
    """Bytes of it that the filter wants."""
    cdef BpfPacket p
    cdef uint32_t link = ETH_HLEN if i.medium == MEDIUM_ETHERNET else 0
    memset(&p, 0, sizeof(p))
    p.data = frame
    p.length = length
    p.link = frame
    p.link_length = length
    p.ifindex = i.index
    p.pkttype = PKTTYPE_OUTGOING if out else 0
    if length >= link:
        p.net = frame + link
        p.net_length = length - link
        p.protocol = get_be16(frame + 12) if link != 0 else 0
    return bpf_run(program, &p)


cdef void copy(uint8_t *to, const IoVec *iov, int niov, size_t most) noexcept nogil:
    cdef size_t n
    cdef int k
    for k in range(niov):
        n = min(iov[k].len, most)
        memcpy(to, iov[k].base, n)
        to += n
        most -= n


cdef bint add(Net *n, Capture *c, Iface *i, const IoVec *iov, int niov, bint out) noexcept nogil:
    """Writes the frame down behind all others, if it is wanted. False: it isn't, or there is no room."""
    cdef const Bpf *program = c.ether_filter if i.medium == MEDIUM_ETHERNET else c.ip_filter
    cdef int k, id = number_of(c, i)
    cdef size_t total = 0, held
    cdef uint32_t want = c.snaplen
    cdef uint8_t *block
    if id < 0:
        return False
    for k in range(niov):
        total += iov[k].len
    if program != NULL and niov == 1:
        want = min(want, kept(program, i, <const uint8_t *>iov[0].base, <uint32_t>total, out))
        if want == 0:
            return False
    held = total if program != NULL and niov > 1 else min(total, <size_t>want)
    if c.used + pcapng_packet_size(held) > c.size:
        c.dropped += 1
        return False
    block = c.data + c.used
    copy(block + PCAPNG_PACKET_HEAD, iov, niov, held)
    if program != NULL and niov > 1:           # a filter wants it in one piece
        want = min(want, kept(program, i, block + PCAPNG_PACKET_HEAD, <uint32_t>total, out))
        if want == 0:
            return False
        held = min(total, <size_t>want)
    pcapng_packet(block, id, <uint64_t>(<int64_t>n.core.now + c.epoch), <uint32_t>held, <uint32_t>total,
                  PCAPNG_OUTBOUND if out else PCAPNG_INBOUND)
    c.used += pcapng_packet_size(held)
    c.frames += 1
    return True


cdef bint see(void *user, Iface *i, const IoVec *iov, int niov, bint out) noexcept nogil:
    """Net.frames: what goes out is written down here, what comes in was by capture_in."""
    cdef Net *n = i.net
    cdef Capture *c = n.captures
    cdef size_t at
    while c != NULL and out:
        at = c.used
        c.out_at = NOWHERE
        if i.medium != MEDIUM_LOOPBACK and add(n, c, i, iov, niov, True):
            c.out_at = last_of(c, at)
        c = c.next
    return n.sockets_frames != NULL and n.sockets_frames(user, i, iov, niov, out)


cdef void capture_in(Net *n, Iface *i, Buf *b) noexcept nogil:
    cdef Capture *c = n.captures
    cdef IoVec whole
    cdef size_t at
    whole.base = b.data + b.off
    whole.len = b.len
    while c != NULL:
        at = c.used
        c.in_at = NOWHERE
        if add(n, c, i, &whole, 1, False):
            c.in_at = last_of(c, at)
        c = c.next


cdef size_t last_of(const Capture *c, size_t at) noexcept nogil:
    """Where the last block is, of those from `at` on: an interface's may be in front of a packet's."""
    cdef uint32_t length
    memcpy(&length, c.data + at + 4, 4)
    return at if at + length == c.used else at + length


# --- what became of it ---

cdef void comment(Capture *c, size_t at, const char *text, size_t length) noexcept nogil:
    cdef size_t more = pcapng_comment(c.data + at, c.used - at, c.size - at, text, length)
    c.used += more
    if c.out_at != NOWHERE and c.out_at > at:
        c.out_at += more


cdef size_t say(char *text, size_t used, int which) noexcept nogil:
    cdef const char *before = b"dropped: " if used == 0 else b", "
    cdef const char *name = mib_name(which)
    cdef size_t b = strlen(before), n = strlen(name)
    if used + b + n > COMMENT_MAX:
        return used
    memcpy(text + used, before, b)
    memcpy(text + used + b, name, n)
    return used + b + n


cdef void capture_explain(Net *n, const uint64_t *before) noexcept nogil:
    cdef Capture *c = n.captures
    cdef char text[COMMENT_MAX]
    cdef size_t used = 0
    cdef int k
    for k in range(n_reasons):
        if n.core.counters[reasons[k]] != before[reasons[k]]:
            used = say(text, used, reasons[k])
    while c != NULL:
        if used > 0 and c.in_at != NOWHERE:
            comment(c, c.in_at, text, used)
        c.in_at = NOWHERE
        c = c.next


cdef void lost(Net *n, int reason) noexcept nogil:
    cdef Capture *c = n.captures
    cdef char text[COMMENT_MAX]
    cdef size_t used = say(text, 0, reason)
    while c != NULL:
        if c.out_at != NOWHERE:
            comment(c, c.out_at, text, used)
        c.out_at = NOWHERE
        c = c.next
