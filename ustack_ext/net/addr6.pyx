"""The life of our IPv6 addresses (RFC 4862, RFC 7217, RFC 8981, RFC 7527) and the timer of an interface's IPv6.

Responsible for making addresses, for duplicate address detection, for lifetimes, for asking routers. Not for packets
(nd, ra) nor for which address is used (source6).

- Identifiers are stable and opaque (RFC 7217 §5): a keyed hash of the prefix, the interface and the count of conflicts.
- An address by hand is used at once unless a check was asked for; what is made here is checked first, where there are
  neighbours to ask. What fails the check three times is left alone.
- Temporary addresses come with use_tempaddr, one at a time a prefix, the next REGEN_ADVANCE before the last is
  deprecated.
"""
from libc.errno cimport EACCES, EINVAL
from libc.stdint cimport UINT64_MAX, uint8_t

from ustack_ext.wire.addr cimport addr_is_link_local, addr_is_v4, addr_none, addr_zoned
from ustack_ext.wire.ip6 cimport IP6_MIN_MTU
from ustack_ext.base.core cimport count
from ustack_ext.base.rng cimport rng_below, rng_u64
from ustack_ext.base.table cimport siphash
from ustack_ext.base.wheel cimport wheel_arm, wheel_cancel
from ustack_ext.net.iface cimport addr_activate, addr_deprecate, addr_disable, addr_insert, addr_remove, addr_usable
from ustack_ext.net.mib cimport Ip6DadFailures
from ustack_ext.net.mld cimport mld_addresses, mld_announce
from ustack_ext.net.ndout cimport nd_ask_routers, nd_solicit
from ustack_ext.net.route cimport route_expire
from ustack_ext.net.state cimport (
    ADDR_CONFLICT, ADDR_DEPRECATED, ADDR_PREFERRED, ADDR_TENTATIVE, Conf6, IFA_AUTO, IFA_STATIC, IFA_TEMPORARY,
    MAX_IFADDRS, MEDIUM_ETHERNET, MEDIUM_LOOPBACK,
)

cdef enum:
    LINK_LOCAL = 0xFE80
    IDENTIFIER_BITS = 64
    DAD_TRIES = 3              # RFC 7217 §6's IDGEN_RETRIES
    DAD_DELAY_MS = 1000        # RFC 4861 §10's MAX_RTR_SOLICITATION_DELAY
    REGEN_ADVANCE = 5          # s (RFC 8981 §3.8)
    TWO_HOURS = 7200           # s
    MS = 1000000
    SECOND = 1000000000

cdef struct IdentifierKey:     # RFC 7217 §5's arguments; the secret key is the hash's
    uint64_t prefix
    uint8_t mac[8]
    char name[16]
    uint64_t count_


cdef void iface6_arm(Net *n, Iface *i) noexcept nogil:
    """Now: the timer finds out itself what is due, and when the next is."""
    if i.medium != MEDIUM_LOOPBACK:
        wheel_arm(&n.core.wheel, &i.six.entry, n.core.now)


# --- making addresses ---

cdef uint64_t stable_identifier(Net *n, const Iface *i, uint64_t prefix, uint32_t conflicts) noexcept nogil:
    cdef IdentifierKey k
    cdef uint64_t found = 0
    cdef int j
    k.prefix = prefix
    for j in range(8):
        k.mac[j] = i.mac[j] if j < 6 else 0
    for j in range(16):
        k.name[j] = i.name[j]
    k.count_ = conflicts
    while is_reserved(found):
        found = siphash(&n.secret6, &k, sizeof(k))
        k.count_ += 1 << 16
    return found


cdef bint is_reserved(uint64_t identifier) noexcept nogil:
    """RFC 5453: the routers' anycast address, and those of subnet anycast."""
    return identifier == 0 or identifier >> 7 == <uint64_t>0x1FBFFFFFFFFFFFF


cdef int make(Net *n, Iface *i, const Addr *prefix, int kind, uint32_t conflicts, uint64_t preferred, uint64_t valid,
              bint check) noexcept nogil:
    """An address of the prefix (64 bits), its check begun. 0 or -errno."""
    cdef IfAddr *ia = NULL
    cdef Addr a = prefix[0]
    cdef int status
    a.lo = 0
    if kind == IFA_TEMPORARY:
        while is_reserved(a.lo):
            a.lo = rng_u64(&n.core.rng)
    else:
        a.lo = stable_identifier(n, i, prefix.hi, conflicts)
    status = addr_insert(n, i, &a, IDENTIFIER_BITS, ADDR_TENTATIVE, &ia)
    if status != 0:
        return status
    ia.kind = <uint8_t>kind
    ia.dad_count = <uint8_t>conflicts
    ia.created = n.core.now
    ia.preferred_until = preferred
    ia.valid_until = valid
    begin(n, ia, check)
    return 0


cdef void begin(Net *n, IfAddr *ia, bint check) noexcept nogil:
    """Check the address, or use it right away."""
    mld_addresses(n, ia.iface)
    iface6_arm(n, ia.iface)
    if check and ia.iface.medium == MEDIUM_ETHERNET and ia.iface.six.conf.dad_transmits > 0:
        ia.probes_left = ia.iface.six.conf.dad_transmits
        wheel_arm(&n.core.wheel, &ia.entry, n.core.now + <uint64_t>rng_below(&n.core.rng, DAD_DELAY_MS) * MS)
    else:
        settle(n, ia)


cdef void settle(Net *n, IfAddr *ia) noexcept nogil:
    """It is ours."""
    if addr_activate(n, ia) != 0:
        addr_disable(n, ia, ADDR_CONFLICT)
        return
    arm_lifetime(n, ia)
    if addr_is_link_local(&ia.addr):
        mld_announce(n, ia.iface)
    if addr_is_link_local(&ia.addr) and ia.iface.six.autoconf and ia.iface.six.solicits == 0:
        ia.iface.six.solicit_at = n.core.now + <uint64_t>rng_below(&n.core.rng, DAD_DELAY_MS) * MS + 1
        iface6_arm(n, ia.iface)


cdef bint has_link_local(const Iface *i) noexcept nogil:
    cdef int k
    for k in range(MAX_IFADDRS):
        if i.addrs[k].used and addr_is_link_local(&i.addrs[k].addr):
            return True
    return False


cdef int add_link_local(Net *n, Iface *i, bint check) noexcept nogil:
    cdef Addr prefix = addr_none()
    prefix.hi = <uint64_t>LINK_LOCAL << 48
    prefix = addr_zoned(&prefix, i.index)
    return make(n, i, &prefix, IFA_AUTO, 0, UINT64_MAX, UINT64_MAX, check)


cdef int addr6_add(Net *n, Iface *i, const Addr *a, int plen, bint check) noexcept nogil:
    cdef IfAddr *ia = NULL
    cdef Addr zoned = addr_zoned(a, i.index)
    cdef bint first = not i.six.on
    cdef int status
    if i.six.conf.disable_ipv6:
        return -EACCES
    status = addr_insert(n, i, &zoned, plen, ADDR_TENTATIVE, &ia)
    if status != 0:
        return status
    ia.kind = IFA_STATIC
    i.six.on = 1
    begin(n, ia, check)
    if first and i != n.lo and not has_link_local(i):
        add_link_local(n, i, check)
    return 0


cdef int addr6_autoconf(Net *n, Iface *i) noexcept nogil:
    cdef int status = 0
    if i.mtu < IP6_MIN_MTU:
        return -EINVAL
    i.six.autoconf = 1
    if i.six.conf.disable_ipv6:
        return 0
    i.six.on = 1
    if not has_link_local(i):
        status = add_link_local(n, i, True)
    elif i.six.solicits == 0:
        i.six.solicit_at = n.core.now + 1
        iface6_arm(n, i)
    return status


cdef void addr6_disable(Net *n, Iface *i, bint disable) noexcept nogil:
    """As Linux: every address goes, also those given by hand; only what the interface makes itself comes again."""
    cdef Addr a
    cdef int k
    i.six.conf.disable_ipv6 = disable
    if not disable:
        if i.six.autoconf:
            i.six.solicits = 0
            addr6_autoconf(n, i)
        return
    for k in range(MAX_IFADDRS):
        if i.addrs[k].used and not addr_is_v4(&i.addrs[k].addr):
            a = i.addrs[k].addr
            addr_remove(n, i, &a)
    i.six.on = 0
    i.six.solicit_at = 0
    mld_addresses(n, i)


# --- prefixes of routers ---

cdef void make_temporary(Net *n, Iface *i, const Addr *prefix, uint64_t preferred, uint64_t valid) noexcept nogil:
    """RFC 8981 §3.4: no longer than its prefix, nor than the knobs say; less a random part, so that hosts do not renew
    together."""
    cdef uint64_t now = n.core.now
    cdef uint32_t most = i.six.conf.temp_prefered_lft, desync = rng_below(&n.core.rng, most * 2 // 5 + 1)
    preferred = min(preferred, now + <uint64_t>(most - desync) * SECOND)
    valid = min(valid, now + <uint64_t>i.six.conf.temp_valid_lft * SECOND)
    if preferred > now + REGEN_ADVANCE * <uint64_t>SECOND:
        make(n, i, prefix, IFA_TEMPORARY, 0, preferred, valid, True)


cdef bint renew(Net *n, IfAddr *ia, uint32_t preferred, uint32_t valid) noexcept nogil:
    """RFC 4862 §5.5.3 (e): the valid lifetime is not cut below two hours by who can't prove that he may."""
    cdef const Conf6 *conf = &ia.iface.six.conf
    cdef uint64_t now = n.core.now, until = lifetime_until(now, valid)
    cdef uint64_t guard = now + <uint64_t>TWO_HOURS * SECOND
    if until > guard or until > ia.valid_until:
        ia.valid_until = until
    elif ia.valid_until > guard:
        ia.valid_until = guard
    ia.preferred_until = min(lifetime_until(now, preferred), ia.valid_until)
    if ia.kind == IFA_TEMPORARY:
        ia.valid_until = min(ia.valid_until, ia.created + <uint64_t>conf.temp_valid_lft * SECOND)
        ia.preferred_until = min(ia.preferred_until, ia.created + <uint64_t>conf.temp_prefered_lft * SECOND)
    if ia.state == ADDR_DEPRECATED and ia.preferred_until > now:
        addr_activate(n, ia)
    if addr_usable(ia):
        arm_lifetime(n, ia)
    return ia.kind == IFA_TEMPORARY and ia.preferred_until > now


cdef void addr6_prefix(Net *n, Iface *i, const Addr *prefix, uint32_t preferred, uint32_t valid) noexcept nogil:
    cdef bint there = False, temporary = False
    cdef int k, made = 0
    cdef uint64_t now = n.core.now
    for k in range(MAX_IFADDRS):
        if not i.addrs[k].used or i.addrs[k].kind == IFA_STATIC:
            continue
        made += 1
        if i.addrs[k].addr.hi == prefix.hi:
            there = there or i.addrs[k].kind == IFA_AUTO
            temporary = renew(n, &i.addrs[k], preferred, valid) or temporary
    if valid == 0 or made >= i.six.conf.max_addresses:
        return
    if not there:
        make(n, i, prefix, IFA_AUTO, 0, lifetime_until(now, preferred), lifetime_until(now, valid), True)
    if i.six.conf.use_tempaddr > 0 and not temporary:
        make_temporary(n, i, prefix, lifetime_until(now, preferred), lifetime_until(now, valid))


# --- conflicts and time ---

cdef void addr6_conflict(Net *n, IfAddr *ia) noexcept nogil:
    cdef Iface *i = ia.iface
    cdef Addr prefix = ia.addr, bad = ia.addr
    cdef uint32_t tries = ia.dad_count + 1
    cdef int kind = ia.kind
    cdef uint64_t preferred = ia.preferred_until, valid = ia.valid_until
    count(n.core, Ip6DadFailures)
    if ia.state != ADDR_TENTATIVE:
        return
    if kind == IFA_STATIC or tries >= DAD_TRIES:
        addr_disable(n, ia, ADDR_CONFLICT)
        mld_addresses(n, i)
        return
    addr_remove(n, i, &bad)
    make(n, i, &prefix, kind, tries, preferred, valid, True)


cdef void arm_lifetime(Net *n, IfAddr *ia) noexcept nogil:
    cdef uint64_t at = ia.valid_until
    if ia.state == ADDR_PREFERRED:
        at = ia.preferred_until
        if ia.kind == IFA_TEMPORARY:
            at = max(at - REGEN_ADVANCE * <uint64_t>SECOND, n.core.now + 1)
        at = min(at, ia.valid_until)
    if at == UINT64_MAX:
        wheel_cancel(&n.core.wheel, &ia.entry)
    else:
        wheel_arm(&n.core.wheel, &ia.entry, at)


cdef void next_temporary(Net *n, IfAddr *old) noexcept nogil:
    """Made from the prefix's stable address, if routers still want that used."""
    cdef Iface *i = old.iface
    cdef IfAddr *ia
    cdef int k
    old.kind = IFA_AUTO                                # no successor a second time
    for k in range(MAX_IFADDRS):
        ia = &i.addrs[k]
        if ia != old and ia.used and ia.kind == IFA_AUTO and ia.state == ADDR_PREFERRED and ia.addr.hi == old.addr.hi:
            make_temporary(n, i, &ia.addr, ia.preferred_until, ia.valid_until)
            break
    old.kind = IFA_TEMPORARY


cdef void addr6_timer(Net *n, IfAddr *ia) noexcept nogil:
    cdef Addr none = addr_none(), a = ia.addr
    cdef Iface *i = ia.iface
    cdef uint64_t now = n.core.now
    if ia.state == ADDR_TENTATIVE:
        if ia.probes_left == 0:
            settle(n, ia)
            return
        ia.probes_left -= 1
        ia.nonce = rng_u64(&n.core.rng) >> 16
        nd_solicit(n, i, &none, &ia.addr, NULL, ia.nonce)
        wheel_arm(&n.core.wheel, &ia.entry, now + <uint64_t>n.knobs.retrans_time_ms * MS)
        return
    if ia.valid_until <= now:
        addr_remove(n, i, &a)
        mld_addresses(n, i)
        return
    if ia.state == ADDR_PREFERRED and ia.preferred_until <= now:
        addr_deprecate(n, ia)
    elif ia.state == ADDR_PREFERRED and ia.kind == IFA_TEMPORARY and i.six.conf.use_tempaddr > 0:
        next_temporary(n, ia)
        wheel_arm(&n.core.wheel, &ia.entry, ia.preferred_until)
        return
    arm_lifetime(n, ia)


cdef const Addr *link_local(const Iface *i) noexcept nogil:
    cdef int k
    for k in range(MAX_IFADDRS):
        if addr_usable(&i.addrs[k]) and addr_is_link_local(&i.addrs[k].addr):
            return &i.addrs[k].addr
    return NULL


cdef void ask_routers(Net *n, Iface *i) noexcept nogil:
    """RFC 4861 §6.3.7."""
    cdef const Addr *src = link_local(i)
    cdef Addr none = addr_none()
    i.six.solicit_at = 0
    if i.six.solicits >= i.six.conf.router_solicitations or i.six.conf.accept_ra <= i.conf.forwarding6:
        return
    i.six.solicits += 1
    if i.medium == MEDIUM_ETHERNET:
        nd_ask_routers(n, i, src if src != NULL else &none)
        i.six.solicit_at = n.core.now + <uint64_t>i.six.conf.router_solicitation_interval * SECOND


cdef void iface6_timer(Net *n, Iface *i) noexcept nogil:
    cdef uint64_t now = n.core.now, at
    if i.six.solicit_at != 0 and i.six.solicit_at <= now:
        ask_routers(n, i)
    at = route_expire(n, i)
    if i.six.solicit_at != 0:
        at = min(at, i.six.solicit_at)
    if at != UINT64_MAX:
        wheel_arm(&n.core.wheel, &i.six.entry, at)
