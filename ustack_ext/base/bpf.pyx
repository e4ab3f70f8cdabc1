"""Classic BPF, as it came from BSD (McCanne and Jacobson, 1993) and as Linux's socket filters have it: the verifier
and the interpreter.

Responsible for refusing what could go wrong, and for running what cannot: jumps go forward and stay inside, so a
program ends after at most as many steps as it has instructions; every load is held against the packet's length and ends
the program with 0 where it is outside; scratch memory is written before it is read. Not for what the bytes mean.

Of Linux's ancillary loads there are those that a compiler emits (protocol, packet type, interface, hardware type, VLAN
tag: none is ever outside the packet here) and, as zeros, mark, queue, hash and processor; the rest is refused.
"""
from libc.errno cimport EINVAL, ENOMEM
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from ustack_ext.wire.bytes cimport get_be16, get_be32

cdef enum:
    MEMWORDS = 16
    CLASS_LD = 0x00
    CLASS_LDX = 0x01
    CLASS_ST = 0x02
    CLASS_STX = 0x03
    CLASS_ALU = 0x04
    CLASS_JMP = 0x05
    CLASS_RET = 0x06
    CLASS_MISC = 0x07
    LD_IMM = 0x00
    LD_ABS_W = 0x20
    LD_ABS_H = 0x28
    LD_ABS_B = 0x30
    LD_IND_W = 0x40
    LD_IND_H = 0x48
    LD_IND_B = 0x50
    LD_MEM = 0x60
    LD_LEN = 0x80
    LDX_IMM = 0x01
    LDX_MEM = 0x61
    LDX_LEN = 0x81
    LDX_MSH = 0xB1
    SRC_X = 0x08
    ALU_ADD = 0x00
    ALU_SUB = 0x10
    ALU_MUL = 0x20
    ALU_DIV = 0x30
    ALU_OR = 0x40
    ALU_AND = 0x50
    ALU_LSH = 0x60
    ALU_RSH = 0x70
    ALU_NEG = 0x80
    ALU_MOD = 0x90
    ALU_XOR = 0xA0
    JMP_JA = 0x00
    JMP_JEQ = 0x10
    JMP_JGT = 0x20
    JMP_JGE = 0x30
    JMP_JSET = 0x40
    RET_K = 0x06
    RET_A = 0x16
    MISC_TAX = 0x07
    MISC_TXA = 0x87
    AD_PROTOCOL = 0            # SKF_AD_*: what k is beyond SKF_AD_OFF
    AD_PKTTYPE = 4
    AD_IFINDEX = 8
    AD_MARK = 20
    AD_QUEUE = 24
    AD_HATYPE = 28
    AD_RXHASH = 32
    AD_CPU = 36
    AD_ALU_XOR_X = 40
    AD_VLAN_TAG = 44
    AD_VLAN_TAG_PRESENT = 48
    AD_VLAN_TPID = 60

cdef extern from *:
    """
    #define USTACK_SKF_AD_OFF 0xFFFFF000u
    #define USTACK_SKF_NET_OFF 0xFFF00000u
    #define USTACK_SKF_LL_OFF 0xFFE00000u
    """
    const uint32_t SKF_AD_OFF "USTACK_SKF_AD_OFF"
    const uint32_t SKF_NET_OFF "USTACK_SKF_NET_OFF"
    const uint32_t SKF_LL_OFF "USTACK_SKF_LL_OFF"

cdef struct Machine:
    uint32_t a
    uint32_t x
    uint32_t mem[16]


# --- the verifier ---

cdef bint is_absolute(uint16_t code) noexcept nogil:
    return code == LD_ABS_W or code == LD_ABS_H or code == LD_ABS_B


cdef bint ancillary_known(uint32_t what) noexcept nogil:
    return (what == AD_PROTOCOL or what == AD_PKTTYPE or what == AD_IFINDEX or what == AD_MARK or what == AD_QUEUE
            or what == AD_HATYPE or what == AD_RXHASH or what == AD_CPU or what == AD_ALU_XOR_X
            or what == AD_VLAN_TAG or what == AD_VLAN_TAG_PRESENT or what == AD_VLAN_TPID)


cdef bint load_good(uint16_t code, uint32_t k) noexcept nogil:
    if is_absolute(code):
        return k < SKF_AD_OFF or ancillary_known(k - SKF_AD_OFF)
    if code == LD_MEM or code == LDX_MEM:
        return k < MEMWORDS
    return (code == LD_IMM or code == LDX_IMM or code == LD_LEN or code == LDX_LEN or code == LDX_MSH
            or code == LD_IND_W or code == LD_IND_H or code == LD_IND_B)


cdef bint arithmetic_good(uint16_t code, uint32_t k) noexcept nogil:
    cdef int op = code & 0xF0
    if op == ALU_NEG:
        return not code & SRC_X
    if op > ALU_XOR:
        return False
    if code & SRC_X:
        return True
    if op == ALU_DIV or op == ALU_MOD:
        return k != 0
    return k < 32 if op == ALU_LSH or op == ALU_RSH else True


cdef bint jump_good(const BpfInsn *i, uint32_t left) noexcept nogil:
    """`left`: instructions behind this one."""
    cdef int op = i.code & 0xF0
    if op == JMP_JA:
        return not i.code & SRC_X and i.k < left
    return op <= JMP_JSET and i.jt < left and i.jf < left


cdef bint insn_good(const BpfInsn *i, uint32_t left) noexcept nogil:
    cdef int cls = i.code & 7
    if i.code > 0xFF:
        return False
    if cls == CLASS_LD or cls == CLASS_LDX:
        return load_good(i.code, i.k)
    if cls == CLASS_ST or cls == CLASS_STX:
        return i.code == cls and i.k < MEMWORDS
    if cls == CLASS_ALU:
        return arithmetic_good(i.code, i.k)
    if cls == CLASS_JMP:
        return jump_good(i, left)
    if cls == CLASS_RET:
        return i.code == RET_K or i.code == RET_A
    return i.code == MISC_TAX or i.code == MISC_TXA


cdef bint memory_good(const BpfInsn *insns, uint32_t n) noexcept nogil:
    """On whatever way a load of scratch memory is reached, that word was stored to before."""
    cdef uint16_t reached[BPF_MAXINSNS]        # words that are set on every way to an instruction
    cdef uint16_t set_ = 0
    cdef uint32_t pc
    cdef const BpfInsn *i
    for pc in range(n):
        reached[pc] = 0xFFFF
    for pc in range(n):
        i = &insns[pc]
        set_ &= reached[pc]
        if i.code == CLASS_ST or i.code == CLASS_STX:
            set_ |= <uint16_t>(1 << i.k)
        elif i.code == LD_MEM or i.code == LDX_MEM:
            if not set_ >> i.k & 1:
                return False
        elif i.code & 7 == CLASS_JMP:
            if i.code & 0xF0 == JMP_JA:
                reached[pc + 1 + i.k] &= set_
            else:
                reached[pc + 1 + i.jt] &= set_
                reached[pc + 1 + i.jf] &= set_
            set_ = 0xFFFF                      # the next one is reached by jumps only
    return True


cdef Bpf *bpf_new(const uint8_t *raw, size_t size, int *status) noexcept nogil:
    cdef size_t n = size // sizeof(BpfInsn)
    cdef Bpf *program
    cdef uint32_t pc
    cdef bint good = True
    status[0] = -EINVAL
    if n == 0 or n > BPF_MAXINSNS or size % sizeof(BpfInsn) != 0:
        return NULL
    program = <Bpf *>malloc(sizeof(Bpf) + n * sizeof(BpfInsn))
    if program == NULL:
        status[0] = -ENOMEM
        return NULL
    program.count = <uint32_t>n
    memcpy(program.insns, raw, size)
    for pc in range(program.count):
        good = good and insn_good(&program.insns[pc], program.count - pc - 1)
    if good and program.insns[n - 1].code & 7 == CLASS_RET and memory_good(program.insns, program.count):
        status[0] = 0
        return program
    free(program)
    return NULL


cdef void bpf_free(Bpf *program) noexcept nogil:
    free(program)


# --- the interpreter ---

cdef inline bint fetch(const BpfPacket *p, uint32_t at, uint32_t size, uint32_t *value) noexcept nogil:
    """False: outside of the packet."""
    cdef const uint8_t *base = p.data
    cdef uint32_t have = p.length
    if at >= SKF_LL_OFF:
        if at >= SKF_NET_OFF:
            at -= SKF_NET_OFF
            base = p.net
            have = p.net_length
        else:
            at -= SKF_LL_OFF
            base = p.link
            have = p.link_length
        if base == NULL:
            return False
    if size > have or at > have - size:
        return False
    base += at
    value[0] = get_be32(base) if size == 4 else get_be16(base) if size == 2 else base[0]
    return True


cdef void ancillary(Machine *m, const BpfPacket *p, uint32_t what) noexcept nogil:
    if what == AD_PROTOCOL:
        m.a = p.protocol
    elif what == AD_PKTTYPE:
        m.a = p.pkttype
    elif what == AD_IFINDEX:
        m.a = p.ifindex
    elif what == AD_HATYPE:
        m.a = p.hatype
    elif what == AD_ALU_XOR_X:
        m.a ^= m.x
    else:
        m.a = 0


cdef inline uint32_t size_of(uint16_t code) noexcept nogil:
    return 1 if code & 0x10 else 2 if code & 0x08 else 4


cdef bint load(Machine *m, const BpfInsn *i, const BpfPacket *p) noexcept nogil:
    """False: the program ends, with 0."""
    cdef uint32_t value = 0
    if is_absolute(i.code):
        if i.k >= SKF_AD_OFF:
            ancillary(m, p, i.k - SKF_AD_OFF)
            return True
        return fetch(p, i.k, size_of(i.code), &m.a)
    if i.code == LD_IND_W or i.code == LD_IND_H or i.code == LD_IND_B:
        return fetch(p, m.x + i.k, size_of(i.code), &m.a)
    if i.code == LDX_MSH:                      # the length of an IPv4 header, which is why there is such a thing
        if not fetch(p, i.k, 1, &value):
            return False
        m.x = (value & 0xF) << 2
        return True
    value = i.k
    if i.code == LD_MEM or i.code == LDX_MEM:
        value = m.mem[i.k]
    elif i.code == LD_LEN or i.code == LDX_LEN:
        value = p.length
    if i.code & 7 == CLASS_LDX:
        m.x = value
    else:
        m.a = value
    return True


cdef bint arithmetic(Machine *m, uint16_t code, uint32_t k) noexcept nogil:
    """False: a division by zero ends the program, with 0."""
    cdef int op = code & 0xF0
    if code & SRC_X:
        k = m.x
    if op == ALU_ADD:
        m.a += k
    elif op == ALU_SUB:
        m.a -= k
    elif op == ALU_MUL:
        m.a *= k
    elif op == ALU_OR:
        m.a |= k
    elif op == ALU_AND:
        m.a &= k
    elif op == ALU_XOR:
        m.a ^= k
    elif op == ALU_LSH:
        m.a <<= k & 31
    elif op == ALU_RSH:
        m.a >>= k & 31
    elif op == ALU_NEG:
        m.a = 0 - m.a
    elif k == 0:
        return False
    elif op == ALU_DIV:
        m.a //= k
    else:
        m.a %= k
    return True


cdef inline bint holds(const Machine *m, uint16_t code, uint32_t k) noexcept nogil:
    cdef int op = code & 0xF0
    if code & SRC_X:
        k = m.x
    if op == JMP_JEQ:
        return m.a == k
    if op == JMP_JGT:
        return m.a > k
    if op == JMP_JGE:
        return m.a >= k
    return (m.a & k) != 0


cdef uint32_t bpf_run(const Bpf *program, const BpfPacket *p) noexcept nogil:
    cdef const BpfInsn *i = &program.insns[0]
    cdef Machine m
    cdef int cls
    memset(&m, 0, sizeof(m))
    while True:                                # ends: jumps go forward, and the last instruction returns
        cls = i.code & 7
        if cls == CLASS_RET:
            return i.k if i.code == RET_K else m.a
        if cls == CLASS_LD or cls == CLASS_LDX:
            if not load(&m, i, p):
                return 0
        elif cls == CLASS_ALU:
            if not arithmetic(&m, i.code, i.k):
                return 0
        elif cls == CLASS_JMP:
            if i.code & 0xF0 == JMP_JA:
                i += i.k
            else:
                i += i.jt if holds(&m, i.code, i.k) else i.jf
        elif cls == CLASS_ST:
            m.mem[i.k] = m.a
        elif cls == CLASS_STX:
            m.mem[i.k] = m.x
        elif i.code == MISC_TAX:
            m.x = m.a
        else:
            m.a = m.x
        i += 1
