"""What a stack knows, read out: connections, interfaces, routes, neighbours, counters, live objects.

Responsible for: walking the engine's tables under the lock and copying what is there into Python values. Not for: how
it is presented (ustack/stack.py). A walk holds the lock for its whole length, so that what it returns was true at one
moment.
"""
from libc.stdint cimport UINT64_MAX, uint16_t, uint32_t, uint64_t
from libc.string cimport memset
from ustack_ext.base.entry cimport ENTRY_PACKET, ENTRY_SYNREQ, ENTRY_TCB, ENTRY_UDPLITE, Entry
from ustack_ext.base.table cimport Table, table_bucket, table_buckets
from ustack_ext.driver.driver cimport Driver
from ustack_ext.engine.engine cimport Engine
from ustack_ext.net.iface cimport iface_by_index, iface_find
from ustack_ext.net.mib cimport MIB_COUNT, mib_name
from ustack_ext.net.ra cimport RA_HEARD, RA_MANAGED, RA_OTHER
from ustack_ext.net.state cimport (
    BRIDGE_PORTS, DnsServer, DnsSuffix, Iface, IfAddr, MAX_DNS, NatFlow, Neigh, Route, Station,
)
from ustack_ext.sockets.address cimport format_host
from ustack_ext.sockets.handle cimport SocketHandle
from ustack_ext.sockets.hold cimport hold, let_go
from ustack_ext.sockets.stackcore cimport StackCore, running
from ustack_ext.sockets.state cimport SK_LISTENER, SK_TCB, SK_UDP, SockState
from ustack_ext.tcp.congestion.bbr cimport Bbr, bbr_state
from ustack_ext.tcp.congestion.cc cimport cc_ops, cc_pacing_rate
from ustack_ext.tcp.tcb cimport (
    CHRONO_NONE, CHRONO_RWND, CHRONO_SNDBUF, SEG_RETRANS, SEG_SACKED, TCP_CLOSED, TF_CONNECTED, TF_ECN_OK, TF_FIN_SENT,
    TF_SACK_OK, TF_SYN_DATA, TF_TS_OK, TF_WS_OK, Listener, Seg, SynReq, Tally, Tcb, TimeWait, tcb_notsent, tcb_rcv_wnd,
    tcp_ms,
)
from ustack_ext.tcp.output cimport mss_to_tell
from ustack_ext.tcp.rtt cimport rtt_rto_us
from ustack_ext.tcp.tcp cimport tcp_rcvbuf, tcp_sndbuf
from ustack_ext.udp.udp cimport UDP_CONNECTED, UDP_IS_PING, UdpSock
from ustack_ext.wire.addr cimport Addr, addr_has_zone, addr_is_any, addr_is_v4, addr_zone

STATES = ("", "ESTABLISHED", "SYN-SENT", "SYN-RECEIVED", "FIN-WAIT-1", "FIN-WAIT-2", "TIME-WAIT", "CLOSED",
          "CLOSE-WAIT", "LAST-ACK", "LISTEN", "CLOSING")
NEIGHBOR_STATES = ("INCOMPLETE", "REACHABLE", "STALE", "DELAY", "PROBE", "FAILED", "PERMANENT")
BBR_MODES = ("STARTUP", "DRAIN", "PROBE_BW", "PROBE_RTT")
ADDRESS_STATES = ("TENTATIVE", "PREFERRED", "CONFLICT", "DEPRECATED")


cdef dict congestion_details(const Tcb *c):
    """Rates in bytes/s."""
    cdef const Bbr *b = bbr_state(c)
    cdef dict found = {
        "congestion": cc_ops(c).name.decode(), "pacing_rate": cc_pacing_rate(c),
        "max_pacing_rate": c.conf.max_pacing_rate if c.conf.max_pacing_rate else UINT64_MAX,
    }
    if b != NULL:
        found["bbr"] = {"mode": BBR_MODES[b.mode], "bw": b.bw.value[0], "mrtt": b.min_rtt,
                        "pacing_gain": b.pacing_gain / 256, "cwnd_gain": b.cwnd_gain / 256}
    return found


cdef dict tcb_details(Engine *e, Tcb *c):
    """TCP's own figures, with the names of Linux's struct tcp_info; times in us unless named otherwise."""
    cdef uint32_t segments = 0
    cdef uint32_t retransmitted = 0
    cdef uint32_t waiting = 0
    cdef uint32_t n
    cdef Seg *s = c.tx.seg_head
    while s != NULL:
        n = (s.end - s.seq + c.mss - 1) // c.mss if c.mss else 1
        segments += n
        waiting += 0 if s.flags & SEG_SACKED else n
        retransmitted += (s.flags & SEG_RETRANS) != 0
        s = s.next
    return congestion_details(c) | tally_details(e, c, waiting) | {
        "state_number": c.state, "ca_state": c.ca_state, "retransmits": c.tx.retries, "probes": c.probes,
        "backoff": c.tx.backoff, "options": ((c.flags & TF_TS_OK) != 0) | ((c.flags & TF_SACK_OK) != 0) << 1
        | ((c.flags & TF_WS_OK) != 0) << 2 | ((c.flags & TF_ECN_OK) != 0) << 3 | ((c.flags & TF_SYN_DATA) != 0) << 5,
        "snd_wscale": c.snd_wscale, "rcv_wscale": c.rcv_wscale, "rto": rtt_rto_us(&e.tcp, c) << c.tx.backoff,
        "ato": c.ato * 1000, "mss": c.mss,
        "rcv_mss": c.rcv_mss, "advmss": mss_to_tell(&e.tcp, &c.dst, &c.raddr, c.conf.maxseg),
        "unacked": segments, "unacked_bytes": c.snd_nxt - c.snd_una,
        "sacked": c.tx.sacked, "lost": c.tx.lost, "retrans": retransmitted, "pmtu": c.dst.mtu,
        "rcv_ssthresh": c.rcv_ssthresh,
        "rtt": c.srtt, "rttvar": c.rttvar, "min_rtt": c.min_rtt, "ssthresh": c.ssthresh, "cwnd": c.cwnd,
        "snd_wnd": c.snd_wnd, "rcv_wnd": tcb_rcv_wnd(c),
        "rcvbuf": tcp_rcvbuf(&e.tcp, c), "sndbuf": tcp_sndbuf(&e.tcp, c),
        "last_data_sent_ms": ms_since(e, c.last_send), "last_data_recv_ms": ms_since(e, c.last_recv),
        "out_of_order_bytes": c.reasm.truesize if c.reasm != NULL else 0,
    }


cdef uint32_t delivered(const Tcb *c, const Tally *y, uint32_t waiting):
    """Segments the peer is known to have, SYN and FIN among them: what was sent for the first time and doesn't wait."""
    cdef uint32_t sent = y.data_segs_out - min(y.data_segs_out, y.total_retrans)
    sent += c.flags & TF_CONNECTED != 0
    if c.flags & TF_FIN_SENT and c.tx.sndq_bytes == 0:       # a FIN of its own, as far as that can be told afterwards
        sent += 1
    return sent - min(sent, waiting)


cdef dict tally_details(Engine *e, Tcb *c, uint32_t waiting):
    """What is counted from a connection's first data on. waiting: segments neither acknowledged nor SACKed."""
    cdef Tally none
    cdef Tally *y = c.tally
    cdef uint32_t waited = tcp_ms(&e.core) - c.tx.chrono_ms if c.tx.chrono != CHRONO_NONE else 0
    cdef uint32_t in_flight = c.snd_nxt - c.snd_una
    if y == &e.tcp.no_tally:
        memset(&none, 0, sizeof(Tally))
        y = &none
    return {
        "bytes_sent": y.bytes_sent + y.bytes_retrans, "bytes_retrans": y.bytes_retrans,
        "bytes_acked": y.bytes_sent - min(y.bytes_sent, <uint64_t>in_flight), "bytes_received": y.bytes_received,
        "segs_out": y.segs_out, "segs_in": y.segs_in, "data_segs_out": y.data_segs_out, "data_segs_in": y.data_segs_in,
        "total_retrans": y.total_retrans, "delivered": delivered(c, y, waiting), "delivered_ce": y.delivered_ce,
        "delivery_rate": y.rate_delivered * <uint64_t>1000000 // y.rate_interval if y.rate_interval else 0,
        "app_limited": y.rate_app_limited != 0, "notsent_bytes": tcb_notsent(c),
        "busy_time": (y.busy_ms + waited) * 1000,
        "rwnd_limited": (y.rwnd_ms + (waited if c.tx.chrono == CHRONO_RWND else 0)) * 1000,
        "sndbuf_limited": (y.sndbuf_ms + (waited if c.tx.chrono == CHRONO_SNDBUF else 0)) * 1000,
        "dsack_dups": y.dsack_dups, "reord_seen": y.reord_seen, "total_rto": y.total_rto,
        "rcv_ooopack": c.reasm.count if c.reasm != NULL else 0, "rcv_space": c.rcv_ssthresh, "rcv_rtt": 0,
    }


cdef uint64_t since(Engine *e, uint64_t then):
    return (e.core.now - then) // 1000000 if then and e.core.now > then else 0


cdef uint32_t ms_since(Engine *e, uint32_t then):
    return tcp_ms(&e.core) - then if then else 0


cdef str host_text(Engine *e, const Addr *a):
    """An address with its zone by name (RFC 4007 §11.2)."""
    cdef int k
    if addr_has_zone(a):
        for k in range(e.net.n_ifaces):
            if <uint32_t>e.net.ifaces[k].index == addr_zone(a):
                return f"{format_host(a)}%{e.net.ifaces[k].name.decode(errors='replace')}"
    return format_host(a)


cdef tuple format_pair(Engine *e, const Addr *a, uint16_t port):
    return host_text(e, a), port


cdef tuple tcb_row(Engine *e, Tcb *c):
    return ("tcp", STATES[c.state], format_pair(e, &c.laddr, c.lport), format_pair(e, &c.raddr, c.rport),
            c.rcvq_bytes, c.tx.sndq_bytes, tcb_details(e, c))


cdef tuple conn_row(Engine *e, Entry *entry):
    cdef SynReq *r
    cdef TimeWait *t
    if entry.kind == ENTRY_TCB:
        return tcb_row(e, <Tcb *>entry)
    if entry.kind == ENTRY_SYNREQ:
        r = <SynReq *>entry
        return ("tcp", "SYN-RECEIVED", format_pair(e, &r.laddr, r.lport), format_pair(e, &r.raddr, r.rport), 0, 0, {})
    t = <TimeWait *>entry
    return ("tcp", "TIME-WAIT", format_pair(e, &t.laddr, t.lport),
            format_pair(e, &t.raddr, t.rport), 0, 0, {})


cdef tuple listener_row(Engine *e, Listener *l):
    return ("tcp", "LISTEN", format_pair(e, &l.laddr, l.lport), None, l.acceptq, l.backlog, {"synq": l.synq})


cdef tuple packet_pair(Engine *e, UdpSock *u):
    """(interface, EtherType)"""
    cdef Iface *i = iface_by_index(&e.net, u.raw.ifindex)
    return (<bytes>i.name).decode() if i != NULL else "*", u.raw.ethertype


cdef tuple udp_row(Engine *e, UdpSock *u):
    cdef bint connected = (u.flags & UDP_CONNECTED) != 0
    if u.entry.kind == ENTRY_PACKET:
        return ("p_dgr" if u.raw.cooked else "p_raw", "UNCONN", packet_pair(e, u), None, u.rcv_used, 0,
                {"rcvbuf": u.rcvbuf, "sndbuf": u.sndbuf, "datagrams": u.queue.count})
    return ("icmp" if u.flags & UDP_IS_PING else "raw" if u.raw != NULL else
            "udplite" if u.entry.kind == ENTRY_UDPLITE else "udp",
            "ESTABLISHED" if connected else "UNCONN",
            format_pair(e, &u.laddr, u.lport), format_pair(e, &u.raddr, u.rport) if connected else None, u.rcv_used, 0,
            {"rcvbuf": u.rcvbuf, "sndbuf": u.sndbuf, "datagrams": u.queue.count})


cdef list table_rows(Engine *e, Table *t):
    cdef list rows = []
    cdef Entry *entry
    cdef uint32_t i
    for i in range(table_buckets(t)):
        entry = table_bucket(t, i)[0]
        while entry != NULL:
            rows.append(conn_row(e, entry))
            entry = entry.hnext
    return rows


def connections(StackCore stack not None):
    """[(protocol, state, local, peer, recv_q, send_q, details), ...]: what is in the demux table, then listeners and
    datagram sockets that Python holds."""
    cdef Driver d = running(stack)
    cdef Engine *e = d.engine
    cdef SockState *s
    cdef list rows
    collecting = hold(d)
    try:
        rows = table_rows(e, &e.tcp.conns)
        s = stack.sockets
        while s != NULL:
            if s.kind == SK_LISTENER:
                rows.append(listener_row(e, <Listener *>s.obj))
            elif s.kind == SK_UDP:
                rows.append(udp_row(e, <UdpSock *>s.obj))
            s = s.next
    finally:
        let_go(d, collecting)
    return rows


cdef tuple cut(const IfAddr *a):
    """(host, prefix length in the address's own family, state)."""
    return format_host(&a.addr), a.plen - 96 if addr_is_v4(&a.addr) else a.plen, ADDRESS_STATES[a.state]


cdef str name_of(const Iface *i):
    return i.name.decode(errors="replace") if i != NULL else None


cdef tuple port_names(const Iface *i):
    """Of a bridge's own interface; empty for any other."""
    cdef int k
    if i.bridge == NULL or i.bridge.iface != i:
        return ()
    return tuple([name_of(i.bridge.ports[k].iface) for k in range(<int>BRIDGE_PORTS)
                  if i.bridge.ports[k].iface != NULL])


def stations(StackCore stack not None, str name not None):
    """[(mac, port, ms since it was last seen), ...] of a bridge; None: there is none of that name."""
    cdef Driver d = running(stack)
    cdef bytes raw = name.encode()
    cdef const char *cname = raw
    cdef Iface *i
    cdef Station *s
    cdef int k
    cdef list found = []
    collecting = hold(d)
    try:
        i = iface_find(&d.engine.net, cname)
        if i == NULL or i.bridge == NULL or i.bridge.iface != i:
            return None
        for k in range(<int>BRIDGE_PORTS):
            s = i.bridge.ports[k].newest
            while s != NULL:
                if d.engine.core.now - s.seen <= i.bridge.ageing:
                    found.append((bytes([s.mac >> (40 - 8 * j) & 0xFF for j in range(6)]).hex(":"),
                                  name_of(i.bridge.ports[k].iface), (d.engine.core.now - s.seen) // 1000000))
                s = s.older
    finally:
        let_go(d, collecting)
    return found


def interfaces(StackCore stack not None):
    """A dictionary an interface, in order of index."""
    cdef Driver d = running(stack)
    cdef Iface *i
    cdef list found = []
    cdef int k, j
    collecting = hold(d)
    try:
        for k in range(16):
            i = d.engine.net.ifaces[k]
            if i == NULL:
                continue
            found.append({
                "index": i.index, "name": i.name.decode(errors="replace"),
                "medium": ("ethernet", "ip", "loopback")[i.medium], "up": bool(i.up),
                "mac": ":".join([f"{i.mac[j]:02x}" for j in range(6)]) if i.medium == 0 else None, "mtu": i.mtu,
                "addresses": [cut(&i.addrs[j]) for j in range(16) if i.addrs[j].used],
                "rx_packets": i.rx_packets, "rx_bytes": i.rx_bytes, "rx_dropped": i.rx_dropped,
                "tx_packets": i.tx_packets, "tx_bytes": i.tx_bytes, "tx_dropped": i.tx_dropped,
                "managed": bool(i.six.ra_flags & RA_MANAGED) if i.six.ra_flags & RA_HEARD else None,
                "other_config": bool(i.six.ra_flags & RA_OTHER) if i.six.ra_flags & RA_HEARD else None,
                "parent": name_of(i.lower), "vlan": i.vlan_id if i.lower != NULL else None,
                "bridge": name_of(i.bridge.iface) if i.bridge != NULL and i.bridge.iface != i else None,
                "ports": port_names(i),
            })
    finally:
        let_go(d, collecting)
    return sorted(found, key=lambda one: one["index"])


def router_names(StackCore stack not None):
    """What routers say of DNS (RFC 8106) and holds still: ([address, ...], [domain name as on the wire, ...])."""
    cdef Driver d = running(stack)
    cdef DnsServer *s
    cdef DnsSuffix *x
    cdef uint64_t now
    cdef list servers = [], suffixes = []
    cdef int k, j
    collecting = hold(d)
    try:
        now = d.engine.core.now
        for k in range(d.engine.net.n_ifaces):
            for j in range(MAX_DNS):
                s = &d.engine.net.ifaces[k].six.dns[j]
                x = &d.engine.net.ifaces[k].six.suffixes[j]
                if s.until > now:
                    servers.append(host_text(d.engine, &s.addr))
                if x.until > now:
                    suffixes.append((<char *>x.name)[:x.length])
    finally:
        let_go(d, collecting)
    return servers, suffixes


def routes(StackCore stack not None):
    """[(prefix, length, gateway or None, interface, metric, mtu, source or None, table), ...], most specific first."""
    cdef Driver d = running(stack)
    cdef Route *r
    cdef list found = []
    cdef uint32_t k
    collecting = hold(d)
    try:
        for k in range(d.engine.net.n_routes):
            r = &d.engine.net.routes[k]
            v4 = addr_is_v4(&r.prefix)
            found.append((format_host(&r.prefix), r.plen - 96 if v4 else r.plen,
                          None if addr_is_any(&r.gateway) else host_text(d.engine, &r.gateway),
                          r.iface.name.decode(errors="replace"), r.metric, r.mtu,
                          None if addr_is_any(&r.source) else format_host(&r.source), r.table))
    finally:
        let_go(d, collecting)
    return found


def neighbors(StackCore stack not None):
    """[(address, interface, mac or None, state, ms since confirmed or None), ...]."""
    cdef Driver d = running(stack)
    cdef Engine *e = d.engine
    cdef Neigh *n
    cdef Entry *entry
    cdef list found = []
    cdef uint32_t i
    cdef int j
    collecting = hold(d)
    try:
        for i in range(table_buckets(&e.net.neighs)):
            entry = table_bucket(&e.net.neighs, i)[0]
            while entry != NULL:
                n = <Neigh *>entry
                known = n.state not in (0, 5)
                found.append((format_host(&n.addr), n.iface.name.decode(errors="replace"),
                              ":".join([f"{n.mac[j]:02x}" for j in range(6)]) if known else None,
                              NEIGHBOR_STATES[n.state], since(e, n.confirmed) if n.confirmed else None))
                entry = entry.hnext
    finally:
        let_go(d, collecting)
    return found


def nat_flows(StackCore stack not None):
    """[(protocol, inner, outer, remote, interface, ms since the last packet), ...]; the ends are (address, port)."""
    cdef Driver d = running(stack)
    cdef Engine *e = d.engine
    cdef NatFlow *f
    cdef int k
    cdef list found = []
    collecting = hold(d)
    try:
        for k in range(2 if e.net.nat != NULL else 0):
            f = e.net.nat.lists[k].oldest
            while f != NULL:
                found.append((f.proto, (format_host(&f.inner), f.inner_port), (format_host(&f.outer), f.outer_port),
                              (format_host(&f.remote), f.remote_port), f.iface.name.decode(errors="replace"),
                              since(e, f.used)))
                f = f.newer
    finally:
        let_go(d, collecting)
    return found


def counters(StackCore stack not None):
    """{name: count} of every counter."""
    cdef Driver d = running(stack)
    cdef int k
    collecting = hold(d)
    try:
        return {mib_name(k).decode(): d.engine.core.counters[k] for k in range(<int>MIB_COUNT)}
    finally:
        let_go(d, collecting)


cdef uint64_t object_bytes(const Engine *e) noexcept nogil:
    """Bytes held for connections and what belongs to them, tables included; packets are the pool's."""
    cdef uint64_t buckets = (<uint64_t>table_buckets(&e.tcp.conns) + table_buckets(&e.tcp.listeners)
                             + table_buckets(&e.tcp.binds))
    return (e.tcp.tcbs.held + e.tcp.synreqs.held + e.tcp.timewaits.held + e.tcp.segs.held + e.tcp.reasms.held
            + e.tcp.confs.held + e.tcp.txs.held + e.tcp.ccs.held + e.tcp.index_nodes.held
            + e.tcp.tallies.held + e.tcp.listeners_slab.held + e.tcp.binds_slab.held + buckets * sizeof(Entry *))


def live(StackCore stack not None):
    """{kind: how many there are now}. All but `routes`, `loopback`'s and the pools' reserve are 0 in an idle, empty
    stack.
    """
    cdef Driver d = running(stack)
    cdef Engine *e = d.engine
    cdef SockState *s
    cdef uint32_t sockets = 0
    collecting = hold(d)
    try:
        s = stack.sockets
        while s != NULL:
            sockets += 1
            s = s.next
        return {
            "sockets": sockets, "tcbs": e.tcp.tcbs.live, "listeners": e.tcp.listeners_slab.live,
            "binds": e.tcp.binds_slab.live, "synreqs": e.tcp.synreqs.live, "timewaits": e.tcp.timewaits.live,
            "segments": e.tcp.segs.live, "sending": e.tcp.txs.live - e.tcp.n_spare_txs,
            "settings": e.tcp.confs.live, "tallies": e.tcp.tallies.live,
            "reassemblies": e.tcp.reasms.live, "datagram_sockets": e.udp.slab.live,
            "neighbors": e.net.neigh_slab.live, "fragments": e.net.frag_slab.live, "timers": e.core.wheel.armed,
            "buffers": e.core.pool.live - d.ready, "buffer_bytes": e.core.pool.used, "pool_bytes": e.core.pool.held,
            "object_bytes": object_bytes(e),
        }
    finally:
        let_go(d, collecting)


def undelivered(StackCore stack not None):
    """How many connections that no socket holds any more still have data or a FIN that the peer has not
    acknowledged.
    """
    cdef Driver d = running(stack)
    cdef Engine *e = d.engine
    cdef Entry *entry
    cdef Tcb *c
    cdef uint32_t i
    cdef int found = 0
    with nogil:
        d.lock()
        for i in range(table_buckets(&e.tcp.conns)):
            entry = table_bucket(&e.tcp.conns, i)[0]
            while entry != NULL:
                if entry.kind == ENTRY_TCB:
                    c = <Tcb *>entry
                    # FIN-WAIT-1, LAST-ACK and CLOSING: what was sent is not all acknowledged.
                    found += c.source.user == NULL and c.state != TCP_CLOSED and c.state in (4, 9, 11)
                entry = entry.hnext
        d.unlock()
    return found


def connection_details(object socket not None):
    """One socket's figures, or None when it has no connection."""
    cdef SocketHandle core = socket
    cdef Driver d = core.stack.driver
    collecting = hold(d)
    try:
        return tcb_details(d.engine, <Tcb *>core.state.obj) if core.state.kind == SK_TCB else None
    finally:
        let_go(d, collecting)
