# The face of TCP to the engine and the socket layer: everything they call can be cimported from here. Every call
# returns 0 (or a count) or -errno.
# After any of them, whoever holds the engine calls engine_poll(), which sends what became due.
from ustack_ext.base.core cimport Core
from ustack_ext.net.state cimport Net
from ustack_ext.tcp.ahead cimport tcp_ahead
from ustack_ext.tcp.conf cimport tcp_conf_default
from ustack_ext.tcp.forward cimport (
    forward_accept, forward_close, forward_event, forward_open, forward_refuse, forward_take,
)
from ustack_ext.tcp.icmp cimport tcp_icmp_error
from ustack_ext.tcp.input cimport tcp_input
from ustack_ext.tcp.merged cimport tcp_input_merged
from ustack_ext.tcp.tcb cimport Bind, Listener, Tcb, Tcp, TcpConf
from ustack_ext.tcp.timers cimport tcp_timer, tcp_timer_settle
from ustack_ext.tcp.urgent cimport has_mark, tcp_at_mark, tcp_inq, tcp_mark_urgent, tcp_recv_urgent, urgent_hidden
from ustack_ext.tcp.user cimport (
    tcp_abort, tcp_accept, tcp_bind, tcp_close, tcp_close_listener, tcp_connect, tcp_consume, tcp_listen,
    tcp_listener_ready, tcp_rcvbuf, tcp_ready, tcp_recv, tcp_send, tcp_set_backlog, tcp_set_conf,
    tcp_set_listener_conf, tcp_shutdown, tcp_sndbuf, tcp_take_error, tcp_unbind,
)
from ustack_ext.tcp.zerocopy cimport (
    tcp_give_back, tcp_lend, tcp_send_block, tcp_send_later, tcp_send_owned, tcp_send_room,
)

cdef int tcp_init(Tcp *t, Core *core, Net *net) noexcept nogil             # 0 or -ENOMEM
# drops everything without a word to the peers
cdef void tcp_destroy(Tcp *t) noexcept nogil
# sends for every connection on the dirty list
cdef void tcp_flush(Tcp *t) noexcept nogil
