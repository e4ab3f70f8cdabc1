# Out: where a packet goes, its headers, fragmentation, and the queue of an unresolved neighbour.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from ustack_ext.wire.addr cimport Addr
from ustack_ext.net.state cimport Dst, Iface, Net, TxPkt, dst_holds

cdef int output_resolve_anew(Net *n, Dst *d, const Addr *src, const Addr *dst) noexcept nogil
# ... of what came in by an interface, and is sent on.
cdef int output_resolve_from(Net *n, Dst *d, const Addr *src, const Addr *dst, const Iface *iif) noexcept nogil


cdef inline int output_resolve(Net *n, Dst *d, const Addr *src, const Addr *dst) noexcept nogil:
    """Fills in *d unless it is still valid. 0, -EINVAL, -ENETUNREACH, -EHOSTUNREACH, -ENOBUFS; on failure *d is
    stale."""
    return 0 if dst_holds(n, d) else output_resolve_anew(n, d, src, dst)


cdef int output_packet(Net *n, Dst *d, const Addr *src, const Addr *dst, uint8_t proto, uint8_t ttl, uint8_t tos,
                       bint df, TxPkt *t) noexcept nogil
# A new identification, unpredictable from those to other hosts.
cdef uint16_t next_ident(Net *n, const Addr *src, const Addr *dst, uint8_t proto) noexcept nogil
# t begins with the IP header: link header, neighbour, transmit. d is resolved.
cdef int output_link(Net *n, Dst *d, const Addr *dst, uint16_t ethertype, TxPkt *t) noexcept nogil
# References bytes [start, start + length) of t's headers and payload as payload of f.
cdef void tx_slice(const TxPkt *t, uint32_t start, uint32_t length, TxPkt *f) noexcept nogil
# Computes the checksum that was left to the link. csum_start is still the transport header's start.
cdef void tx_finish_checksum(TxPkt *t) noexcept nogil
# Partial checksum of the header bytes pushed so far and of the payload, whatever the lengths of its pieces.
cdef uint64_t tx_csum(const TxPkt *t, uint64_t sum) noexcept nogil


cdef inline uint32_t tx_length(const TxPkt *t) noexcept nogil:
    """Header bytes pushed so far, and payload."""
    return <uint32_t>(&t.hdr_space[0] + 160 - t.hdr) + t.payload_len
