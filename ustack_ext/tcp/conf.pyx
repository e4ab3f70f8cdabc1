"""The settings of sockets (TcpConf), shared by all that have the same.

Most sockets have the defaults, and a server's connections have its listener's. A changed setting is a new TcpConf, so
that nobody else sees the change; it is compared with the last few that were made, so that a server which sets the same
option on each connection makes one and not thousands.
"""
from libc.errno cimport ENOMEM
from libc.stdint cimport uint32_t
from libc.string cimport memcmp, memset

from ustack_ext.base.slab cimport slab_alloc, slab_free
from ustack_ext.tcp.md5 cimport md5_drop, md5_hold, md5_only
from ustack_ext.tcp.tcb cimport ConfCell, Tcp, TcpConf
from ustack_ext.wire.addr cimport Addr

cdef enum:
    RECENT = 8                     # as Tcp.recent_confs


cdef void note_recent(Tcp *t, TcpConf *conf) noexcept nogil:
    cdef int i
    for i in range(RECENT - 1, 0, -1):
        t.recent_confs[i] = t.recent_confs[i - 1]
    t.recent_confs[0] = conf


cdef const TcpConf *conf_share(Tcp *t, const TcpConf *value) noexcept nogil:
    cdef ConfCell *cell
    cdef int i
    for i in range(RECENT):
        if t.recent_confs[i] != NULL and memcmp(t.recent_confs[i], value, sizeof(TcpConf)) == 0:
            return conf_ref(t.recent_confs[i])
    cell = <ConfCell *>slab_alloc(&t.confs)
    if cell == NULL:
        return NULL
    cell.conf = value[0]
    cell.refs = 1
    md5_hold(cell.conf.md5)
    note_recent(t, &cell.conf)
    return &cell.conf


cdef void tcp_conf_default(Tcp *t, TcpConf *conf) noexcept nogil:
    memset(conf, 0, sizeof(TcpConf))                         # its padding is compared too
    conf.keepidle = t.knobs.keepalive_time
    conf.keepintvl = <unsigned short>t.knobs.keepalive_intvl
    conf.keepcnt = <unsigned char>t.knobs.keepalive_probes
    if t.knobs.notsent_lowat != <uint32_t>0xFFFFFFFF:
        conf.notsent_lowat = t.knobs.notsent_lowat
    conf.cc = t.knobs.congestion


cdef int conf_set(Tcp *t, const TcpConf **slot, const TcpConf *value) noexcept nogil:
    cdef const TcpConf *conf = conf_share(t, value)
    if conf == NULL:
        return -ENOMEM
    conf_unref(t, slot[0])
    slot[0] = conf
    return 0


cdef const TcpConf *conf_of_child(Tcp *t, const TcpConf *conf, const Addr *peer) noexcept nogil:
    """A reference for a connection that a listener with these settings takes: of its keys the peer's alone, as Linux,
    so that a segment's sender is not compared with all of them.
    """
    cdef TcpConf value
    cdef const TcpConf *made
    if conf.md5 == NULL or conf.md5.count == 1:
        return conf_ref(conf)
    value = conf[0]
    if not md5_only(conf.md5, peer, &value.md5):
        return conf_ref(conf)
    made = conf_share(t, &value)
    md5_drop(value.md5)
    return made if made != NULL else conf_ref(conf)


cdef const TcpConf *conf_ref(const TcpConf *conf) noexcept nogil:
    (<ConfCell *>conf).refs += 1
    return conf


cdef void conf_unref(Tcp *t, const TcpConf *conf) noexcept nogil:
    cdef ConfCell *cell = <ConfCell *>conf
    cdef uint32_t i
    if cell == NULL:
        return
    cell.refs -= 1
    if cell.refs > 0:
        return
    for i in range(RECENT):
        if t.recent_confs[i] == conf:
            t.recent_confs[i] = NULL
    md5_drop(cell.conf.md5)
    slab_free(&t.confs, cell)
