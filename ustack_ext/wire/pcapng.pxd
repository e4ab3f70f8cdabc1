# pcapng (draft-ietf-opsawg-pcapng), as much of it as a capture of a stack needs: sections, interfaces, packets with a
# direction and comments. In this machine's byte order, as the format wants it. Every block is a multiple of 4 bytes.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    PCAPNG_INBOUND = 1             # epb_flags
    PCAPNG_OUTBOUND = 2
    PCAPNG_PACKET_HEAD = 28        # bytes of a packet's block in front of the data
    LINKTYPE_ETHERNET = 1
    LINKTYPE_RAW = 101             # IPv4 or IPv6, without a link header

# An interface; timestamps are in ns. mac may be NULL. The block's length, or 0: there is no room.
cdef size_t pcapng_interface(uint8_t *out, size_t room, uint16_t linktype, uint32_t snaplen, const char *name,
                             const uint8_t *mac) noexcept nogil
# The block around `captured` bytes that are at out + PCAPNG_PACKET_HEAD already. There are pcapng_packet_size() bytes.
cdef void pcapng_packet(uint8_t *out, uint32_t interface, uint64_t ns, uint32_t captured, uint32_t length,
                        uint32_t flags) noexcept nogil
# Puts a comment into the packet's block at `block`; `used` bytes from there on, the block's among them, are in use of
# `room`. Bytes that were put in, or 0: no room.
cdef size_t pcapng_comment(uint8_t *block, size_t used, size_t room, const char *text, size_t n) noexcept nogil


cdef inline size_t pcapng_packet_size(size_t captured) noexcept nogil:
    return PCAPNG_PACKET_HEAD + ((captured + 3) & ~<size_t>3) + 16
