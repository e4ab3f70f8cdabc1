"""A stack's knobs by Linux's sysctl names: where each lives, how wide it is, what it may be.

Responsible for: the table, reading, and writing with a check of range. Not for: what a knob does (its layer), the
mapping that users hold, with names for algorithms (ustack/sysctl.py). Meanings: Linux's
Documentation/networking/ip-sysctl.rst and net.rst.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy
from ustack_ext.base.limiter cimport limiter_init
from ustack_ext.driver.driver cimport Driver
from ustack_ext.engine.engine cimport Engine
from ustack_ext.net.addr6 cimport addr6_disable
from ustack_ext.net.iface cimport forwarding_changed, knobs_changed
from ustack_ext.net.mld cimport mld_addresses
from ustack_ext.net.net cimport iface_by_name
from ustack_ext.net.state cimport NAT_FLOWS, Conf6, Iface, IfaceKnobs, Net, NetKnobs
from ustack_ext.sockets.hold cimport hold, let_go
from ustack_ext.sockets.stackcore cimport StackCore, running
from ustack_ext.tcp.congestion.ops cimport CC_COUNT
from ustack_ext.tcp.tcb cimport TcpKnobs
from ustack_ext.wire.ip6 cimport IP6_MIN_MTU

cdef uint32_t U31 = 0x7FFFFFFF


cdef class Knob:
    """One knob: `count` numbers of `size` bytes each, one after another."""
    cdef readonly str name
    cdef void *at
    cdef int size
    cdef readonly int count
    cdef readonly uint32_t least
    cdef readonly uint32_t most

    cdef tuple read(self):
        cdef list values = []
        cdef int i
        for i in range(self.count):
            if self.size == 1:
                values.append((<uint8_t *>self.at)[i])
            elif self.size == 2:
                values.append((<uint16_t *>self.at)[i])
            else:
                values.append((<uint32_t *>self.at)[i])
        return tuple(values)

    cdef write(self, tuple values):
        cdef int i
        for i in range(self.count):
            if self.size == 1:
                (<uint8_t *>self.at)[i] = values[i]
            elif self.size == 2:
                (<uint16_t *>self.at)[i] = values[i]
            else:
                (<uint32_t *>self.at)[i] = values[i]


cdef Knob knob(str name, void *at, int size, uint32_t least, uint32_t most, int count=1):
    cdef Knob k = Knob.__new__(Knob)
    k.name = name
    k.at = at
    k.size = size
    k.least = least
    k.most = most
    k.count = count
    return k


cdef list net_knobs(NetKnobs *n):
    cdef str neigh = "net.ipv4.neigh.default."
    return [
        knob("net.ipv4.ip_default_ttl", &n.ip_default_ttl, 1, 1, 255),
        knob("net.ipv4.ip_no_pmtu_disc", &n.ip_no_pmtu_disc, 1, 0, 3),
        knob("net.ipv4.route.min_pmtu", &n.min_pmtu, 4, 68, 65535),
        knob("net.ipv4.route.mtu_expires", &n.mtu_expires, 4, 1, 86400),
        knob("net.ipv4.icmp_echo_ignore_all", &n.icmp_echo_ignore_all, 1, 0, 1),
        knob("net.ipv4.icmp_echo_ignore_broadcasts", &n.icmp_echo_ignore_broadcasts, 1, 0, 1),
        knob("net.ipv4.icmp_ratelimit", &n.icmp_ratelimit, 4, 0, U31),
        knob("net.ipv4.icmp_msgs_per_sec", &n.icmp_msgs_per_sec, 4, 0, U31),
        knob("net.ipv4.icmp_msgs_burst", &n.icmp_msgs_burst, 4, 0, U31),
        knob("net.ipv4.ipfrag_time", &n.ipfrag_time, 4, 1, 86400),
        knob("net.ipv4.ipfrag_high_thresh", &n.ipfrag_high_thresh, 4, 0, U31),
        knob("net.ipv4.ipfrag_max_dist", &n.ipfrag_max_dist, 4, 0, U31),
        knob(neigh + "gc_thresh3", &n.gc_thresh3, 4, 1, 1 << 20),
        knob(neigh + "base_reachable_time_ms", &n.base_reachable_time_ms, 4, 1, U31),
        knob(neigh + "gc_stale_time", &n.gc_stale_time, 4, 1, U31),
        knob(neigh + "unres_qlen", &n.unres_qlen, 4, 1, 65535),
        knob(neigh + "retrans_time_ms", &n.retrans_time_ms, 4, 1, U31),
        knob(neigh + "mcast_solicit", &n.mcast_solicit, 1, 1, 255),
        knob(neigh + "ucast_solicit", &n.ucast_solicit, 1, 0, 255),
        knob(neigh + "delay_first_probe_time", &n.delay_first_probe_time, 4, 0, U31),
    ]


cdef str CONF4 = "net.ipv4.conf."
cdef str CONF6 = "net.ipv6.conf."
cdef str ALL6 = CONF6 + "all."
cdef str DISABLE6 = "disable_ipv6"


cdef list conf6_knobs(Conf6 *c, str conf):
    """What an interface has (conf: its names' beginning), or interfaces to come."""
    return [
        knob(conf + "hop_limit", &c.hop_limit, 1, 1, 255),
        knob(conf + "dad_transmits", &c.dad_transmits, 1, 0, 255),
        knob(conf + "use_tempaddr", &c.use_tempaddr, 1, 0, 2),
        knob(conf + "temp_valid_lft", &c.temp_valid_lft, 4, 0, U31),
        knob(conf + "temp_prefered_lft", &c.temp_prefered_lft, 4, 0, U31),
        knob(conf + "max_addresses", &c.max_addresses, 1, 1, 16),
        knob(conf + "accept_ra", &c.accept_ra, 1, 0, 2),
        knob(conf + "accept_redirects", &c.accept_redirects, 1, 0, 1),
        knob(conf + "router_solicitations", &c.router_solicitations, 4, 0, 255),
        knob(conf + "router_solicitation_interval", &c.router_solicitation_interval, 4, 1, 86400),
        knob(conf + "force_mld_version", &c.force_mld_version, 1, 0, 2),
        knob(conf + DISABLE6, &c.disable_ipv6, 1, 0, 1),
    ]


cdef list interface_knobs(Iface *i):
    """One interface's, the lock being held: they are good for as long as it is."""
    cdef str name = (<bytes>i.name).decode(errors="replace").replace(".", "/") + "."
    cdef str four = CONF4 + name, six = CONF6 + name
    cdef IfaceKnobs *c = &i.conf
    cdef list found = conf6_knobs(&i.six.conf, six) + [
        knob(four + "forwarding", &c.forwarding, 1, 0, 1),
        knob(four + "rp_filter", &c.rp_filter, 1, 0, 2),
        knob(four + "send_redirects", &c.send_redirects, 1, 0, 1),
        knob(four + "accept_redirects", &c.accept_redirects, 1, 0, 1),
        knob(four + "arp_ignore", &c.arp_ignore, 1, 0, 8),
        knob(four + "arp_announce", &c.arp_announce, 1, 0, 2),
        knob(six + "forwarding", &c.forwarding6, 1, 0, 1),
    ]
    if i.mtu >= IP6_MIN_MTU:
        found.append(knob(six + "mtu", &i.six.mtu, 4, IP6_MIN_MTU, i.mtu))
    return found


cdef list ip6_knobs(NetKnobs *n):
    return [
        knob(ALL6 + "forwarding", &n.forwarding6, 1, 0, 1),
        knob(ALL6 + "send_redirects", &n.send_redirects6, 1, 0, 1),
        knob(ALL6 + "strong_es", &n.strong_es6, 1, 0, 1),
        knob("net.ipv6.mld_max_msf", &n.mld_max_msf, 4, 0, 64),
        knob("net.ipv6.mld_qrv", &n.mld_qrv, 1, 1, 7),
        knob("net.ipv6.icmp.echo_ignore_all", &n.echo_ignore_all6, 1, 0, 1),
        knob("net.ipv6.auto_flowlabels", &n.auto_flowlabels, 1, 0, 1),
        knob("net.ipv6.ip6frag_time", &n.ip6frag_time, 4, 1, 86400),
    ]


cdef list routing_knobs(NetKnobs *n):
    cdef str conf = "net.ipv4.conf.all."
    return [
        knob("net.ipv4.ip_forward", &n.ip_forward, 1, 0, 1),
        knob(conf + "forwarding", &n.ip_forward, 1, 0, 1),
        knob(conf + "send_redirects", &n.send_redirects, 1, 0, 1),
        knob(conf + "accept_redirects", &n.accept_redirects4, 1, 0, 1),
        knob(conf + "arp_ignore", &n.arp_ignore, 1, 0, 8),
        knob(conf + "arp_announce", &n.arp_announce, 1, 0, 2),
        knob(conf + "strong_es", &n.strong_es, 1, 0, 1),
        knob("net.netfilter.nf_conntrack_max", &n.nf_conntrack_max, 4, 1, NAT_FLOWS),
        knob(conf + "rp_filter", &n.rp_filter, 1, 0, 2),
        knob(conf + "force_igmp_version", &n.force_igmp_version, 1, 0, 3),
        knob("net.ipv4.igmp_max_memberships", &n.igmp_max_memberships, 4, 0, 65535),
        knob("net.ipv4.igmp_max_msf", &n.igmp_max_msf, 4, 0, 64),
        knob("net.ipv4.igmp_qrv", &n.igmp_qrv, 1, 1, 7),
    ]


cdef list tcp_switches(TcpKnobs *t):
    cdef str tcp = "net.ipv4.tcp_"
    return [
        knob(tcp + "syn_retries", &t.syn_retries, 1, 1, 127),
        knob(tcp + "synack_retries", &t.synack_retries, 1, 0, 255),
        knob(tcp + "retries1", &t.retries1, 1, 0, 255),
        knob(tcp + "retries2", &t.retries2, 1, 0, 255),
        knob(tcp + "orphan_retries", &t.orphan_retries, 1, 0, 255),
        knob(tcp + "timestamps", &t.timestamps, 1, 0, 1),
        knob(tcp + "sack", &t.sack, 1, 0, 1),
        knob(tcp + "dsack", &t.dsack, 1, 0, 1),
        knob(tcp + "window_scaling", &t.window_scaling, 1, 0, 1),
        knob(tcp + "slow_start_after_idle", &t.slow_start_after_idle, 1, 0, 1),
        knob(tcp + "abort_on_overflow", &t.abort_on_overflow, 1, 0, 1),
        knob(tcp + "rfc1337", &t.rfc1337, 1, 0, 1),
        knob(tcp + "moderate_rcvbuf", &t.moderate_rcvbuf, 1, 0, 1),
        knob(tcp + "mtu_probing", &t.mtu_probing, 1, 0, 2),
        knob(tcp + "stdurg", &t.stdurg, 1, 0, 1),
        knob(tcp + "frto", &t.frto, 1, 0, 2),
        knob(tcp + "recovery", &t.recovery, 1, 0, 7),
        knob(tcp + "early_retrans", &t.early_retrans, 1, 0, 4),
        knob(tcp + "syncookies", &t.syncookies, 1, 0, 2),
        knob(tcp + "tw_reuse", &t.tw_reuse, 1, 0, 2),
        knob(tcp + "ecn", &t.ecn, 1, 0, 2),
        knob(tcp + "ecn_fallback", &t.ecn_fallback, 1, 0, 1),
        knob(tcp + "congestion_control", &t.congestion, 1, 0, CC_COUNT - 1),
        knob(tcp + "allowed_congestion_control", &t.congestion_allowed, 1, 0, (1 << CC_COUNT) - 1),
    ]


cdef list tcp_figures(TcpKnobs *t):
    cdef str tcp = "net.ipv4.tcp_"
    return [
        knob(tcp + "rmem", &t.rmem_min, 4, 1, U31, 3),
        knob(tcp + "wmem", &t.wmem_min, 4, 1, U31, 3),
        knob(tcp + "fin_timeout", &t.fin_timeout, 4, 0, 86400),
        knob(tcp + "max_tw_buckets", &t.max_tw_buckets, 4, 0, U31),
        knob(tcp + "max_syn_backlog", &t.max_syn_backlog, 4, 1, U31),
        knob(tcp + "max_orphans", &t.max_orphans, 4, 0, U31),
        knob(tcp + "keepalive_time", &t.keepalive_time, 4, 1, 32767),
        knob(tcp + "keepalive_intvl", &t.keepalive_intvl, 4, 1, 32767),
        knob(tcp + "keepalive_probes", &t.keepalive_probes, 4, 1, 127),
        knob(tcp + "invalid_ratelimit", &t.invalid_ratelimit, 4, 0, U31),
        knob(tcp + "challenge_ack_limit", &t.challenge_ack_limit, 4, 0, U31),
        knob(tcp + "fastopen", &t.fastopen, 4, 0, 0xFFFF),
        knob(tcp + "notsent_lowat", &t.notsent_lowat, 4, 0, 0xFFFFFFFF),
        knob(tcp + "rto_min_us", &t.rto_min_us, 4, 1, U31),
        knob(tcp + "rto_max_ms", &t.rto_max_ms, 4, 1000, 120000),
        knob(tcp + "base_mss", &t.base_mss, 4, 48, 65535),
        knob(tcp + "mtu_probe_floor", &t.mtu_probe_floor, 4, 48, 65535),
        knob(tcp + "probe_threshold", &t.probe_threshold, 4, 1, 65535),
        knob(tcp + "mss_clamp", &t.mss_clamp, 4, 0, 65535),
        knob(tcp + "min_snd_mss", &t.min_snd_mss, 4, 48, 65535),
        knob("net.core.somaxconn", &t.somaxconn, 4, 0, 65535),
        knob("net.ipv4.ip_local_port_range", &t.port_lo, 2, 1, 65535, 2),
    ]


cdef list core_knobs(StackCore stack):
    cdef Driver d = running(stack)
    cdef Engine *e = d.engine
    return [
        knob("net.core.busy_poll", &d.busy_poll, 4, 0, U31),
        knob("net.core.busy_read", &d.busy_read, 4, 0, U31),
        knob("net.core.rmem_max", &stack.rmem_max, 4, 2304, U31),
        knob("net.core.wmem_max", &stack.wmem_max, 4, 4608, U31),
        knob("net.core.rmem_default", &e.udp.rmem_default, 4, 2304, U31),
        knob("net.core.wmem_default", &e.udp.wmem_default, 4, 4608, U31),
        knob("net.ipv4.udp_mem", &e.udp.mem[0], 4, 0, U31, 3),
    ]


cdef long conf6_offset(Engine *e, Knob k):
    """Where in a Conf6 a knob of all interfaces is."""
    return <char *>k.at - <char *>&e.net.knobs.conf6


cdef check(Knob k, tuple values):
    if len(values) != k.count:
        raise ValueError(f"{k.name} is {k.count} number{'s' * (k.count > 1)}, not {len(values)}")
    for value in values:
        if not k.least <= value <= k.most:
            raise ValueError(f"{k.name}: {value} is not between {k.least} and {k.most}")
    if k.count > 1 and list(values) != sorted(values):
        raise ValueError(f"{k.name}: {' '.join(map(str, values))} does not go from the least to the most")


cdef class Knobs:
    """All knobs of one stack, by name. `all` of net.ipv6.conf is every interface there is, and those to come;
    `default` those alone."""
    cdef StackCore stack
    cdef dict knobs

    def __init__(self, StackCore stack not None):
        cdef Engine *e = running(stack).engine
        cdef list found = net_knobs(&e.net.knobs) + tcp_switches(&e.tcp.knobs) + tcp_figures(&e.tcp.knobs)
        self.stack = stack
        found += routing_knobs(&e.net.knobs) + ip6_knobs(&e.net.knobs) + core_knobs(stack)
        found += conf6_knobs(&e.net.knobs.conf6, ALL6) + conf6_knobs(&e.net.knobs.conf6, CONF6 + "default.")
        self.knobs = {(<Knob>one).name: one for one in found}

    def names(self):
        cdef Net *n = &self.stack.driver.engine.net
        cdef list found = list(self.knobs)
        cdef int k
        collecting = hold(self.stack.driver)
        try:
            for k in range(n.n_ifaces):
                found += [(<Knob>one).name for one in interface_knobs(n.ifaces[k])]
        finally:
            let_go(self.stack.driver, collecting)
        return sorted(found)

    cdef Knob find(self, str name, Iface **iface):
        """The lock is held. *iface: the one that the knob is of, or NULL. Raises KeyError."""
        cdef Net *n = &self.stack.driver.engine.net
        cdef bytes wanted
        cdef list parts = name.split(".")          # net, ipv4 or ipv6, conf, the interface, the knob
        iface[0] = NULL
        if name in self.knobs:
            return self.knobs[name]
        if len(parts) == 5 and parts[2] == "conf":
            wanted = parts[3].replace("/", ".").encode()
            iface[0] = iface_by_name(n, wanted)
            if iface[0] != NULL:
                for one in interface_knobs(iface[0]):
                    if (<Knob>one).name == name:
                        return one
        raise KeyError(name)

    def read(self, str name):
        """The knob's numbers as a tuple. Raises KeyError."""
        cdef Iface *i
        cdef Knob k
        collecting = hold(self.stack.driver)
        try:
            k = self.find(name, &i)
            if i != NULL and k.at == &i.six.mtu and i.six.mtu == 0:
                return (i.mtu,)
            return k.read()
        finally:
            let_go(self.stack.driver, collecting)

    cdef forward(self, Iface *one, bint six):
        """What follows from forwarding on one interface, or all (NULL)."""
        cdef Net *n = &self.stack.driver.engine.net
        cdef int j
        forwarding_changed(n, one, six)
        for j in range(n.n_ifaces):
            if six and (one == NULL or n.ifaces[j] == one):
                mld_addresses(n, n.ifaces[j])      # all routers is a group of its own

    cdef follow(self, Knob k, tuple values, Iface *one):
        """What was said of all interfaces (one NULL) is theirs, and what follows from it is done."""
        cdef Net *n = &self.stack.driver.engine.net
        cdef long offset = conf6_offset(self.stack.driver.engine, k)
        cdef int j
        for j in range(n.n_ifaces):
            if one != NULL and n.ifaces[j] != one:
                continue
            if k.name.endswith(DISABLE6):
                addr6_disable(n, n.ifaces[j], values[0])
            elif one == NULL:
                memcpy(<char *>&n.ifaces[j].six.conf + offset, k.at, k.size)

    def write(self, str name, tuple values):
        """Raises KeyError, ValueError when a number is out of range or there are too many or too few."""
        cdef Driver d = self.stack.driver
        cdef Engine *e = d.engine
        cdef Iface *i
        cdef Knob k
        collecting = hold(d)
        try:
            k = self.find(name, &i)
            check(k, values)
            k.write(values)
            if name.endswith("forward") or name.endswith(".forwarding"):
                self.forward(i, name.startswith(CONF6))
            elif i != NULL or (name.startswith(ALL6) and 0 <= conf6_offset(e, k) < <long>sizeof(Conf6)):
                self.follow(k, values, i)
            knobs_changed(&e.net)              # what was found good or resolved by the old rules is stale
            e.udp.port_lo = e.tcp.knobs.port_lo
            e.udp.port_hi = e.tcp.knobs.port_hi
            if name.startswith("net.ipv4.icmp_msgs"):
                limiter_init(&e.net.icmp_global, e.net.knobs.icmp_msgs_per_sec, e.net.knobs.icmp_msgs_burst, e.core.now)
        finally:
            let_go(d, collecting)
        d.after()
