# The scatter/gather vector and the offload descriptor that packets carry to and from links. Layout of IoVec is that of
# struct iovec (link/ asserts it).
from libc.stdint cimport uint8_t, uint16_t, uint32_t

cdef struct IoVec:
    void *base
    size_t len

cdef enum:
    # out: the link may fill in the checksum: ones' complement from csum_start, stored at csum_start + csum_offset
    # (pseudo header already there). in, beside OFF_CSUM_VERIFIED: nobody has; whoever sends the frame on has to
    OFF_CSUM_WANTED = 1
    OFF_CSUM_VERIFIED = 2    # in: the transport checksum was verified, or the packet never left this machine
    OFF_GSO_TCP4 = 4         # a TCP superframe to be cut into gso_size payload pieces
    OFF_GSO_TCP6 = 8
    OFF_GSO_TCP = 12         # either
    OFF_GSO_UDP = 16
    OFF_GSO = 28             # any
    OFF_ECN = 32

cdef struct Offload:
    uint16_t flags
    uint16_t gso_size        # payload bytes a segment
    uint16_t hdr_len         # all headers, from the frame's start
    uint16_t csum_start      # from the frame's start
    uint16_t csum_offset
