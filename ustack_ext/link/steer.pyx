"""Steering between the queues of one device: each TCP flow to one queue, in the kernel (eBPF) and here alike.

Responsible for: the hash that picks a queue, the program that makes the kernel pick it, and for what the kernel cannot
steer: ARP replies (every engine has a neighbour table of its own), ICMP errors and fragments, which come to the first
queue and are handed to the sibling whose flow they are about. Not for: the descriptors (tundev, tap), nor for engines
(ustack.multiqueue).

A frame goes to a sibling's inbox under that queue's own lock, never under an engine's: the reader holds no engine lock,
and whoever wakes for the inbox takes it from there as it takes frames from its device.
"""

import os
import struct

from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from ustack_ext.base.buf cimport Buf
from ustack_ext.base.iov cimport IoVec, Offload
from ustack_ext.link.frameq cimport (Frame, frame_data, frameq_destroy, frameq_give, frameq_init, frameq_push,
                                     frameq_take)
from ustack_ext.wire.bytes cimport get_be16, get_be32
from ustack_ext.wire.headers cimport (ARP_LEN, ARP_REPLY, ETHERTYPE_ARP, ETHERTYPE_IPV4, IP4_HLEN, IPPROTO_ICMP_,
                                      IPPROTO_TCP_)

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

LOAD_HALF, LOAD_BYTE, LOAD_WORD = 0x28, 0x30, 0x20     # BPF_LD | BPF_ABS; + 0x20: BPF_IND


cdef Fan *fan_new(uint32_t queues, uint32_t header, uint32_t key0, uint32_t key1) noexcept nogil:
    cdef Fan *f = <Fan *>calloc(1, sizeof(Fan))
    cdef uint32_t i
    if f == NULL:
        return NULL
    f.refs = 1
    f.queues = queues
    f.header = header
    f.key[0] = key0
    f.key[1] = key1 | 1
    for i in range(queues):
        frameq_init(&f.inbox[i], INBOX)
    return f


cdef void fan_free(Fan *f) noexcept nogil:
    cdef uint32_t i
    for i in range(f.queues):
        frameq_destroy(&f.inbox[i])
    free(f)


cdef uint32_t fan_bucket(const Fan *f, uint32_t src, uint32_t dst, uint32_t sport, uint32_t dport) noexcept nogil:
    """The same in both directions; keyed, so that nobody outside can choose ports that meet in one queue."""
    cdef uint32_t h = ((src ^ dst ^ ((sport ^ dport) * MIX)) ^ f.key[0]) * f.key[1]
    return ((h >> 16) * f.queues) >> 16


# What a frame is about

cdef inline uint32_t flow_queue(const Fan *f, const uint8_t *ip, const uint8_t *ports) noexcept nogil:
    return f.target[fan_bucket(f, get_be32(ip + 12), get_be32(ip + 16), get_be16(ports), get_be16(ports + 2))]


cdef uint32_t fragment_queue(Fan *f, const uint8_t *ip, uint32_t hlen, uint32_t length) noexcept nogil:
    """The first fragment names the ports; those that follow are recognized by it. One that comes before it stays."""
    cdef uint32_t ident = get_be16(ip + 4) | <uint32_t>1 << 16
    cdef uint32_t src = get_be32(ip + 12), dst = get_be32(ip + 16)
    cdef uint32_t k = 0
    cdef FragNote *note
    while k < FRAG_SLOTS and not (f.notes[k].ident == ident and f.notes[k].src == src and f.notes[k].dst == dst):
        k += 1
    if get_be16(ip + 6) & 0x1FFF:
        return f.notes[k].queue if k < FRAG_SLOTS else KEEP
    if length < hlen + 4:
        return KEEP
    if k == FRAG_SLOTS:
        k = f.next_note % FRAG_SLOTS
        f.next_note += 1
    note = &f.notes[k]
    note.src = src
    note.dst = dst
    note.ident = ident
    note.queue = flow_queue(f, ip, ip + hlen)
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
    return flow_queue(f, quoted, quoted + hlen)


cdef uint32_t arp_queue(const uint8_t *arp, uint32_t length) noexcept nogil:
    """Replies and announcements (sender is target, RFC 5227 §3) are news to everybody; a request is answered once."""
    if length < ARP_LEN:
        return KEEP
    if get_be16(arp + 6) == ARP_REPLY or get_be32(arp + 14) == get_be32(arp + 24):
        return ALL
    return KEEP


cdef uint32_t whose(Fan *f, const uint8_t *p, uint32_t length) noexcept nogil:
    """A queue, KEEP or ALL. Frames the kernel has steered, which is nearly all, are through after three looks."""
    cdef uint32_t hlen
    if f.header:
        if length < f.header:
            return KEEP
        if get_be16(p + 12) == ETHERTYPE_ARP:
            return arp_queue(p + f.header, length - f.header)
        if get_be16(p + 12) != ETHERTYPE_IPV4:
            return KEEP
        p += f.header
        length -= f.header
    if length < IP4_HLEN or p[0] >> 4 != 4:
        return KEEP
    hlen = (p[0] & 15) * 4
    if hlen < IP4_HLEN or length < hlen:
        return KEEP
    if p[9] == IPPROTO_TCP_:
        return fragment_queue(f, p, hlen, length) if get_be16(p + 6) & TOO_FAR else KEEP
    if p[9] == IPPROTO_ICMP_ and not get_be16(p + 6) & TOO_FAR:
        return icmp_queue(f, p + hlen, length - hlen)
    return KEEP


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

def program(int header, key, targets, int otherwise):
    """The eBPF program that picks a queue as fan_bucket() and `targets` do; what is not TCP over IPv4, or a fragment,
    goes to `otherwise`. bytes, 8 an instruction (linux/bpf.h: code, registers, offset, immediate)."""
    steps = []                                         # (code, dst, src, label or None, immediate)

    def step(code, dst=0, src=0, immediate=0, to=None):
        steps.append((code, dst, src, to, immediate))

    def load(size, at, index=None):
        step(size if index is None else size + 0x20, 0, index or 0, at)

    step(0xBF, 6, 1)                                   # r6 = the packet, where loads look for it
    if header:
        load(LOAD_HALF, 12)
        step(0x55, 0, 0, ETHERTYPE_IPV4, "other")
    load(LOAD_BYTE, header)
    step(0xBF, 8, 0)                                   # r8 = version and header length
    step(0x77, 0, 0, 4)
    step(0x55, 0, 0, 4, "other")
    load(LOAD_BYTE, header + 9)
    step(0x55, 0, 0, IPPROTO_TCP_, "other")
    load(LOAD_HALF, header + 6)
    step(0x57, 0, 0, TOO_FAR)
    step(0x55, 0, 0, 0, "other")
    load(LOAD_WORD, header + 12)
    step(0xBF, 7, 0)
    load(LOAD_WORD, header + 16)
    step(0xAF, 7, 0)                                   # r7 = source ^ destination
    step(0x57, 8, 0, 15)
    step(0x67, 8, 0, 2)
    load(LOAD_HALF, header, 8)
    step(0xBF, 9, 0)
    load(LOAD_HALF, header + 2, 8)
    step(0xAF, 9, 0)                                   # r9 = port ^ port
    step(0x27, 9, 0, MIX)
    step(0xAC, 7, 9)
    step(0xA4, 7, 0, key[0])
    step(0x24, 7, 0, key[1] | 1)                       # 32 bits wide, as here
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
