# What a socket may set: TcpConf, and the keys it may hold (RFC 2385).
from libc.stdint cimport int16_t, uint16_t, uint32_t, uint64_t, uint8_t
from ustack_ext.wire.addr cimport Addr

cdef enum:
    MD5_KEY_MAX = 80               # Linux's TCP_MD5SIG_MAXKEYLEN

cdef struct Md5Key:                # what segments from and to these peers are signed with (RFC 2385)
    Addr addr                      # its bits beyond the prefix are 0
    uint8_t prefix                 # of 128
    uint8_t len
    uint8_t key[80]                # MD5_KEY_MAX

cdef struct Md5Keys:               # a socket's keys, longest prefix first; never changed, shared, counted
    uint32_t refs
    uint32_t count
    Md5Key keys[1]                 # count of them

# What a socket may set before or during a connection. Never changed in place: sockets with the same settings share one
# (tcp/conf).
cdef struct TcpConf:
    uint32_t rcvbuf                # bytes; 0: tcp_rmem's default, autotuned
    uint32_t sndbuf
    uint64_t max_pacing_rate       # bytes/s; 0: none
    uint32_t user_timeout          # ms; 0: by retries
    uint32_t uto                   # s, to advertise (RFC 5482's ADV_UTO); 0: the option is not used
    uint32_t uto_peer              # s, what the peer advertised; 0: nothing
    uint8_t uto_due                # the next segment has to tell it
    uint32_t keepidle              # s
    uint16_t keepintvl             # s
    uint16_t maxseg                # 0: from the path
    uint8_t keepcnt
    uint8_t keepalive
    uint8_t nodelay
    uint8_t tos
    uint8_t ttl                    # 0: default
    uint8_t reuseaddr
    uint8_t linger                 # SO_LINGER l_onoff
    uint16_t linger_time           # s
    uint32_t notsent_lowat         # bytes; 0: no limit
    uint32_t window_clamp          # bytes; 0: none
    uint32_t rcvlowat              # bytes; 0: 1
    uint32_t fastopen              # of a listener: connections that may be open before their handshake is done
    int16_t linger2                # s in FIN-WAIT-2; 0: tcp_fin_timeout, -1: not at all
    uint8_t syncnt                 # SYNs sent again; 0: tcp_syn_retries
    uint8_t defer_accept           # SYN-ACK time-outs that an empty handshake waits for data; 0: none
    uint8_t cork
    uint8_t reuseport
    uint8_t fastopen_connect       # connect() waits for the first write, if there is a cookie
    uint8_t fastopen_no_cookie
    uint8_t pmtudisc               # IP_PMTUDISC_*, plus 1; 0: the default
    uint8_t recverr
    uint8_t cc                     # CcId: the congestion control algorithm
    uint8_t oobinline              # SO_OOBINLINE
    Md5Keys *md5                   # TCP_MD5SIG; NULL: no key (tcp/md5)

cdef struct ConfCell:              # a TcpConf and who counts on it
    TcpConf conf
    uint32_t refs
