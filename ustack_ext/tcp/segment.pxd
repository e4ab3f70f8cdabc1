# A received segment, parsed, on the stack of tcp_input; and the replies that need no connection.
from libc.stdint cimport uint32_t, uint8_t
from ustack_ext.net.state cimport RxPkt
from ustack_ext.tcp.options cimport Options
from ustack_ext.tcp.tcb cimport Conn, Md5Keys, Tcp
from ustack_ext.wire.headers cimport TcpHdr

cdef struct SegIn:
    RxPkt *rx
    TcpHdr h
    Options o
    uint8_t *data
    uint32_t n                 # payload bytes
    uint32_t len               # SEG.LEN: payload, SYN and FIN counted
    uint32_t cut               # SEG.SEQ has moved on by so much: what was cut off
    uint32_t segs              # segments that it stands for
    bint syn                   # there was a SYN, which was cut off: the window is not scaled

# Parses and verifies; false: dropped and counted.
cdef bint segment_parse(Tcp *t, RxPkt *rx, SegIn *s) noexcept nogil
# The reset of RFC 9293 §3.10.7.1 for a segment that belongs to nobody.
cdef void reply_reset(Tcp *t, SegIn *s) noexcept nogil
# The keys of an entry of the demux table.
cdef const Md5Keys *md5_keys_of(const Conn *who) noexcept nogil
# Cuts what lies before `from_seq`, SYN first.
cdef void segment_trim(SegIn *s, uint32_t from_seq) noexcept nogil
