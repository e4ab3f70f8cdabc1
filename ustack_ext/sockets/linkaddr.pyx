"""Addresses of packet sockets: the 5-tuples that the socket module has for AF_PACKET (struct sockaddr_ll).

Responsible for the checks and exceptions of CPython's getsockaddrarg, and for interface names both ways. Not for
sending and receiving (udp/packet).
"""
import os as _os

from libc.errno cimport EBADF, ENODEV
from libc.string cimport memcpy, memset
from ustack_ext.driver.driver cimport Driver
from ustack_ext.net.iface cimport iface_by_index, iface_find
from ustack_ext.net.state cimport MEDIUM_IP, Iface
from ustack_ext.sockets.stackcore cimport running
from ustack_ext.sockets.state cimport OPEN
from ustack_ext.udp.packet cimport packet_hatype
from ustack_ext.udp.state cimport UdpSock

cdef enum:
    MAC_LEN = 6
    HADDR_MAX = 8


cdef uint32_t index_of(StackCore stack, object name) except? 0xFFFFFFFF:
    cdef Driver d = running(stack)
    cdef bytes raw = name.encode() if isinstance(name, str) else bytes(name)
    cdef const char *wanted = raw
    cdef Iface *i
    cdef uint32_t index = 0
    with nogil:
        d.lock()
        i = iface_find(&d.engine.net, wanted)
        if i != NULL:
            index = i.index
        d.unlock()
    if index == 0:
        raise OSError(ENODEV, _os.strerror(ENODEV))
    return index


cdef int parse_link(StackCore stack, object address, str caller, uint32_t *ifindex, uint16_t *proto,
                    Addr *to) except -1:
    if not isinstance(address, tuple):
        raise TypeError(f"{caller}(): AF_PACKET address must be a tuple, not {type(address).__name__}")
    if not 2 <= len(<tuple>address) <= 5 or not isinstance(address[0], (str, bytes)):
        raise TypeError(f"{caller}(): AF_PACKET address must be a tuple of two to five elements")
    number = address[1].__index__()
    hardware = bytes(address[4]) if len(<tuple>address) == 5 else b""
    if len(hardware) > HADDR_MAX:
        raise ValueError("Hardware address must be 8 bytes or less")
    if not 0 <= number <= 0xFFFF:
        raise OverflowError(f"{caller}(): proto must be 0-65535.")
    ifindex[0] = index_of(stack, address[0])
    proto[0] = number
    to.hi = len(hardware)
    to.lo = int.from_bytes(hardware[:MAC_LEN].ljust(MAC_LEN, b"\0"), "big")
    return 0


cdef tuple format_link(StackCore stack, const LinkMeta *m):
    cdef Driver d = running(stack)
    cdef char name[16]
    cdef Iface *i
    memset(name, 0, sizeof(name))
    with nogil:
        d.lock()
        i = iface_by_index(&d.engine.net, m.ifindex)
        if i != NULL:
            memcpy(name, i.name, sizeof(name))
        d.unlock()
    return (name[:15].split(b"\0")[0].decode(), m.ethertype, m.pkttype, m.hatype, (<const char *>m.mac)[:m.halen])


cdef tuple link_name(StackCore stack, SockState *s):
    cdef Driver d = running(stack)
    cdef LinkMeta m
    cdef UdpSock *u
    cdef Iface *i
    cdef bint closed = True
    memset(&m, 0, sizeof(m))
    with nogil:
        d.lock()
        if s.closed == OPEN:
            closed = False
            u = <UdpSock *>s.obj
            m.ethertype = u.raw.ethertype
            m.ifindex = <uint16_t>u.raw.ifindex
            i = iface_by_index(&d.engine.net, u.raw.ifindex)
            if i != NULL:
                m.hatype = packet_hatype(i)
                m.halen = 0 if i.medium == MEDIUM_IP else MAC_LEN
                memcpy(m.mac, i.mac, MAC_LEN)
        d.unlock()
    if closed:
        raise OSError(EBADF, _os.strerror(EBADF))
    return format_link(stack, &m)
