"""The face of net/: set-up and tear-down, and one name for each thing the layers above may ask.

Responsible for nothing but joining the files below it: route and iface (who and where), neigh and arp (link addresses),
output, icmp, frag, input. See net.pxd for what each call means.
"""
from libc.errno cimport EINVAL, ENOENT, ENOMEM
from libc.stdlib cimport free
from libc.string cimport memset

from ustack_ext.wire.addr cimport addr_is_v4, addr_none, addr_zoned
from ustack_ext.wire.headers cimport ETH_HLEN, ICMP_UNREACH, ICMP_UNREACH_PORT, ICMP_UNREACH_PROTOCOL, IP4_HLEN
from ustack_ext.wire.ip6 cimport (
    ICMP6_PARAM_NEXT, ICMP6_PARAM_PROBLEM, ICMP6_UNREACH, ICMP6_UNREACH_PORT, IP6_HLEN,
)
from ustack_ext.base.buf cimport BufQueue, buf_unref, bufq_pop
from ustack_ext.base.core cimport count
from ustack_ext.base.entry cimport (ENTRY_FRAG, ENTRY_GROUPS, ENTRY_IFACE6, ENTRY_IFADDR, ENTRY_NAT, ENTRY_NEIGH,
                                    ENTRY_PMTU)
from ustack_ext.base.limiter cimport limiter_init
from ustack_ext.base.rng cimport rng_key, rng_u64
from ustack_ext.base.slab cimport slab_destroy, slab_init
from ustack_ext.base.table cimport table_destroy, table_init
from ustack_ext.net.addr6 cimport addr6_add, addr6_autoconf, addr6_timer, iface6_timer
from ustack_ext.net.arp cimport arp_start, arp_timer
from ustack_ext.net.bridge cimport bridge_forget, is_port
from ustack_ext.net.frag cimport frag_forget_iface, frag_timer
from ustack_ext.net.icmp cimport icmp_echo_out, icmp_error_about, icmp_tell_sender
from ustack_ext.net.icmp6 cimport icmp6_echo_out, icmp6_error_about, icmp6_tell_sender
from ustack_ext.net.iface cimport (addr_activate, addr_insert, addr_remove, iface_find, iface_free, iface_insert,
                                   is_our_broadcast,
                                   is_ours, source_for)
from ustack_ext.net.input cimport frame_input
from ustack_ext.net.mib cimport NeighQueueDrops
from ustack_ext.net.mld cimport mld_addresses
from ustack_ext.net.nat cimport nat_destroy, nat_forget_iface, nat_timer
from ustack_ext.net.neigh cimport (neigh_confirm, neigh_find, neigh_forget_iface, neigh_remove, neigh_set_permanent,
                                   neigh_timer)
from ustack_ext.net.output cimport output_packet, output_resolve_anew
from ustack_ext.net.output6 cimport output6_packet
from ustack_ext.net.pmtu cimport pmtu_clear, pmtu_timer
from ustack_ext.net.reports cimport reports_timer
from ustack_ext.net.route cimport route_insert, route_remove
from ustack_ext.net.rule cimport route_for
from ustack_ext.net.vlan cimport vlan_unlink
from ustack_ext.net.state cimport (
    ADDR_PREFERRED, ADDR_TENTATIVE, FragQueue, GROUP_SOURCES, Groups, Iface6, IP_IDENTS, MAX_IFADDRS, MEDIUM_ETHERNET,
    NAT_FLOWS, NatFlow, Neigh, NetKnobs, PMTUS_MAX, Pmtu, Route,
)

cdef enum:
    NEIGH_LIMIT = 65536        # the slab's; gc_thresh3 is what holds
    FRAG_LIMIT = 16384         # datagrams in reassembly at a time


# --- set-up ---

cdef void default_knobs(NetKnobs *k) noexcept nogil:
    """Linux's defaults."""
    memset(k, 0, sizeof(k[0]))
    k.ip_default_ttl = 64
    k.icmp_echo_ignore_broadcasts = 1
    k.min_pmtu = 552
    k.mtu_expires = 600
    k.icmp_ratelimit = 1000
    k.icmp_msgs_per_sec = 1000
    k.icmp_msgs_burst = 50
    k.ipfrag_time = 30
    k.ipfrag_high_thresh = 4 * 1024 * 1024
    k.ipfrag_max_dist = 64
    k.gc_thresh3 = 1024
    k.base_reachable_time_ms = 30000
    k.gc_stale_time = 60
    k.unres_qlen = 101
    k.retrans_time_ms = 1000
    k.mcast_solicit = 3
    k.ucast_solicit = 3
    k.delay_first_probe_time = 5
    k.conf6.hop_limit = 64
    k.conf6.dad_transmits = 1
    k.conf6.accept_ra = 1
    k.conf6.max_addresses = MAX_IFADDRS
    k.auto_flowlabels = 1
    k.ip6frag_time = 60
    k.conf6.router_solicitations = 3
    k.conf6.router_solicitation_interval = 4
    k.conf6.temp_valid_lft = 604800
    k.conf6.temp_prefered_lft = 86400
    k.igmp_max_memberships = 20
    k.igmp_max_msf = 10
    k.igmp_qrv = 2
    k.mld_max_msf = GROUP_SOURCES
    k.mld_qrv = 2
    k.nf_conntrack_max = NAT_FLOWS
    k.send_redirects = 1
    k.send_redirects6 = 1
    k.arp_ignore = 1
    k.arp_announce = 2


cdef int net_init(Net *n, Core *core) noexcept nogil:
    cdef int k
    memset(n, 0, sizeof(n[0]))
    n.core = core
    n.generation = 1                                   # a zeroed Dst is stale
    default_knobs(&n.knobs)
    n.key = rng_key(&core.rng)
    n.ident_key = rng_key(&core.rng)
    n.secret6 = rng_key(&core.rng)
    n.icmp_key_salt = rng_u64(&core.rng)
    for k in range(IP_IDENTS):
        n.idents[k] = <uint16_t>rng_u64(&core.rng)
    limiter_init(&n.icmp_global, n.knobs.icmp_msgs_per_sec, n.knobs.icmp_msgs_burst, core.now)
    slab_init(&n.neigh_slab, sizeof(Neigh), NEIGH_LIMIT)
    slab_init(&n.frag_slab, sizeof(FragQueue), FRAG_LIMIT)
    slab_init(&n.pmtu_slab, sizeof(Pmtu), PMTUS_MAX)
    if table_init(&n.neighs, 64) != 0 or table_init(&n.frags, 64) != 0 or table_init(&n.pmtus, 16) != 0:
        return -ENOMEM
    return 0


cdef void net_destroy(Net *n) noexcept nogil:
    frag_forget_iface(n, NULL)
    neigh_forget_iface(n, NULL)
    pmtu_clear(n)
    nat_destroy(n)
    while n.n_ifaces > 0:
        iface_remove(n, n.ifaces[n.n_ifaces - 1])
    free(n.routes)
    n.routes = NULL
    free(n.rules)
    n.rules = NULL
    table_destroy(&n.neighs)
    table_destroy(&n.frags)
    slab_destroy(&n.neigh_slab)
    slab_destroy(&n.frag_slab)
    table_destroy(&n.pmtus)
    slab_destroy(&n.pmtu_slab)


# --- interfaces, addresses, neighbours, routes ---

cdef Iface *iface_add(Net *n, const char *name, int medium, const uint8_t *mac, uint32_t mtu, uint32_t offloads,
                      transmit_fn transmit, void *link) noexcept nogil:
    return iface_insert(n, name, medium, mac, mtu, offloads, transmit, link)


cdef void iface_remove(Net *n, Iface *i) noexcept nogil:
    while i.vlans != NULL:
        iface_remove(n, i.vlans)
    if i.lower != NULL:
        vlan_unlink(i)
    bridge_forget(n, i)
    frag_forget_iface(n, i)
    neigh_forget_iface(n, i)
    nat_forget_iface(n, i)
    iface_free(n, i)


cdef int iface_add_addr(Net *n, Iface *i, const Addr *a, int plen, bint probe) noexcept nogil:
    cdef IfAddr *ia = NULL
    cdef bint wait = probe and i.medium == MEDIUM_ETHERNET
    cdef int status
    if is_port(i):                                     # its frames are the bridge's
        return -EINVAL
    if not addr_is_v4(a):
        return addr6_add(n, i, a, plen, wait)
    status = addr_insert(n, i, a, plen, ADDR_TENTATIVE if wait else ADDR_PREFERRED, &ia)
    if status == 0 and not wait:
        status = addr_activate(n, ia)
        if status != 0:
            addr_remove(n, i, a)
    if status == 0:
        arp_start(n, ia)
    return status


cdef int iface_del_addr(Net *n, Iface *i, const Addr *a) noexcept nogil:
    cdef Addr zoned = addr_zoned(a, i.index)
    cdef int status = addr_remove(n, i, &zoned)
    if status == 0 and not addr_is_v4(a):
        mld_addresses(n, i)
    return status


cdef int iface_autoconf(Net *n, Iface *i) noexcept nogil:
    return addr6_autoconf(n, i) if not is_port(i) else -EINVAL


cdef Iface *iface_by_name(Net *n, const char *name) noexcept nogil:
    return iface_find(n, name)


cdef int net_neigh_set(Net *n, Iface *i, const Addr *a, const uint8_t *mac) noexcept nogil:
    cdef Addr zoned = addr_zoned(a, i.index)
    if i.medium != MEDIUM_ETHERNET:
        return -EINVAL
    return neigh_set_permanent(n, i, &zoned, mac)


cdef int net_neigh_del(Net *n, Iface *i, const Addr *a) noexcept nogil:
    cdef Addr zoned = addr_zoned(a, i.index)
    cdef Neigh *e = neigh_find(n, i, &zoned)
    if e == NULL:
        return -ENOENT
    neigh_remove(n, e)
    return 0


cdef int route_add(Net *n, uint32_t table, const Addr *prefix, int plen, const Addr *gateway, Iface *i,
                   uint32_t metric, uint32_t mtu, const Addr *source) noexcept nogil:
    cdef Addr to = prefix[0], via = addr_none()
    if i != NULL:                                      # a gateway's link-local address means that of the interface
        to = addr_zoned(prefix, i.index)
        if gateway != NULL:
            via = addr_zoned(gateway, i.index)
            gateway = &via
    return route_insert(n, table, &to, plen, gateway, i, metric, mtu, source)


cdef int route_del(Net *n, uint32_t table, const Addr *prefix, int plen, const Addr *gateway,
                   Iface *i) noexcept nogil:
    cdef Addr to = prefix[0], via = addr_none()
    if i != NULL:
        to = addr_zoned(prefix, i.index)
        if gateway != NULL:
            via = addr_zoned(gateway, i.index)
            gateway = &via
    return route_remove(n, table, &to, plen, gateway, i)


# --- questions ---

cdef bint net_is_local(Net *n, const Addr *a) noexcept nogil:
    return is_ours(n, a)


cdef bint net_is_broadcast(Net *n, const Addr *a) noexcept nogil:
    return is_our_broadcast(n, a)


cdef int net_source_for(Net *n, const Addr *dst, Addr *source) noexcept nogil:
    return source_for(n, dst, source)


cdef uint32_t net_route_mtu(Net *n, const Dst *d, const Addr *dst) noexcept nogil:
    cdef Addr none = addr_none()
    cdef Route *r = route_for(n, &none, dst, NULL, d.iface)
    return min(r.mtu, d.iface.mtu) if r != NULL and r.mtu != 0 else d.iface.mtu


# --- packets ---

cdef int net_resolve_anew(Net *n, Dst *d, const Addr *src, const Addr *dst) noexcept nogil:
    return output_resolve_anew(n, d, src, dst)


cdef int net_output(Net *n, Dst *d, const Addr *src, const Addr *dst, uint8_t proto, uint8_t ttl, uint8_t tos, bint df,
                    TxPkt *t) noexcept nogil:
    if addr_is_v4(dst):
        return output_packet(n, d, src, dst, proto, ttl, tos, df, t)
    return output6_packet(n, d, src, dst, proto, ttl, tos, df, t)


cdef uint32_t net_room(const Dst *d, const Addr *dst) noexcept nogil:
    cdef uint32_t hlen = IP4_HLEN if addr_is_v4(dst) else IP6_HLEN
    return d.mtu - hlen if d.mtu > hlen else 0


cdef void net_confirm(Net *n, Dst *d) noexcept nogil:
    if d.neigh != NULL and d.generation == n.generation:
        neigh_confirm(n, d.neigh)


cdef int net_input(Net *n, Iface *i, Buf *buf, const Offload *off, RxPkt *rx, IcmpError *err,
                   Buf **owned) noexcept nogil:
    return frame_input(n, i, buf, off, rx, err, owned)


cdef void neigh_expired(Net *n, Neigh *e) noexcept nogil:
    """Runs a neighbour's timer and tells our own sockets about the packets that will not arrive."""
    cdef BufQueue lost
    cdef Buf *b
    memset(&lost, 0, sizeof(lost))
    neigh_timer(n, e, &lost)
    while lost.count != 0:
        b = bufq_pop(&lost)
        count(n.core, NeighQueueDrops)
        if b.len > ETH_HLEN and b.data[b.off + ETH_HLEN] >> 4 == 6:
            icmp6_tell_sender(n, e.iface, b.data + b.off + ETH_HLEN, b.len - ETH_HLEN)
        elif b.len > ETH_HLEN:
            icmp_tell_sender(n, b.data + b.off + ETH_HLEN, b.len - ETH_HLEN)
        buf_unref(&n.core.pool, b)


cdef void net_timer(Net *n, Entry *e) noexcept nogil:
    if e.kind == ENTRY_NEIGH:
        neigh_expired(n, <Neigh *>e)
    elif e.kind == ENTRY_IFADDR and addr_is_v4(&(<IfAddr *>e).addr):
        arp_timer(n, <IfAddr *>e)
    elif e.kind == ENTRY_IFADDR:
        addr6_timer(n, <IfAddr *>e)
    elif e.kind == ENTRY_IFACE6:
        iface6_timer(n, (<Iface6 *>e).iface)
    elif e.kind == ENTRY_FRAG:
        frag_timer(n, <FragQueue *>e)
    elif e.kind == ENTRY_PMTU:
        pmtu_timer(n, <Pmtu *>e)
    elif e.kind == ENTRY_GROUPS:
        reports_timer(n, <Groups *>e)
    elif e.kind == ENTRY_NAT:
        nat_timer(n, <NatFlow *>e)


# --- ICMP ---

cdef void icmp_send_unreach(Net *n, RxPkt *rx, uint8_t code, uint16_t mtu) noexcept nogil:
    if addr_is_v4(&rx.src):
        icmp_error_about(n, rx, ICMP_UNREACH, code, mtu)
    elif code == ICMP_UNREACH_PORT:
        icmp6_error_about(n, rx, ICMP6_UNREACH, ICMP6_UNREACH_PORT, 0)
    elif code == ICMP_UNREACH_PROTOCOL:
        icmp6_error_about(n, rx, ICMP6_PARAM_PROBLEM, ICMP6_PARAM_NEXT, rx.next_at)


cdef int icmp_send_echo(Net *n, Dst *d, const Addr *src, const Addr *dst, uint8_t ttl, uint8_t tos, bint reply,
                        uint16_t ident, uint16_t seq, TxPkt *t) noexcept nogil:
    if addr_is_v4(dst):
        return icmp_echo_out(n, d, src, dst, ttl, tos, reply, ident, seq, t)
    return icmp6_echo_out(n, d, src, dst, ttl, tos, reply, ident, seq, t)
