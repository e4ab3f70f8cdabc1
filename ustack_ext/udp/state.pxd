# Every struct of the udp layer; the functions over them are in demux, recv, send and udp.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from ustack_ext.wire.addr cimport Addr
from ustack_ext.base.buf cimport BufQueue
from ustack_ext.base.core cimport Core
from ustack_ext.base.entry cimport Entry
from ustack_ext.base.event cimport Source
from ustack_ext.base.slab cimport Slab
from ustack_ext.base.table cimport Table
from ustack_ext.net.state cimport Dst, Net

cdef enum:
    UDP_BOUND = 1
    UDP_CONNECTED = 2
    UDP_REUSEADDR = 4
    UDP_BROADCAST = 8          # SO_BROADCAST
    UDP_SHUT_RD = 16
    UDP_SHUT_WR = 32
    UDP_IS_PING = 64           # SOCK_DGRAM, IPPROTO_ICMP
    UDP_LADDR_GIVEN = 128      # laddr is the application's choice, not connect's

# Stored in front of each queued datagram's payload (buf.data[0 : sizeof]); buf.off/len cover the payload only.
cdef struct UdpMeta:
    Addr src
    Addr dst
    uint16_t sport
    uint8_t tos
    uint8_t ttl
    uint32_t ifindex

cdef struct UdpSock:
    Entry entry                # in udp.socks, hashed by local port (ENTRY_UDP) or by ident (ENTRY_PING)
    Source source
    Addr laddr                 # addr_none(): any
    Addr raddr
    uint16_t lport
    uint16_t rport
    uint8_t flags
    uint8_t tos
    uint8_t ttl                # 0: default
    uint8_t reuseport          # SO_REUSEPORT: shares its port by a hash of the peer
    uint8_t want_err           # IP_RECVERR: soft ICMP errors count too
    uint32_t bind_order        # of equal matches the latest bound gets the datagram
    int error                  # pending SO_ERROR (positive errno)
    uint32_t rcvbuf            # bytes of truesize at most
    uint32_t sndbuf
    uint32_t rcv_used
    BufQueue queue
    Dst dst                    # of the connected peer

cdef struct Udp:
    Core *core
    Net *net
    Table socks
    Slab slab
    uint32_t rmem_default      # 212992, as Linux
    uint32_t wmem_default
    uint16_t port_lo           # ip_local_port_range: 32768
    uint16_t port_hi           # 60999
    uint32_t bind_count
