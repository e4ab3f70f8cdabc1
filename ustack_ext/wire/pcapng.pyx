"""Emits blocks of pcapng (draft-ietf-opsawg-pcapng §4); and the same for Python.

Responsible for the bytes of a block. Not for which packets, nor for files. A packet's options are its direction, then
comments, then the end: a comment is put in front of the end when what it says is known.
"""
from libc.string cimport memcpy, memmove, memset, strlen

cdef enum:
    SECTION = 0x0A0D0D0A
    MAGIC = 0x1A2B3C4D
    INTERFACE = 1
    PACKET = 6
    OPT_COMMENT = 1
    SHB_USERAPPL = 4
    IF_NAME = 2
    IF_MACADDR = 6
    IF_TSRESOL = 9
    EPB_FLAGS = 2
    NANOSECONDS = 9                # 10^-9
    TAIL = 8                       # the end of options, and the length once more
    MAC_LEN = 6
    COMMENT_MOST = 0xFFFC


cdef inline size_t padded(size_t n) noexcept nogil:
    return (n + 3) & ~<size_t>3


cdef inline void put16(uint8_t *p, uint16_t value) noexcept nogil:
    memcpy(p, &value, 2)


cdef inline void put32(uint8_t *p, uint32_t value) noexcept nogil:
    memcpy(p, &value, 4)


cdef uint8_t *option(uint8_t *p, uint16_t code, const void *value, size_t n) noexcept nogil:
    """Returns what is behind it."""
    put16(p, code)
    put16(p + 2, <uint16_t>n)
    memset(p + 4 + n, 0, padded(n) - n)
    memcpy(p + 4, value, n)
    return p + 4 + padded(n)


cdef size_t finish(uint8_t *block, uint8_t *end) noexcept nogil:
    """The end of the options, and the length on both sides."""
    cdef size_t total = <size_t>(end - block) + TAIL
    put32(end, 0)
    put32(end + 4, <uint32_t>total)
    put32(block + 4, <uint32_t>total)
    return total


cdef size_t pcapng_interface(uint8_t *out, size_t room, uint16_t linktype, uint32_t snaplen, const char *name,
                             const uint8_t *mac) noexcept nogil:
    cdef size_t n = strlen(name)
    cdef uint8_t resolution = NANOSECONDS
    cdef uint8_t *p = out + 16
    if 16 + 4 + padded(n) + 12 + 8 + TAIL > room:
        return 0
    put32(out, INTERFACE)
    put16(out + 8, linktype)
    put16(out + 10, 0)
    put32(out + 12, snaplen)
    p = option(p, IF_NAME, name, n)
    if mac != NULL:
        p = option(p, IF_MACADDR, mac, MAC_LEN)
    return finish(out, option(p, IF_TSRESOL, &resolution, 1))


cdef void pcapng_packet(uint8_t *out, uint32_t interface, uint64_t ns, uint32_t captured, uint32_t length,
                        uint32_t flags) noexcept nogil:
    cdef uint8_t *end = out + PCAPNG_PACKET_HEAD + captured
    put32(out, PACKET)
    put32(out + 8, interface)
    put32(out + 12, <uint32_t>(ns >> 32))
    put32(out + 16, <uint32_t>ns)
    put32(out + 20, captured)
    put32(out + 24, length)
    memset(end, 0, padded(captured) - captured)
    finish(out, option(out + PCAPNG_PACKET_HEAD + padded(captured), EPB_FLAGS, &flags, 4))


cdef size_t pcapng_comment(uint8_t *block, size_t used, size_t room, const char *text, size_t n) noexcept nogil:
    cdef uint32_t total
    cdef size_t more = 4 + padded(n)
    cdef uint8_t *end
    memcpy(&total, block + 4, 4)
    if n == 0 or n > COMMENT_MOST or used + more > room:
        return 0
    end = block + total - TAIL
    memmove(end + more, end, used - (total - TAIL))
    option(end, OPT_COMMENT, text, n)
    put32(block + 4, total + <uint32_t>more)
    put32(end + more + 4, total + <uint32_t>more)
    return more


def section(bytes application=b"", bytes comment=b""):
    """The block a file begins with. application: who writes it."""
    cdef bytearray out = bytearray(24 + 8 + padded(len(application)) + padded(len(comment)) + TAIL)
    cdef uint8_t *block = out
    cdef uint8_t *p = block + 24
    if len(application) > COMMENT_MOST or len(comment) > COMMENT_MOST:
        raise ValueError(f"an option has at most {COMMENT_MOST} bytes")
    put32(block, SECTION)
    put32(block + 8, MAGIC)
    put16(block + 12, 1)
    put16(block + 14, 0)
    memset(block + 16, 0xFF, 8)                            # its length is not known
    if application:
        p = option(p, SHB_USERAPPL, <const char *>application, len(application))
    if comment:
        p = option(p, OPT_COMMENT, <const char *>comment, len(comment))
    return bytes(out[:finish(block, p)])


def interface(uint16_t linktype, uint32_t snaplen, bytes name, bytes mac=None):
    """The block of an interface; they are numbered from 0, in their order. snaplen: 0 for no limit; mac: 6 bytes."""
    cdef bytearray out = bytearray(64 + len(name))
    cdef const uint8_t *address = NULL
    if mac is not None:
        if len(mac) != MAC_LEN:
            raise ValueError("mac: 6 bytes")
        address = mac
    return bytes(out[:pcapng_interface(out, len(out), linktype, snaplen, name, address)])


def packet(uint32_t interface, uint64_t ns, bytes data, uint32_t flags, object length=None, bytes comment=b""):
    """The block of a packet. ns: since 1970; length: of the packet as it was, None: that of data."""
    cdef size_t n = pcapng_packet_size(len(data))
    cdef bytearray out = bytearray(n + 4 + padded(len(comment)))
    cdef uint8_t *block = out
    memcpy(block + PCAPNG_PACKET_HEAD, <const char *>data, len(data))
    pcapng_packet(block, interface, ns, <uint32_t>len(data), <uint32_t>(len(data) if length is None else length), flags)
    n += pcapng_comment(block, n, len(out), comment, len(comment))
    return bytes(out[:n])
