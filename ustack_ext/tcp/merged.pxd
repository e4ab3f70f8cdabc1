# A run of data segments that the engine joined into one packet.
from ustack_ext.net.state cimport RxPkt
from ustack_ext.tcp.tcb cimport Tcp

# rx.buf holds the first segment, rx.more the others, each buffer trimmed to its payload with its own headers before it;
# rx.gso_size is the longest payload. Takes over the references of rx.more, not that of rx.buf. Every segment is whole,
# plain data (ACK, maybe PSH), its checksum right.
cdef void tcp_input_merged(Tcp *t, RxPkt *rx) noexcept nogil
