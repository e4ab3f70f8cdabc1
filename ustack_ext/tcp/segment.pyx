"""A received segment: parse, verify, trim; and the reset for one that belongs to no connection (RFC 9293 §3.10.7.1)."""
from libc.stdint cimport uint32_t, uint64_t

from ustack_ext.base.core cimport count, count_add
from ustack_ext.base.entry cimport ENTRY_SYNREQ, ENTRY_TIMEWAIT
from ustack_ext.net.mib cimport DropTcpBroadcast, DropTcpMalformed, TcpInCsumErrors, TcpInErrs, TcpInSegs
from ustack_ext.net.state cimport RX_CSUM_OK, RX_IP_BROADCAST, RX_IP_MULTICAST, RX_LINK_BROADCAST, RxPkt
from ustack_ext.tcp.conn cimport conn_find, listener_find
from ustack_ext.tcp.md5 cimport md5_key, md5_right
from ustack_ext.tcp.options cimport NOP_NOP_TS, OPT_MD5, OPT_TS, TS_LEN, options_parse
from ustack_ext.tcp.output cimport send_bare
from ustack_ext.tcp.tcb cimport Conn, Listener, Md5Key, SynReq, Tcb, Tcp, TimeWait
from ustack_ext.wire.bytes cimport get_be32
from ustack_ext.wire.checksum cimport csum_partial, csum_pseudo, csum_right
from ustack_ext.wire.headers cimport IPPROTO_TCP_, TCP_HLEN, TH_ACK, TH_FIN, TH_RST, TH_SYN, WIRE_OK, tcp_parse


cdef bint checksum_right(const RxPkt *rx) noexcept nogil:
    cdef uint64_t sum = csum_pseudo(&rx.src, &rx.dst, IPPROTO_TCP_, rx.l4_len)
    return csum_right(csum_partial(rx.l4, rx.l4_len, sum))


cdef inline uint32_t segments_in(const RxPkt *rx) noexcept nogil:
    if rx.gso_size == 0:
        return 1
    return rx.segs if rx.more != NULL else (rx.l4_len - 1) // rx.gso_size + 1


cdef bint segment_parse(Tcp *t, RxPkt *rx, SegIn *s) noexcept nogil:
    s.segs = segments_in(rx)
    s.syn = False
    s.cut = 0
    count_add(t.core, TcpInSegs, s.segs)
    if rx.flags & (RX_LINK_BROADCAST | RX_IP_BROADCAST | RX_IP_MULTICAST):           # MUST-57
        count(t.core, DropTcpBroadcast)
        return False
    if tcp_parse(rx.l4, rx.l4_len, &s.h) != WIRE_OK or s.h.sport == 0 or s.h.dport == 0:
        count(t.core, DropTcpMalformed)
        count(t.core, TcpInErrs)
        return False
    if not rx.flags & RX_CSUM_OK and not checksum_right(rx):
        count(t.core, TcpInCsumErrors)
        count(t.core, TcpInErrs)
        return False
    s.o.nsack = 0
    if s.h.hlen == TCP_HLEN + TS_LEN and get_be32(rx.l4 + TCP_HLEN) == NOP_NOP_TS:       # what nearly every one has
        s.o.have = OPT_TS
        s.o.tsval = get_be32(rx.l4 + TCP_HLEN + 4)
        s.o.tsecr = get_be32(rx.l4 + TCP_HLEN + 8)
    else:
        options_parse(rx.l4 + TCP_HLEN, s.h.hlen - TCP_HLEN, (s.h.flags & TH_SYN) != 0, &s.o)
    s.rx = rx
    s.data = rx.l4 + s.h.hlen
    s.n = rx.l4_len - s.h.hlen
    s.len = s.n + (1 if s.h.flags & TH_SYN else 0) + (1 if s.h.flags & TH_FIN else 0)
    return True


cdef const Md5Keys *md5_keys_of(const Conn *who) noexcept nogil:
    if who.entry.kind == ENTRY_TIMEWAIT:
        return (<const TimeWait *>who).md5
    if who.entry.kind == ENTRY_SYNREQ:
        return (<const SynReq *>who).listener.conf.md5
    return (<const Tcb *>who).conf.md5


cdef bint answer_key(Tcp *t, const SegIn *s, const Md5Key **key) noexcept nogil:
    """RFC 2385 §4.1: who signs takes no reset that isn't signed. False: there is no key to sign it with.

    A connection's or a listener's segment has been verified. Of one that belongs to nobody a listener on the port it
    comes from may know the key, as Linux has it: BGP speakers listen on both sides.
    """
    cdef const Conn *who
    cdef const Listener *l
    key[0] = NULL
    if not s.o.have & OPT_MD5:
        return True
    who = conn_find(t, &s.rx.dst, s.h.dport, &s.rx.src, s.h.sport)
    if who != NULL:
        key[0] = md5_key(md5_keys_of(who), &s.rx.src)
        return True
    l = listener_find(t, &s.rx.dst, s.h.dport, &s.rx.src, s.h.sport)
    if l != NULL:
        key[0] = md5_key(l.conf.md5, &s.rx.src)
        return True
    l = listener_find(t, &s.rx.dst, s.h.sport, &s.rx.src, s.h.dport)
    if l != NULL:
        key[0] = md5_key(l.conf.md5, &s.rx.src)
    return key[0] != NULL and md5_right(key[0], s.rx, &s.h, &s.o)


cdef void reply_reset(Tcp *t, SegIn *s) noexcept nogil:
    cdef Conn who
    cdef const Md5Key *key
    if s.h.flags & TH_RST or not answer_key(t, s, &key):
        return
    who.laddr = s.rx.dst
    who.raddr = s.rx.src
    who.lport = s.h.dport
    who.rport = s.h.sport
    if s.h.flags & TH_ACK:
        send_bare(t, &who, s.h.ack, 0, 0, TH_RST, False, 0, 0, 0, key)
    else:
        send_bare(t, &who, 0, s.h.seq + s.len, 0, TH_RST | TH_ACK, False, 0, 0, 0, key)


cdef void segment_trim(SegIn *s, uint32_t from_seq) noexcept nogil:
    cdef uint32_t cut = from_seq - s.h.seq
    if cut > 0 and s.h.flags & TH_SYN:
        s.h.flags &= <unsigned char>~TH_SYN
        s.syn = True
        s.h.seq += 1
        s.len -= 1
        cut -= 1
        s.cut += 1
    cut = min(cut, s.n)
    s.cut += cut
    s.h.seq += cut
    s.data += cut
    s.n -= cut
    s.len -= cut
