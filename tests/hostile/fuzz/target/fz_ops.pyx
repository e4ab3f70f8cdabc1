"""The language of fuzzing programs: packets and the passing of time. What applications do is fz_calls'.

A record is 16 bytes: what, how, which, then its own fields (big-endian). Segments are aimed: sequence and
acknowledgment numbers are chosen relative to the connection's own, so that they mostly arrive in the window, and every
checksum is right unless a bit says otherwise. tests/hostile/fuzz/corpus.py writes such programs.
"""
from libc.stdint cimport UINT64_MAX, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from ustack_ext.engine.engine cimport engine_enter, engine_next
from ustack_ext.net.state cimport MEDIUM_ETHERNET
from ustack_ext.tcp.output cimport ts_now
from ustack_ext.tcp.tcb cimport TF_DEAD, TF_TS_OK, Seg, Tcb, has_gap
from ustack_ext.wire.bytes cimport get_be16, get_be32, put_be16, put_be32
from ustack_ext.wire.headers cimport (ETH_HLEN, ICMP_ECHO, ICMP_HLEN, IP4_HLEN, IPPROTO_ICMP_, IPPROTO_TCP_,
                                      IPPROTO_UDP_, TCP_HLEN, TH_ACK, TH_FIN, TH_PSH, TH_SYN, WIRE_OK, Ip4Hdr, TcpHdr,
                                      UdpHdr, icmp4_emit, Icmp4Hdr, ip4_parse, tcp_parse, udp_parse)
from ustack_ext.wire.addr cimport addr_to_v4
from ustack_ext.wire.checksum cimport csum_fold, csum_partial, csum_store
from fz_calls cimport op_call, op_datagram, op_net
from fz_check cimport check_world
from fz_packets cimport AT_END, BAD_CHECKSUM, IN_FRAGMENTS, Way, feed_arp, feed_fragment, feed_ip, feed_mended, feed_tcp, feed_udp
from fz_world cimport LISTEN_PORT, PEER, TCBS, UDP_PORT, US, World, world_captured, world_feed, world_poll, world_tcb

cdef enum:
    OP_SEGMENT
    OP_ANSWER
    OP_OPEN
    OP_UDP
    OP_ICMP
    OP_FRAGMENT
    OP_ARP
    OP_RAW
    OP_REPLAY
    OP_TIME
    OP_CALL
    OP_DATAGRAM
    OP_NET
    OP_BATCH
    OP_COUNT

    PAYLOAD_MAX = 1440
    MS = 1000000


cdef Way to_us(uint8_t flags) noexcept nogil:
    cdef Way way
    memset(&way, 0, sizeof(way))
    way.src = PEER
    way.dst = US
    way.flags = flags & (BAD_CHECKSUM | AT_END | 4 | IN_FRAGMENTS)
    way.ident = <uint16_t>(flags * 257)
    return way


# ---- segments of a connection ----

cdef uint32_t nth_record_edge(const Tcb *c, uint8_t which) noexcept nogil:
    cdef Seg *s = c.tx.seg_head
    while s != NULL and which > 0 and s.next != NULL:
        s = s.next
        which -= 1
    return s.end if s != NULL else c.snd_una


cdef uint32_t seq_of(const Tcb *c, const uint8_t *r) noexcept nogil:
    cdef uint32_t base = c.rcv_nxt, how = r[3] & 7
    cdef int step = <int>(<signed short>get_be16(r + 4))
    if how == 1:
        base = c.rcv_adv
    elif how == 2:
        base = c.irs
    elif how == 3:
        base = c.fin_seq
    elif how == 4 and has_gap(c):
        base = c.reasm.ranges[r[4] % c.reasm.count].end
        step = <signed char>r[5]
    elif how == 5 and has_gap(c):
        base = c.reasm.ranges[r[4] % c.reasm.count].seq
        step = <signed char>r[5]
    elif how == 6:
        base = c.last_ack_sent
    elif how == 7:
        return get_be32(r + 4)
    return base + <uint32_t>(step * (64 if r[3] & 8 else 1))


cdef uint32_t ack_of(const Tcb *c, const uint8_t *r) noexcept nogil:
    cdef uint32_t base = c.snd_nxt, how = (r[3] >> 4) & 7
    cdef int step = <int>(<signed short>get_be16(r + 6))
    if how == 1:
        base = c.snd_una
    elif how == 2:
        base = c.tx.iss
    elif how == 3:
        return nth_record_edge(c, r[6]) + <uint32_t><int>(<signed char>r[7])
    elif how == 4:
        base = c.tx.high_sacked
    elif how == 5:
        base = c.tx.recover
    elif how == 6:
        base = c.tx.tlp_end
    elif how == 7:
        return get_be32(r + 4)
    return base + <uint32_t>(step * (64 if r[3] & 128 else 1))


cdef uint32_t put_sacks(const Tcb *c, const uint8_t *r, uint8_t *at) noexcept nogil:
    """Blocks over the records in flight, some a little off; perhaps a D-SACK first."""
    cdef uint32_t blocks = 1 + ((r[12] >> 4) & 3), i, left, right, k = r[13]
    at[0] = 1
    at[1] = 1
    at[2] = 5
    at[3] = <uint8_t>(2 + 8 * blocks)
    for i in range(blocks):
        left = nth_record_edge(c, <uint8_t>(k + 2 * i))
        right = nth_record_edge(c, <uint8_t>(k + 2 * i + 1 + (r[14] & 3)))
        if r[14] & 4:
            left += 1
        if r[14] & 8:
            right -= 1
        if r[14] & 16:
            left = right
        if i == 0 and r[12] & 64:
            left = c.snd_una - 1000
            right = c.snd_una - (0 if r[14] & 32 else 500)
        if r[14] & 128:
            right = left + 0x40000000
        put_be32(at + 4 + 8 * i, left)
        put_be32(at + 8 + 8 * i, right)
    return 4 + 8 * blocks


cdef uint32_t segment_options(World *w, const Tcb *c, const uint8_t *r, uint8_t *at) noexcept nogil:
    cdef uint32_t n = 0, how = (r[12] >> 1) & 3, tsval = c.ts_recent
    if r[12] & 128:
        memcpy(at, r, 16)                      # whatever these bytes say
        return 16
    if (c.flags & TF_TS_OK != 0) != (r[12] & 1 != 0):
        if how == 1:
            tsval += r[13]
        elif how == 2:
            tsval -= r[13]
        elif how == 3:
            tsval += 0x7FFFFF00 + r[13]
        at[0] = 1
        at[1] = 1
        at[2] = 8
        at[3] = 10
        put_be32(at + 4, tsval)
        put_be32(at + 8, ts_now(&w.e.tcp, c.ts_offset) - (r[14] >> 4))
        n = 12
    if r[12] & 8:
        if n and (r[12] >> 4) & 3 == 3:
            n = 0
        n += put_sacks(c, r, at + n)
    return n


cdef void op_segment(World *w, const uint8_t *r) noexcept nogil:
    cdef Tcb *c = world_tcb(w, r[2])
    cdef TcpHdr h
    cdef Way way = to_us(r[15])
    cdef uint8_t options[64]
    cdef uint32_t n
    if c == NULL or c.flags & TF_DEAD:
        return
    way.src = addr_to_v4(&c.raddr)
    way.dst = addr_to_v4(&c.laddr)
    h.sport = c.rport
    h.dport = c.lport
    h.seq = seq_of(c, r)
    h.ack = ack_of(c, r)
    h.wnd = get_be16(r + 8)
    h.urg = get_be16(r + 10) if r[15] & 32 else 0
    h.flags = r[1]
    n = segment_options(w, c, r, options)
    feed_tcp(w, &way, &h, options, n, (get_be16(r + 10) & 0x7FF) % PAYLOAD_MAX)


# ---- answers to what was sent ----

cdef uint32_t echo_options(const uint8_t *p, const TcpHdr *t, uint8_t *at) noexcept nogil:
    """The segment's own options, timestamps turned round."""
    cdef uint32_t n = t.hlen - TCP_HLEN, i = 0, size, val
    memcpy(at, p + TCP_HLEN, n)
    while i < n:
        if at[i] == 0:
            break
        size = 1 if at[i] == 1 else (at[i + 1] if i + 1 < n else 0)
        if size == 0 or i + size > n:
            break
        if at[i] == 8 and size == 10:
            val = get_be32(at + i + 2)
            put_be32(at + i + 2, get_be32(at + i + 6) + 1)
            put_be32(at + i + 6, val)
        i += size
    return n


cdef void answer_tcp(World *w, const uint8_t *r, Way *way, const uint8_t *p, uint32_t n, uint32_t whole) noexcept nogil:
    cdef TcpHdr t, h
    cdef uint8_t options[64]
    cdef uint32_t length, noptions
    if tcp_parse(p, n, &t) != WIRE_OK:
        return
    length = whole - t.hlen + (t.flags & TH_SYN != 0) + (t.flags & TH_FIN != 0)
    h.sport = t.dport
    h.dport = t.sport
    h.seq = t.ack + <uint32_t><int>(<signed short>get_be16(r + 4))
    h.ack = t.seq + length
    h.wnd = get_be16(r + 8)
    h.urg = 0
    h.flags = r[1]
    if r[1] == 0:
        h.flags = TH_SYN | TH_ACK if t.flags & (TH_SYN | TH_ACK) == TH_SYN else TH_ACK
    noptions = echo_options(p, &t, options) if not r[3] & 1 else 0
    if not h.flags & TH_SYN and t.flags & TH_SYN and noptions >= 12:
        noptions = 12                          # timestamps stand second in a SYN; after it they stand alone
        memcpy(options + 4, options + 10, 8)
        options[0] = 1
        options[1] = 1
        options[2] = 8
        options[3] = 10
    feed_tcp(w, way, &h, options, noptions, get_be16(r + 6) % PAYLOAD_MAX)


cdef void op_answer(World *w, const uint8_t *r) noexcept nogil:
    """What a peer would say to one of the last frames."""
    cdef uint32_t n = 0, at = ETH_HLEN if w.medium == MEDIUM_ETHERNET else 0
    cdef const uint8_t *p = world_captured(w, r[2], &n)
    cdef Ip4Hdr ip
    cdef UdpHdr u
    cdef Way way = to_us(r[15])
    cdef uint8_t sha[6]
    if p == NULL or n <= at:
        return
    if at and get_be16(p + 12) == 0x0806 and n >= at + 28:
        memset(sha, r[3] & 0xFE, 6)
        feed_arp(w, 2, sha, get_be32(p + at + 24), get_be32(p + at + 14), r[15])
        return
    if ip4_parse(p + at, n - at, &ip) != WIRE_OK:
        return
    way.src = ip.dst
    way.dst = ip.src
    p += at + ip.hlen
    n -= at + ip.hlen
    if ip.proto == IPPROTO_TCP_:
        answer_tcp(w, r, &way, p, n, ip.total_len - ip.hlen)
    elif ip.proto == IPPROTO_UDP_ and udp_parse(p, n, &u) == WIRE_OK:
        feed_udp(w, &way, u.dport, u.sport, get_be16(r + 6) % PAYLOAD_MAX)
    elif ip.proto == IPPROTO_ICMP_ and n >= ICMP_HLEN:
        memcpy(w.data, p, n)
        w.data[0] = r[1]
        feed_icmp(w, &way, n)


# ---- other packets ----

cdef void op_open(World *w, const uint8_t *r) noexcept nogil:
    """A segment for a listener, or for nobody: usually a SYN."""
    cdef TcpHdr h
    cdef Way way = to_us(r[15])
    cdef uint8_t options[40]
    cdef uint32_t n = 0
    way.src += (r[2] >> 6) << 4
    h.sport = <uint16_t>(1024 + (r[2] & 63))
    h.dport = <uint16_t>(LISTEN_PORT + (r[14] & 7 if r[14] & 128 else 0))
    h.seq = get_be32(r + 4)
    h.ack = get_be16(r + 10)
    h.wnd = get_be16(r + 8)
    h.urg = 0
    h.flags = r[1] if r[1] else <uint8_t>TH_SYN
    if r[3] & 1:
        put_be32(options + n, 0x02040000 | (r[12] << 4))
        n += 4
    if r[3] & 2:
        put_be32(options + n, 0x01030300 | (r[13] & 31))
        n += 4
    if r[3] & 4:
        put_be32(options + n, 0x01010402)
        n += 4
    if r[3] & 8:
        put_be32(options + n, 0x0101080A)
        put_be32(options + n + 4, get_be32(r + 10))
        put_be32(options + n + 8, 0)
        n += 12
    if r[3] & 16:
        memcpy(options + n, r + 4, 12)
        n += 12
    feed_tcp(w, &way, &h, options, n, get_be16(r + 10) % PAYLOAD_MAX if r[3] & 32 else 0)


cdef void feed_icmp(World *w, Way *way, uint32_t n) noexcept nogil:
    way.proto = IPPROTO_ICMP_
    put_be16(w.data + 2, 0)
    csum_store(w.data + 2, csum_fold(csum_partial(w.data, n, 0)))
    if way.flags & BAD_CHECKSUM:
        w.data[2] ^= 0x55
    feed_ip(w, way, n)


cdef void op_icmp(World *w, const uint8_t *r) noexcept nogil:
    """An error about one of the last frames, its quote cut and bent as r says; or any other message."""
    cdef Way way = to_us(r[15])
    cdef Icmp4Hdr h
    cdef uint32_t n = 0, at = ETH_HLEN if w.medium == MEDIUM_ETHERNET else 0, quote = 0
    cdef const uint8_t *p = world_captured(w, r[2], &n)
    h.type = r[1]
    h.code = r[3]
    h.rest = get_be32(r + 4)
    icmp4_emit(w.data, &h)
    if r[14] & 1 or p == NULL or n <= at:
        quote = get_be16(r + 8) % PAYLOAD_MAX
        memset(w.data + ICMP_HLEN, r[10], quote)
    else:
        quote = min(n - at, get_be16(r + 8) % 600)
        memcpy(w.data + ICMP_HLEN, p + at, quote)
        if r[14] & 2 and quote > 0:
            w.data[ICMP_HLEN + r[10] % quote] ^= r[11]
    feed_icmp(w, &way, ICMP_HLEN + quote)


cdef void op_udp(World *w, const uint8_t *r) noexcept nogil:
    cdef Way way = to_us(r[15])
    if r[1] & 1:
        way.dst = 0x0A0900FF
    elif r[1] & 2:
        way.dst = get_be32(r + 4)
    if r[1] & 4:
        way.src = get_be32(r + 4)
    feed_udp(w, &way, get_be16(r + 8), UDP_PORT if r[2] & 1 else get_be16(r + 10), get_be16(r + 12) % PAYLOAD_MAX)


cdef void op_fragment(World *w, const uint8_t *r) noexcept nogil:
    cdef Way way = to_us(r[15] & ~<uint8_t>IN_FRAGMENTS)
    cdef uint32_t n = get_be16(r + 8) % PAYLOAD_MAX
    way.proto = r[1] if r[1] & 0x40 else <uint8_t>(IPPROTO_UDP_ if r[1] & 1 else (IPPROTO_TCP_ if r[1] & 2 else IPPROTO_ICMP_))
    way.ident = r[2]
    way.src += r[3] & 3
    way.tos = r[10]
    if not r[14] & 1:
        n &= ~<uint32_t>7
    memset(w.data, r[11], n + 8)
    if get_be16(r + 4) & 0x1FFF == 0 and way.proto == IPPROTO_ICMP_ and n >= 8:
        w.data[0] = ICMP_ECHO
    feed_fragment(w, &way, (get_be16(r + 4) & 0x1FFF) * 8, r[14] & 2, n)


cdef void op_arp(World *w, const uint8_t *r) noexcept nogil:
    cdef uint8_t sha[6]
    memset(sha, r[1], 6)
    feed_arp(w, 1 + (r[3] & 1), sha, get_be32(r + 4) if r[3] & 2 else PEER + (r[2] & 31),
             get_be32(r + 8) if r[3] & 4 else US, r[15])


cdef void op_replay(World *w, const uint8_t *r) noexcept nogil:
    """One of our own frames back at us: as it is, with a bent byte, or with the addresses changed over."""
    cdef uint32_t n = 0, at = ETH_HLEN if w.medium == MEDIUM_ETHERNET else 0
    cdef const uint8_t *p = world_captured(w, r[2], &n)
    if p == NULL:
        return
    memcpy(w.frame, p, n)
    if r[1] & 1 and n >= at + IP4_HLEN:
        memcpy(w.frame + at + 12, p + at + 16, 4)
        memcpy(w.frame + at + 16, p + at + 12, 4)
    if r[1] & 2 and n > 0:
        w.frame[get_be16(r + 4) % n] ^= r[6]
    if r[1] & 4:
        n = min(n, <uint32_t>get_be16(r + 8))
    feed_mended(w, n, r[3] & ~<uint8_t>4 if r[1] & 1 else r[3])


cdef void op_time(World *w, const uint8_t *r) noexcept nogil:
    """On to the next deadline a few times, or just on."""
    cdef int times = r[1] & 15
    cdef uint64_t due
    if r[1] & 16:
        engine_enter(w.e, w.e.core.now + (<uint64_t>get_be16(r + 4) << (r[2] % 26)))
        world_poll(w)
    while times > 0 and w.failed == NULL:
        due = engine_next(w.e)
        if due == UINT64_MAX:
            break
        engine_enter(w.e, due)
        world_poll(w)
        check_world(w)
        times -= 1


# ---- the interpreter ----

cdef size_t op_raw(World *w, const uint8_t *r, size_t left) noexcept nogil:
    """The bytes of the following records as a frame. Returns bytes used up."""
    cdef size_t n = min(left, <size_t>get_be16(r + 4) % 1600)
    memcpy(w.frame, r + RECORD, n)
    feed_mended(w, <uint32_t>n, r[1])
    return (n + RECORD - 1) // RECORD * RECORD


cdef void one_op(World *w, const uint8_t *r) noexcept nogil:
    cdef uint32_t what = r[0] % OP_COUNT
    if what == OP_SEGMENT:
        op_segment(w, r)
    elif what == OP_ANSWER:
        op_answer(w, r)
    elif what == OP_OPEN:
        op_open(w, r)
    elif what == OP_UDP:
        op_udp(w, r)
    elif what == OP_ICMP:
        op_icmp(w, r)
    elif what == OP_FRAGMENT:
        op_fragment(w, r)
    elif what == OP_ARP:
        op_arp(w, r)
    elif what == OP_REPLAY:
        op_replay(w, r)
    elif what == OP_TIME:
        op_time(w, r)
    elif what == OP_CALL:
        op_call(w, r)
    elif what == OP_DATAGRAM:
        op_datagram(w, r)
    elif what == OP_NET:
        op_net(w, r)
    elif what == OP_BATCH:
        w.batching = r[1] & 1


cdef void run_program(World *w, const uint8_t *p, size_t n) noexcept nogil:
    cdef size_t at = 0
    cdef int ops = 0
    while at + RECORD <= n and ops < OPS_MAX and w.failed == NULL:
        engine_enter(w.e, w.e.core.now + 1000)
        w.record = ops
        if p[at] % OP_COUNT == OP_RAW:
            at += op_raw(w, p + at, n - at - RECORD)
        else:
            one_op(w, p + at)
        if not w.batching:
            world_poll(w)
            check_world(w)
        at += RECORD
        ops += 1
    w.batching = False
    world_poll(w)
    check_world(w)


# ---- the scene ----

cdef void step(World *w, uint8_t what, uint8_t how, uint8_t which, uint8_t more, uint16_t a, uint16_t b) noexcept nogil:
    cdef uint8_t r[RECORD]
    memset(r, 0, sizeof(r))
    r[0] = what
    r[1] = how
    r[2] = which
    r[3] = more
    put_be16(r + 4, a)
    put_be16(r + 6, b)
    put_be16(r + 8, 20000)
    engine_enter(w.e, w.e.core.now + MS)
    one_op(w, r)
    world_poll(w)


cdef void passive(World *w, uint8_t port, uint8_t options) noexcept nogil:
    step(w, OP_OPEN, 0, port, options, 100, 0)
    step(w, OP_ANSWER, TH_ACK, 0, 0, 0, 0)
    step(w, OP_CALL, 2, 0, 0, 0, 0)                         # accept


cdef void active(World *w, uint8_t options_off) noexcept nogil:
    step(w, OP_CALL, 0, 0, 0, 0, 0)                         # connect
    step(w, OP_ANSWER, 0, 0, options_off, 0, 0)


cdef void set_scene(World *w) noexcept nogil:
    cdef uint8_t port
    step(w, OP_CALL, 1, 0, 0, 4, 0)                         # listen, backlog 4
    step(w, OP_DATAGRAM, 0, 0, 0, 0, 0)                     # a bound one, a connected one, a ping one
    step(w, OP_DATAGRAM, 1, 1, 0, 0, 0)
    step(w, OP_DATAGRAM, 2, 2, 0, 0, 0)
    passive(w, 1, 15)                                       # 0: every option
    passive(w, 2, 1)                                        # 1: MSS only
    passive(w, 3, 5)                                        # 2: SACK, no timestamps
    active(w, 0)                                            # 3: ours
    active(w, 1)                                            # 4: ours, no options
    for port in range(4, 7):
        passive(w, port, 15)                                # 5, 6, 7
    step(w, OP_OPEN, 0, 7, 15, 100, 0)
    step(w, OP_ANSWER, TH_ACK, 0, 0, 0, 0)                  # one in the accept queue
    step(w, OP_OPEN, 0, 8, 15, 100, 0)                      # one in the SYN queue
    step(w, OP_CALL, 0, 0, 0, 1, 0)                         # 8: SYN-SENT
    step(w, OP_SEGMENT, TH_ACK | TH_FIN, 5, 0, 0, 0)        # 5: CLOSE-WAIT
    step(w, OP_CALL, 5, 6, 1, 0, 0)                         # 6: FIN-WAIT-1
    step(w, OP_CALL, 6, 7, 0, 0, 0)                         # 7: closed, an orphan
    step(w, OP_CALL, 3, 0, 0, 20000, 0)                     # data in flight on 0, 1, 2
    step(w, OP_CALL, 3, 1, 0, 20000, 0)
    step(w, OP_CALL, 3, 2, 0, 20000, 0)
    check_world(w)
