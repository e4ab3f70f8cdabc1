"""Waking those who wait on a socket.

Responsible for: the list of a socket's blocked threads, what is true of a socket now, and carrying the engine's
events to the threads, the descriptor and the selectors. Not for: how a thread sleeps (driver/), how a descriptor shows
a state (sockets/ready), what a selector makes of it (sockets/interest). Everything here runs with the engine's lock
held.
"""
from libc.stdint cimport uint16_t
from ustack_ext.base.event cimport EV_CLOSED, EV_ERROR, EV_HANGUP, EV_READABLE, EV_WRITABLE, Source
from ustack_ext.driver.driver cimport FIRED, WAITING, Driver, Waiter
from ustack_ext.sockets.interest cimport interest_note
from ustack_ext.sockets.ready cimport pair_sync
from ustack_ext.sockets.state cimport OPEN, SK_LISTENER, SK_TCB, SK_UDP, SS_STOPPED, Interest, SockState
from ustack_ext.tcp.tcb cimport Listener, Tcb
from ustack_ext.tcp.tcp cimport tcp_listener_ready, tcp_ready
from ustack_ext.udp.udp cimport UdpSock, udp_ready


cdef void waiter_link(SockState *s, Waiter *w) noexcept nogil:
    w.fired = WAITING
    w.next = s.waiters
    s.waiters = w


cdef void waiter_unlink(SockState *s, Waiter *w) noexcept nogil:
    cdef Waiter **at = &s.waiters
    while at[0] != NULL:
        if at[0] == w:
            at[0] = w.next
            w.next = NULL
            return
        at = &at[0].next


cdef void waiters_fire(SockState *s, uint16_t bits) noexcept nogil:
    cdef Waiter *w = s.waiters
    while w != NULL:
        if w.fired != FIRED and (w.want | EV_ERROR | EV_HANGUP | EV_CLOSED) & bits:
            (<Driver>w.driver).fire(w)
        w = w.next


cdef uint16_t sock_ready(SockState *s) noexcept nogil:
    if s.closed != OPEN:
        return EV_HANGUP
    if s.kind == SK_TCB:
        return tcp_ready(<Tcb *>s.obj)
    if s.kind == SK_LISTENER:
        return tcp_listener_ready(<Listener *>s.obj)
    if s.kind == SK_UDP:
        return udp_ready(<UdpSock *>s.obj)
    return EV_HANGUP if s.connect == SS_STOPPED else EV_WRITABLE


cdef void sock_sync(SockState *s) noexcept nogil:
    cdef uint16_t bits
    cdef Interest *i
    if s.watch == NULL:
        return
    bits = sock_ready(s)
    pair_sync(s.watch, bits)
    i = s.watch.interests
    while i != NULL:
        if interest_note(i, bits):
            waiters_fire(&i.hub.state, EV_READABLE)
        i = i.next


cdef void sock_event(Source *source, uint16_t bits) noexcept nogil:
    cdef SockState *s = <SockState *>source.user
    if s == NULL:
        return
    if s.waiters != NULL:
        waiters_fire(s, bits)
    sock_sync(s)
