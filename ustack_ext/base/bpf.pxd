# Classic BPF: small programs over a packet that say how many bytes of it to keep. Checked once, when they are given;
# then run without any way to go wrong. Knows no protocol.
from libc.stdint cimport uint8_t, uint16_t, uint32_t

cdef enum:
    BPF_MAXINSNS = 4096

cdef struct BpfInsn:               # struct sock_filter
    uint16_t code
    uint8_t jt
    uint8_t jf
    uint32_t k

cdef struct BpfPacket:             # what a program may look at
    const uint8_t *data            # where its offset 0 is
    uint32_t length
    const uint8_t *net             # SKF_NET_OFF; NULL: not there
    uint32_t net_length
    const uint8_t *link            # SKF_LL_OFF; NULL: not there
    uint32_t link_length
    uint32_t protocol              # SKF_AD_PROTOCOL: the EtherType
    uint32_t pkttype               # SKF_AD_PKTTYPE
    uint32_t ifindex               # SKF_AD_IFINDEX
    uint32_t hatype                # SKF_AD_HATYPE

cdef struct Bpf:                   # a program that was found good
    uint32_t count
    BpfInsn insns[1]               # as many as there are

# Copies and checks a packed array of struct sock_filter. NULL: *status is -EINVAL or -ENOMEM.
cdef Bpf *bpf_new(const uint8_t *raw, size_t size, int *status) noexcept nogil
cdef void bpf_free(Bpf *program) noexcept nogil                                    # NULL is fine
cdef uint32_t bpf_run(const Bpf *program, const BpfPacket *p) noexcept nogil       # bytes to keep; 0: drop
