"""The Internet Group Management Protocol of a host: version 3 (RFC 3376), and versions 2 (RFC 2236) and 1 (RFC 1112)
where a querier speaks no more.

Responsible for when a report is sent and what stands in it. Not for the groups themselves (groups).

One timer an interface serves all: a change is reported at once and again, robustness - 1 times, each after a random
part of a second (§5.1); queries are answered after a random part of the time they give (§5.2), several by one answer
where they may. A flood of queries costs an answer each time that runs out, not one each. 224.0.0.1 is never reported
(§6). A host never hears other reports' news in version 3; in version 1 and 2 another's report saves its own.
"""
from libc.stdint cimport UINT64_MAX, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from ustack_ext.wire.addr cimport addr_is_any, addr_to_v4, addr_v4
from ustack_ext.wire.bytes cimport get_be16, get_be32, put_be16, put_be32
from ustack_ext.wire.checksum cimport csum_fold, csum_partial, csum_store
from ustack_ext.wire.headers cimport ETHERTYPE_IPV4
from ustack_ext.base.core cimport count
from ustack_ext.base.rng cimport rng_below
from ustack_ext.base.wheel cimport wheel_arm, wheel_cancel
from ustack_ext.net.groups cimport group_find, group_open, group_set, group_source, groups_sweep, source_wanted
from ustack_ext.net.iface cimport iface_address
from ustack_ext.net.mib cimport DropIgmpMalformed, IgmpInQueries, IgmpInReports, IgmpOutReports
from ustack_ext.net.output cimport output_link
from ustack_ext.net.state cimport (Dst, Group, GroupSource, MEDIUM_LOOPBACK, TxPkt, tx_init, tx_payload, tx_push)

cdef enum:
    IGMP_QUERY = 0x11
    IGMP_V1_REPORT = 0x12
    IGMP_V2_REPORT = 0x16
    IGMP_V2_LEAVE = 0x17
    IGMP_V3_REPORT = 0x22
    IS_INCLUDE = 1             # §4.2.12: record types
    IS_EXCLUDE = 2
    TO_INCLUDE = 3
    TO_EXCLUDE = 4
    ALLOW_NEW = 5
    BLOCK_OLD = 6
    QUERY_LEN = 8              # of versions 1 and 2
    QUERY3_LEN = 12
    HEAD = 8                   # of a report, and of each record without its sources
    IP_HEAD = 24               # with the router alert option (RFC 2113)
    ROUTER_ALERT = 0x94040000
    CONTROL_TOS = 0xC0         # §4: internetwork control
    IGMP = 2
    ALL_HOSTS = 0xE0000001
    ALL_ROUTERS = 0xE0000002
    V3_ROUTERS = 0xE0000016
    REPORT_MAX = 1400          # bytes of a message, beside what the interface takes
    MS = 1000000
    TENTH = 100                # ms: the unit of response times
    UNSOLICITED_MS = 1000       # §8.11
    UNSOLICITED_OLD_MS = 10000  # RFC 2236 §8.10
    V1_RESPONSE_MS = 10000
    QUERY_INTERVAL_MS = 125000  # §8.2

cdef struct Report:            # a version 3 report being filled
    uint8_t message[REPORT_MAX]
    uint32_t length
    uint32_t most
    uint16_t records


# --- out ---

cdef void send(Net *n, Iface *i, uint32_t to, uint8_t *message, uint32_t length) noexcept nogil:
    cdef Addr dst = addr_v4(to)
    cdef const Addr *own = iface_address(i, &dst)
    cdef TxPkt t
    cdef Dst d
    cdef uint8_t *p
    if i.medium == MEDIUM_LOOPBACK or not i.up:
        return
    csum_store(message + 2, 0)
    csum_store(message + 2, csum_fold(csum_partial(message, length, 0)))
    memset(&d, 0, sizeof(d))
    d.iface = i
    d.mtu = i.mtu
    d.generation = n.generation
    tx_init(&t)
    tx_payload(&t, message, length)
    p = tx_push(&t, IP_HEAD)
    put_be32(p, <uint32_t>0x46 << 24 | <uint32_t>CONTROL_TOS << 16 | (IP_HEAD + length))
    put_be32(p + 4, 0x4000)                            # atomic (RFC 6864 §4.1)
    put_be32(p + 8, <uint32_t>1 << 24 | <uint32_t>IGMP << 16)
    put_be32(p + 12, addr_to_v4(own) if own != NULL else 0)
    put_be32(p + 16, to)
    put_be32(p + 20, ROUTER_ALERT)
    csum_store(p + 10, csum_fold(csum_partial(p, IP_HEAD, 0)))
    count(n.core, IgmpOutReports)
    output_link(n, &d, &dst, ETHERTYPE_IPV4, &t)


cdef void send_old(Net *n, Iface *i, uint8_t type, const Addr *group) noexcept nogil:
    cdef uint8_t message[QUERY_LEN]
    put_be32(message, <uint32_t>type << 24)
    put_be32(message + 4, addr_to_v4(group))
    send(n, i, ALL_ROUTERS if type == IGMP_V2_LEAVE else addr_to_v4(group), message, QUERY_LEN)


cdef void begin(Report *r, const Iface *i) noexcept nogil:
    memset(r.message, 0, HEAD)
    r.message[0] = IGMP_V3_REPORT
    r.length = HEAD
    r.most = min(<uint32_t>REPORT_MAX, i.mtu - IP_HEAD)
    r.records = 0


cdef void finish(Net *n, Iface *i, Report *r) noexcept nogil:
    if r.records > 0:
        put_be16(r.message + 6, r.records)
        send(n, i, V3_ROUTERS, r.message, r.length)
    begin(r, i)


cdef void add_record(Net *n, Iface *i, Report *r, const Group *g, uint8_t type, const uint8_t *take) noexcept nogil:
    """One record with the sources whose byte of `take` is set; what doesn't fit goes on in a record of the next report,
    or, where a list may not be split (§4.2.16), is left out."""
    cdef uint8_t *p
    cdef uint16_t sources = 0
    cdef int k
    if r.length + HEAD + 4 > r.most:
        finish(n, i, r)
    p = r.message + r.length
    put_be32(p, <uint32_t>type << 24)
    put_be32(p + 4, addr_to_v4(&g.addr))
    r.length += HEAD
    r.records += 1
    for k in range(g.n_sources):
        if not take[k]:
            continue
        if r.length + 4 > r.most:
            if type == IS_EXCLUDE or type == TO_EXCLUDE:
                break
            put_be16(p + 2, sources)
            finish(n, i, r)
            p = r.message + r.length
            put_be32(p, <uint32_t>type << 24)
            put_be32(p + 4, addr_to_v4(&g.addr))
            r.length += HEAD
            r.records += 1
            sources = 0
        put_be32(r.message + r.length, addr_to_v4(&g.sources[k].addr))
        r.length += 4
        sources += 1
    put_be16(p + 2, sources)


cdef void add_state(Net *n, Iface *i, Report *r, const Group *g, bint changed) noexcept nogil:
    """The whole list: as the present state, or as a change of mode."""
    cdef uint8_t take[64]
    cdef int k
    for k in range(g.n_sources):
        take[k] = g.sources[k].listed
    if changed:
        add_record(n, i, r, g, TO_EXCLUDE if g.exclude else TO_INCLUDE, take)
    else:
        add_record(n, i, r, g, IS_EXCLUDE if g.exclude else IS_INCLUDE, take)


# --- which version ---

cdef int version(Net *n, const Iface *i) noexcept nogil:
    """§7.2.1: the oldest that was heard lately."""
    if n.knobs.force_igmp_version != 0:
        return n.knobs.force_igmp_version
    if i.igmp.v1_until > n.core.now:
        return 1
    return 2 if i.igmp.v2_until > n.core.now else 3


cdef uint8_t robustness(const Net *n, const Iface *i) noexcept nogil:
    return i.igmp.robustness if i.igmp.robustness != 0 else n.knobs.igmp_qrv


cdef uint64_t after(Net *n, uint32_t most_ms) noexcept nogil:
    """A random moment within so many ms from now; never 0."""
    return n.core.now + 1 + <uint64_t>rng_below(&n.core.rng, most_ms * 1000 + 1) * 1000


cdef void arm(Net *n, Iface *i) noexcept nogil:
    cdef uint64_t first = UINT64_MAX
    cdef Group *g = i.igmp.groups
    if i.igmp.answer_at != 0:
        first = i.igmp.answer_at
    if i.igmp.change_at != 0:
        first = min(first, i.igmp.change_at)
    while g != NULL:
        if g.answer_at != 0:
            first = min(first, g.answer_at)
        g = g.next
    if first == UINT64_MAX:
        wheel_cancel(&n.core.wheel, &i.igmp.entry)
    else:
        wheel_arm(&n.core.wheel, &i.igmp.entry, first)


# --- changes ---

cdef bint report_change(Net *n, Iface *i, Report *r, Group *g) noexcept nogil:
    """§5.1: the mode if that changed, else the sources that did. True: not for the last time."""
    cdef uint8_t allow[64]
    cdef uint8_t block[64]
    cdef bint any_allow = False, any_block = False, more = False
    cdef int k
    if g.mode_left > 0:
        g.mode_left -= 1
        add_state(n, i, r, g, True)
        return g.mode_left > 0
    for k in range(g.n_sources):
        allow[k] = g.sources[k].left > 0 and source_wanted(g, &g.sources[k])
        block[k] = g.sources[k].left > 0 and not allow[k]
        any_allow |= allow[k]
        any_block |= block[k]
        if g.sources[k].left > 0:
            g.sources[k].left -= 1
            more |= g.sources[k].left > 0
    if any_allow:
        add_record(n, i, r, g, ALLOW_NEW, allow)
    if any_block:
        add_record(n, i, r, g, BLOCK_OLD, block)
    return more


cdef bint report_old(Net *n, Iface *i, int speak, Group *g) noexcept nogil:
    """The same for a router of version 1 or 2, which know no sources: a report or, once, that it was left."""
    cdef uint8_t left = g.mode_left
    cdef int k
    for k in range(g.n_sources):
        left = max(left, g.sources[k].left)
        g.sources[k].left = 0
    g.mode_left = 0
    if left == 0:
        return False
    if group_open(g):
        send_old(n, i, IGMP_V1_REPORT if speak == 1 else IGMP_V2_REPORT, &g.addr)
        g.mode_left = left - 1
    elif speak == 2:
        send_old(n, i, IGMP_V2_LEAVE, &g.addr)
    return g.mode_left > 0


cdef void report_changes(Net *n, Iface *i) noexcept nogil:
    cdef Report r
    cdef Group *g = i.igmp.groups
    cdef int speak = version(n, i)
    cdef bint more = False
    begin(&r, i)
    while g != NULL:
        if speak == 3:
            more |= report_change(n, i, &r, g)
        else:
            more |= report_old(n, i, speak, g)
        g = g.next
    finish(n, i, &r)
    i.igmp.change_at = after(n, UNSOLICITED_MS if speak == 3 else UNSOLICITED_OLD_MS) if more else 0
    groups_sweep(i)


cdef int igmp_set(Net *n, Iface *i, const Addr *group, bint exclude, const Addr *sources, int n_sources) noexcept nogil:
    cdef bint changed
    cdef bint silent = addr_to_v4(group) == ALL_HOSTS or i.medium == MEDIUM_LOOPBACK
    cdef int status = group_set(n, i, group, exclude, sources, n_sources, 0 if silent else robustness(n, i), &changed)
    if status == 0 and changed:
        report_changes(n, i)
        arm(n, i)
    return status


# --- answers ---

cdef void answer(Net *n, Iface *i, Report *r, Group *g) noexcept nogil:
    """§5.2: the present state; asked about sources, those of them that are wanted."""
    cdef uint8_t take[64]
    cdef int k
    cdef bint some = False
    if not group_open(g):
        return
    if not g.ask_sources:
        add_state(n, i, r, g, False)
        return
    for k in range(g.n_sources):
        take[k] = g.sources[k].asked and source_wanted(g, &g.sources[k])
        some |= take[k]
    if some:
        add_record(n, i, r, g, IS_INCLUDE, take)


cdef void answer_all(Net *n, Iface *i, bint general) noexcept nogil:
    """Every group that is due or, after a general query, every one."""
    cdef Report r
    cdef Group *g = i.igmp.groups
    cdef int speak = version(n, i), k
    begin(&r, i)
    while g != NULL:
        if (general or (g.answer_at != 0 and g.answer_at <= n.core.now)) and addr_to_v4(&g.addr) != ALL_HOSTS:
            if general:
                g.ask_sources = 0
            if speak == 3:
                answer(n, i, &r, g)
            elif group_open(g):
                send_old(n, i, IGMP_V1_REPORT if speak == 1 else IGMP_V2_REPORT, &g.addr)
            g.answer_at = 0
            g.ask_sources = 0
            for k in range(g.n_sources):
                g.sources[k].asked = 0
        g = g.next
    finish(n, i, &r)


cdef void igmp_timer(Net *n, Igmp *m) noexcept nogil:
    cdef Iface *i = m.iface
    if m.change_at != 0 and m.change_at <= n.core.now:
        report_changes(n, i)
    if m.answer_at != 0 and m.answer_at <= n.core.now:
        m.answer_at = 0
        answer_all(n, i, True)
    else:
        answer_all(n, i, False)
    arm(n, i)


# --- in ---

cdef uint32_t code_value(uint8_t code) noexcept nogil:
    """§4.1.1: a number below 128, or a floating-point one."""
    return code if code < 128 else <uint32_t>(code & 15 | 16) << ((code >> 4 & 7) + 3)


cdef void ask_group(Net *n, Group *g, const uint8_t *sources, uint32_t many, uint64_t at) noexcept nogil:
    """§5.2, rules 3 to 5. Sources that are not kept here are wanted in EXCLUDE mode: then all is answered."""
    cdef GroupSource *s
    cdef Addr a
    cdef uint32_t k
    if g.answer_at == 0:
        g.ask_sources = many > 0
    elif many == 0:
        g.ask_sources = 0
    if g.ask_sources:
        for k in range(many):
            a = addr_v4(get_be32(sources + 4 * k))
            s = group_source(g, &a)
            if s != NULL:
                s.asked = 1
            elif g.exclude:
                g.ask_sources = 0
    g.answer_at = min(g.answer_at, at) if g.answer_at != 0 else at


cdef void query(Net *n, Iface *i, const uint8_t *p, uint32_t length) noexcept nogil:
    cdef Addr group = addr_v4(get_be32(p + 4))
    cdef uint32_t most = code_value(p[1]) * TENTH, many = 0
    cdef uint64_t at
    cdef Group *g
    count(n.core, IgmpInQueries)
    if length == QUERY_LEN:
        if p[1] == 0:
            most = V1_RESPONSE_MS
        else:
            most = <uint32_t>p[1] * TENTH
        at = n.core.now + <uint64_t>(robustness(n, i) * QUERY_INTERVAL_MS + most) * MS
        if p[1] == 0:
            i.igmp.v1_until = at
        else:
            i.igmp.v2_until = at
    else:
        many = get_be16(p + 10)
        if length < QUERY3_LEN or QUERY3_LEN + 4 * many > length:
            count(n.core, DropIgmpMalformed)
            return
        if p[8] & 7:
            i.igmp.robustness = p[8] & 7
    at = after(n, most)
    if i.igmp.answer_at != 0 and i.igmp.answer_at <= at:
        return                                         # §5.2, rule 1: all is said earlier anyway
    if addr_is_any(&group) and version(n, i) != 3:
        g = i.igmp.groups
        while g != NULL:                               # RFC 2236 §3: each in its own time, and not if another does
            ask_group(n, g, NULL, 0, after(n, most))
            g = g.next
    elif addr_is_any(&group):
        i.igmp.answer_at = at
    else:
        g = group_find(i, &group)
        if g != NULL and group_open(g):
            ask_group(n, g, p + QUERY3_LEN, many, at)
    arm(n, i)


cdef void igmp_input(Net *n, RxPkt *rx) noexcept nogil:
    cdef const uint8_t *p = rx.l4
    cdef Iface *i = rx.iface
    cdef Addr group
    cdef Group *g
    if rx.l4_len < QUERY_LEN or csum_fold(csum_partial(p, rx.l4_len, 0)) != 0:
        count(n.core, DropIgmpMalformed)
        return
    if p[0] == IGMP_QUERY:
        query(n, i, p, rx.l4_len)
        return
    count(n.core, IgmpInReports)
    if (p[0] == IGMP_V1_REPORT or p[0] == IGMP_V2_REPORT) and version(n, i) != 3:
        group = addr_v4(get_be32(p + 4))
        g = group_find(i, &group)
        if g != NULL:                                  # RFC 2236 §3: somebody else has said it
            g.answer_at = 0
            arm(n, i)
