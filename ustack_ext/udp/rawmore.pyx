"""What makes a datagram socket a raw or a packet socket: RawMore, and a place in the stack's list of its kind.

Responsible for that; not for which packets such a socket gets (raw, packet). The lists are walked for every packet: a
program has few such sockets, and without any nothing is walked.
"""
from libc.errno cimport ENOMEM
from libc.stdint cimport uint8_t
from libc.stdlib cimport calloc, free

from ustack_ext.udp.state cimport UDP_BOUND, RawMore


cdef int rawmore_new(UdpSock *s, UdpSock **head, int kind) noexcept nogil:
    s.raw = <RawMore *>calloc(1, sizeof(RawMore))
    if s.raw == NULL:
        return -ENOMEM
    s.entry.kind = <uint8_t>kind
    s.source.kind = <uint8_t>kind
    s.flags |= UDP_BOUND                               # to its protocol
    s.raw.checksum_at = -1
    s.raw.next = head[0]
    if s.raw.next != NULL:
        s.raw.next.raw.before = s
    head[0] = s
    return 0


cdef void rawmore_free(UdpSock *s, UdpSock **head) noexcept nogil:
    if s.raw.before != NULL:
        s.raw.before.raw.next = s.raw.next
    else:
        head[0] = s.raw.next
    if s.raw.next != NULL:
        s.raw.next.raw.before = s.raw.before
    free(s.raw)
    s.raw = NULL
