"""Classic BPF: what the verifier refuses, and verdicts held against the kernel's own and against what tcpdump compiles.

The kernel runs the same program on a datagram between two AF_UNIX sockets: what arrives of it is the verdict.
"""

from __future__ import annotations

import ctypes
import errno
import random
import re
import socket
import struct
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.all import ARP, DNS, DNSQR, ICMP, IP, TCP, UDP, Dot1Q, Ether, IPv6, Packet, Raw
from scapy.layers.inet6 import ICMPv6EchoRequest

from tap_harness.need import missing_program
from ustack_ext.base.testing import bpf_verdict

LD_B_ABS, LD_H_ABS, LD_W_ABS, LD_W_IND, LD_MEM, LDX_MSH = 0x30, 0x28, 0x20, 0x40, 0x60, 0xB1
ST, RET_K, RET_A, JA, JEQ, DIV_K, DIV_X, LSH_K, LDX_IMM, LD_IMM, LD_LEN = (
    0x02, 0x06, 0x16, 0x05, 0x15, 0x34, 0x3C, 0x64, 0x01, 0x00, 0x80,
)  # fmt: skip
AD_OFF, NET_OFF, LL_OFF = 0xFFFFF000, 0xFFF00000, 0xFFE00000
ALL = 0xFFFFFFFF


def packed(*insns: tuple[int, ...]) -> bytes:
    """(code, k) or (code, k, jt, jf) each."""
    return b"".join(struct.pack("HBBI", one[0], *(one[2:] or (0, 0)), one[1]) for one in insns)


def kernel_verdict(program: bytes, packet: bytes) -> int | str:
    """Bytes that the kernel keeps, or how it refuses the program."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with here, there:
        there.setblocking(False)
        held = ctypes.create_string_buffer(program, len(program))
        fprog = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(held))
        try:
            there.setsockopt(socket.SOL_SOCKET, 26, fprog)
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        here.send(packet)
        try:
            return len(there.recv(65536))
        except BlockingIOError:
            return 0


def our_verdict(program: bytes, packet: bytes) -> int | str:
    try:
        return min(bpf_verdict(program, packet), len(packet))
    except OSError as error:
        return errno.errorcode[error.errno or 0]


ACCEPTED = {
    "keep": packed((RET_K, ALL)),
    "length": packed((LD_LEN, 0), (RET_A, 0)),
    "jump to the end": packed((JA, 1), (RET_K, 0), (RET_K, 9)),
    "memory set on both ways": packed(
        (LD_B_ABS, 0), (JEQ, 7, 0, 2), (ST, 3), (JA, 1), (ST, 3), (LD_MEM, 3), (RET_A, 0)
    ),
    "division by a zero X": packed((LDX_IMM, 0), (DIV_X, 0), (RET_K, ALL)),
    "a load beyond the end": packed((LD_W_ABS, 100), (RET_K, ALL)),
    "a load over the end": packed((LD_W_ABS, 13), (RET_K, ALL)),
    "an offset that wraps": packed((LDX_IMM, ALL), (LD_W_IND, 5), (RET_K, ALL)),
    "header length": packed((LDX_MSH, 0), (LD_W_IND, 0), (RET_K, 5)),
    "the longest": packed(*[(LD_IMM, 1)] * 4095, (RET_K, 3)),
}
REFUSED = {
    "empty": b"",
    "half an instruction": packed((RET_K, 1))[:4],
    "too long": packed(*[(LD_IMM, 1)] * 4096, (RET_K, 3)),
    "no return at the end": packed((RET_K, 1), (LD_IMM, 1)),
    "jump outside": packed((JA, 1), (RET_K, 1)),
    "jump far back": packed((JA, ALL), (RET_K, 1)),
    "conditional jump outside": packed((JEQ, 0, 0, 1), (RET_K, 1)),
    "scratch index": packed((LD_IMM, 1), (ST, 16), (RET_K, 1)),
    "scratch read before it is written": packed((LD_MEM, 0), (RET_A, 0)),
    "scratch written on one way only": packed((LD_B_ABS, 0), (JEQ, 7, 0, 1), (ST, 3), (LD_MEM, 3), (RET_A, 0)),
    "division by zero": packed((DIV_K, 0), (RET_K, 1)),
    "a shift of 32": packed((LSH_K, 32), (RET_K, 1)),
    "unknown code": packed((0x1F, 0), (RET_K, 1)),
    "code of two bytes": packed((0x106, 0), (RET_K, 1)),
    "unknown ancillary load": packed((LD_W_ABS, AD_OFF + 100), (RET_K, 1)),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted_as_the_kernel_does(name: str) -> None:
    packet = bytes(range(1, 16))
    verdict = our_verdict(ACCEPTED[name], packet)
    assert isinstance(verdict, int)
    assert verdict == kernel_verdict(ACCEPTED[name], packet)


@pytest.mark.parametrize("name", REFUSED)
def test_refused_as_the_kernel_does(name: str) -> None:
    assert our_verdict(REFUSED[name], b"packet") == "EINVAL"
    if len(REFUSED[name]) % 8 == 0:  # struct sock_fprog counts whole instructions
        assert kernel_verdict(REFUSED[name], b"packet") == "EINVAL"


def test_what_is_around_the_packet() -> None:
    packet = bytes(range(40))
    for offset, expected in ((0, 0x86DD), (4, 4), (8, 7), (44, 0), (48, 0)):
        found = bpf_verdict(packed((LD_W_ABS, AD_OFF + offset), (RET_A, 0)), packet, 14, 0x86DD, 4, 7)
        assert found == expected
    assert bpf_verdict(packed((LD_B_ABS, NET_OFF + 1), (RET_A, 0)), packet, link=14) == 15
    assert bpf_verdict(packed((LD_B_ABS, LL_OFF + 1), (RET_A, 0)), packet, link=14) == 1
    assert bpf_verdict(packed((LD_W_ABS, NET_OFF + 23), (RET_A, 0)), packet, link=14) == 0
    assert bpf_verdict(packed((LD_W_ABS, NET_OFF), (RET_K, 5)), packet, link=41) == 0


# -- programs of a real compiler

EXPRESSIONS = [
    "icmp", "tcp port 80", "udp and dst port 53", "arp", "ip6", "icmp6", "host 10.0.0.1", "src net 10.0.0.0/24",
    "tcp[tcpflags] & (tcp-syn|tcp-fin) != 0", "greater 200", "not ip", "ether broadcast", "ip proto 17 and ip[8] > 10",
    "ip6 host fe80::1", "portrange 50-60", "udp[8:2] = 0x4142", "vlan 7", "ip[2:2] > 100 or len <= 60",
]  # fmt: skip


def compiled(expression: str) -> bytes:
    if reason := missing_program("tcpdump"):
        pytest.skip(reason)
    listing = subprocess.run(
        ["tcpdump", "-y", "EN10MB", "-dd", expression], check=True, capture_output=True, text=True
    ).stdout
    rows = re.findall(r"\{ (\w+), (\d+), (\d+), (\w+) \}", listing)
    assert rows
    return packed(*((int(code, 16), int(k, 16), int(jt), int(jf)) for code, jt, jf, k in rows))


def corpus() -> list[Packet]:
    ether = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    here = IP(src="10.0.0.1", dst="192.0.2.9", ttl=64)
    six = IPv6(src="fe80::1", dst="fe80::2")
    made = [
        ether / here / ICMP(),
        ether / here / TCP(dport=80, flags="S"),
        ether / here / TCP(sport=80, flags="A") / Raw(b"x" * 300),
        ether / IP(src="10.0.1.1", ttl=5) / UDP(dport=53) / DNS(qd=DNSQR(qname="example.org")),
        ether / here / UDP(dport=9) / Raw(b"ABC"),
        ether / IP(src="10.0.0.77", options=b"\x01" * 4) / UDP(dport=55),
        ether / IP(src="10.0.0.1", frag=100) / Raw(b"p" * 40),
        Ether(dst="ff:ff:ff:ff:ff:ff") / ARP(pdst="10.0.0.1"),
        ether / six / ICMPv6EchoRequest(),
        ether / six / TCP(dport=80),
        ether / IPv6(src="2001:db8::1") / UDP(dport=53) / Raw(b"AB"),
        ether / Dot1Q(vlan=7) / here / ICMP(),
    ]
    return [*made, *(Raw(bytes(made[1])[:n]) for n in (0, 1, 13, 14, 15, 33, 34, 47))]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_what_tcpdump_compiles(expression: str) -> None:
    filtered = compiled(expression)
    if expression == "vlan 7":  # its tag may be in the packet or beside it, where neither of us has it
        assert bpf_verdict(filtered, bytes(corpus()[-9])) > 0
    for packet in corpus():
        raw = bytes(packet)
        if raw:
            assert our_verdict(filtered, raw) == kernel_verdict(filtered, raw), packet


# -- programs of nobody

_CODES = [
    0x00, 0x20, 0x28, 0x30, 0x40, 0x48, 0x50, 0x60, 0x80, 0x01, 0x61, 0x81, 0xB1, 0x02, 0x03, 0x04, 0x0C, 0x14, 0x1C,
    0x24, 0x2C, 0x34, 0x3C, 0x44, 0x4C, 0x54, 0x5C, 0x64, 0x6C, 0x74, 0x7C, 0x84, 0x94, 0x9C, 0xA4, 0xAC, 0x05, 0x15,
    0x1D, 0x25, 0x2D, 0x35, 0x3D, 0x45, 0x4D, 0x06, 0x16, 0x07, 0x87,
]  # fmt: skip


def random_program(seed: int) -> bytes:
    """Mostly well-formed, so that it gets past the verifier now and then."""
    r = random.Random(seed)
    n = r.randint(1, 24)
    insns = []
    for at in range(n):
        left = n - at - 1
        code = r.choice(_CODES)
        k = r.choice([r.randrange(20), r.randrange(1 << 32), r.randrange(4), AD_OFF + 4 * r.choice([0, 1, 10])])
        if code & 7 == 5 and code & 0xF0 == 0 and left and r.random() < 0.9:
            k = r.randrange(left)
        if code in (0x02, 0x03, 0x60, 0x61) and r.random() < 0.95:
            k = r.randrange(4)
        insns.append((code, k, r.randrange(max(left, 1)), r.randrange(max(left, 1))))
    memory = [(ST, k) for k in range(4)] if r.random() < 0.8 else []
    return packed(*memory, *insns, (r.choice([RET_K, RET_A]), r.randrange(40)))


@pytest.mark.parametrize("base", range(0, 4000, 1000))
def test_random_programs_as_the_kernel_runs_them(base: int) -> None:
    accepted = 0
    for seed in range(base, base + 1000):
        program_, packet = random_program(seed), random.Random(seed).randbytes(1 + seed % 40)
        verdict = our_verdict(program_, packet)
        assert verdict == kernel_verdict(program_, packet), (seed, program_.hex(), packet.hex())
        accepted += isinstance(verdict, int)
    assert 200 < accepted < 990


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400), st.binary(max_size=80), st.integers(0, 100))
def test_nothing_crashes(program_: bytes, packet: bytes, link: int) -> None:
    try:
        verdict = bpf_verdict(program_ + packed((RET_A, 0)), packet, link)
    except OSError:
        return
    assert 0 <= verdict <= ALL
