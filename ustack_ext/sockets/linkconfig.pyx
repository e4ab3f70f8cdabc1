"""Interfaces that stand on other ones, VLANs and bridges, made and taken away from Python.

Responsible for: turning Python's values into calls of net/, under the lock, and errno into OSError. Not for: interfaces
of links (config), addresses, or what becomes of frames (net/vlan, net/bridge).
"""
from libc.errno cimport EEXIST, EINVAL, ENODEV
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from ustack_ext.driver.driver cimport Driver
from ustack_ext.net.bridge cimport bridge_add
from ustack_ext.net.net cimport iface_by_name, iface_remove
from ustack_ext.net.state cimport BRIDGE_PORTS, Iface, Net, stands_on_others
from ustack_ext.net.vlan cimport vlan_add
from ustack_ext.sockets.config cimport Change, answer, change_interface
from ustack_ext.sockets.stackcore cimport StackCore, running


cdef bytes checked(str name):
    cdef bytes raw = name.encode()
    if not 0 < len(raw) < 16:
        raise ValueError(f"name: an interface name has 1 to 15 bytes, not {raw!r}")
    return raw


cdef int vlan_change(Net *n, Iface *i, Change *c) noexcept nogil:
    cdef int rc = 0
    if iface_by_name(n, c.name) != NULL:
        return -EEXIST
    return 0 if vlan_add(n, i, c.name, c.vlan_id, c.priority, &rc) != NULL else rc


def add_vlan(StackCore stack not None, str below not None, str name not None, uint32_t vlan_id, uint32_t priority):
    """Make the interface `name` of a VLAN of the interface `below`. Raises OSError, ValueError."""
    cdef bytes raw = checked(name)
    cdef Change c
    c.name = raw
    c.vlan_id = vlan_id
    c.priority = priority
    change_interface(stack, below, vlan_change, &c, f"VLAN {vlan_id} of {below}")


def add_bridge(StackCore stack not None, str name not None, list ports not None, bytes mac, uint64_t ageing):
    """Make a bridge, and its interface `name`. ports: names; mac: None for the first port's; ageing: ns. Raises
    OSError, ValueError."""
    cdef Driver d = running(stack)
    cdef bytes raw = checked(name)
    cdef list names = [one.encode() for one in ports]
    cdef bytes port
    cdef const char *cname = raw
    cdef const char *cports[BRIDGE_PORTS]
    cdef const uint8_t *own = NULL
    cdef Iface *found[BRIDGE_PORTS]
    cdef int k, rc = 0, n = len(names)
    if not 0 < n <= BRIDGE_PORTS or len(set(names)) != n:
        raise ValueError(f"ports: a bridge has 1 to {<int>BRIDGE_PORTS} different ones, not {ports!r}")
    for k in range(n):
        port = names[k]
        cports[k] = port
    if mac is not None:
        own = mac
    with nogil:
        d.lock()
        for k in range(n):
            found[k] = iface_by_name(&d.engine.net, cports[k])
            if found[k] == NULL:
                rc = -ENODEV
        if rc == 0 and iface_by_name(&d.engine.net, cname) != NULL:
            rc = -EEXIST
        if rc == 0 and bridge_add(&d.engine.net, cname, found, n, own, ageing, &rc) != NULL:
            rc = 0
        d.unlock()
    answer(rc, f"bridge of {', '.join(ports)}")


cdef int remove_change(Net *n, Iface *i, Change *c) noexcept nogil:
    if not stands_on_others(i):
        return -EINVAL
    iface_remove(n, i)
    return 0


def remove(StackCore stack not None, str name not None):
    """Take a VLAN or a bridge away, with its addresses, routes and neighbours, and the VLANs on it. Raises OSError."""
    change_interface(stack, name, remove_change, NULL)
