# The settings of sockets (TcpConf), shared by all that have the same: a connection holds a pointer, never a copy.
from ustack_ext.tcp.tcb cimport Tcp, TcpConf
from ustack_ext.wire.addr cimport Addr

# A reference to a shared copy of *value. NULL without memory.
cdef const TcpConf *conf_share(Tcp *t, const TcpConf *value) noexcept nogil
# *slot's reference becomes one to a copy of *value. 0 or -ENOMEM
cdef int conf_set(Tcp *t, const TcpConf **slot, const TcpConf *value) noexcept nogil
# A reference for a connection that a listener with these settings takes.
cdef const TcpConf *conf_of_child(Tcp *t, const TcpConf *conf, const Addr *peer) noexcept nogil
cdef const TcpConf *conf_ref(const TcpConf *conf) noexcept nogil           # one more reference; returns its argument
cdef void tcp_conf_default(Tcp *t, TcpConf *conf) noexcept nogil           # fills in the defaults in force now
cdef void conf_unref(Tcp *t, const TcpConf *conf) noexcept nogil           # NULL: nothing is done
