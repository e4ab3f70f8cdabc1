# The neighbour table: who has which link address (RFC 1122 §2.3.2, RFC 4861 §7.3, RFC 6583).
from libc.stdint cimport uint8_t, uint32_t
from ustack_ext.wire.addr cimport Addr
from ustack_ext.base.buf cimport BufQueue
from ustack_ext.base.iov cimport IoVec, Offload
from ustack_ext.net.state cimport Iface, Neigh, Net

cdef enum NeighNews:           # how a link address was learned
    NEWS_ONE_WAY               # it spoke to us: proves nothing about the way there (an ARP request)
    NEWS_ANSWER                # a reply to our own address, sent to our own link address
    NEWS_RUMOUR                # gratuitous or overheard: may only make us doubt

cdef Neigh *neigh_find(Net *n, Iface *i, const Addr *a) noexcept nogil
# INCOMPLETE; NULL without memory
cdef Neigh *neigh_create(Net *n, Iface *i, const Addr *a) noexcept nogil
cdef void neigh_remove(Net *n, Neigh *e) noexcept nogil
cdef void neigh_forget_iface(Net *n, Iface *i) noexcept nogil                            # NULL: all
cdef int neigh_set_permanent(Net *n, Iface *i, const Addr *a, const uint8_t *mac) noexcept nogil
cdef void neigh_learn(Net *n, Neigh *e, const uint8_t *mac, NeighNews news) noexcept nogil
# Its own link address, as a solicitation or a router's advertisement gives it (RFC 4861 §7.2.3, §6.3.4): an entry is
# made
cdef void neigh_told(Net *n, Iface *i, const Addr *a, const uint8_t *mac) noexcept nogil
# A neighbour advertisement (RFC 4861 §7.2.5). mac NULL: it gives none. True: it was a router and is none any more.
cdef bint neigh_advert(Net *n, Neigh *e, const uint8_t *mac, bint solicited, bint override,
                       bint router) noexcept nogil
cdef void neigh_confirm(Net *n, Neigh *e) noexcept nogil
# 1: e.mac may be used now; 0: queue the frame; -EHOSTUNREACH: resolution failed a moment ago.
cdef int neigh_use(Net *n, Neigh *e) noexcept nogil
# Copies a whole Ethernet frame whose destination is still missing. 0 or -ENOBUFS.
cdef int neigh_queue(Net *n, Neigh *e, const IoVec *iov, int niov, uint32_t length, const Offload *off) noexcept nogil
# Frames that can't be delivered any more are moved to *lost: the caller tells their senders and frees them.
cdef void neigh_timer(Net *n, Neigh *e, BufQueue *lost) noexcept nogil


cdef enum:
    QUEUED_FRAME_OFFSET = 16   # in a queued buffer: the Offload, then the frame
