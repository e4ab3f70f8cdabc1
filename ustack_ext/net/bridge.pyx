"""A learning bridge between Ethernet interfaces (IEEE 802.1D §7: relaying, filtering, learning, ageing).

Responsible for where a frame goes: to the port where its destination was seen, to all others where it was not seen or
is a group's, and to the bridge's own interface. Tags are part of a frame here; a VLAN of a port takes its frames first
(input). Not for loops: there is no spanning tree, and frames to 01:80:C2:00:00:00 to 0F, those of spanning tree among
them, end here as §7.12.6 says.

A frame is sent on as it lies. What its own link left undone, a checksum or the cutting of a superframe, is left to the
link that it leaves by, or done for one that can't.

Memory is bounded: BRIDGE_STATIONS addresses a port. A port that floods with addresses drives out its own ones, those
seen longest ago; what stands at other ports stays known.
"""
from libc.errno cimport EBUSY, EINVAL, ELOOP, ENFILE, ENOMEM
from libc.stdint cimport uint16_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp

from ustack_ext.wire.bytes cimport get_be16, get_be32
from ustack_ext.wire.checksum cimport csum_fold, csum_partial, csum_store
from ustack_ext.wire.headers cimport ETH_HLEN, ETHERTYPE_VLAN, TCP_HLEN, UDP_HLEN, VLAN_HLEN
from ustack_ext.base.core cimport count
from ustack_ext.base.entry cimport ENTRY_STATION, Entry
from ustack_ext.base.iov cimport OFF_CSUM_WANTED, OFF_ECN, OFF_GSO, OFF_GSO_UDP, IoVec
from ustack_ext.base.rng cimport rng_key
from ustack_ext.base.slab cimport slab_alloc, slab_destroy, slab_free, slab_init
from ustack_ext.base.table cimport (
    table_destroy, table_first, table_hash_short, table_init, table_insert, table_next, table_remove,
)
from ustack_ext.net.frame cimport frame_transmit, mac_is_group, mac_is_zero
from ustack_ext.net.iface cimport iface_insert
from ustack_ext.net.mib cimport (
    BridgeFlooded, BridgeForwarded, BridgeMoves, BridgeTableFull, DropBridgeOwnAddress, DropBridgeReserved,
    DropBridgeSamePort, DropEthSource, DropTxTooBig, MIB_COUNT,
)
from ustack_ext.net.state cimport (
    BRIDGE_PORTS, BRIDGE_STATIONS, CARRIES_BRIDGE, MAX_IFADDRS, MEDIUM_ETHERNET, BridgePort, Station,
)

cdef enum:
    SECOND = 1000000000
    OWN_PORT = BRIDGE_PORTS        # what the stack itself sends comes from none
    TCP_OFFSET_AT = 12


# --- stations ---

cdef inline uint64_t mac_number(const uint8_t *p) noexcept nogil:
    return <uint64_t>get_be32(p) << 16 | get_be16(p + 4)


cdef Station *station_find(Bridge *b, uint64_t mac) noexcept nogil:
    cdef Entry *e = table_first(&b.table, table_hash_short(&b.key, mac, 0))
    while e != NULL and (<Station *>e).mac != mac:
        e = table_next(e)
    return <Station *>e


cdef void append(Bridge *b, Station *s, uint32_t port) noexcept nogil:
    cdef BridgePort *p = &b.ports[port]
    s.port = port
    s.newer = NULL
    s.older = p.newest
    if p.newest != NULL:
        p.newest.newer = s
    else:
        p.oldest = s
    p.newest = s
    p.stations += 1


cdef void unlink(Bridge *b, Station *s) noexcept nogil:
    cdef BridgePort *p = &b.ports[s.port]
    if s.older != NULL:
        s.older.newer = s.newer
    else:
        p.oldest = s.newer
    if s.newer != NULL:
        s.newer.older = s.older
    else:
        p.newest = s.older
    p.stations -= 1


cdef void station_remove(Bridge *b, Station *s) noexcept nogil:
    unlink(b, s)
    table_remove(&b.table, &s.entry)
    slab_free(&b.slab, s)


cdef void make_room(Net *n, Bridge *b, uint32_t port) noexcept nogil:
    """For one more station of the port. Old ones are forgotten two at a time, so that there is never a long walk."""
    cdef BridgePort *p = &b.ports[port]
    for _ in range(2):
        if p.oldest != NULL and n.core.now - p.oldest.seen > b.ageing:
            station_remove(b, p.oldest)
    if p.stations >= BRIDGE_STATIONS:
        count(n.core, BridgeTableFull)
        station_remove(b, p.oldest)


cdef inline void learn(Net *n, Bridge *b, uint64_t mac, uint32_t port) noexcept nogil:
    """IEEE 802.1D §7.8. The order of a port's stations is kept to the second: not a list operation a frame."""
    cdef Station *s = station_find(b, mac)
    if s != NULL and s.port == port and n.core.now - s.seen < SECOND:
        return
    if s != NULL:
        if s.port != port:
            count(n.core, BridgeMoves)
            if b.ports[port].stations >= BRIDGE_STATIONS:
                make_room(n, b, port)
        unlink(b, s)
    else:
        make_room(n, b, port)
        s = <Station *>slab_alloc(&b.slab)
        if s == NULL:
            return
        s.entry.kind = ENTRY_STATION
        s.mac = mac
        table_insert(&b.table, &s.entry, table_hash_short(&b.key, mac, 0))
    s.seen = n.core.now
    append(b, s, port)


cdef inline int port_of(Net *n, Bridge *b, const uint8_t *mac) noexcept nogil:
    """The port at which a station was seen not too long ago; -1: unknown."""
    cdef Station *s = station_find(b, mac_number(mac))
    if s == NULL:
        return -1
    if n.core.now - s.seen > b.ageing:
        station_remove(b, s)
        return -1
    return <int>s.port


# --- sending on ---

cdef inline bint fits(const Iface *port, uint32_t frame, uint32_t link, const Offload *off) noexcept nogil:
    """Whether the port's MTU takes the frame, or its segments. link: bytes of link header."""
    if off.gso_size != 0:
        frame = off.hdr_len + off.gso_size
    return frame <= port.mtu + link


cdef int send(Net *n, Iface *port, const IoVec *iov, int niov, uint32_t length, uint32_t link,
              const Offload *off) noexcept nogil:
    if not fits(port, length, link, off):
        port.tx_dropped += 1
        count(n.core, DropTxTooBig)
        return -1
    return frame_transmit(n, port, iov, niov, length, off)


cdef void flood(Net *n, Bridge *b, uint32_t but, const IoVec *iov, int niov, uint32_t length, uint32_t link,
                const Offload *off) noexcept nogil:
    cdef uint32_t k
    count(n.core, BridgeFlooded)
    for k in range(BRIDGE_PORTS):
        if b.ports[k].iface != NULL and k != but and b.ports[k].iface.up:
            send(n, b.ports[k].iface, iov, niov, length, link, off)


cdef inline uint32_t link_header(const uint8_t *p) noexcept nogil:
    return ETH_HLEN + (VLAN_HLEN if get_be16(p + 12) == ETHERTYPE_VLAN else 0)


cdef int bridge_transmit(void *link, const IoVec *iov, int niov, const Offload *off) noexcept nogil:
    """The transmit function of the bridge's own interface."""
    cdef Bridge *b = <Bridge *>link
    cdef Net *n = b.iface.net
    cdef const uint8_t *p = <const uint8_t *>iov[0].base
    cdef uint32_t length = 0
    cdef int k, port = -1
    if iov[0].len < ETH_HLEN:
        return -1
    for k in range(niov):
        length += <uint32_t>iov[k].len
    if not mac_is_group(p):
        port = port_of(n, b, p)
    if port >= 0:
        return send(n, b.ports[port].iface, iov, niov, length, link_header(p), off)
    flood(n, b, OWN_PORT, iov, niov, length, link_header(p), off)
    return 0


cdef bint describe(const uint8_t *p, uint32_t length, const Offload *came, Offload *off) noexcept nogil:
    """What is left for the next link to do, from what the last one said. False: it doesn't hold together."""
    cdef uint32_t at
    off.flags = 0
    off.gso_size = off.hdr_len = off.csum_start = off.csum_offset = 0
    if came == NULL:
        return True
    if came.flags & OFF_CSUM_WANTED:
        at = came.csum_start
        if at + came.csum_offset + 2 > length:
            return False
        off.flags = OFF_CSUM_WANTED
        off.csum_start = came.csum_start
        off.csum_offset = came.csum_offset
    if came.gso_size == 0:
        return True
    if not came.flags & OFF_CSUM_WANTED or not came.flags & OFF_GSO:
        return False
    off.flags |= came.flags & (OFF_GSO | OFF_ECN)
    off.gso_size = came.gso_size
    at = came.csum_start
    if came.flags & OFF_GSO_UDP:
        off.hdr_len = <uint16_t>(at + UDP_HLEN)
        return at + UDP_HLEN < length
    if at + TCP_HLEN > length:
        return False
    at += <uint32_t>(p[at + TCP_OFFSET_AT] >> 4) * 4
    off.hdr_len = <uint16_t>at
    return at < length


cdef void finish_checksum(uint8_t *p, uint32_t length, Offload *off) noexcept nogil:
    cdef uint16_t value = csum_fold(csum_partial(p + off.csum_start, length - off.csum_start, 0))
    csum_store(p + off.csum_start + off.csum_offset, value if value != 0 else 0xFFFF)
    off.flags &= ~OFF_CSUM_WANTED


cdef bint all_sum_up(const Bridge *b, int port, uint32_t but) noexcept nogil:
    """Whether the port, or (-1) every one but the frame's own, finishes checksums."""
    cdef uint32_t k
    if port >= 0:
        return b.ports[port].iface.offloads & OFF_CSUM_WANTED != 0
    for k in range(BRIDGE_PORTS):
        if b.ports[k].iface != NULL and k != but and not b.ports[k].iface.offloads & OFF_CSUM_WANTED:
            return False
    return True


cdef void relay(Net *n, Bridge *b, int port, uint32_t came_by, Buf *buf, const Offload *came) noexcept nogil:
    """Out of a port, or (-1) of all but the one it came by."""
    cdef uint8_t *p = buf.data + buf.off
    cdef Offload off
    cdef IoVec whole
    if not describe(p, buf.len, came, &off):
        count(n.core, DropTxTooBig)
        return
    if off.gso_size == 0 and off.flags & OFF_CSUM_WANTED and not all_sum_up(b, port, came_by):
        finish_checksum(p, buf.len, &off)
    whole.base = p
    whole.len = buf.len
    if port < 0:
        flood(n, b, came_by, &whole, 1, buf.len, link_header(p), &off)
        return
    count(n.core, BridgeForwarded)
    send(n, b.ports[port].iface, &whole, 1, buf.len, link_header(p), &off)


cdef inline bint is_reserved(const uint8_t *p) noexcept nogil:
    """01:80:C2:00:00:00 to 0F (IEEE 802.1D table 7-10)."""
    return get_be32(p) == 0x0180C200 and p[4] == 0 and p[5] < 0x10


cdef int refusal(const Bridge *b, const uint8_t *p) noexcept nogil:
    """Why a frame goes no further, a Drop counter; or MIB_COUNT."""
    if mac_is_group(p + 6) or mac_is_zero(p + 6):
        return DropEthSource
    if memcmp(p + 6, b.iface.mac, 6) == 0:             # reflected, or a loop
        return DropBridgeOwnAddress
    return DropBridgeReserved if is_reserved(p) else MIB_COUNT


cdef uint32_t slot_of(const Bridge *b, const Iface *port) noexcept nogil:
    cdef uint32_t k = 0
    while b.ports[k].iface != port:
        k += 1
    return k


cdef Iface *bridge_input(Net *n, Iface *port, Buf *buf, const Offload *off) noexcept nogil:
    cdef Bridge *b = port.bridge
    cdef const uint8_t *p = buf.data + buf.off
    cdef uint32_t came_by = slot_of(b, port)
    cdef int to, reason = refusal(b, p)
    if reason == MIB_COUNT:
        learn(n, b, mac_number(p + 6), came_by)
        if memcmp(p, b.iface.mac, 6) == 0:
            return b.iface
        if mac_is_group(p):
            relay(n, b, -1, came_by, buf, off)
            return b.iface
        to = port_of(n, b, p)
        if to < 0 or <uint32_t>to != came_by:
            relay(n, b, to, came_by, buf, off)
            return NULL
        reason = DropBridgeSamePort
    count(n.core, reason)
    port.rx_dropped += 1
    return NULL


# --- bridges and their ports ---

cdef int port_error(const Iface *i) noexcept nogil:
    cdef int k
    if i.medium != MEDIUM_ETHERNET:
        return -EINVAL
    if i.bridge != NULL:
        return -ELOOP if i.bridge.iface == i else -EBUSY
    if i.lower != NULL and i.lower.bridge != NULL and i.lower.bridge.iface == i.lower:
        return -ELOOP
    for k in range(MAX_IFADDRS):
        if i.addrs[k].used:
            return -EINVAL
    return 0


cdef void bridge_free(Bridge *b) noexcept nogil:
    table_destroy(&b.table)
    slab_destroy(&b.slab)
    free(b)


cdef Iface *bridge_add(Net *n, const char *name, Iface **ports, int n_ports, const uint8_t *mac, uint64_t ageing,
                       int *error) noexcept nogil:
    cdef uint32_t mtu = ports[0].mtu, offloads = ports[0].offloads
    cdef Bridge *b
    cdef int k
    for k in range(n_ports):
        error[0] = port_error(ports[k])
        if error[0] != 0:
            return NULL
        mtu = min(mtu, ports[k].mtu)
        offloads &= ports[k].offloads
    error[0] = -ENOMEM
    b = <Bridge *>calloc(1, sizeof(Bridge))
    if b == NULL:
        return NULL
    b.key = rng_key(&n.core.rng)
    b.ageing = ageing
    slab_init(&b.slab, sizeof(Station), BRIDGE_STATIONS * BRIDGE_PORTS)
    if table_init(&b.table, 64) != 0:
        bridge_free(b)
        return NULL
    b.iface = iface_insert(n, name, MEDIUM_ETHERNET, mac if mac != NULL else ports[0].mac, mtu, offloads,
                           bridge_transmit, b)
    if b.iface == NULL:
        error[0] = -ENFILE
        bridge_free(b)
        return NULL
    b.iface.bridge = b
    for k in range(n_ports):
        b.ports[k].iface = ports[k]
        ports[k].bridge = b
        ports[k].carries |= CARRIES_BRIDGE
    return b.iface


cdef void port_leave(Bridge *b, uint32_t port) noexcept nogil:
    cdef Iface *i = b.ports[port].iface
    while b.ports[port].oldest != NULL:
        station_remove(b, b.ports[port].oldest)
    b.ports[port].iface = NULL
    i.bridge = NULL
    i.carries &= ~CARRIES_BRIDGE


cdef void bridge_forget(Net *n, Iface *i) noexcept nogil:
    cdef Bridge *b = i.bridge
    cdef uint32_t k
    if b == NULL:
        return
    if b.iface != i:
        port_leave(b, slot_of(b, i))
        return
    for k in range(BRIDGE_PORTS):
        if b.ports[k].iface != NULL:
            port_leave(b, k)
    i.bridge = NULL
    bridge_free(b)
