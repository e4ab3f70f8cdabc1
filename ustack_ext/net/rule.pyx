"""Rules of policy routing, as ip-rule(8) has them: by source, destination and interface, to a table of routes.

Responsible for the list of rules and for walking it, the least priority first, until some table has a route. Not for
the tables (route). The rule of priority 0, for our own addresses, is not written down: nothing comes before those.

A stack without rules of its own has no list at all. With the first, Linux's standard rules are written down beside it,
so that they can be listed and removed like any: main and, for IPv4, default.
"""
from libc.errno cimport EEXIST, EINVAL, ENOBUFS, ENOENT, ENOMEM
from libc.stdlib cimport realloc
from libc.string cimport memmove, memset, strcmp

from ustack_ext.wire.addr cimport addr_eq, addr_has_zone, addr_in_prefix, addr_is_any, addr_is_v4
from ustack_ext.net.route cimport net_changed, table_lookup
from ustack_ext.net.state cimport MAX_RULES, RT_TABLE_DEFAULT, RT_TABLE_MAIN

cdef extern from *:
    """
    static const char USTACK_RULE_OURS[] = "lo";       /* what our own packets came in by, to a rule */
    """
    const char *OURS "USTACK_RULE_OURS"


cdef bint matches(const Rule *r, const Addr *src, const Addr *dst, const Iface *iif, const Iface *oif) noexcept nogil:
    cdef const char *came_by = OURS if iif == NULL else <const char *>iif.name
    if r.six == addr_is_v4(dst) or (r.iif[0] != 0 and strcmp(r.iif, came_by) != 0):
        return False
    if r.source_len != 0 and (addr_is_any(src) or not addr_in_prefix(src, &r.source, r.source_len)):
        return False
    if r.dest_len != 0 and not addr_in_prefix(dst, &r.dest, r.dest_len):
        return False
    return r.oif[0] == 0 or (oif != NULL and strcmp(r.oif, oif.name) == 0)


cdef Route *rules_lookup(Net *n, const Addr *src, const Addr *dst, const Iface *iif, Iface *oif) noexcept nogil:
    cdef uint32_t k
    cdef Route *found
    if addr_has_zone(dst):                             # a default route is no way to a neighbour, whatever rules say
        return route_lookup(n, dst, oif)
    for k in range(n.n_rules):
        if matches(&n.rules[k], src, dst, iif, oif):
            found = table_lookup(n, n.rules[k].table, dst, oif)
            if found != NULL:
                return found
    return NULL


cdef bint same(const Rule *a, const Rule *b) noexcept nogil:
    """Whether both choose the same packets."""
    return (a.six == b.six and a.source_len == b.source_len and a.dest_len == b.dest_len
            and addr_eq(&a.source, &b.source) and addr_eq(&a.dest, &b.dest) and strcmp(a.iif, b.iif) == 0
            and strcmp(a.oif, b.oif) == 0)


cdef int put(Net *n, const Rule *rule) noexcept nogil:
    cdef Rule *list_
    cdef uint32_t at = 0
    if n.n_rules >= MAX_RULES:
        return -ENOBUFS
    while at < n.n_rules and n.rules[at].priority <= rule.priority:
        if (n.rules[at].priority == rule.priority and n.rules[at].table == rule.table
                and same(&n.rules[at], rule)):
            return -EEXIST
        at += 1
    if n.n_rules == n.cap_rules:
        list_ = <Rule *>realloc(n.rules, (n.cap_rules + 16) * sizeof(Rule))
        if list_ == NULL:
            return -ENOMEM
        n.rules = list_
        n.cap_rules += 16
    memmove(&n.rules[at + 1], &n.rules[at], (n.n_rules - at) * sizeof(Rule))
    n.rules[at] = rule[0]
    n.n_rules += 1
    net_changed(n)
    return 0


cdef int rules_begin(Net *n) noexcept nogil:
    cdef Rule standard
    cdef int status
    if n.n_rules != 0:
        return 0
    memset(&standard, 0, sizeof(standard))
    standard.priority = RULE_MAIN
    standard.table = RT_TABLE_MAIN
    status = put(n, &standard)
    if status != 0:
        return status
    standard.six = 1
    put(n, &standard)                                  # there is room: the list grows by more than one
    standard.six = 0
    standard.priority = RULE_DEFAULT
    standard.table = RT_TABLE_DEFAULT
    return put(n, &standard)


cdef int rule_insert(Net *n, const Rule *rule) noexcept nogil:
    cdef int status
    if rule.priority == 0 or rule.table == 0:
        return -EINVAL
    status = rules_begin(n)
    return status if status != 0 else put(n, rule)


cdef int rule_remove(Net *n, const Rule *rule) noexcept nogil:
    cdef uint32_t k
    cdef int status = rules_begin(n)
    if status != 0:
        return status
    for k in range(n.n_rules):
        if (same(&n.rules[k], rule) and (rule.priority == 0 or n.rules[k].priority == rule.priority)
                and (rule.table == 0 or n.rules[k].table == rule.table)):
            n.n_rules -= 1
            memmove(&n.rules[k], &n.rules[k + 1], (n.n_rules - k) * sizeof(Rule))
            net_changed(n)
            return 0
    return -ENOENT
