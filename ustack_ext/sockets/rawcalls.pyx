"""What raw and packet sockets have beyond other datagram sockets, and the filters of all of them.

Responsible for: options that live in RawMore, and SO_ATTACH_FILTER's program. Not for: byte layouts and numbers
(ustack/rawoptions.py).
"""
from libc.errno cimport EINVAL, ENOENT, ENOPROTOOPT, EPERM
from libc.stdint cimport int16_t, uint8_t
from libc.string cimport memcpy
from ustack_ext.base.bpf cimport Bpf, bpf_free, bpf_new
from ustack_ext.driver.driver cimport Driver
from ustack_ext.sockets.handle cimport SocketHandle, check, closed_error
from ustack_ext.sockets.state cimport OPEN, SK_UDP, SockState
from ustack_ext.udp.state cimport RawMore, UdpSock
from ustack_ext.wire.ip6 cimport IPPROTO_ICMPV6_

cpdef enum RawOpt:
    RAWOPT_HEADER              # IP_HDRINCL, IPV6_HDRINCL
    RAWOPT_CHECKSUM            # IPV6_CHECKSUM: where, or -1
    RAWOPT_IGNORE_OUTGOING     # PACKET_IGNORE_OUTGOING
    RAWOPT_LOCK_FILTER         # SO_LOCK_FILTER, of every datagram socket

cdef enum:
    TYPES = 32                 # bytes of RawMore.refused
    CHECKSUM_MOST = 0x7FFE


cdef UdpSock *usable(SockState *s, int *status) noexcept nogil:
    """The datagram socket, or NULL and why not."""
    status[0] = 0
    if s.closed != OPEN:
        status[0] = closed_error(s)
    elif s.kind != SK_UDP:
        status[0] = -ENOPROTOOPT
    return <UdpSock *>s.obj if status[0] == 0 else NULL


cdef int change_filter(SockState *s, Bpf **program) noexcept nogil:
    """Puts the program, or none, in the place of what was there, which is left in *program."""
    cdef int status
    cdef UdpSock *u = usable(s, &status)
    cdef Bpf *old
    if u == NULL:
        return status
    if u.filter_locked:
        return -EPERM
    if program[0] == NULL and u.filter == NULL:
        return -ENOENT
    old = u.filter
    u.filter = program[0]
    program[0] = old
    return 0


cdef object exchange(SocketHandle sock, Bpf *program):
    cdef Driver d = sock._usable()
    cdef int status
    with nogil:
        d.lock()
        status = change_filter(&sock.state, &program)
        d.unlock()
    bpf_free(program)
    check(status)


def attach_filter(SocketHandle sock not None, bytes program):
    """program: struct sock_filter, one after another. OSError: EINVAL (refused), EPERM (locked), ENOMEM."""
    cdef int status
    cdef Bpf *made
    sock._usable()
    made = bpf_new(<const uint8_t *><const char *>program, len(program), &status)
    check(status)
    exchange(sock, made)


def detach_filter(SocketHandle sock not None):
    """OSError: ENOENT (there is none), EPERM (locked)."""
    exchange(sock, NULL)


cdef int read_option(SockState *s, int which, int *status) noexcept nogil:
    cdef UdpSock *u = usable(s, status)
    if u == NULL:
        return 0
    if which == RAWOPT_LOCK_FILTER:
        return u.filter_locked
    if u.raw == NULL:
        status[0] = -ENOPROTOOPT
        return 0
    if which == RAWOPT_HEADER:
        return u.raw.header
    return u.raw.checksum_at if which == RAWOPT_CHECKSUM else u.raw.ignore_outgoing


cdef int write_option(SockState *s, int which, long long value) noexcept nogil:
    cdef int status
    cdef UdpSock *u = usable(s, &status)
    if u == NULL:
        return status
    if which == RAWOPT_LOCK_FILTER:
        if u.filter_locked and not value:
            return -EPERM                              # socket(7): for good
        u.filter_locked = value != 0
        return 0
    if u.raw == NULL:
        return -ENOPROTOOPT
    if which == RAWOPT_HEADER:
        u.raw.header = value != 0
    elif which == RAWOPT_IGNORE_OUTGOING:
        if not 0 <= value <= 1:
            return -EINVAL
        u.raw.ignore_outgoing = <uint8_t>value
    elif u.proto == IPPROTO_ICMPV6_ or (value > 0 and value % 2 != 0) or value > CHECKSUM_MOST:
        return -EINVAL                                 # RFC 3542 §3.1: even, and not ICMPv6's
    else:
        u.raw.checksum_at = -1 if value < 0 else <int16_t>value
    return 0


def get_raw(SocketHandle sock not None, int which):
    cdef Driver d = sock._usable()
    cdef int status, value
    with nogil:
        d.lock()
        value = read_option(&sock.state, which, &status)
        d.unlock()
    check(status)
    return value


def set_raw(SocketHandle sock not None, int which, long long value):
    cdef Driver d = sock._usable()
    cdef int status
    with nogil:
        d.lock()
        status = write_option(&sock.state, which, value)
        d.unlock()
    check(status)


cdef RawMore copy_of(SocketHandle sock, bint reset) except *:
    """reset: counting begins anew."""
    cdef Driver d = sock._usable()
    cdef int status
    cdef UdpSock *u
    cdef RawMore copy
    with nogil:
        d.lock()
        u = usable(&sock.state, &status)
        if u != NULL and u.raw != NULL:
            copy = u.raw[0]
            if reset:
                u.raw.received = u.raw.lost = 0
        elif status == 0:
            status = -ENOPROTOOPT
        d.unlock()
    check(status)
    return copy


def refused_types(SocketHandle sock not None):
    """256 bits in 32-bit words of this machine's byte order, as struct icmp6_filter; ICMP_FILTER is the first word."""
    cdef RawMore m = copy_of(sock, False)
    return (<char *>m.refused)[:TYPES]


def refuse_types(SocketHandle sock not None, bytes mask):
    """What refused_types() gives, or its beginning: the rest stays as it is."""
    cdef Driver d = sock._usable()
    cdef int status
    cdef UdpSock *u
    cdef const char *raw = mask
    cdef size_t n = min(len(mask), TYPES)
    with nogil:
        d.lock()
        u = usable(&sock.state, &status)
        if u != NULL and u.raw != NULL:
            memcpy(u.raw.refused, raw, n)
        elif status == 0:
            status = -ENOPROTOOPT
        d.unlock()
    check(status)


def statistics(SocketHandle sock not None):
    """-> (frames queued, frames lost) since this was last asked."""
    cdef RawMore m = copy_of(sock, True)
    return m.received, m.lost
