"""Packets as the language writes them: `< [ect0] P. 1:1001(1000) ack 1 win 257 <nop,nop,TS val 100 ecr 200>`."""

from __future__ import annotations

from tap_harness.packetdrill.scanner import Scanner
from tap_harness.packetdrill.script import Icmp, Tcp, TcpOption, Udp

ECN = {"noecn": 0, "ect1": 1, "ect0": 2, "ce": 3}
_FLAGS = "SFRP.EWUA"
_WORD = r"[A-Za-z_]+"
# (type, code) of ICMP for IPv4 (RFC 792, 1122 §3.2.2).
_UNREACHABLE = {
    "net_unreachable": 0,
    "host_unreachable": 1,
    "protocol_unreachable": 2,
    "port_unreachable": 3,
    "frag_needed": 4,
    "source_route_failed": 5,
    "net_unknown": 6,
    "host_unknown": 7,
    "net_prohibited": 9,
    "host_prohibited": 10,
    "packet_filtered": 13,
}
_ICMP = {"unreachable": 3, "source_quench": 4, "time_exceeded": 11, "parameter_problem": 12}


def parse_packet(scan: Scanner) -> Tcp | Udp | Icmp:
    """A packet, from its < or > on. Raises SyntaxFault."""
    inbound = scan.need("[<>]", "< or >") == "<"
    port = None
    if scan.take(":"):
        port = scan.number("the peer's port", 1 << 16)
    ecn = _ecn(scan)
    if scan.take(r"udp\b"):
        scan.need(r"\(", "(length)")
        length = scan.number("the length", 65508)
        scan.need(r"\)", ")")
        return Udp(inbound, length, ecn, port)
    if scan.looks_at(r"icmp\b"):
        return _icmp(scan, inbound, port)
    return _tcp(scan, inbound, ecn, port)


def _ecn(scan: Scanner) -> str | None:
    if not scan.take(r"\["):
        return None
    start = scan.at
    name = scan.need(r"[a-z0-9]+", "an ECN mark")
    if name not in (*ECN, "ect01"):
        scan.fail(f"{name!r} is none of {', '.join(ECN)}, ect01", start)
    scan.need(r"\]", "]")
    return name


def _tcp(scan: Scanner, inbound: bool, ecn: str | None, port: int | None) -> Tcp:
    start = scan.at
    flags = scan.need(r"-(?=\s)|[A-Z.]+(?=\s)", f"TCP flags (letters of {_FLAGS}, or - for none)")
    for offset, letter in enumerate(flags):
        if letter not in _FLAGS and flags != "-":
            scan.fail(f"{letter!r} is no TCP flag: letters of {_FLAGS}, or - for none", start + offset)
    if len(set(flags)) != len(flags):
        scan.fail(f"{flags!r} names a flag twice", start)
    seq, length = _sequence(scan)
    ack = scan.number("an acknowledgement number") if scan.take(r"ack\b") else None
    if ack is not None and "." not in flags:
        scan.fail("ack without the flag . for it", start)
    win = scan.number("a window", 1 << 16) if scan.take(r"win\b") else None
    urg = scan.number("an urgent pointer", 1 << 16) if scan.take(r"urg\b") else 0
    options = _options(scan, inbound) if scan.looks_at("<") else ()
    canonical = "".join(letter for letter in _FLAGS if letter in flags)
    return Tcp(inbound, canonical, seq, length, ack, win, urg, options, ecn, port)


def _sequence(scan: Scanner) -> tuple[int, int]:
    """start:end(length) -> start, length."""
    start = scan.at
    first = scan.number("a sequence number, start:end(length)")
    scan.need(":", ": of start:end(length)")
    last = scan.number("the end of start:end(length)")
    scan.need(r"\(", "(length)")
    length = scan.number("a length", 65536)
    scan.need(r"\)", ") after the length")
    if (first + length - last) % (1 << 32):
        scan.fail(f"{first}:{last}({length}): {first} + {length} is {first + length}, not {last}", start)
    return first, length


def _options(scan: Scanner, inbound: bool) -> tuple[TcpOption, ...] | None:
    start = scan.at
    scan.need("<", "<")
    if scan.take(r"\.\.\."):
        if inbound:
            scan.fail("<...> says nothing of what to send", start)
        scan.need(">", ">")
        return None
    found: list[TcpOption] = []
    while not scan.looks_at(">"):
        if found:
            scan.need(",", ", or > after a TCP option")
        found.append(_option(scan))
    scan.need(">", ">")
    if sum(option_length(option) for option in found) > 40:
        scan.fail("more than 40 bytes of TCP options", start)
    return tuple(found)


def _option(scan: Scanner) -> TcpOption:
    start = scan.at
    name = scan.need(_WORD, "a TCP option")
    if name in ("nop", "eol", "sackOK"):
        return (name,)
    if name == "mss":
        return (name, scan.number("a segment size", 1 << 16))
    if name == "wscale":
        return (name, scan.number("a shift", 256))
    if name == "TS":
        scan.need(r"val\b", "val")
        value = scan.number("a timestamp")
        scan.need(r"ecr\b", "ecr")
        return (name, value, scan.number("a timestamp"))
    if name in ("FO", "FOEXP"):
        return (name, _cookie(scan))
    if name == "sack":
        blocks = []
        while scan.looks_at("[0-9]"):
            first = scan.number("a sequence number")
            scan.need(":", ":")
            blocks.append((first, scan.number("a sequence number")))
        if not blocks:
            scan.fail("sack without a block first:last")
        return (name, *blocks)
    raise scan.fault(
        f"{name!r} is no TCP option known here (mss, nop, eol, sackOK, sack, TS, wscale, FO, FOEXP)", start
    )


def _cookie(scan: Scanner) -> bytes | None:
    """Of fast open: hexadecimal digits; none: one is asked for; `...` (as None): the last the stack gave, or any."""
    if scan.take(r"\.\.\."):
        return None
    start = scan.at
    digits = scan.take(r"[0-9a-fA-F]+") or ""
    if len(digits) % 4 or len(digits) > 32:
        scan.fail(f"a cookie has 0 to 16 bytes, an even number of them, and two digits each: {digits}", start)
    return bytes.fromhex(digits)


def option_length(option: TcpOption) -> int:
    """Bytes of a TCP option on the wire."""
    fixed = {"nop": 1, "eol": 1, "mss": 4, "wscale": 3, "sackOK": 2, "TS": 10}
    if option[0] in ("FO", "FOEXP"):
        return (2 if option[0] == "FO" else 4) + len(option[1] or bytes(8))
    return fixed.get(option[0]) or 2 + 8 * (len(option) - 1)


def _icmp(scan: Scanner, inbound: bool, port: int | None) -> Icmp:
    start = scan.at
    scan.need(r"icmp\b", "icmp")
    if not inbound:
        scan.fail("ICMP is only understood inbound (<)", start)
    start = scan.at
    kind = scan.need(_WORD, "an ICMP type")
    if kind not in _ICMP:
        scan.fail(f"{kind!r} is none of {', '.join(_ICMP)}", start)
    code, mtu = 0, 0
    if kind == "unreachable":
        start = scan.at
        name = scan.need(_WORD, "an ICMP code")
        if name not in _UNREACHABLE:
            scan.fail(f"{name!r} is none of {', '.join(_UNREACHABLE)}", start)
        code = _UNREACHABLE[name]
    if scan.take(r"mtu\b"):
        mtu = scan.number("an MTU", 1 << 16)
    seq: int | None = None
    scan.need(r"\[", "[ and what the message quotes: [1:1461(1460)] or [udp (100)]")
    if scan.take(r"udp\b"):
        scan.need(r"\([0-9]+\)", "(length)")
    else:
        seq, _ = _sequence(scan)
    scan.need(r"\]", "]")
    return Icmp(_ICMP[kind], code, mtu, seq, port)
