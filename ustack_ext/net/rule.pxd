# Policy routing: which table a route is looked for in.
from libc.stdint cimport uint32_t
from ustack_ext.wire.addr cimport Addr
from ustack_ext.net.route cimport route_lookup
from ustack_ext.net.state cimport Iface, Net, Route, Rule

cdef enum:
    RULE_MAIN = 32766          # the priorities of the rules that are there by themselves (Linux)
    RULE_DEFAULT = 32767

# 0, -EINVAL, -EEXIST, -ENOBUFS, -ENOMEM.
cdef int rule_insert(Net *n, const Rule *rule) noexcept nogil
# The first that is the same in all that `rule` says; priority or table 0: any. 0, -ENOENT, -ENOMEM.
cdef int rule_remove(Net *n, const Rule *rule) noexcept nogil
# Those that are there by themselves, written down as others are, where that was not done yet. 0 or -ENOMEM.
cdef int rules_begin(Net *n) noexcept nogil
cdef Route *rules_lookup(Net *n, const Addr *src, const Addr *dst, const Iface *iif, Iface *oif) noexcept nogil


cdef inline Route *route_for(Net *n, const Addr *src, const Addr *dst, const Iface *iif, Iface *oif) noexcept nogil:
    """The way from src to dst of what came in by `iif` (NULL: it is ours) and is bound to leave by `oif` (NULL: by
    any), or NULL. Nothing but one question more than route_lookup where there are no rules."""
    return route_lookup(n, dst, oif) if n.n_rules == 0 else rules_lookup(n, src, dst, iif, oif)
