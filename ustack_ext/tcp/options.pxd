# TCP options: parse and emit (RFC 9293 §3.1, 7323, 2018, 6691, 7413, 2385, 5482).
from libc.stdint cimport uint16_t, uint32_t, uint8_t

cdef enum:
    OPT_MSS = 1
    OPT_WSCALE = 2
    OPT_SACK_OK = 4
    OPT_TS = 8
    OPT_SACK = 16
    OPT_FASTOPEN = 32
    OPT_MD5 = 64
    OPT_UTO = 128

    OPTIONS_MAX = 40
    NOP_NOP_TS = 0x0101080A    # timestamps as RFC 7323 appendix A lays them out
    TS_LEN = 12                # ... with their NOPs
    SACK_LEN = 4               # of SACK with its NOPs and no block
    SACK_BLOCK = 8
    MD5_LEN = 20               # of MD5 with its NOPs, which comes first
    MD5_AT = 4                 # ... where its digest is
    UTO_LEN = 4                # of the user timeout

cdef struct Options:
    uint8_t have               # OPT_*
    uint8_t wscale             # at most 14
    uint8_t nsack              # blocks, at most 4
    uint8_t fastopen_len       # of the cookie; 0: one is asked for
    uint16_t mss
    uint16_t uto               # the user timeout with its granularity bit
    uint32_t tsval
    uint32_t tsecr
    uint32_t sack[8]           # left, right, left, right, ...
    uint8_t fastopen[16]
    const uint8_t *md5         # received: the digest, 16 bytes

# Reads the n option bytes at p. Unknown kinds are skipped by length; a length that is impossible ends the walk (what
# was read before it counts).
cdef void options_parse(const uint8_t *p, uint32_t n, bint syn, Options *o) noexcept nogil
# Writes SYN options in Linux's order for what o.have asks, the user timeout last and only where it has room. Returns
# bytes, a multiple of 4.
cdef uint32_t options_emit_syn(uint8_t *p, const Options *o) noexcept nogil
# Writes the MD5 option (its digest 0), timestamps, the user timeout and SACK blocks as o.have asks. Returns bytes, a
# multiple of 4.
cdef uint32_t options_emit(uint8_t *p, const Options *o) noexcept nogil
