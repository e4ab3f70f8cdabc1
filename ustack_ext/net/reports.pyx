"""What a host says of its groups (RFC 3376 §5 and RFC 3810 §6, which are one but for the length of addresses), and to
routers of older versions (RFC 1112, RFC 2236, RFC 2710).

Responsible for when a report is sent and what stands in it. Not for the groups themselves (groups), the headers in
front (groupmsg), nor for reading queries (igmp, mld).

One timer a family of an interface serves all: a change is reported at once and again, robustness - 1 times, each after
a random part of a second (§5.1); queries are answered after a random part of the time they give (§5.2), several by one
answer where they may. A flood of queries costs an answer each time that runs out, not one each. A host never hears
other reports' news in the present version; in older ones another's report saves its own. Sections are RFC 3376's.
"""
from libc.stdint cimport UINT64_MAX, uint16_t, uint64_t
from libc.string cimport memset

from ustack_ext.wire.addr cimport addr_bare_hi, addr_is_any, addr_to_v4, addr_v4, addr_zoned
from ustack_ext.wire.bytes cimport get_be32, put_be16, put_be32
from ustack_ext.wire.ip6 cimport ICMP6_MLD2_REPORT, ICMP6_MLD_DONE, ICMP6_MLD_REPORT, addr_get, addr_put
from ustack_ext.base.core cimport count
from ustack_ext.base.rng cimport rng_below
from ustack_ext.base.wheel cimport wheel_arm, wheel_cancel
from ustack_ext.net.groupmsg cimport GROUP_HEADERS4, GROUP_HEADERS6, group_send
from ustack_ext.net.groups cimport (
    group_find, group_open, group_own, group_set, group_source, groups_of, groups_sweep, source_wanted,
)
from ustack_ext.net.mib cimport (
    Icmp6OutGroupMembReductions, Icmp6OutGroupMembResponses, Icmp6OutMLDv2Reports, IgmpOutReports,
)
from ustack_ext.net.state cimport GROUP_SOURCES, Group, GroupSource, MEDIUM_LOOPBACK

cdef enum:
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
    HEAD = 8                   # of a report
    RECORD_HEAD = 4            # of each record, before the group
    OLD_LEN = 8                # of a message of an older version, before MLD's group
    ALL_HOSTS = 0xE0000001
    ALL_ROUTERS = 0xE0000002
    V3_ROUTERS = 0xE0000016
    ALL_ROUTERS6 = 2           # ff02::2
    V2_ROUTERS6 = 0x16
    REPORT_MAX = 1400          # bytes of a message, beside what the interface takes
    MS = 1000000
    UNSOLICITED_MS = 1000       # §8.11
    UNSOLICITED_OLD_MS = 10000  # RFC 2236 §8.10, RFC 2710 §7.10
    QUERY_INTERVAL_MS = 125000  # §8.2

cdef struct Report:            # one of the present version being filled
    uint8_t message[REPORT_MAX]
    uint32_t length
    uint32_t most
    uint16_t records


# --- the families' ways of writing ---

cdef inline uint32_t width(const Groups *m) noexcept nogil:
    """Bytes of an address."""
    return 16 if m.six else 4


cdef inline void put_address(uint8_t *p, const Groups *m, const Addr *a) noexcept nogil:
    cdef Addr bare = a[0]
    if m.six:
        bare.hi = addr_bare_hi(bare.hi)
        addr_put(p, &bare)
    else:
        put_be32(p, addr_to_v4(a))


cdef Addr routers(const Groups *m, bint all_of_them) noexcept nogil:
    """The group of those who hear reports of the present version, or of all routers."""
    cdef Addr a
    if not m.six:
        return addr_v4(ALL_ROUTERS if all_of_them else V3_ROUTERS)
    a.hi = <uint64_t>0xFF02 << 48 | <uint64_t>m.iface.index << 32
    a.lo = ALL_ROUTERS6 if all_of_them else V2_ROUTERS6
    return a


cdef bint is_silent(const Groups *m, const Addr *group) noexcept nogil:
    """All hosts (§6); all nodes, and groups of less scope than a link (RFC 3810 §6). Nobody routes the loopback."""
    if m.iface.medium == MEDIUM_LOOPBACK:
        return True
    if not m.six:
        return addr_to_v4(group) == ALL_HOSTS
    return (group.hi >> 48 & 15) <= 1 or (addr_bare_hi(group.hi) == <uint64_t>0xFF02 << 48 and group.lo == 1)


cdef void send_old(Net *n, Groups *m, const Addr *group, GroupLevel level, bint left) noexcept nogil:
    cdef uint8_t message[OLD_LEN + 16]
    cdef Addr to = routers(m, True) if left else group[0]
    memset(message, 0, sizeof(message))
    if m.six:
        message[0] = ICMP6_MLD_DONE if left else ICMP6_MLD_REPORT
        put_address(message + OLD_LEN, m, group)
        count(n.core, Icmp6OutGroupMembReductions if left else Icmp6OutGroupMembResponses)
        group_send(n, m, &to, message, OLD_LEN + 16)
        return
    message[0] = IGMP_V2_LEAVE if left else IGMP_V1_REPORT if level == LEVEL_1 else IGMP_V2_REPORT
    put_address(message + 4, m, group)
    count(n.core, IgmpOutReports)
    group_send(n, m, &to, message, OLD_LEN)


cdef void begin(Report *r, const Groups *m) noexcept nogil:
    memset(r.message, 0, HEAD)
    r.message[0] = ICMP6_MLD2_REPORT if m.six else IGMP_V3_REPORT
    r.length = HEAD
    r.most = min(<uint32_t>REPORT_MAX, m.iface.mtu - (GROUP_HEADERS6 if m.six else GROUP_HEADERS4))
    r.records = 0


cdef void finish(Net *n, Groups *m, Report *r) noexcept nogil:
    cdef Addr to = routers(m, False)
    if r.records > 0:
        put_be16(r.message + 6, r.records)
        count(n.core, Icmp6OutMLDv2Reports if m.six else IgmpOutReports)
        group_send(n, m, &to, r.message, r.length)
    begin(r, m)


cdef uint8_t *begin_record(Groups *m, Report *r, const Group *g, uint8_t type) noexcept nogil:
    cdef uint8_t *p = r.message + r.length
    put_be32(p, <uint32_t>type << 24)
    put_address(p + RECORD_HEAD, m, &g.addr)
    r.length += RECORD_HEAD + width(m)
    r.records += 1
    return p


cdef void add_record(Net *n, Groups *m, Report *r, const Group *g, uint8_t type, const uint8_t *take) noexcept nogil:
    """One record with the sources whose byte of `take` is set; what doesn't fit goes on in a record of the next report,
    or, where a list may not be split (§4.2.16), is left out."""
    cdef uint8_t *p
    cdef uint16_t sources = 0
    cdef int k
    if r.length + RECORD_HEAD + 2 * width(m) > r.most:
        finish(n, m, r)
    p = begin_record(m, r, g, type)
    for k in range(g.n_sources):
        if not take[k]:
            continue
        if r.length + width(m) > r.most:
            if type == IS_EXCLUDE or type == TO_EXCLUDE:
                break
            put_be16(p + 2, sources)
            finish(n, m, r)
            p = begin_record(m, r, g, type)
            sources = 0
        put_address(r.message + r.length, m, &g.sources[k].addr)
        r.length += width(m)
        sources += 1
    put_be16(p + 2, sources)


cdef void add_state(Net *n, Groups *m, Report *r, const Group *g, bint changed) noexcept nogil:
    """The whole list: as the present state, or as a change of mode."""
    cdef uint8_t take[GROUP_SOURCES]
    cdef int k
    for k in range(g.n_sources):
        take[k] = g.sources[k].listed
    if changed:
        add_record(n, m, r, g, TO_EXCLUDE if g.exclude else TO_INCLUDE, take)
    else:
        add_record(n, m, r, g, IS_EXCLUDE if g.exclude else IS_INCLUDE, take)


# --- which version ---

cdef GroupLevel reports_level(const Net *n, const Groups *m) noexcept nogil:
    """§7.2.1: the oldest that was heard lately."""
    cdef uint8_t forced = n.knobs.force_igmp_version
    if m.six:
        forced = m.iface.six.conf.force_mld_version
        forced += forced != 0                          # MLDv1 is what IGMPv2 is
    if forced != 0:
        return <GroupLevel>forced
    if m.v1_until > n.core.now:
        return LEVEL_1
    return LEVEL_2 if m.v2_until > n.core.now else LEVEL_3


cdef uint8_t robustness(const Net *n, const Groups *m) noexcept nogil:
    return m.robustness if m.robustness != 0 else n.knobs.mld_qrv if m.six else n.knobs.igmp_qrv


cdef void reports_older(Net *n, Groups *m, GroupLevel level, uint32_t most_ms) noexcept nogil:
    cdef uint64_t until = n.core.now + <uint64_t>(robustness(n, m) * QUERY_INTERVAL_MS + most_ms) * MS
    if level == LEVEL_1:
        m.v1_until = until
    else:
        m.v2_until = until


cdef uint64_t after(Net *n, uint32_t most_ms) noexcept nogil:
    """A random moment within so many ms from now; never 0."""
    return n.core.now + 1 + <uint64_t>rng_below(&n.core.rng, most_ms + 1) * MS


cdef void arm(Net *n, Groups *m) noexcept nogil:
    cdef uint64_t first = UINT64_MAX
    cdef Group *g = m.first
    if m.answer_at != 0:
        first = m.answer_at
    if m.change_at != 0:
        first = min(first, m.change_at)
    while g != NULL:
        if g.answer_at != 0:
            first = min(first, g.answer_at)
        g = g.next
    if first == UINT64_MAX:
        wheel_cancel(&n.core.wheel, &m.entry)
    else:
        wheel_arm(&n.core.wheel, &m.entry, first)


# --- changes ---

cdef bint report_change(Net *n, Groups *m, Report *r, Group *g) noexcept nogil:
    """§5.1: the mode if that changed, else the sources that did. True: not for the last time."""
    cdef uint8_t allow[GROUP_SOURCES]
    cdef uint8_t block[GROUP_SOURCES]
    cdef bint any_allow = False, any_block = False, more = False
    cdef int k
    if g.mode_left > 0:
        g.mode_left -= 1
        add_state(n, m, r, g, True)
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
        add_record(n, m, r, g, ALLOW_NEW, allow)
    if any_block:
        add_record(n, m, r, g, BLOCK_OLD, block)
    return more


cdef bint report_old(Net *n, Groups *m, GroupLevel level, Group *g) noexcept nogil:
    """The same for an older router, which knows no sources: a report or, once, that it was left."""
    cdef uint8_t left = g.mode_left
    cdef int k
    for k in range(g.n_sources):
        left = max(left, g.sources[k].left)
        g.sources[k].left = 0
    g.mode_left = 0
    if left == 0:
        return False
    if group_open(g):
        send_old(n, m, &g.addr, level, False)
        g.mode_left = left - 1
    elif level == LEVEL_2:
        send_old(n, m, &g.addr, level, True)
    return g.mode_left > 0


cdef void report_changes(Net *n, Groups *m) noexcept nogil:
    cdef Report r
    cdef Group *g = m.first
    cdef GroupLevel level = reports_level(n, m)
    cdef bint more = False
    begin(&r, m)
    while g != NULL:
        if level == LEVEL_3:
            more |= report_change(n, m, &r, g)
        else:
            more |= report_old(n, m, level, g)
        g = g.next
    finish(n, m, &r)
    m.change_at = after(n, UNSOLICITED_MS if level == LEVEL_3 else UNSOLICITED_OLD_MS) if more else 0
    groups_sweep(m)


cdef int reports_set(Net *n, Iface *i, const Addr *group, bint exclude, const Addr *sources, int many) noexcept nogil:
    cdef Groups *m = groups_of(i, group)
    cdef bint changed
    cdef int status = group_set(m, group, exclude, sources, many, 0 if is_silent(m, group) else robustness(n, m),
                                &changed)
    if status == 0 and changed:
        report_changes(n, m)
        arm(n, m)
    return status


cdef void due(Net *n, Groups *m) noexcept nogil:
    """Changes are reported with the next poll, several of one moment by one report."""
    m.change_at = max(n.core.now, <uint64_t>1)
    arm(n, m)


cdef int reports_own(Net *n, Iface *i, const Addr *group, bint on, bint silent) noexcept nogil:
    cdef Groups *m = groups_of(i, group)
    cdef bint changed = False
    cdef int status = group_own(m, group, on, 0 if silent else robustness(n, m), &changed)
    if changed and not (on and silent):
        due(n, m)
    return status


cdef void reports_again(Net *n, Groups *m) noexcept nogil:
    cdef Group *g = m.first
    while g != NULL:
        if group_open(g) and not is_silent(m, &g.addr):
            g.mode_left = robustness(n, m)
        g = g.next
    due(n, m)


# --- answers ---

cdef void answer(Net *n, Groups *m, Report *r, Group *g) noexcept nogil:
    """§5.2: the present state; asked about sources, those of them that are wanted."""
    cdef uint8_t take[GROUP_SOURCES]
    cdef int k
    cdef bint some = False
    if not group_open(g):
        return
    if not g.ask_sources:
        add_state(n, m, r, g, False)
        return
    for k in range(g.n_sources):
        take[k] = g.sources[k].asked and source_wanted(g, &g.sources[k])
        some |= take[k]
    if some:
        add_record(n, m, r, g, IS_INCLUDE, take)


cdef void answer_all(Net *n, Groups *m, bint general) noexcept nogil:
    """Every group that is due or, after a general query, every one."""
    cdef Report r
    cdef Group *g = m.first
    cdef GroupLevel level = reports_level(n, m)
    cdef int k
    begin(&r, m)
    while g != NULL:
        if (general or (g.answer_at != 0 and g.answer_at <= n.core.now)) and not is_silent(m, &g.addr):
            if general:
                g.ask_sources = 0
            if level == LEVEL_3:
                answer(n, m, &r, g)
            elif group_open(g):
                send_old(n, m, &g.addr, level, False)
            g.answer_at = 0
            g.ask_sources = 0
            for k in range(g.n_sources):
                g.sources[k].asked = 0
        g = g.next
    finish(n, m, &r)


cdef void reports_timer(Net *n, Groups *m) noexcept nogil:
    if m.change_at != 0 and m.change_at <= n.core.now:
        report_changes(n, m)
    if m.answer_at != 0 and m.answer_at <= n.core.now:
        m.answer_at = 0
        answer_all(n, m, True)
    else:
        answer_all(n, m, False)
    arm(n, m)


# --- questions ---

cdef Addr source_at(const Groups *m, const uint8_t *sources, uint32_t k) noexcept nogil:
    cdef Addr a
    if not m.six:
        return addr_v4(get_be32(sources + 4 * k))
    a = addr_get(sources + 16 * k)
    return addr_zoned(&a, m.iface.index)


cdef void ask_group(Groups *m, Group *g, const uint8_t *sources, uint32_t many, uint64_t at) noexcept nogil:
    """§5.2, rules 3 to 5. Sources that are not kept here are wanted in EXCLUDE mode: then all is answered."""
    cdef GroupSource *s
    cdef Addr a
    cdef uint32_t k
    if is_silent(m, &g.addr):
        return
    if g.answer_at == 0:
        g.ask_sources = many > 0
    elif many == 0:
        g.ask_sources = 0
    if g.ask_sources:
        for k in range(many):
            a = source_at(m, sources, k)
            s = group_source(g, &a)
            if s != NULL:
                s.asked = 1
            elif g.exclude:
                g.ask_sources = 0
    g.answer_at = min(g.answer_at, at) if g.answer_at != 0 else at


cdef void reports_asked(Net *n, Groups *m, const Addr *group, const uint8_t *sources, uint32_t many,
                        uint32_t most_ms) noexcept nogil:
    cdef uint64_t at = after(n, most_ms)
    cdef Group *g = m.first
    if m.answer_at != 0 and m.answer_at <= at:
        return                                         # §5.2, rule 1: all is said earlier anyway
    if addr_is_any(group) and reports_level(n, m) != LEVEL_3:
        while g != NULL:                               # RFC 2236 §3: each in its own time, and not if another does
            ask_group(m, g, NULL, 0, after(n, most_ms))
            g = g.next
    elif addr_is_any(group):
        m.answer_at = at
    else:
        g = group_find(m, group)
        if g != NULL and group_open(g):
            ask_group(m, g, sources, many, at)
    arm(n, m)


cdef void reports_heard(Net *n, Groups *m, const Addr *group) noexcept nogil:
    cdef Group *g
    if reports_level(n, m) == LEVEL_3:
        return
    g = group_find(m, group)
    if g != NULL:                                      # RFC 2236 §3, RFC 2710 §4: somebody else has said it
        g.answer_at = 0
        arm(n, m)
