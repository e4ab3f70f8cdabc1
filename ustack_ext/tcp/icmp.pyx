"""ICMP errors about our segments (RFC 5927, RFC 9293 §3.9.2.2).

An error counts only if it quotes a sequence number that is in flight. Hard errors end a connection attempt, never a
connection: there they are remembered as the reason should retransmission give up (MUST-56, RFC 5461).
"""
from libc.errno cimport EHOSTUNREACH, EMSGSIZE, ENETUNREACH
from libc.stdint cimport uint32_t

from ustack_ext.base.core cimport count
from ustack_ext.base.entry cimport ENTRY_SYNREQ, ENTRY_TCB
from ustack_ext.base.event cimport EV_ERROR, EV_READABLE, EV_WRITABLE
from ustack_ext.net.mib cimport OutOfWindowIcmps, TcpAttemptFails
from ustack_ext.net.state cimport IcmpError
from ustack_ext.tcp.conn cimport conn_find, tcb_dirty, tcb_done, tcb_raise
from ustack_ext.tcp.listen cimport synreq_free
from ustack_ext.tcp.pathmtu cimport path_too_big
from ustack_ext.tcp.seq cimport seq_gt, seq_lt
from ustack_ext.tcp.tcb cimport TCP_SYN_RECV, TCP_SYN_SENT, TF_ORPHAN, Conn, SynReq, Tcb, Tcp
from ustack_ext.wire.bytes cimport get_be16, get_be32


cdef void tcp_icmp_error(Tcp *t, IcmpError *e) noexcept nogil:
    cdef Conn *who
    cdef Tcb *c
    cdef uint32_t seq
    if e.l4_len < 8:
        return
    who = conn_find(t, &e.src, get_be16(e.l4), &e.dst, get_be16(e.l4 + 2))
    seq = get_be32(e.l4 + 4)
    if who == NULL:
        return
    if who.entry.kind == ENTRY_SYNREQ:
        if seq == (<SynReq *>who).iss and e.hard:
            count(t.core, TcpAttemptFails)
            synreq_free(t, <SynReq *>who)
        return
    if who.entry.kind != ENTRY_TCB:
        return
    c = <Tcb *>who
    if seq_lt(seq, c.snd_una) or not seq_gt(c.snd_nxt, seq):               # RFC 5927 §4.1
        count(t.core, OutOfWindowIcmps)
        return
    tcb_dirty(t, c)
    if e.error == EMSGSIZE:                                  # too big for the path, in the words of either family
        path_too_big(t, c, e.mtu)
        return
    if ((c.state == TCP_SYN_SENT or c.state == TCP_SYN_RECV)
            and (e.hard or e.error == EHOSTUNREACH or e.error == ENETUNREACH)):    # RFC 5461 §4.1, as Linux
        count(t.core, TcpAttemptFails)
        tcb_done(t, c, e.error)
        return
    if c.conf.recverr and not c.flags & TF_ORPHAN:            # IP_RECVERR: the application wants to hear of it now
        c.error = <unsigned char>e.error
        tcb_raise(t, c, EV_ERROR | EV_READABLE | EV_WRITABLE)
    else:
        c.soft_error = e.error
