"""An index over the records of what was sent: finds one by sequence number, and the next that is not SACKed or lost.

Responsible for the cost of a look at a long send queue, and for nothing else: what a record's state is, and what
follows from it, is the scoreboard's. What a peer puts into its ACKs must not make one of them a walk over the window.

A B+ tree over the list of records, in order of sequence, with 32 children a node. Every node knows by a bit a child
which of them hold a record that is not SACKed, and which hold one that is lost and not sent again; so each of the
questions costs a way up and down, and a change of state goes up only as far as it changes what is known there. Records
are appended at the end, split anywhere, and leave at the front: nodes other than the first and the last of their level
are at least half full. There is no tree until there are INDEX_FROM records, and then until all of them are gone.
"""
from libc.stdint cimport uint32_t
from libc.string cimport memcpy, memmove

from ustack_ext.base.slab cimport slab_alloc, slab_free
from ustack_ext.tcp.seq cimport seq_leq
from ustack_ext.tcp.tcb cimport (
    INDEX_FAN, INDEX_HEIGHT, INDEX_KINDS, SEG_LOST, SEG_RETRANS, SEG_SACKED, IndexNode, Seg, Tcb, Tcp,
)

cdef extern from * nogil:
    int __builtin_ctz(unsigned int) noexcept

cdef struct Path:                  # from the root to a record; [0] is the leaf
    IndexNode *node[8]             # INDEX_HEIGHT
    int slot[8]


cdef inline uint32_t kinds_of(const Seg *s) noexcept nogil:
    """Bit k: it is of IndexKind k."""
    if s.flags & SEG_SACKED:
        return 0
    return (1 << <int>INDEX_OPEN) | ((1 << <int>INDEX_LOST) if s.flags & (SEG_LOST | SEG_RETRANS) == SEG_LOST else 0)


# ---- the ways through the tree ----

cdef inline int slot_of(const IndexNode *n, uint32_t seq) noexcept nogil:
    """The last child that begins at or before seq; the first, if none does (it may have been trimmed)."""
    cdef int lo = n.first, hi = n.end, mid
    while hi - lo > 1:
        mid = (lo + hi) // 2
        if seq_leq(n.seq[mid], seq):
            lo = mid
        else:
            hi = mid
    return lo


cdef Seg *descend(Tcb *c, uint32_t seq, Path *p) noexcept nogil:
    cdef IndexNode *n = c.tx.index
    cdef int level
    c.tx.steps += <uint32_t>n.level + 1
    for level in range(n.level, 0, -1):
        p.node[level] = n
        p.slot[level] = slot_of(n, seq)
        n = <IndexNode *>n.child[p.slot[level]]
    p.node[0] = n
    p.slot[0] = slot_of(n, seq)
    return <Seg *>n.child[p.slot[0]]


cdef Seg *index_find(Tcb *c, uint32_t seq) noexcept nogil:
    cdef Path p
    cdef Seg *s = descend(c, seq, &p)
    return s.next if seq_leq(s.end, seq) else s


cdef Seg *index_next(Tcb *c, Seg *s, IndexKind what) noexcept nogil:
    cdef Path p
    cdef IndexNode *n
    cdef uint32_t later
    cdef int level
    if kinds_of(s) >> <int>what & 1:
        return s
    descend(c, s.seq, &p)
    for level in range(c.tx.index.level + 1):
        n = p.node[level]
        later = n.has[<int>what] & ~(((<uint32_t>2) << p.slot[level]) - 1)
        c.tx.steps += 1
        if later == 0:
            continue
        while n.level > 0:
            n = <IndexNode *>n.child[__builtin_ctz(later)]
            later = n.has[<int>what]
            c.tx.steps += 1
        return <Seg *>n.child[__builtin_ctz(later)]
    return NULL


cdef void tell_above(Tcb *c, Path *p, int level) noexcept nogil:
    """What the node at that level holds has changed."""
    cdef IndexNode *n
    cdef IndexNode *up
    cdef uint32_t bit, was
    cdef int k
    cdef bint same = False
    while not same and level < c.tx.index.level:
        n = p.node[level]
        level += 1
        up = p.node[level]
        bit = (<uint32_t>1) << p.slot[level]
        same = True
        for k in range(INDEX_KINDS):
            was = up.has[k]
            up.has[k] = was | bit if n.has[k] else was & ~bit
            same = same and (was == 0) == (up.has[k] == 0)
        c.tx.steps += 1


cdef void index_changed(Tcb *c, Seg *s) noexcept nogil:
    cdef Path p
    cdef IndexNode *n
    cdef uint32_t bit, kinds = kinds_of(s)
    cdef int k
    descend(c, s.seq, &p)
    n = p.node[0]
    bit = (<uint32_t>1) << p.slot[0]
    for k in range(INDEX_KINDS):
        n.has[k] = n.has[k] | bit if kinds >> k & 1 else n.has[k] & ~bit
    tell_above(c, &p, 0)


# ---- records come ----

cdef IndexNode *node_new(Tcp *t, int level) noexcept nogil:
    cdef IndexNode *n = <IndexNode *>slab_alloc(&t.index_nodes)
    if n != NULL:
        n.level = <unsigned char>level
    return n


cdef bint is_full(IndexNode *n) noexcept nogil:
    """Whether it has no room behind its last child, nor in front of its first."""
    cdef int k, gone = n.first
    if n.end < INDEX_FAN:
        return False
    if gone == 0:
        return True
    memmove(&n.seq[0], &n.seq[gone], (n.end - gone) * sizeof(n.seq[0]))
    memmove(&n.child[0], &n.child[gone], (n.end - gone) * sizeof(n.child[0]))
    for k in range(INDEX_KINDS):
        n.has[k] >>= gone
    n.end = <unsigned char>(n.end - gone)
    n.first = 0
    return False


cdef void put_child(IndexNode *n, int at, uint32_t seq, void *child) noexcept nogil:
    """A child for whom nothing is known yet; there is room for it."""
    cdef uint32_t before = ((<uint32_t>1) << at) - 1
    cdef int k
    memmove(&n.seq[at + 1], &n.seq[at], (n.end - at) * sizeof(n.seq[0]))
    memmove(&n.child[at + 1], &n.child[at], (n.end - at) * sizeof(n.child[0]))
    for k in range(INDEX_KINDS):
        n.has[k] = (n.has[k] & before) | (n.has[k] & ~before) << 1
    n.seq[at] = seq
    n.child[at] = child
    n.end += 1


cdef bint split(Tcp *t, IndexNode *up, int slot, bint at_end) noexcept nogil:
    """A full child becomes two: halves, or where only appending goes on, all but one and the last."""
    cdef IndexNode *n = <IndexNode *>up.child[slot]
    cdef IndexNode *r = node_new(t, n.level)
    cdef int stay = INDEX_FAN - 1 if at_end else INDEX_FAN // 2, k
    if r == NULL:
        return False
    r.end = <unsigned char>(INDEX_FAN - stay)
    memcpy(&r.seq[0], &n.seq[stay], r.end * sizeof(n.seq[0]))
    memcpy(&r.child[0], &n.child[stay], r.end * sizeof(n.child[0]))
    n.end = <unsigned char>stay
    put_child(up, slot + 1, r.seq[0], r)
    for k in range(INDEX_KINDS):
        r.has[k] = n.has[k] >> stay
        n.has[k] &= ((<uint32_t>1) << stay) - 1
        up.has[k] &= ~((<uint32_t>3) << slot)
        up.has[k] |= ((<uint32_t>1) << slot if n.has[k] else 0) | ((<uint32_t>2) << slot if r.has[k] else 0)
    return True


cdef bint new_root(Tcp *t, Tcb *c) noexcept nogil:
    cdef IndexNode *n = c.tx.index
    cdef IndexNode *up = node_new(t, n.level + 1) if n.level + 1 < INDEX_HEIGHT else NULL
    cdef int k
    if up == NULL:
        return False
    put_child(up, 0, n.seq[n.first], n)
    for k in range(INDEX_KINDS):
        up.has[k] = n.has[k] != 0
    c.tx.index = up
    return True


cdef bint begin(Tcp *t, Tcb *c) noexcept nogil:
    """The tree of the INDEX_FROM records that there are: a leaf holds them."""
    cdef IndexNode *n = node_new(t, 0)
    cdef Seg *s = c.tx.seg_head
    cdef uint32_t kinds
    cdef int k
    if n == NULL:
        return False
    while s != NULL and n.end < INDEX_FAN:
        kinds = kinds_of(s)
        for k in range(INDEX_KINDS):
            n.has[k] |= (kinds >> k & 1) << n.end
        n.seq[n.end] = s.seq
        n.child[n.end] = s
        n.end += 1
        s = s.next
    c.tx.index = n
    return True


cdef bint index_add(Tcp *t, Tcb *c, Seg *s, bint at_end) noexcept nogil:
    cdef IndexNode *n
    cdef int slot
    if c.tx.index == NULL and not begin(t, c):
        return False
    if is_full(c.tx.index) and not new_root(t, c):
        return False
    n = c.tx.index
    while n.level > 0:
        c.tx.steps += 1
        slot = slot_of(n, s.seq)
        if is_full(<IndexNode *>n.child[slot]):
            if not split(t, n, slot, at_end):
                return False
            slot = slot_of(n, s.seq)
        n = <IndexNode *>n.child[slot]
    put_child(n, slot_of(n, s.seq) + 1, s.seq, s)
    index_changed(c, s)
    return True


# ---- records go ----

cdef void index_drop_head(Tcp *t, Tcb *c) noexcept nogil:
    cdef Path p
    cdef IndexNode *n = c.tx.index
    cdef int level, k
    for level in range(n.level, -1, -1):
        p.node[level] = n
        p.slot[level] = n.first
        n = <IndexNode *>n.child[n.first]
    for level in range(c.tx.index.level + 1):
        n = p.node[level]
        for k in range(INDEX_KINDS):
            n.has[k] &= ~((<uint32_t>1) << n.first)
        n.first += 1
        if n.first < n.end:
            tell_above(c, &p, level)
            break
        if n == c.tx.index:
            c.tx.index = NULL
        slab_free(&t.index_nodes, n)
        if c.tx.index == NULL:
            return
    while c.tx.index.level > 0 and c.tx.index.end - c.tx.index.first == 1:
        n = c.tx.index
        c.tx.index = <IndexNode *>n.child[n.first]
        slab_free(&t.index_nodes, n)
