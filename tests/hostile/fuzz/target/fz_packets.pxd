# Frames from the other side of the wire, with every length and checksum right unless asked otherwise.
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from ustack_ext.wire.headers cimport TcpHdr
from fz_world cimport World

cdef enum:
    BAD_CHECKSUM = 1
    AT_END = 2                 # the frame ends where its buffer ends
    IP_OPTIONS = 4
    IN_FRAGMENTS = 8
    TO_BROADCAST = 16

cdef struct Way:               # from where to where, and how
    uint32_t src
    uint32_t dst
    uint8_t proto
    uint8_t flags              # of the enum above
    uint8_t tos
    uint16_t ident

# The n transport bytes at w.data, packed and fed to the engine.
cdef void feed_ip(World *w, const Way *way, uint32_t n) noexcept nogil
# A fragment: `n` bytes at w.data, offset in bytes.
cdef void feed_fragment(World *w, const Way *way, uint32_t offset, bint more, uint32_t n) noexcept nogil
# A TCP segment; h.hlen is set here. `options`: a multiple of 4 bytes.
cdef void feed_tcp(World *w, Way *way, TcpHdr *h, const uint8_t *options, uint32_t noptions, uint32_t payload) noexcept nogil
cdef void feed_udp(World *w, Way *way, uint16_t sport, uint16_t dport, uint32_t payload) noexcept nogil
cdef void feed_arp(World *w, uint16_t op, const uint8_t *sha, uint32_t spa, uint32_t tpa, uint8_t flags) noexcept nogil
# A frame of somebody's bytes at w.frame, mended: 1 link header, 2 IP lengths and checksum, 4 addresses, 8 transport checksum, 0x80 as IPv6.
cdef void feed_mended(World *w, uint32_t n, uint8_t how) noexcept nogil
