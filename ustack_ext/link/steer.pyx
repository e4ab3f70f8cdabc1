"""Steering between the queues of one device: each TCP flow to one queue, in the kernel (eBPF) and here alike.

Responsible for: the hash that picks a queue, the program that makes the kernel pick it, and for what the kernel cannot
steer: ARP replies and what Neighbor Discovery advertises (every engine has a neighbour table of its own), ICMP errors,
fragments, and TCP behind IPv6 extension headers, which come to the first queue and are handed to the sibling whose flow
they are about. Not for: the descriptors (tundev, tap), nor for engines (ustack.multiqueue).

A frame goes to a sibling's inbox under that queue's own lock, never under an engine's: the reader holds no engine lock,
and whoever wakes for the inbox takes it from there as it takes frames from its device.
"""

import os
import struct

from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from ustack_ext.base.buf cimport Buf
from ustack_ext.base.iov cimport IoVec, Offload
from ustack_ext.link.frameq cimport (Frame, frame_data, frameq_destroy, frameq_give, frameq_init, frameq_push,
                                     frameq_take)
from ustack_ext.wire.bytes cimport get_be16, get_be32
from ustack_ext.wire.headers cimport (ARP_LEN, ARP_REPLY, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, IP4_HLEN,
                                      IPPROTO_ICMP_, IPPROTO_TCP_, WIRE_OK)
from ustack_ext.wire.ip6 cimport (EXT6_MAX, ICMP6_HLEN, ICMP6_PARAM_PROBLEM, ICMP6_UNREACH, IP6_HLEN,
                                  IPPROTO_DSTOPTS_, IPPROTO_FRAGMENT_, IPPROTO_HOPOPTS_, IPPROTO_ICMPV6_, IPPROTO_NONE_,
                                  IPPROTO_ROUTING_, ND_NEIGHBOR_ADVERT, ND_REDIRECT, ND_ROUTER_ADVERT, Frag6Hdr,
                                  ext6_length, frag6_parse)

cdef extern from "<linux/bpf.h>" nogil:
    """
    #include <errno.h>
    #include <string.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    static int steer_load(const void *insns, unsigned count) {
        union bpf_attr a;
        memset(&a, 0, sizeof a);
        a.prog_type = BPF_PROG_TYPE_SOCKET_FILTER;
        a.insns = (unsigned long)insns;
        a.insn_cnt = count;
        a.license = (unsigned long)"MIT";
        int fd = (int)syscall(SYS_bpf, BPF_PROG_LOAD, &a, sizeof a);
        return fd < 0 ? -errno : fd;
    }
    """
    int steer_load(const void *insns, unsigned int count)

cdef enum:
    INBOX = 256                # frames
    KEEP = 0x100               # not a queue: the frame stays where it was read
    ALL = 0x101                # and every sibling gets a copy
    MIX = 0x10001
    TOO_FAR = 0x3FFF           # more fragments, or an offset

    IDENT4 = 1                 # in the upper half of a note's ident
    IDENT6 = 2

LOAD_HALF, LOAD_BYTE, LOAD_WORD = 0x28, 0x30, 0x20     # BPF_LD | BPF_ABS; + 0x20: BPF_IND
KEY = struct.Struct("=2I4Q")                           # a secret is read so here and in fan_new()


cdef Fan *fan_new(uint32_t queues, uint32_t header, const uint8_t *secret) noexcept nogil:
    cdef Fan *f = <Fan *>calloc(1, sizeof(Fan))
    cdef uint32_t i
    if f == NULL:
        return NULL
    f.refs = 1
    f.queues = queues
    f.header = header
    memcpy(f.key, secret, sizeof(f.key))
    memcpy(f.key6, secret + sizeof(f.key), sizeof(f.key6))
    f.key[1] |= 1
    for i in range(queues):
        frameq_init(&f.inbox[i], INBOX)
    return f


cdef void fan_free(Fan *f) noexcept nogil:
    cdef uint32_t i
    for i in range(f.queues):
        frameq_destroy(&f.inbox[i])
    free(f)


cdef uint32_t fan_pair(const Fan *f, const uint8_t *src, const uint8_t *dst, uint32_t bytes) noexcept nogil:
    """The same in both directions. Who has a whole /64 to choose from must not find addresses that meet, so IPv6's are
    hashed with a key for each word (multilinear: Carter and Wegman 1979)."""
    cdef uint64_t total = 0
    cdef uint32_t k
    if bytes == 4:
        return get_be32(src) ^ get_be32(dst)
    for k in range(4):
        total += <uint64_t>(get_be32(src + 4 * k) ^ get_be32(dst + 4 * k)) * f.key6[k]
    return <uint32_t>(total >> 32)


cdef uint32_t fan_bucket(const Fan *f, uint32_t pair, uint32_t sport, uint32_t dport) noexcept nogil:
    """The same in both directions; keyed, so that nobody outside can choose ports that meet in one queue."""
    cdef uint32_t h = ((pair ^ ((sport ^ dport) * MIX)) ^ f.key[0]) * f.key[1]
    return ((h >> 16) * f.queues) >> 16


# What a frame is about

cdef inline uint32_t pair4(const Fan *f, const uint8_t *ip) noexcept nogil:
    return fan_pair(f, ip + 12, ip + 16, 4)


cdef inline uint32_t pair6(const Fan *f, const uint8_t *ip) noexcept nogil:
    return fan_pair(f, ip + 8, ip + 24, 16)


cdef inline uint32_t flow_queue(const Fan *f, uint32_t pair, const uint8_t *ports) noexcept nogil:
    return f.target[fan_bucket(f, pair, get_be16(ports), get_be16(ports + 2))]


cdef uint32_t noted(const Fan *f, uint32_t pair, uint64_t ident) noexcept nogil:
    """The slot of a packet whose first fragment was here, or FRAG_SLOTS."""
    cdef uint32_t k = 0
    while k < FRAG_SLOTS and not (f.notes[k].ident == ident and f.notes[k].pair == pair):
        k += 1
    return k


cdef uint32_t fragment_queue(Fan *f, uint32_t pair, uint64_t ident, uint32_t offset, const uint8_t *tcp,
                             uint32_t length) noexcept nogil:
    """The first fragment names the ports; those that follow are recognized by it. One that comes before it stays."""
    cdef uint32_t k = noted(f, pair, ident)
    cdef FragNote *note
    if offset != 0:
        return f.notes[k].queue if k < FRAG_SLOTS else KEEP
    if length < 4:
        return KEEP
    if k == FRAG_SLOTS:
        k = f.next_note % FRAG_SLOTS
        f.next_note += 1
    note = &f.notes[k]
    note.pair = pair
    note.ident = ident
    note.queue = flow_queue(f, pair, tcp)
    return note.queue


cdef uint32_t icmp_queue(const Fan *f, const uint8_t *icmp, uint32_t length) noexcept nogil:
    """An error about a TCP packet of ours belongs to whoever sent that (RFC 792: header and 8 bytes are quoted)."""
    cdef const uint8_t *quoted = icmp + 8
    cdef uint32_t hlen
    if length < 8 + IP4_HLEN or not (icmp[0] == 3 or icmp[0] == 4 or icmp[0] == 5 or icmp[0] == 11 or icmp[0] == 12):
        return KEEP
    hlen = (quoted[0] & 15) * 4
    if quoted[0] >> 4 != 4 or hlen < IP4_HLEN or length < 8 + hlen + 4 or quoted[9] != IPPROTO_TCP_:
        return KEEP
    if get_be16(quoted + 6) & 0x1FFF:
        return KEEP
    return flow_queue(f, pair4(f, quoted), quoted + hlen)


cdef uint32_t arp_queue(const uint8_t *arp, uint32_t length) noexcept nogil:
    """Replies and announcements (sender is target, RFC 5227 §3) are news to everybody; a request is answered once."""
    if length < ARP_LEN:
        return KEEP
    if get_be16(arp + 6) == ARP_REPLY or get_be32(arp + 14) == get_be32(arp + 24):
        return ALL
    return KEEP


cdef uint8_t last_header(const uint8_t *ip, uint32_t length, uint32_t *at, Frag6Hdr *part) noexcept nogil:
    """Walks an IPv6 packet's extension headers -> the protocol, which begins at ip + *at; IPPROTO_FRAGMENT_ in a
    fragment that is not the first, IPPROTO_NONE_ where the chain is broken or long. part: of the fragment header, zeros
    without one."""
    cdef uint8_t next
    cdef uint32_t size, _k
    memset(part, 0, sizeof(Frag6Hdr))
    if length < IP6_HLEN or ip[0] >> 4 != 6:
        return IPPROTO_NONE_
    next = ip[6]
    at[0] = IP6_HLEN
    for _k in range(EXT6_MAX + 1):
        if next == IPPROTO_FRAGMENT_:
            if frag6_parse(ip + at[0], length - at[0], part) != WIRE_OK:
                return IPPROTO_NONE_
            if part.frag_off != 0:
                return IPPROTO_FRAGMENT_
            size = 8
        elif next == IPPROTO_HOPOPTS_ or next == IPPROTO_DSTOPTS_ or next == IPPROTO_ROUTING_:
            size = ext6_length(ip + at[0], length - at[0])
            if size == 0:
                return IPPROTO_NONE_
        else:
            return next
        next = ip[at[0]]
        at[0] += size
    return IPPROTO_NONE_


cdef uint32_t icmp6_queue(const Fan *f, const uint8_t *icmp, uint32_t length) noexcept nogil:
    """What Neighbor Discovery advertises is news to everybody; a solicitation is answered once. Errors as in icmp_queue
    (RFC 4443 §2.4 (c): as much is quoted as fits)."""
    cdef const uint8_t *quoted = icmp + ICMP6_HLEN
    cdef uint32_t at = 0
    cdef Frag6Hdr part
    if length < ICMP6_HLEN:
        return KEEP
    if icmp[0] == ND_NEIGHBOR_ADVERT or icmp[0] == ND_ROUTER_ADVERT or icmp[0] == ND_REDIRECT:
        return ALL
    if icmp[0] < ICMP6_UNREACH or icmp[0] > ICMP6_PARAM_PROBLEM:
        return KEEP
    length -= ICMP6_HLEN
    if last_header(quoted, length, &at, &part) != IPPROTO_TCP_ or length < at + 4:
        return KEEP
    return flow_queue(f, pair6(f, quoted), quoted + at)


cdef uint32_t whose6(Fan *f, const uint8_t *ip, uint32_t length) noexcept nogil:
    cdef uint32_t at = 0
    cdef uint64_t ident
    cdef uint8_t proto
    cdef Frag6Hdr part
    if length < IP6_HLEN or ip[6] == IPPROTO_TCP_:
        return KEEP
    proto = last_header(ip, length, &at, &part)
    ident = <uint64_t>IDENT6 << 32 | part.id
    if proto == IPPROTO_FRAGMENT_:
        return fragment_queue(f, pair6(f, ip), ident, part.frag_off, NULL, 0)
    if proto == IPPROTO_TCP_ and part.more:
        return fragment_queue(f, pair6(f, ip), ident, 0, ip + at, length - at)
    if proto == IPPROTO_TCP_ and length >= at + 4:
        return flow_queue(f, pair6(f, ip), ip + at)
    if proto == IPPROTO_ICMPV6_ and not part.more:
        return icmp6_queue(f, ip + at, length - at)
    return KEEP


cdef uint32_t whose4(Fan *f, const uint8_t *ip, uint32_t length) noexcept nogil:
    cdef uint32_t hlen, where
    if length < IP4_HLEN or ip[0] >> 4 != 4:
        return KEEP
    hlen = (ip[0] & 15) * 4
    where = get_be16(ip + 6) & TOO_FAR
    if hlen < IP4_HLEN or length < hlen:
        return KEEP
    if ip[9] == IPPROTO_TCP_ and where:
        return fragment_queue(f, pair4(f, ip), <uint64_t>IDENT4 << 32 | get_be16(ip + 4), where & 0x1FFF, ip + hlen,
                              length - hlen)
    if ip[9] == IPPROTO_ICMP_ and not where:
        return icmp_queue(f, ip + hlen, length - hlen)
    return KEEP


cdef uint32_t whose(Fan *f, const uint8_t *p, uint32_t length) noexcept nogil:
    """A queue, KEEP or ALL. Frames the kernel has steered, which is nearly all, are through after three looks."""
    cdef uint32_t kind
    if f.header == 0:
        return whose6(f, p, length) if length > 0 and p[0] >> 4 == 6 else whose4(f, p, length)
    if length < f.header:
        return KEEP
    kind = get_be16(p + 12)
    p += f.header
    length -= f.header
    if kind == ETHERTYPE_IPV4:
        return whose4(f, p, length)
    if kind == ETHERTYPE_IPV6:
        return whose6(f, p, length)
    return arp_queue(p, length) if kind == ETHERTYPE_ARP else KEEP


# Handing over

cdef int fan_out(Fan *f, uint32_t self, RxFrame *frames, int n) noexcept nogil:
    cdef uint32_t to, i
    cdef int k, left = 0
    cdef RxFrame moved
    cdef IoVec iov
    for k in range(n):
        iov.base = frames[k].buf.data + frames[k].buf.off
        iov.len = frames[k].buf.len
        to = whose(f, <const uint8_t *>iov.base, frames[k].buf.len)
        if to == ALL:
            for i in range(f.queues):
                if i != self and f.attached[i]:
                    frameq_push(&f.inbox[i], &iov, 1, NULL)
        elif to != KEEP and to != self:
            frameq_push(&f.inbox[to], &iov, 1, NULL)
            continue                                   # its buffer moves behind those that stay
        if left != k:
            moved = frames[left]
            frames[left] = frames[k]
            frames[k] = moved
        left += 1
    return left


cdef int fan_take(Fan *f, uint32_t self, RxFrame *frames, int most) noexcept nogil:
    cdef Frame *list = frameq_take(&f.inbox[self], most)
    cdef Frame *frame = list
    cdef Buf *b
    cdef int n = 0
    while frame != NULL:
        b = frames[n].buf
        b.len = min(frame.len, b.cap - b.off)
        memcpy(b.data + b.off, frame_data(frame), b.len)
        memset(&frames[n].off, 0, sizeof(Offload))     # nobody vouches for its checksum
        n += 1
        frame = frame.next
    if list != NULL:
        frameq_give(&f.inbox[self], list)
    return n


# The kernel's half

def program(int header, secret, targets, int otherwise):
    """The eBPF program that picks a queue as fan_bucket() and `targets` do; what is not TCP right behind the IP header,
    or is a fragment, goes to `otherwise`. bytes, 8 an instruction (linux/bpf.h: code, registers, offset, immediate)."""
    steps = []                                         # (code, dst, src, label or None, immediate)
    key0, key1, *key6 = KEY.unpack(secret)

    def step(code, dst=0, src=0, immediate=0, to=None):
        steps.append((code, dst, src, to, immediate))

    def load(size, at, index=None):
        step(size if index is None else size + 0x20, 0, index or 0, at)

    step(0xBF, 6, 1)                                   # r6 = the packet, where loads look for it
    if header:
        load(LOAD_HALF, 12)
        step(0x15, 0, 0, ETHERTYPE_IPV6, "six")
        step(0x55, 0, 0, ETHERTYPE_IPV4, "other")
    load(LOAD_BYTE, header)
    step(0xBF, 8, 0)                                   # r8 = version and header length
    step(0x77, 0, 0, 4)
    if not header:
        step(0x15, 0, 0, 6, "six")
    step(0x55, 0, 0, 4, "other")
    load(LOAD_BYTE, header + 9)
    step(0x55, 0, 0, IPPROTO_TCP_, "other")
    load(LOAD_HALF, header + 6)
    step(0x57, 0, 0, TOO_FAR)
    step(0x55, 0, 0, 0, "other")
    load(LOAD_WORD, header + 12)
    step(0xBF, 7, 0)
    load(LOAD_WORD, header + 16)
    step(0xAF, 7, 0)                                   # r7 = fan_pair()
    step(0x57, 8, 0, 15)
    step(0x67, 8, 0, 2)                                # r8 = bytes of IP header
    step(0x05, to="ports")
    steps.append("six")
    load(LOAD_BYTE, header + 6)
    step(0x55, 0, 0, IPPROTO_TCP_, "other")
    step(0xB7, 7, 0, 0)
    for k, key in enumerate(key6):
        load(LOAD_WORD, header + 8 + 4 * k)
        step(0xBF, 8, 0)
        load(LOAD_WORD, header + 24 + 4 * k)
        step(0xAF, 0, 8)
        step(0x18, 1, 0, key)                          # 64 bits wide, in two
        step(0, 0, 0, key >> 32)
        step(0x2F, 0, 1)
        step(0x0F, 7, 0)
    step(0x77, 7, 0, 32)
    step(0xB7, 8, 0, IP6_HLEN)
    steps.append("ports")
    load(LOAD_HALF, header, 8)
    step(0xBF, 9, 0)
    load(LOAD_HALF, header + 2, 8)
    step(0xAF, 9, 0)                                   # r9 = port ^ port
    step(0x27, 9, 0, MIX)
    step(0xAC, 7, 9)
    step(0xA4, 7, 0, key0)
    step(0x24, 7, 0, key1 | 1)                         # 32 bits wide, as here
    step(0x74, 7, 0, 16)
    step(0x27, 7, 0, len(targets))
    step(0x77, 7, 0, 16)                               # r7 = the bucket
    for bucket, queue in enumerate(targets):
        step(0xB7, 0, 0, queue)
        step(0x15, 7, 0, bucket, "out")
    steps.append("other")
    step(0xB7, 0, 0, otherwise)
    steps.append("out")
    step(0x95)
    return assemble(steps)


def assemble(steps):
    """Labels become offsets from the following instruction."""
    places, count = {}, 0
    for one in steps:
        if isinstance(one, str):
            places[one] = count
        else:
            count += 1
    code, at = [], 0
    for one in steps:
        if not isinstance(one, str):
            at += 1
            kind, dst, src, to, immediate = one
            code.append(struct.pack("=BBhI", kind, dst | src << 4, places[to] - at if to else 0,
                                    immediate & 0xFFFFFFFF))
    return b"".join(code)


def load(code):
    """A descriptor of the loaded program. OSError: EPERM without CAP_BPF where unprivileged programs are forbidden."""
    cdef const unsigned char *insns = code
    cdef int fd = steer_load(insns, len(code) // 8)
    if fd < 0:
        raise OSError(-fd, f"bpf: {os.strerror(-fd)}")
    return fd
