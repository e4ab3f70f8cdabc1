"""TCP's MD5 signature option: RFC 2385, as Linux has it (TCP_MD5SIG): a key for a peer or a prefix of them.

Responsible for sets of keys (never changed, shared by the settings of sockets, counted), for signing and for verifying.
Not for: where in a segment the option stands (tcp/options, tcp/output), what becomes of a segment that is not right
(tcp/input: nothing), how long segments are (tcp/mss).
"""
from libc.errno cimport ENOENT, ENOMEM
from libc.stdint cimport uint32_t, uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from ustack_ext.base.core cimport count
from ustack_ext.base.md5 cimport Md5, md5_final, md5_init, md5_update
from ustack_ext.net.mib cimport TCPMD5Failure, TCPMD5NotFound, TCPMD5Unexpected
from ustack_ext.tcp.options cimport OPT_MD5
from ustack_ext.wire.addr cimport V4_BITS, addr_bare_hi, addr_eq, addr_in_prefix, addr_is_v4, addr_to_v4
from ustack_ext.wire.bytes cimport put_be16, put_be32, put_be64
from ustack_ext.wire.headers cimport IPPROTO_TCP_, TCP_HLEN

cdef enum:
    KEYS_MAX = 1024                # of a socket
    DIGEST = 16


# ---- keys ----

cdef Md5Keys *keys_new(uint32_t most) noexcept nogil:
    """Held once; its count is still 0."""
    cdef Md5Keys *keys = <Md5Keys *>malloc(sizeof(Md5Keys) + most * sizeof(Md5Key))
    if keys != NULL:
        keys.refs = 1
        keys.count = 0
    return keys


cdef inline void append(Md5Keys *keys, const Md5Key *key) noexcept nogil:
    keys.keys[keys.count] = key[0]
    keys.count += 1


cdef inline bint same_peers(const Md5Key *a, const Md5Key *b) noexcept nogil:
    return a.prefix == b.prefix and addr_eq(&a.addr, &b.addr)


cdef int md5_change(const Md5Keys *keys, const Md5Key *key, Md5Keys **out) noexcept nogil:
    cdef uint32_t n = keys.count if keys != NULL else 0, i
    cdef bint found = False, placed = key.len == 0
    out[0] = NULL
    for i in range(n):
        found = found or same_peers(&keys.keys[i], key)
    if key.len == 0 and not found:
        return -ENOENT
    if key.len == 0 and n == 1:
        return 0
    if n >= KEYS_MAX and not found:
        return -ENOMEM
    out[0] = keys_new(n + 1)
    if out[0] == NULL:
        return -ENOMEM
    for i in range(n):
        if not placed and keys.keys[i].prefix <= key.prefix:
            append(out[0], key)
            placed = True
        if not same_peers(&keys.keys[i], key):
            append(out[0], &keys.keys[i])
    if not placed:
        append(out[0], key)
    return 0


cdef bint md5_only(const Md5Keys *keys, const Addr *peer, Md5Keys **out) noexcept nogil:
    cdef const Md5Key *key = md5_key(keys, peer)
    out[0] = NULL
    if key == NULL:
        return True
    out[0] = keys_new(1)
    if out[0] == NULL:
        return False
    append(out[0], key)
    return True


cdef Md5Keys *md5_hold(Md5Keys *keys) noexcept nogil:
    if keys != NULL:
        keys.refs += 1
    return keys


cdef void md5_drop(Md5Keys *keys) noexcept nogil:
    if keys == NULL:
        return
    keys.refs -= 1
    if keys.refs == 0:
        free(keys)


cdef const Md5Key *md5_key(const Md5Keys *keys, const Addr *peer) noexcept nogil:
    cdef uint32_t i
    cdef Addr bare
    cdef bint v4
    if keys == NULL:
        return NULL
    bare.hi = addr_bare_hi(peer.hi)
    bare.lo = peer.lo
    v4 = addr_is_v4(peer)
    for i in range(keys.count):
        if v4 and keys.keys[i].prefix < V4_BITS:             # of IPv6 alone: ::/0 too
            continue
        if addr_in_prefix(&bare, &keys.keys[i].addr, keys.keys[i].prefix):
            return &keys.keys[i]
    return NULL


# ---- signatures ----

cdef void begin(Md5 *m, const Addr *src, const Addr *dst, uint32_t length, const uint8_t *header) noexcept nogil:
    """RFC 2385 §2.0: the pseudo-header (RFC 9293 §3.1; RFC 8200 §8.1 for IPv6), then TCP's header without options, its
    checksum taken for 0.
    """
    cdef uint8_t p[40]
    cdef uint8_t tcp[20]
    md5_init(m)
    if addr_is_v4(src):
        put_be32(p, addr_to_v4(src))
        put_be32(p + 4, addr_to_v4(dst))
        put_be16(p + 8, IPPROTO_TCP_)
        put_be16(p + 10, <unsigned short>length)
        md5_update(m, p, 12)
    else:
        put_be64(p, addr_bare_hi(src.hi))
        put_be64(p + 8, src.lo)
        put_be64(p + 16, addr_bare_hi(dst.hi))
        put_be64(p + 24, dst.lo)
        put_be32(p + 32, length)
        put_be32(p + 36, IPPROTO_TCP_)
        md5_update(m, p, 40)
    memcpy(tcp, header, TCP_HLEN)
    put_be16(tcp + 16, 0)
    md5_update(m, tcp, TCP_HLEN)


cdef void md5_sign(const Md5Key *key, const Addr *src, const Addr *dst, const uint8_t *p, uint32_t hlen,
                   const TxPkt *pkt, uint8_t *digest) noexcept nogil:
    cdef Md5 m
    cdef int i
    begin(&m, src, dst, hlen + pkt.payload_len, p)
    for i in range(1, pkt.niov):
        md5_update(&m, pkt.iov[i].base, pkt.iov[i].len)
    md5_update(&m, key.key, key.len)
    md5_final(&m, digest)


cdef bint md5_right(const Md5Key *key, const RxPkt *rx, const TcpHdr *h, const Options *o) noexcept nogil:
    cdef uint8_t digest[16]
    cdef uint8_t differs = 0
    cdef Md5 m
    cdef int i
    begin(&m, &rx.src, &rx.dst, rx.l4_len, rx.l4)
    md5_update(&m, rx.l4 + h.hlen, rx.l4_len - h.hlen)
    md5_update(&m, key.key, key.len)
    md5_final(&m, digest)
    for i in range(DIGEST):                                  # how long it takes says nothing of where they differ
        differs |= digest[i] ^ o.md5[i]
    return differs == 0


cdef bint md5_accepts(Tcp *t, const Md5Keys *keys, const RxPkt *rx, const TcpHdr *h, const Options *o) noexcept nogil:
    cdef const Md5Key *key = md5_key(keys, &rx.src)
    if not o.have & OPT_MD5:
        if key != NULL:
            count(t.core, TCPMD5NotFound)
        return key == NULL
    if key == NULL:
        count(t.core, TCPMD5Unexpected)
        return False
    if not md5_right(key, rx, h, o):
        count(t.core, TCPMD5Failure)
        return False
    return True
