# TCP's knobs, one set a stack (sysctl net.ipv4.tcp_*), and the bits of those that have some.
from libc.stdint cimport uint8_t, uint16_t, uint32_t

cdef struct TcpKnobs:              # net.ipv4.tcp_*
    uint32_t rmem_min
    uint32_t rmem_default
    uint32_t rmem_max
    uint32_t wmem_min
    uint32_t wmem_default
    uint32_t wmem_max
    uint8_t syn_retries
    uint8_t synack_retries
    uint8_t retries1
    uint8_t retries2
    uint8_t orphan_retries
    uint8_t timestamps
    uint8_t sack
    uint8_t window_scaling
    uint8_t slow_start_after_idle
    uint8_t abort_on_overflow
    uint8_t rfc1337
    uint8_t moderate_rcvbuf
    uint8_t dsack
    uint8_t early_retrans          # 3: TLP
    uint8_t syncookies             # 0 never, 1 when the SYN queue is full, 2 always
    uint8_t tw_reuse               # 0 never, 1 always, 2 on the loopback interface
    uint32_t fastopen              # FASTOPEN_*
    uint32_t notsent_lowat
    uint8_t ecn                    # 1: ask for it and answer, 2: answer
    uint8_t ecn_fallback
    uint8_t congestion             # CcId: of sockets made from now on
    uint8_t congestion_allowed     # what TCP_CONGESTION may choose: a bit (1 << CcId) each
    uint8_t mtu_probing            # 0: no, 1: after a black hole was met, 2: always
    uint8_t frto                   # RFC 5682
    uint8_t stdurg                 # a received urgent pointer names the last urgent octet, not the one after it
    uint8_t recovery               # 1: RACK; 2: its window stays, no D-SACK widens it
    uint32_t init_cwnd             # segments
    uint32_t fin_timeout           # s
    uint32_t max_tw_buckets
    uint32_t max_syn_backlog
    uint32_t max_orphans
    uint32_t keepalive_time        # s
    uint32_t keepalive_intvl
    uint32_t keepalive_probes
    uint32_t invalid_ratelimit     # ms
    uint32_t challenge_ack_limit   # a second
    uint32_t rto_min_us
    uint32_t rto_max_ms
    uint32_t delack_min_us         # 40 ms
    uint32_t delack_max_us         # 200 ms
    uint32_t min_snd_mss
    uint32_t base_mss              # black holes and probing: the size to begin at
    uint32_t mtu_probe_floor
    uint32_t probe_threshold       # bytes: a search ends when its range is smaller
    uint32_t mss_clamp             # 0: none. Neither told nor used beyond it (not Linux's: netfilter does it there)
    uint32_t somaxconn
    uint16_t port_lo
    uint16_t port_hi

cdef enum:                         # net.ipv4.tcp_fastopen
    FASTOPEN_CLIENT = 1
    FASTOPEN_SERVER = 2
    FASTOPEN_CLIENT_NO_COOKIE = 4
    FASTOPEN_SERVER_NO_COOKIE = 0x200
    FASTOPEN_ANY_LISTENER = 0x400
