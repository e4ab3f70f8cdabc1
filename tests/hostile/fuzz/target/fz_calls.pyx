"""Socket calls and changes of configuration, as records of a fuzzing program (fz_ops)."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memset
from ustack_ext.base.bpf cimport bpf_free, bpf_new
from ustack_ext.base.entry cimport ENTRY_PACKET, ENTRY_PING, ENTRY_UDP, ENTRY_UDPLITE
from ustack_ext.base.iov cimport IoVec
from ustack_ext.net.net cimport iface_add_addr, iface_del_addr, net_neigh_del, net_neigh_set, route_add, route_del
from ustack_ext.net.state cimport MEDIUM_ETHERNET, RT_TABLE_MAIN
from ustack_ext.tcp.tcb cimport Bind, Listener, TF_DEAD, Tcb, TcpConf
from ustack_ext.tcp.tcp cimport (tcp_accept, tcp_bind, tcp_close, tcp_close_listener, tcp_conf_default,
                                 tcp_connect, tcp_listen, tcp_listener_ready, tcp_recv, tcp_send,
                                 tcp_set_backlog, tcp_set_conf, tcp_shutdown, tcp_take_error, tcp_unbind)
from ustack_ext.udp.packet cimport packet_attach
from ustack_ext.udp.raw cimport raw_attach
from ustack_ext.udp.udp cimport (UDP_IPV4, UDP_IPV6, UdpMeta, UdpSock, udp_bind, udp_close, udp_connect, udp_open, udp_ready, udp_recv,
                                 udp_send, udp_set_family, udp_shutdown)
from ustack_ext.wire.addr cimport Addr, V4_BITS, addr_none, addr_v4
from ustack_ext.wire.bytes cimport get_be16, get_be32
from fz_world cimport (LISTEN_PORT, LISTENERS, PEER, TCBS, UDP_PORT, UDPS, US, World, world_fail, world_hold, world_plug,
                       world_tcb, world_unplug)

cdef enum:
    CALL_CONNECT
    CALL_LISTEN
    CALL_ACCEPT
    CALL_SEND
    CALL_RECV
    CALL_SHUTDOWN
    CALL_CLOSE
    CALL_CLOSE_LISTENER
    CALL_CONF
    CALL_BIND_CONNECT
    CALL_COUNT

    UNPLUG = 0xF8


cdef Addr somewhere(const uint8_t *r) noexcept nogil:
    """The peer, somebody who is not there, ourselves by either address, or anything."""
    cdef uint8_t how = r[3] & 7
    if how == 1:
        return addr_v4(PEER + 40 + (r[2] & 15))
    if how == 2:
        return addr_v4(US)
    if how == 3:
        return addr_v4(0x7F000001)
    if how == 4:
        return addr_v4(get_be32(r + 8))
    return addr_v4(PEER)


cdef void conf_of(World *w, const uint8_t *r, TcpConf *conf) noexcept nogil:
    tcp_conf_default(&w.e.tcp, conf)
    if r[12] & 1:
        conf.nodelay = 1
    if r[12] & 2:
        conf.rcvbuf = 256 + 16 * r[13]
    if r[12] & 4:
        conf.sndbuf = 256 + 64 * r[13]
    if r[12] & 8:
        conf.keepalive = 1
        conf.keepidle = 1 + r[13]
        conf.keepintvl = 1
        conf.keepcnt = 3
    if r[12] & 16:
        conf.linger = 1
        conf.linger_time = r[13] & 1
    if r[12] & 32:
        conf.maxseg = <uint16_t>(88 + 4 * r[13])
    if r[12] & 64:
        conf.user_timeout = 1 + 100 * r[13]
    conf.tos = r[14]


cdef void connect_call(World *w, const uint8_t *r, bint bound) noexcept nogil:
    cdef TcpConf conf
    cdef Addr to = somewhere(r)
    cdef Addr here = addr_v4(US)
    cdef Bind *b = NULL
    cdef Tcb *c = NULL
    conf_of(w, r, &conf)
    if bound and tcp_bind(&w.e.tcp, &here, <uint16_t>(LISTEN_PORT + (r[2] & 3)), r[1] & 128, &b) != 0:
        return
    if tcp_connect(&w.e.tcp, b, &to, <uint16_t>(LISTEN_PORT + (get_be16(r + 4) & 3)), &conf, w,
                   NULL, 0, NULL, &c) != 0:
        if b != NULL:
            tcp_unbind(&w.e.tcp, b)
        return
    world_hold(w, c)


cdef void listen_call(World *w, const uint8_t *r) noexcept nogil:
    cdef TcpConf conf
    cdef Addr here = addr_none() if not r[3] & 1 else addr_v4(US)
    cdef Bind *b = NULL
    cdef Listener **slot = &w.listeners[r[2] % LISTENERS]
    if slot[0] != NULL:
        tcp_set_backlog(&w.e.tcp, slot[0], max(slot[0].backlog, <uint32_t>r[4]))
        return
    conf_of(w, r, &conf)
    if tcp_bind(&w.e.tcp, &here, <uint16_t>(LISTEN_PORT + (r[2] & 3)), r[1] & 128, &b) != 0:
        return
    if tcp_listen(&w.e.tcp, b, r[5] & 7, &conf, w, slot) != 0:
        tcp_unbind(&w.e.tcp, b)
        slot[0] = NULL


cdef void accept_call(World *w, const uint8_t *r) noexcept nogil:
    cdef int i
    cdef Tcb *c
    for i in range(LISTENERS):
        if w.listeners[i] != NULL and tcp_listener_ready(w.listeners[i]):
            c = tcp_accept(&w.e.tcp, w.listeners[i], w)
            if c == NULL:
                world_fail(w, b"accept: ready, and nothing there")
                return
            world_hold(w, c)
            return


cdef void send_call(World *w, Tcb *c, const uint8_t *r) noexcept nogil:
    cdef IoVec iov[2]
    cdef uint32_t n = get_be16(r + 4)
    cdef long done
    iov[0].base = w.data
    iov[0].len = n // 3
    iov[1].base = w.data + n // 3
    iov[1].len = n - n // 3
    done = tcp_send(&w.e.tcp, c, iov, 2, r[3] & 1)
    if done > <long>n:
        world_fail(w, b"send: took more than there was")


cdef void recv_call(World *w, Tcb *c, const uint8_t *r) noexcept nogil:
    cdef IoVec iov[2]
    cdef uint32_t n = get_be16(r + 4), had = c.rcvq_bytes
    cdef bint urgent = c.reasm != NULL and c.reasm.urgent != 0     # reading stops at the mark, and passes one octet over
    cdef long done
    iov[0].base = w.data
    iov[0].len = n // 3
    iov[1].base = w.data + n // 3
    iov[1].len = n - n // 3
    done = tcp_recv(&w.e.tcp, c, iov, 2, r[3] & 1)
    if done > <long>min(had, n) or (had and not urgent and done != <long>min(had, n)):
        world_fail(w, b"recv: not what the queue had")


cdef void close_call(World *w, Tcb *c) noexcept nogil:
    cdef int i
    for i in range(TCBS):
        if w.tcbs[i] == c:
            w.tcbs[i] = NULL
            tcp_close(&w.e.tcp, c)
            return


cdef void conf_call(World *w, Tcb *c, const uint8_t *r) noexcept nogil:
    cdef TcpConf conf
    conf_of(w, r, &conf)
    tcp_set_conf(&w.e.tcp, c, &conf)
    if r[3] & 1:
        tcp_take_error(c)


cdef void op_call(World *w, const uint8_t *r) noexcept nogil:
    cdef uint8_t what = (r[1] & 127) % CALL_COUNT
    cdef Tcb *c
    cdef Listener **slot = &w.listeners[r[2] % LISTENERS]
    w.settled = False
    if what == CALL_CONNECT or what == CALL_BIND_CONNECT:
        connect_call(w, r, what == CALL_BIND_CONNECT)
        return
    if what == CALL_LISTEN:
        listen_call(w, r)
        return
    if what == CALL_ACCEPT:
        accept_call(w, r)
        return
    if what == CALL_CLOSE_LISTENER:
        if slot[0] != NULL:
            tcp_close_listener(&w.e.tcp, slot[0])
            slot[0] = NULL
        return
    c = world_tcb(w, r[2])
    if c == NULL:
        return
    if what == CALL_SEND:
        send_call(w, c, r)
    elif what == CALL_RECV:
        recv_call(w, c, r)
    elif what == CALL_SHUTDOWN:
        tcp_shutdown(&w.e.tcp, c, r[3] % 3)
    elif what == CALL_CLOSE:
        close_call(w, c)
    elif what == CALL_CONF:
        conf_call(w, c, r)


# ---- datagrams ----

cdef void attach_filter(World *w, const uint8_t *r, UdpSock *s) noexcept nogil:
    """A program of nobody's: mostly bytes of the record, so that the verifier lets some of them by."""
    cdef uint8_t program[8 * 12]
    cdef int status, k
    for k in range(<int>sizeof(program)):
        program[k] = w.frame[k] ^ r[(k * 5 + 4) % 16]
    for k in range(12):
        program[8 * k + 1] = 0                         # codes have one byte
        program[8 * k + 2] &= 3
        program[8 * k + 3] &= 3
        if r[4] & 1:
            program[8 * k + 5] = program[8 * k + 6] = program[8 * k + 7] = 0
    program[8 * 11] = 0x16 if r[4] & 2 else 6
    bpf_free(s.filter)
    s.filter = bpf_new(program, 8 * (1 + r[5] % 12) if r[4] & 4 else sizeof(program), &status)


cdef bint open_special(World *w, const uint8_t *r, UdpSock *s, uint8_t what) noexcept nogil:
    """1: a raw socket, 2: a packet socket, 3: IPv6. True: there is nothing else to be done."""
    if what == 2:
        packet_attach(&w.e.udp, s, 3 if r[4] & 8 else 0x800 if r[4] & 16 else 0x86DD, r[4] & 32)
        return True
    udp_set_family(s, UDP_IPV6 if what == 3 or r[4] & 64 else UDP_IPV4)
    if what == 1:
        raw_attach(&w.e.udp, s, 17 if r[4] & 8 else 58 if r[4] & 64 else 1 if r[4] & 16 else 6)
        return True
    return False


cdef void open_datagram(World *w, const uint8_t *r, UdpSock **slot) noexcept nogil:
    cdef Addr a = addr_none()
    cdef uint8_t special = r[3] >> 4
    cdef int kind = ENTRY_UDP
    if special & 3 == 0 and r[1] & 128:
        kind = ENTRY_UDPLITE
    elif special & 3 == 0 and r[1] % 8 == 2:
        kind = ENTRY_PING
    slot[0] = udp_open(&w.e.udp, kind)
    if slot[0] == NULL:
        return
    slot[0].source.user = w
    if special & 4:
        attach_filter(w, r, slot[0])
    if special & 3 and open_special(w, r, slot[0], special & 3):
        return
    slot[0].want_err = r[3] & 3
    if r[1] & 64:
        slot[0].rcvbuf = 4096
    if (r[1] % 8) == 0:
        udp_bind(&w.e.udp, slot[0], &a, UDP_PORT)
    else:
        a = somewhere(r)
        udp_connect(&w.e.udp, slot[0], &a, 9)


cdef void exchange(World *w, const uint8_t *r, UdpSock *s) noexcept nogil:
    cdef IoVec iov[2]
    cdef UdpMeta meta
    cdef Addr to = somewhere(r)
    cdef uint32_t n = get_be16(r + 4), full = 0
    iov[0].base = w.data
    iov[0].len = n // 3
    iov[1].base = w.data + n // 3
    iov[1].len = n - n // 3
    if (r[1] % 8) == 3 and s.raw != NULL:
        return                                         # what it sends is as right as the program makes it
    if (r[1] % 8) == 3:
        memset(w.data, 0, 8)
        w.data[0] = 8
        udp_send(&w.e.udp, s, iov, 2, NULL if r[3] & 128 else &to, get_be16(r + 6), 0)
    elif udp_recv(&w.e.udp, s, iov, 2, r[3] & 1, &meta, &full) > <long>full:
        world_fail(w, b"datagram: longer than it is")
    udp_ready(s)


cdef void op_datagram(World *w, const uint8_t *r) noexcept nogil:
    """0-2: open and bind, open and connect, open a ping socket (or, by the upper bits of r[3], a raw, a packet or an IPv6
    one, and with a filter); 3: send; 4: receive; 5: close; 6: shut down; 7: peer."""
    cdef UdpSock **slot = &w.udps[r[2] % UDPS]
    cdef Addr a = somewhere(r)
    cdef uint8_t what = r[1] % 8
    w.settled = False
    if slot[0] == NULL:
        open_datagram(w, r, slot)
    elif what == 3 or what == 4:
        exchange(w, r, slot[0])
    elif what == 5:
        udp_close(&w.e.udp, slot[0])
        slot[0] = NULL
    elif slot[0].entry.kind == ENTRY_PACKET:
        pass                                           # packet(7): it has no peer
    elif what == 6:
        udp_shutdown(&w.e.udp, slot[0], r[3] % 3)
    elif what == 7:
        udp_connect(&w.e.udp, slot[0], NULL if r[3] & 1 else &a, get_be16(r + 4))


# ---- the administrator ----

cdef void turn_knob(World *w, const uint8_t *r) noexcept nogil:
    cdef uint8_t value = r[3]
    if r[2] % 8 == 0:
        w.e.tcp.knobs.timestamps = value & 1
    elif r[2] % 8 == 1:
        w.e.tcp.knobs.sack = value & 1
    elif r[2] % 8 == 2:
        w.e.tcp.knobs.window_scaling = value & 1
    elif r[2] % 8 == 3:
        w.e.tcp.knobs.abort_on_overflow = value & 1
    elif r[2] % 8 == 4:
        w.e.tcp.knobs.early_retrans = value & 3
    elif r[2] % 8 == 5:
        w.e.tcp.knobs.rmem_max = 4096 << (value % 12)
    elif r[2] % 8 == 6:
        w.e.tcp.knobs.init_cwnd = 1 + value
    elif r[2] % 8 == 7:
        w.e.tcp.knobs.max_syn_backlog = max(value, <uint8_t>1)


cdef void op_net(World *w, const uint8_t *r) noexcept nogil:
    cdef Addr a = addr_v4(get_be32(r + 8)) if r[3] & 64 else addr_v4(US + (r[2] & 3))
    cdef Addr prefix = addr_v4(get_be32(r + 8) & <uint32_t>0xFFFF0000)
    cdef Addr peer = addr_v4(PEER + (r[2] & 31)), none = addr_none()
    cdef uint8_t mac[6]
    cdef uint8_t what = r[1] % 9 if r[1] < UNPLUG else UNPLUG
    cdef uint32_t table = RT_TABLE_MAIN if r[3] & 128 == 0 else r[6]
    memset(mac, r[4] & 0xFE, 6)
    w.settled = False
    if what == 0:
        iface_add_addr(&w.e.net, w.iface, &a, V4_BITS + 16 + r[4] % 17, r[3] & 1)
    elif what == 1:
        iface_del_addr(&w.e.net, w.iface, &a)
    elif what == 2:
        w.iface.up = r[3] & 1
    elif what == 3:
        route_add(&w.e.net, table, &prefix, V4_BITS + 16, &peer if r[3] & 1 else &none, w.iface, r[4],
                  68 + 8 * r[5] if r[3] & 2 else 0, &a if r[3] & 4 else &none)
    elif what == 4:
        route_del(&w.e.net, table, &prefix, V4_BITS + 16, &peer if r[3] & 1 else &none, w.iface)
    elif what == 5 and w.medium == MEDIUM_ETHERNET:
        net_neigh_set(&w.e.net, w.iface, &peer, mac)
    elif what == 6 and w.medium == MEDIUM_ETHERNET:
        net_neigh_del(&w.e.net, w.iface, &peer)
    elif what == 7:
        w.tx_fail = r[2] & 7
    elif what == 8:
        turn_knob(w, r)
    elif what == UNPLUG:
        world_unplug(w)
        world_plug(w)
