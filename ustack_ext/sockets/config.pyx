"""A stack's interfaces, addresses, routes and static neighbours, changed from Python.

Responsible for: turning Python's values into calls of net/, under the lock, and errno into OSError. Not for: reading
text (ustack/stack.py gives addresses as 128-bit integers, prefix lengths counted in 128 bits), or what net/ makes of
them.
"""
import os as _os

from libc.errno cimport EINVAL, ENODEV
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from ustack_ext.driver.driver cimport Driver
from ustack_ext.link.link cimport Link
from ustack_ext.net.net cimport (
    iface_add_addr, iface_autoconf, iface_by_name, iface_del_addr, net_neigh_del, net_neigh_set, route_add, route_del,
)
from ustack_ext.net.nat cimport nat_forward_add, nat_forward_del, nat_masquerade
from ustack_ext.net.state cimport RT_TABLE_MAIN, Iface, Net
from ustack_ext.sockets.address cimport addr_from_int
from ustack_ext.sockets.stackcore cimport StackCore, running
from ustack_ext.wire.addr cimport Addr


cdef object answer(int rc, str what):
    if rc < 0:
        raise OSError(-rc, f"{_os.strerror(-rc)}: {what}")


cdef object change_interface(StackCore stack, str name, change_fn change, Change *c, str what=None):
    cdef Driver d = running(stack)
    cdef bytes raw = name.encode()
    cdef const char *cname = raw
    cdef Iface *i
    cdef int rc
    with nogil:
        d.lock()
        i = iface_by_name(&d.engine.net, cname)
        rc = change(&d.engine.net, i, c) if i != NULL else -ENODEV
        d.unlock()
    d.after()
    answer(rc, what or name)


def attach(StackCore stack not None, Link link not None, str name not None):
    """Make an interface `name` over a link. Raises OSError, ValueError."""
    running(stack).attach_link(link, name.encode())


def detach(StackCore stack not None, Link link not None):
    """Take a link's interface away, with its addresses, routes and neighbours."""
    running(stack).detach_link(link)


cdef int mtu_change(Net *n, Iface *i, Change *c) noexcept nogil:
    cdef uint32_t most = i.mtu
    if c.mtu > most:
        c.mtu = most
        return -EINVAL
    i.mtu = c.mtu
    n.generation += 1                              # what was resolved with the old one is stale
    return 0


def set_mtu(StackCore stack not None, str name not None, uint32_t mtu):
    """Make an interface's MTU less than its link's. Raises OSError, ValueError."""
    cdef Change c
    c.mtu = mtu
    try:
        change_interface(stack, name, mtu_change, &c)
    except OSError as caught:
        if caught.errno != EINVAL:
            raise
        raise ValueError(f"mtu: {mtu} is more than the {c.mtu} bytes that the link takes") from None


cdef int add_change(Net *n, Iface *i, Change *c) noexcept nogil:
    return iface_add_addr(n, i, &c.address, c.plen, c.on)


def add_address(StackCore stack not None, str name not None, object address, int plen, bint probe):
    """Give an interface an address. Raises OSError."""
    cdef Change c
    c.address = addr_from_int(address)
    c.plen = plen
    c.on = probe
    change_interface(stack, name, add_change, &c)


cdef int autoconf_change(Net *n, Iface *i, Change *c) noexcept nogil:
    return iface_autoconf(n, i)


def autoconf(StackCore stack not None, str name not None):
    """Have an interface configure IPv6 by itself (RFC 4862). Raises OSError."""
    change_interface(stack, name, autoconf_change, NULL)


cdef int remove_change(Net *n, Iface *i, Change *c) noexcept nogil:
    return iface_del_addr(n, i, &c.address)


def remove_address(StackCore stack not None, str name not None, object address):
    """Take an address from an interface. Raises OSError."""
    cdef Change c
    c.address = addr_from_int(address)
    change_interface(stack, name, remove_change, &c)


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


cdef int neighbor_change(Net *n, Iface *i, Change *c) noexcept nogil:
    return net_neigh_set(n, i, &c.address, c.mac) if c.on else net_neigh_del(n, i, &c.address)


def change_neighbor(StackCore stack not None, str name not None, object address, bytes mac):
    """Make an entry of the neighbour table permanent, or (mac None) delete it. Raises OSError."""
    cdef bytes six = mac or bytes(6)
    cdef Change c
    c.address = addr_from_int(address)
    c.on = mac is not None
    c.mac = six
    change_interface(stack, name, neighbor_change, &c)


cdef int masquerade_change(Net *n, Iface *i, Change *c) noexcept nogil:
    return nat_masquerade(n, i, c.on)


def masquerade(StackCore stack not None, str name not None, bint on):
    """Begin or end translating what is forwarded out of an interface. Raises OSError."""
    cdef Change c
    c.on = on
    change_interface(stack, name, masquerade_change, &c)


cdef int forward_change(Net *n, Iface *i, Change *c) noexcept nogil:
    if c.on:
        return nat_forward_add(n, i, c.proto, c.port, &c.address, c.to_port)
    return nat_forward_del(n, i, c.proto, c.port)


def change_forward(StackCore stack not None, str name not None, uint8_t proto, uint16_t port, object address,
                   uint16_t to_port):
    """Forward a port of an interface to address:to_port, or (address None) no longer. Raises OSError."""
    cdef Change c
    c.on = address is not None
    c.address = addr_from_int(address or 0)
    c.proto = proto
    c.port = port
    c.to_port = to_port
    change_interface(stack, name, forward_change, &c, f"port {port} of {name}")
