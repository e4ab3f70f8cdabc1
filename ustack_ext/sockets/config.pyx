"""A stack's interfaces, addresses, routes and static neighbours, changed from Python.

Responsible for: turning Python's values into calls of net/, under the lock, and errno into OSError. Not for: reading
text (ustack/stack.py gives addresses as 128-bit integers, prefix lengths counted in 128 bits), or what net/ makes of
them.
"""
import os as _os

from libc.errno cimport ENODEV
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from ustack_ext.driver.driver cimport Driver
from ustack_ext.link.link cimport Link
from ustack_ext.net.net cimport (
    iface_add_addr, iface_autoconf, iface_by_name, iface_del_addr, net_neigh_del, net_neigh_set, route_add, route_del,
)
from ustack_ext.net.nat cimport nat_forward_add, nat_forward_del, nat_masquerade
from ustack_ext.net.state cimport RT_TABLE_MAIN, Iface
from ustack_ext.sockets.address cimport addr_from_int
from ustack_ext.sockets.stackcore cimport StackCore, running
from ustack_ext.wire.addr cimport Addr


cdef object answer(int rc, str what):
    if rc < 0:
        raise OSError(-rc, f"{_os.strerror(-rc)}: {what}")


def attach(StackCore stack not None, Link link not None, str name not None):
    """Make an interface `name` over a link. Raises OSError, ValueError."""
    running(stack).attach_link(link, name.encode())


def detach(StackCore stack not None, Link link not None):
    """Take a link's interface away, with its addresses, routes and neighbours."""
    running(stack).detach_link(link)


def set_mtu(StackCore stack not None, str name not None, uint32_t mtu):
    """Make an interface's MTU less than its link's. Raises OSError, ValueError."""
    cdef Driver d = running(stack)
    cdef bytes raw = name.encode()
    cdef const char *cname = raw
    cdef Iface *i
    cdef uint32_t most = 0
    with nogil:
        d.lock()
        i = iface_by_name(&d.engine.net, cname)
        if i != NULL:
            most = i.mtu
            if mtu <= most:
                i.mtu = mtu
                d.engine.net.generation += 1       # what was resolved with the old one is stale
        d.unlock()
    answer(0 if i != NULL else -ENODEV, name)
    if mtu > most:
        raise ValueError(f"mtu: {mtu} is more than the {most} bytes that the link takes")


def add_address(StackCore stack not None, str name not None, object address, int plen, bint probe):
    """Give an interface an address. Raises OSError."""
    cdef Driver d = running(stack)
    cdef Addr a = addr_from_int(address)
    cdef bytes raw = name.encode()
    cdef const char *cname = raw
    cdef Iface *i
    cdef int rc
    with nogil:
        d.lock()
        i = iface_by_name(&d.engine.net, cname)
        rc = iface_add_addr(&d.engine.net, i, &a, plen, probe) if i != NULL else -ENODEV
        d.unlock()
    d.after()
    answer(rc, name)


def autoconf(StackCore stack not None, str name not None):
    """Have an interface configure IPv6 by itself (RFC 4862). Raises OSError."""
    cdef Driver d = running(stack)
    cdef bytes raw = name.encode()
    cdef const char *cname = raw
    cdef Iface *i
    cdef int rc
    with nogil:
        d.lock()
        i = iface_by_name(&d.engine.net, cname)
        rc = iface_autoconf(&d.engine.net, i) if i != NULL else -ENODEV
        d.unlock()
    d.after()
    answer(rc, name)


def remove_address(StackCore stack not None, str name not None, object address):
    """Take an address from an interface. Raises OSError."""
    cdef Driver d = running(stack)
    cdef Addr a = addr_from_int(address)
    cdef bytes raw = name.encode()
    cdef const char *cname = raw
    cdef Iface *i
    cdef int rc
    with nogil:
        d.lock()
        i = iface_by_name(&d.engine.net, cname)
        rc = iface_del_addr(&d.engine.net, i, &a) if i != NULL else -ENODEV
        d.unlock()
    d.after()
    answer(rc, name)


def change_route(StackCore stack not None, bint add, object prefix, int plen, object gateway, str name, uint32_t metric,
                 uint32_t mtu, object source, uint32_t table=RT_TABLE_MAIN):
    """Add or delete a route. gateway, source: 0 for none; name: None to find the interface. Raises OSError."""
    cdef Driver d = running(stack)
    cdef Addr to = addr_from_int(prefix)
    cdef Addr via = addr_from_int(gateway)
    cdef Addr own = addr_from_int(source)
    cdef bytes raw = (name or "").encode()
    cdef const char *cname = raw
    cdef bint named = name is not None
    cdef Iface *i = NULL
    cdef int rc
    with nogil:
        d.lock()
        if named:
            i = iface_by_name(&d.engine.net, cname)
        if named and i == NULL:
            rc = -ENODEV
        elif add:
            rc = route_add(&d.engine.net, table, &to, plen, &via, i, metric, mtu, &own)
        else:
            rc = route_del(&d.engine.net, table, &to, plen, &via, i)
        d.unlock()
    d.after()
    answer(rc, "route")


def change_neighbor(StackCore stack not None, str name not None, object address, bytes mac):
    """Make an entry of the neighbour table permanent, or (mac None) delete it. Raises OSError."""
    cdef Driver d = running(stack)
    cdef Addr a = addr_from_int(address)
    cdef bytes raw = name.encode()
    cdef const char *cname = raw
    cdef bint delete = mac is None
    cdef bytes six = bytes(6) if mac is None else mac
    cdef const uint8_t *hw = six
    cdef Iface *i
    cdef int rc
    with nogil:
        d.lock()
        i = iface_by_name(&d.engine.net, cname)
        if i == NULL:
            rc = -ENODEV
        else:
            rc = net_neigh_del(&d.engine.net, i, &a) if delete else net_neigh_set(&d.engine.net, i, &a, hw)
        d.unlock()
    d.after()
    answer(rc, name)


def masquerade(StackCore stack not None, str name not None, bint on):
    """Begin or end translating what is forwarded out of an interface. Raises OSError."""
    cdef Driver d = running(stack)
    cdef bytes raw = name.encode()
    cdef const char *cname = raw
    cdef Iface *i
    cdef int rc
    with nogil:
        d.lock()
        i = iface_by_name(&d.engine.net, cname)
        rc = nat_masquerade(&d.engine.net, i, on) if i != NULL else -ENODEV
        d.unlock()
    answer(rc, name)


def change_forward(StackCore stack not None, str name not None, uint8_t proto, uint16_t port, object address,
                   uint16_t to_port):
    """Forward a port of an interface to address:to_port, or (address None) no longer. Raises OSError."""
    cdef Driver d = running(stack)
    cdef bytes raw = name.encode()
    cdef const char *cname = raw
    cdef bint delete = address is None
    cdef Addr to = addr_from_int(0 if delete else address)
    cdef Iface *i
    cdef int rc
    with nogil:
        d.lock()
        i = iface_by_name(&d.engine.net, cname)
        if i == NULL:
            rc = -ENODEV
        elif delete:
            rc = nat_forward_del(&d.engine.net, i, proto, port)
        else:
            rc = nat_forward_add(&d.engine.net, i, proto, port, &to, to_port)
        d.unlock()
    answer(rc, f"port {port} of {name}")
