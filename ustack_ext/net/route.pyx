"""Routes: longest prefix match, metric, gateway, MTU, preferred source (RFC 1122 §3.3.1, RFC 1812 §5.2.4.3).

Responsible for the tables; not for which of them is looked into (rule), for neighbours, nor for which addresses are
ours: those are Linux's table "local", which comes before all others. Redirects are judged in icmp and nd.
A lookup walks the sorted array, in which all tables are: once per destination and change for what we send, and per
packet for what is forwarded.
"""
from libc.errno cimport EEXIST, EINVAL, ENETUNREACH, ENOBUFS, ENOMEM, ESRCH
from libc.stdint cimport UINT64_MAX, uint32_t, uint64_t
from libc.stdlib cimport realloc
from libc.string cimport memmove

from ustack_ext.wire.addr cimport V4_BITS, addr_eq, addr_in_prefix, addr_is_any, addr_is_v4, addr_mask, addr_none
from ustack_ext.net.state cimport (
    IPMTU_MIN, MAX_LEARNED, MAX_ROUTES, MEDIUM_ETHERNET, RT_TABLE_DEFAULT, RT_TABLE_LOCAL, RT_TABLE_MAIN,
)


cdef Route *route_lookup(Net *n, const Addr *dst, Iface *only) noexcept nogil:
    """The best route to dst over an interface that is up, or NULL: as without any rule."""
    cdef Route *r = table_lookup(n, RT_TABLE_MAIN, dst, only)
    return r if r != NULL or not addr_is_v4(dst) else table_lookup(n, RT_TABLE_DEFAULT, dst, only)


cdef Route *table_lookup(Net *n, uint32_t table, const Addr *dst, Iface *only) noexcept nogil:
    cdef uint32_t k
    cdef Route *r
    # ::/0 and its like are not for the mapped addresses that stand for IPv4.
    cdef int least = V4_BITS if addr_is_v4(dst) else 0
    for k in range(n.n_routes):
        r = &n.routes[k]
        if ((only == NULL or r.iface == only) and r.table == table and r.plen >= least and r.iface.up
                and addr_in_prefix(dst, &r.prefix, r.plen)):
            return r
    return NULL


cdef bint same_next_hop(const Route *r, const Addr *gateway, const Iface *i) noexcept nogil:
    return addr_eq(&r.gateway, gateway) and (i == NULL or r.iface == i)


cdef int find_gateway(Net *n, uint32_t table, const Addr *gateway, Iface **i) noexcept nogil:
    """A gateway must be reachable without a gateway (RFC 1812 §5.2.4.1), by the route's own table or the main one. On
    media without neighbours it is only a name."""
    cdef Route *r
    if i[0] != NULL and i[0].medium != MEDIUM_ETHERNET:
        return 0
    r = table_lookup(n, table, gateway, i[0])
    if r == NULL or not addr_is_any(&r.gateway):
        r = route_lookup(n, gateway, i[0])
    if r == NULL or not addr_is_any(&r.gateway):
        return -ENETUNREACH
    i[0] = r.iface
    return 0


cdef int route_insert(Net *n, uint32_t table, const Addr *prefix, int plen, const Addr *gateway, Iface *i,
                      uint32_t metric, uint32_t mtu, const Addr *source) noexcept nogil:
    """Adds a route; the arguments are route_add's. -EINVAL, -ENETUNREACH (gateway not on link), -EEXIST, -ENOBUFS
    (tables full)."""
    cdef Addr via = addr_none()
    cdef Addr masked = addr_mask(prefix, plen)
    cdef Route *r
    cdef uint32_t at = 0
    cdef int status
    if plen < 0 or plen > 128 or not addr_eq(&masked, prefix) or (mtu != 0 and mtu < IPMTU_MIN):
        return -EINVAL
    if table == 0 or table == RT_TABLE_LOCAL:
        return -EINVAL
    if gateway != NULL and not addr_is_any(gateway):
        via = gateway[0]
        status = find_gateway(n, table, &via, &i)
        if status != 0:
            return status
    if i == NULL:
        return -EINVAL
    while at < n.n_routes:
        r = &n.routes[at]
        if (r.plen == plen and r.metric == metric and r.table == table and addr_eq(&r.prefix, prefix)
                and same_next_hop(r, &via, i)):
            return -EEXIST
        if r.plen < plen or (r.plen == plen and r.metric > metric):
            break
        at += 1
    if n.n_routes >= MAX_ROUTES:
        return -ENOBUFS
    if n.n_routes == n.cap_routes:
        r = <Route *>realloc(n.routes, (n.cap_routes + 16) * sizeof(Route))
        if r == NULL:
            return -ENOMEM
        n.routes = r
        n.cap_routes += 16
    r = &n.routes[at]
    memmove(r + 1, r, (n.n_routes - at) * sizeof(Route))
    r.prefix = prefix[0]
    r.plen = plen
    r.gateway = via
    r.metric = metric
    r.mtu = mtu
    r.source = source[0] if source != NULL else addr_none()
    r.iface = i
    r.until = 0
    r.table = table
    n.n_routes += 1
    net_changed(n)
    return 0


cdef void drop_route(Net *n, uint32_t at) noexcept nogil:
    cdef Route *r = &n.routes[at]
    n.n_routes -= 1
    memmove(r, r + 1, (n.n_routes - at) * sizeof(Route))
    net_changed(n)


cdef int route_remove(Net *n, uint32_t table, const Addr *prefix, int plen, const Addr *gateway,
                      Iface *i) noexcept nogil:
    """Removes the first route of the table that fits; gateway or i NULL: any. -ESRCH if there is none."""
    cdef uint32_t k
    cdef Route *r
    for k in range(n.n_routes):
        r = &n.routes[k]
        if (r.plen == plen and r.table == table and addr_eq(&r.prefix, prefix) and (i == NULL or r.iface == i)
                and (gateway == NULL or addr_eq(&r.gateway,
                     gateway) or (addr_is_any(gateway) and addr_is_any(&r.gateway)))):
            drop_route(n, k)
            return 0
    return -ESRCH


cdef void route_forget_iface(Net *n, Iface *i) noexcept nogil:
    """The interface goes away."""
    cdef uint32_t k = n.n_routes
    while k > 0:
        k -= 1
        if n.routes[k].iface == i:
            drop_route(n, k)


cdef void route_forget_source(Net *n, Iface *i, const Addr *source) noexcept nogil:
    """An address goes away, and with it the routes that send from it."""
    cdef uint32_t k = n.n_routes
    while k > 0:
        k -= 1
        if n.routes[k].iface == i and addr_eq(&n.routes[k].source, source):
            drop_route(n, k)


# --- routes that routers tell of (RFC 4861 §6.3.4, §8.3) ---

cdef Route *learned(Net *n, const Addr *prefix, int plen, const Addr *gateway, Iface *i) noexcept nogil:
    cdef uint32_t k
    cdef Route *r
    for k in range(n.n_routes):
        r = &n.routes[k]
        if (r.until != 0 and r.plen == plen and r.iface == i and addr_eq(&r.prefix, prefix)
                and addr_eq(&r.gateway, gateway)):
            return r
    return NULL


cdef uint32_t learned_count(const Net *n, const Iface *i) noexcept nogil:
    cdef uint32_t k, found = 0
    for k in range(n.n_routes):
        found += n.routes[k].until != 0 and n.routes[k].iface == i
    return found


cdef void route_learn(Net *n, const Addr *prefix, int plen, const Addr *gateway, Iface *i, uint32_t metric,
                      uint64_t until) noexcept nogil:
    """It holds until then (ns); 0: no longer. No more than MAX_LEARNED of an interface: what is there stays."""
    cdef Route *r = learned(n, prefix, plen, gateway, i)
    cdef uint32_t k
    if r != NULL and until == 0:
        drop_route(n, <uint32_t>(r - n.routes))
    elif r != NULL:
        r.until = until
    elif (until != 0 and learned_count(n, i) < MAX_LEARNED
          and route_insert(n, RT_TABLE_MAIN, prefix, plen, gateway, i, metric, 0, NULL) == 0):
        for k in range(n.n_routes):
            r = &n.routes[k]
            if (r.plen == plen and r.table == RT_TABLE_MAIN and r.metric == metric and r.iface == i
                    and addr_eq(&r.prefix, prefix) and addr_eq(&r.gateway, gateway)):
                r.until = until


cdef void route_forget_router(Net *n, Iface *i, const Addr *gateway) noexcept nogil:
    """It is no router any more (RFC 4861 §7.3.3): what was learned through it goes."""
    cdef uint32_t k = n.n_routes
    while k > 0:
        k -= 1
        if n.routes[k].until != 0 and n.routes[k].iface == i and addr_eq(&n.routes[k].gateway, gateway):
            drop_route(n, k)


cdef void route_forget_routers(Net *n, Iface *i) noexcept nogil:
    """Default routes of IPv6 that were learned go: who becomes a router does not follow others (Linux)."""
    cdef uint32_t k = n.n_routes
    while k > 0:
        k -= 1
        if n.routes[k].until != 0 and n.routes[k].iface == i and n.routes[k].plen == 0:
            drop_route(n, k)


cdef uint64_t route_expire(Net *n, Iface *i) noexcept nogil:
    """Drops what has run out. When the next does, ns; UINT64_MAX: none."""
    cdef uint64_t first = UINT64_MAX
    cdef uint32_t k = n.n_routes
    while k > 0:
        k -= 1
        if n.routes[k].until != 0 and n.routes[k].iface == i:
            if n.routes[k].until <= n.core.now:
                drop_route(n, k)
            else:
                first = min(first, n.routes[k].until)
    return first
