# TCP's MD5 signature option (RFC 2385): a socket's keys, and the signatures of segments.
from libc.stdint cimport uint32_t, uint8_t
from ustack_ext.net.state cimport RxPkt, TxPkt
from ustack_ext.tcp.options cimport Options
from ustack_ext.tcp.settings cimport Md5Key, Md5Keys
from ustack_ext.tcp.tcb cimport Tcp
from ustack_ext.wire.addr cimport Addr
from ustack_ext.wire.headers cimport TcpHdr

# The keys with one more, or another for the same peers; with key.len 0 without theirs. A new set (*out, NULL: none is
# left), held once. 0, -ENOENT: there is none to take away; -ENOMEM, also for too many.
cdef int md5_change(const Md5Keys *keys, const Md5Key *key, Md5Keys **out) noexcept nogil
# Those of the keys that are for the peer: a new set of one, held once, or NULL. False without memory.
cdef bint md5_only(const Md5Keys *keys, const Addr *peer, Md5Keys **out) noexcept nogil
cdef Md5Keys *md5_hold(Md5Keys *keys) noexcept nogil               # NULL stays NULL
cdef void md5_drop(Md5Keys *keys) noexcept nogil
# What segments from and to the peer are signed with; NULL: nothing.
cdef const Md5Key *md5_key(const Md5Keys *keys, const Addr *peer) noexcept nogil
# The digest (16 bytes) of a segment to be sent: its header without options, checksum 0, is at p; its payload in *pkt,
# all but the first of the pieces. hlen: of the header with its options.
cdef void md5_sign(const Md5Key *key, const Addr *src, const Addr *dst, const uint8_t *p, uint32_t hlen,
                   const TxPkt *pkt, uint8_t *digest) noexcept nogil
# Whether a segment with the option is signed with the key.
cdef bint md5_right(const Md5Key *key, const RxPkt *rx, const TcpHdr *h, const Options *o) noexcept nogil
# Whether a segment is signed as the keys want it, which is also not at all; counts it if not.
cdef bint md5_accepts(Tcp *t, const Md5Keys *keys, const RxPkt *rx, const TcpHdr *h, const Options *o) noexcept nogil
