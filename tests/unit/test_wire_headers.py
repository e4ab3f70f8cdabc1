"""Headers parsed and emitted, byte for byte against scapy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from ustack_ext.wire import codec

u8 = st.integers(0, 0xFF)
u16 = st.integers(0, 0xFFFF)
u32 = st.integers(0, 0xFFFFFFFF)
mac = st.binary(min_size=6, max_size=6)


def dotted(ip: int) -> str:
    return ".".join(str(byte) for byte in ip.to_bytes(4, "big"))


@given(mac, mac, u16, st.binary(max_size=20))
def test_ethernet(dst: bytes, src: bytes, ethertype: int, payload: bytes) -> None:
    theirs = bytes(Ether(dst=dst.hex(":"), src=src.hex(":"), type=ethertype))
    assert codec.emit_ethernet(dst, src, ethertype) == theirs
    assert codec.parse_ethernet(theirs + payload) == {"dst": dst, "src": src, "ethertype": ethertype}


@pytest.mark.rfc("826", "-")
@given(st.sampled_from([1, 2]), mac, u32, mac, u32)
def test_arp(op: int, sha: bytes, spa: int, tha: bytes, tpa: int) -> None:
    theirs = bytes(ARP(op=op, hwsrc=sha.hex(":"), psrc=dotted(spa), hwdst=tha.hex(":"), pdst=dotted(tpa)))
    assert codec.emit_arp(op, sha, spa, tha, tpa) == theirs
    padded = theirs + bytes(18)      # to the shortest Ethernet frame
    assert codec.parse_arp(padded) == {"op": op, "sha": sha, "spa": spa, "tha": tha, "tpa": tpa}


@pytest.mark.rfc("791", "3.1")
@given(u32, u32, u8, u8, u16, st.booleans(), st.booleans(), st.integers(0, 0x1FFF), u8, st.binary(max_size=40),
       st.binary(max_size=20))
def test_ipv4(src: int, dst: int, proto: int, tos: int, ident: int, df: bool, mf: bool, offset: int, ttl: int,
              payload: bytes, padding: bytes) -> None:
    flags = ("DF" if df else "") + ("+" if df and mf else "") + ("MF" if mf else "")
    theirs = bytes(IP(src=dotted(src), dst=dotted(dst), proto=proto, tos=tos, id=ident, flags=flags, frag=offset,
                      ttl=ttl) / Raw(payload))
    assert codec.emit_ipv4(src, dst, proto, 20 + len(payload), tos, ident, df, mf, offset * 8, ttl) == theirs[:20]
    assert codec.parse_ipv4(theirs + padding) == {
        "hlen": 20, "tos": tos, "total_len": 20 + len(payload), "id": ident, "df": df, "mf": mf, "frag_off": offset * 8,
        "ttl": ttl, "proto": proto, "src": src, "dst": dst}


def test_ipv4_reserved_flag_is_ignored() -> None:
    """RFC 791 says it is zero; RFC 3514 notwithstanding, a set one changes nothing."""
    theirs = bytes(IP(src="1.2.3.4", dst="5.6.7.8", flags="evil+DF"))
    assert theirs[6] & 0x80
    fields = codec.parse_ipv4(theirs)
    assert (fields["df"], fields["mf"], fields["frag_off"]) == (True, False, 0)


@given(st.integers(0, 10))
def test_ipv4_with_options(words: int) -> None:
    theirs = bytes(IP(src="1.2.3.4", dst="5.6.7.8", options=b"\x01" * (4 * words)) / Raw(b"data"))
    fields = codec.parse_ipv4(theirs)
    assert fields["hlen"] == 20 + 4 * words
    assert theirs[fields["hlen"]:] == b"data"


@pytest.mark.rfc("792", "-")
@given(u8, u8, u32, st.binary(max_size=101))
def test_icmp(kind: int, code: int, rest: int, payload: bytes) -> None:
    theirs = bytes(ICMP(type=kind, code=code))[:2] + bytes(2) + rest.to_bytes(4, "big") + payload
    theirs = theirs[:2] + bytes(Raw(codec.checksum(theirs).to_bytes(2, "big"))) + theirs[4:]
    assert codec.emit_icmp(kind, code, rest, payload) == theirs
    assert codec.parse_icmp(theirs) == {"type": kind, "code": code, "rest": rest}


@given(u16, u16, st.binary(max_size=101))
def test_icmp_echo(ident: int, sequence: int, payload: bytes) -> None:
    theirs = bytes(ICMP(type=8, id=ident, seq=sequence) / Raw(payload))
    assert codec.emit_icmp(8, 0, ident << 16 | sequence, payload) == theirs
    assert codec.parse_icmp(theirs)["rest"] == ident << 16 | sequence


@pytest.mark.rfc("768", "-")
@given(u16, u16, u16, st.binary(max_size=40))
def test_udp(sport: int, dport: int, check: int, payload: bytes) -> None:
    theirs = bytes(UDP(sport=sport, dport=dport, len=8 + len(payload), chksum=check) / Raw(payload))
    assert codec.emit_udp(sport, dport, 8 + len(payload), check) == theirs[:8]
    assert codec.parse_udp(theirs + b"padding") == {
        "sport": sport, "dport": dport, "length": 8 + len(payload), "checksum": check}


@pytest.mark.rfc("9293", "3.1")
@given(u16, u16, u32, u32, u8, u16, u16, st.integers(5, 15))
def test_tcp(sport: int, dport: int, seq: int, ack: int, flags: int, wnd: int, urg: int, words: int) -> None:
    theirs = bytes(TCP(sport=sport, dport=dport, seq=seq, ack=ack, flags=flags, window=wnd, urgptr=urg, dataofs=words,
                       chksum=0))
    assert codec.emit_tcp(sport, dport, seq, ack, flags, wnd, urg, 4 * words) == theirs
    assert codec.parse_tcp(theirs.ljust(4 * words, b"\x01")) == {
        "sport": sport, "dport": dport, "seq": seq, "ack": ack, "hlen": 4 * words, "flags": flags, "wnd": wnd,
        "urg": urg}


@given(u8)
def test_tcp_reserved_bits_are_ignored(low: int) -> None:
    """RFC 9293 §3.1: must be ignored in received segments."""
    header = bytearray(codec.emit_tcp(1, 2, 3, 4, 0x10, 5))
    header[12] |= low & 0x0F
    assert codec.parse_tcp(bytes(header)) == codec.parse_tcp(codec.emit_tcp(1, 2, 3, 4, 0x10, 5))
