# The face of net/ to the layers above: set-up, interfaces, routes, input, output, timers. Implemented in net.pyx over
# the smaller files.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from ustack_ext.wire.addr cimport Addr
from ustack_ext.base.buf cimport Buf
from ustack_ext.base.core cimport Core, count, count_add
from ustack_ext.base.entry cimport Entry
from ustack_ext.base.iov cimport Offload
from ustack_ext.net.mib cimport (
    Ip6InDelivers, Ip6InOctets, Ip6InReceives, IpInDelivers, IpInOctets, IpInReceives,
)
from ustack_ext.net.state cimport (
    Dst, IcmpError, IfAddr, Iface, Net, NetVerdict, RxPkt, TxPkt, dst_holds, transmit_fn,
)

cdef int net_init(Net *n, Core *core) noexcept nogil                       # 0 or -ENOMEM
cdef void net_destroy(Net *n) noexcept nogil

# Interfaces. All return 0 or -errno (errno constants from libc.errno).
cdef Iface *iface_add(Net *n, const char *name, int medium, const uint8_t *mac, uint32_t mtu, uint32_t offloads,
                      transmit_fn transmit, void *link) noexcept nogil    # NULL when MAX_IFACES are there
# addresses, neighbours, routes of it go too; the Iface is freed
cdef void iface_remove(Net *n, Iface *i) noexcept nogil
# connected route added; gratuitous ARP; probe: RFC 5227 (IPv6: RFC 4862 §5.4) first
cdef int iface_add_addr(Net *n, Iface *i, const Addr *a, int plen, bint probe) noexcept nogil
cdef int iface_del_addr(Net *n, Iface *i, const Addr *a) noexcept nogil
# IPv6: a link-local address, and what routers say (RFC 4862). 0 or -errno.
cdef int iface_autoconf(Net *n, Iface *i) noexcept nogil
cdef Iface *iface_by_name(Net *n, const char *name) noexcept nogil

# A neighbour entry by hand (NUD_PERMANENT), or the end of one. 0, -ENOMEM, -ENOENT, -EINVAL (no Ethernet).
cdef int net_neigh_set(Net *n, Iface *i, const Addr *a, const uint8_t *mac) noexcept nogil
cdef int net_neigh_del(Net *n, Iface *i, const Addr *a) noexcept nogil

# Routes.
# i may be NULL: found from the gateway
cdef int route_add(Net *n, uint32_t table, const Addr *prefix, int plen, const Addr *gateway, Iface *i,
                   uint32_t metric, uint32_t mtu, const Addr *source) noexcept nogil
cdef int route_del(Net *n, uint32_t table, const Addr *prefix, int plen, const Addr *gateway, Iface *i) noexcept nogil

# Is `a` one of ours (any preferred address of any interface, or loopback)?
cdef bint net_is_local(Net *n, const Addr *a) noexcept nogil
# Is `a` a broadcast address (limited, or of a connected prefix)?
cdef bint net_is_broadcast(Net *n, const Addr *a) noexcept nogil
# Source address for `dst` (RFC 1122 §3.3.4.3), or -ENETUNREACH / -EADDRNOTAVAIL.
cdef int net_source_for(Net *n, const Addr *dst, Addr *source) noexcept nogil
cdef int net_resolve_anew(Net *n, Dst *d, const Addr *src, const Addr *dst) noexcept nogil


cdef inline int net_resolve(Net *n, Dst *d, const Addr *src, const Addr *dst) noexcept nogil:
    """Fills *d for packets from `src` to `dst` if it is stale. 0 or -ENETUNREACH, -EHOSTUNREACH, -ENOBUFS (no neighbour
    entry to be had).
    """
    return 0 if dst_holds(n, d) else net_resolve_anew(n, d, src, dst)


# What the route to `dst` carries as it is configured, whatever the path beyond it does: for what is told a peer.
cdef uint32_t net_route_mtu(Net *n, const Dst *d, const Addr *dst) noexcept nogil

# Sends one transport packet (header and payload in *t) to dst. Adds IP and link headers, fragments if `df` is 0 and it
# is too long, queues on an unresolved neighbour (copying), loops back to ourselves. 0 or -errno: -EMSGSIZE (too big
# with df), -ENOBUFS (device or queue full), -EHOSTUNREACH, -ENETUNREACH.
# `t` is used up. ttl 0: the default.
cdef int net_output(Net *n, Dst *d, const Addr *src, const Addr *dst, uint8_t proto, uint8_t ttl, uint8_t tos, bint df,
                    TxPkt *t) noexcept nogil
# Bytes of transport header + payload that fit without fragmentation through a resolved d (to dst).
cdef uint32_t net_room(const Dst *d, const Addr *dst) noexcept nogil
# The transport has proof that the neighbour behind `d` answers (an ACK of new data): RFC 4861 §7.3.1's hint.
cdef void net_confirm(Net *n, Dst *d) noexcept nogil

# One frame from an interface, at buf.data[buf.off : buf.off + buf.len]. Does not take over the caller's reference to
# `buf`. off may be NULL. On NET_TCP, NET_UDP, NET_ECHO_* and NET_UNKNOWN_PROTO *rx is filled; rx.buf may be another
# buffer than `buf` (a reassembled datagram): then *owned is set to it and the caller unrefs it when done. On
# NET_ICMP_ERROR *err points into the frame.
cdef int net_input(Net *n, Iface *i, Buf *buf, const Offload *off, RxPkt *rx, IcmpError *err,
                   Buf **owned) noexcept nogil
# Counts what net_input would, where the engine takes in a frame that differs from the last one of its flow in nothing
# that net_input looks at.
cdef inline void net_count_in(Net *n, Iface *i, bint six, uint32_t frame, uint32_t packet) noexcept nogil:
    i.rx_packets += 1
    i.rx_bytes += frame
    count(n.core, Ip6InReceives if six else IpInReceives)
    count_add(n.core, Ip6InOctets if six else IpInOctets, packet)
    count(n.core, Ip6InDelivers if six else IpInDelivers)


# A timer of ENTRY_NEIGH, ENTRY_IFADDR, ENTRY_FRAG, ENTRY_PMTU or ENTRY_GROUPS fired.
cdef void net_timer(Net *n, Entry *e) noexcept nogil

# ICMP errors about a received packet (never about ICMP errors, broadcasts, non-first fragments, bad sources; rate
# limited).
cdef void icmp_send_unreach(Net *n, RxPkt *rx, uint8_t code, uint16_t mtu) noexcept nogil
# Sends an ICMP echo request (reply: the answer to one) with the given id/seq and payload already in *t, for ping
# sockets and flows. 0 or -errno.
cdef int icmp_send_echo(Net *n, Dst *d, const Addr *src, const Addr *dst, uint8_t ttl, uint8_t tos, bint reply,
                        uint16_t ident, uint16_t seq, TxPkt *t) noexcept nogil
