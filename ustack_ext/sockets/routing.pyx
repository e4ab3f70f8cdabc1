"""Rules of policy routing, changed and read from Python.

Responsible for: turning Python's values into calls of net/rule, under the lock, and errno into OSError. Not for:
reading text (ustack/routing.py gives addresses as 128-bit integers, prefix lengths counted in 128 bits, 0 for any).
"""
import os as _os

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy, memset
from ustack_ext.driver.driver cimport Driver
from ustack_ext.net.rule cimport RULE_DEFAULT, RULE_MAIN, rule_insert, rule_remove
from ustack_ext.net.state cimport IFNAME_MAX, RT_TABLE_DEFAULT, RT_TABLE_LOCAL, RT_TABLE_MAIN, Net, Rule
from ustack_ext.sockets.address cimport addr_from_int, format_host
from ustack_ext.sockets.hold cimport hold, let_go
from ustack_ext.sockets.stackcore cimport StackCore, running
from ustack_ext.wire.addr cimport Addr

_FIRST = (0, 4, None, None, None, None, RT_TABLE_LOCAL), (0, 6, None, None, None, None, RT_TABLE_LOCAL)
_STANDARD = (
    (RULE_MAIN, 4, None, None, None, None, RT_TABLE_MAIN), (RULE_MAIN, 6, None, None, None, None, RT_TABLE_MAIN),
    (RULE_DEFAULT, 4, None, None, None, None, RT_TABLE_DEFAULT),
)


cdef put_name(char *at, str name):
    cdef bytes raw = (name or "").encode()
    if len(raw) >= IFNAME_MAX:
        raise ValueError(f"{name!r} is longer than an interface's name can be")
    memcpy(at, <const char *>raw, len(raw))


cdef uint32_t free_priority(const Net *n) noexcept:
    """One before the first that somebody gave (Linux)."""
    cdef uint32_t k, first = RULE_MAIN
    for k in range(n.n_rules):
        first = min(first, n.rules[k].priority)
    return first - 1 if first > 1 else 1


def change_rule(StackCore stack not None, bint add, uint32_t priority, uint32_t table, bint six, tuple source,
                tuple destination, str iif, str oif):
    """Add or delete a rule. source, destination: (address, prefix length); priority 0: the one before all others, or
    any to delete; table 0: any to delete. Raises OSError, ValueError."""
    cdef Driver d = running(stack)
    cdef Rule r
    cdef int rc
    memset(&r, 0, sizeof(r))
    r.priority = priority
    r.table = table
    r.six = six
    r.source = addr_from_int(source[0])
    r.source_len = source[1]
    r.dest = addr_from_int(destination[0])
    r.dest_len = destination[1]
    put_name(r.iif, iif)
    put_name(r.oif, oif)
    collecting = hold(d)
    try:
        if add and priority == 0:
            r.priority = free_priority(&d.engine.net)
        rc = rule_insert(&d.engine.net, &r) if add else rule_remove(&d.engine.net, &r)
    finally:
        let_go(d, collecting)
    if rc < 0:
        raise OSError(-rc, f"{_os.strerror(-rc)}: rule")


cdef object prefix(const Addr *a, uint8_t plen, bint six):
    return f"{format_host(a)}/{plen if six else plen - 96}" if plen else None


def rules(StackCore stack not None):
    """[(priority, 4 or 6, from or None, to or None, iif or None, oif or None, table), ...]; of a family, the first that
    is asked first."""
    cdef Driver d = running(stack)
    cdef Rule *r
    cdef uint32_t k
    cdef list found = []
    collecting = hold(d)
    try:
        for k in range(d.engine.net.n_rules):
            r = &d.engine.net.rules[k]
            found.append((r.priority, 6 if r.six else 4, prefix(&r.source, r.source_len, r.six),
                          prefix(&r.dest, r.dest_len, r.six), (<bytes>r.iif).decode() or None,
                          (<bytes>r.oif).decode() or None, r.table))
    finally:
        let_go(d, collecting)
    return [*_FIRST, *(found or _STANDARD)]
