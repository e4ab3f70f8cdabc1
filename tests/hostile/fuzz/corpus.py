"""Writes the seed corpus: programs made by hand, and frames recorded from exchanges of two real stacks.

A program is what target/fz_ops.pyx reads: two bytes of circumstances, then records of 16 bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

SEGMENT, ANSWER, OPEN, UDP, ICMP, FRAGMENT, ARP, RAW, REPLAY, TIME, CALL, DATAGRAM, NET, BATCH = range(14)
CONNECT, LISTEN, ACCEPT, SEND, RECV, SHUTDOWN, CLOSE, CLOSE_LISTENER, CONF, BIND_CONNECT = range(10)
FIN, SYN, RST, PSH, ACK, URG = 1, 2, 4, 8, 16, 32
MEDIA = ("ethernet", "ip")

Record = bytes
Program = list[Record]


def record(
    what: int,
    how: int = 0,
    which: int = 0,
    more: int = 0,
    a: int = 0,
    b: int = 0,
    wnd: int = 20000,
    n: int = 0,
    options: int = 0,
    x: int = 0,
    y: int = 0,
    flags: int = 0,
) -> Record:
    return struct.pack(">BBBBHHHHBBBB", what, how, which, more, a & 0xFFFF, b & 0xFFFF, wnd, n, options, x, y, flags)


def call(which: int, what: int, a: int = 0, more: int = 0, **rest: int) -> Record:
    return record(CALL, what, which, more, a, **rest)


def segment(which: int, flags: int = ACK, n: int = 0, **rest: int) -> Record:
    return record(SEGMENT, flags, which, n=n, **rest)


def deadlines(times: int = 15) -> Record:
    return record(TIME, times)


def later(ms: int) -> Record:
    return record(TIME, 16, 20, a=ms)


def answer(flags: int = 0, back: int = 0, **rest: int) -> Record:
    return record(ANSWER, flags, back, **rest)


def programs() -> Iterator[tuple[str, Program]]:
    """Name and records of every hand-made program. Connections are those of fz_ops' scene."""
    yield from transfers()
    yield from lives()
    yield from crowds()
    yield from packets_and_places()


def transfers() -> Iterator[tuple[str, Program]]:
    """Data, acknowledgments and losses."""
    receive = [segment(0, ACK | PSH, 100) for _ in range(6)]
    yield "receive", [*receive, call(0, RECV, 1000), deadlines(3)]
    yield (
        "out-of-order",
        [*(segment(2, n=50, a=100 * (7 - i)) for i in range(6)), *(segment(2, n=100) for _ in range(9))],
    )
    yield "overlap", [segment(2, n=200, a=300), segment(2, n=100, a=250), segment(2, n=600, a=100), segment(2, n=900)]
    yield "acks", [segment(0, more=0x30, b=k << 8, n=0) for k in range(12)]
    yield "duplicate-acks", [segment(1, more=0x10) for _ in range(5)] + [segment(1, more=0x30, b=0x100), segment(1)]
    yield "sack", [segment(2, more=0x10, options=8 | 16, x=k) for k in (1, 3, 5, 1)] + [deadlines(4), segment(2)]
    yield "sack-timestamps", [segment(0, more=0x10, options=8, x=k) for k in (2, 4, 6, 8)] + [segment(0), deadlines(4)]
    yield "d-sack", [segment(0, more=0x30, options=8 | 16 | 64), deadlines(2), segment(0, options=8 | 64)]
    yield "time-outs", [deadlines(), deadlines(), segment(0), segment(1), deadlines(), deadlines(), deadlines()]
    yield (
        "zero-window",
        [
            segment(0, wnd=0),
            segment(1, wnd=0),
            call(0, SEND, 5000),
            deadlines(),
            segment(0, wnd=500),
            deadlines(4),
            segment(0, wnd=9),
        ],
    )


def lives() -> Iterator[tuple[str, Program]]:
    """Connections opened and ended in every order."""
    yield "reset", [segment(k, RST | ACK) for k in range(8)]
    yield "blind-reset", [segment(k, RST, a=50) for k in range(8)] + [segment(k, SYN, a=50) for k in range(8)]
    for number, order in enumerate(((FIN, CLOSE), (CLOSE, FIN), (SHUTDOWN, FIN), (FIN, SHUTDOWN), (CLOSE, CLOSE))):
        steps: Program = []
        for step in order:
            steps += [segment(3, ACK | FIN)] if step == FIN else [call(3, step, more=1)]
            steps += [answer(), deadlines(1)]
        yield f"close-{number}", [*steps, answer(ACK | FIN), answer(), deadlines(), later(60000)]
    yield (
        "client",
        [
            call(0, CONNECT),
            answer(),
            call(9, SEND, 3000),
            answer(),
            answer(n=9, b=700),
            call(9, RECV, 5000),
            call(9, CLOSE),
            answer(),
            answer(ACK | FIN),
            deadlines(),
        ],
    )
    yield "refused", [call(0, CONNECT), answer(RST | ACK), deadlines(2), call(0, CONNECT), deadlines()]
    yield "simultaneous", [call(0, CONNECT), answer(SYN), answer(ACK), call(9, SEND, 900), answer()]
    yield (
        "self-connect",
        [
            call(0, BIND_CONNECT, more=2, a=0),
            deadlines(6),
            call(9, SEND, 4000),
            deadlines(6),
            call(9, RECV, 9000),
            call(9, CLOSE),
            deadlines(),
        ],
    )
    yield (
        "loopback",
        [
            call(0, CONNECT, more=3),
            call(0, ACCEPT),
            call(9, SEND, 60000),
            call(10, RECV, 60000),
            call(9, SEND, 60000),
            deadlines(8),
            call(10, CLOSE),
            call(9, RECV, 100),
            deadlines(),
        ],
    )
    yield (
        "server",
        [
            record(OPEN, 0, 20, 15),
            answer(ACK),
            segment(9, ACK | PSH, 300),
            call(0, ACCEPT),
            call(9, RECV, 1000),
            call(9, SEND, 2000),
            answer(),
            call(9, CLOSE),
            answer(ACK | FIN),
            deadlines(),
        ],
    )


def crowds() -> Iterator[tuple[str, Program]]:
    """Queues of listeners, the ends of connections, options."""
    receive = [segment(0, ACK | PSH, 100) for _ in range(6)]
    yield "syn-flood", [record(OPEN, 0, k, k & 15, a=k) for k in range(30)] + [deadlines(), deadlines(), deadlines()]
    yield (
        "accept-queue",
        [r for k in range(8) for r in (record(OPEN, 0, 30 + k, 15), answer(ACK))]
        + [call(0, ACCEPT), call(0, CLOSE_LISTENER), deadlines()],
    )
    yield "time-wait", [call(3, CLOSE), answer(), segment(3, ACK | FIN), answer(SYN), record(REPLAY, 1), later(61000)]
    yield "keep-alive", [call(k, CONF, options=8, x=1) for k in range(5)] + [deadlines() for _ in range(4)]
    yield "linger", [call(k, CONF, options=16, x=k & 1) for k in range(5)] + [call(k, CLOSE) for k in range(5)]
    yield "small-buffers", [call(k, CONF, options=6, x=8) for k in range(4)] + receive + [call(0, RECV, 90)] + receive


def packets_and_places() -> Iterator[tuple[str, Program]]:
    """Datagrams, ICMP, fragments, neighbours, and changes of configuration."""
    receive = [segment(0, ACK | PSH, 100) for _ in range(6)]
    yield (
        "udp",
        [
            record(UDP, 0, 1, wnd=5000, n=7, options=0, x=200),
            record(DATAGRAM, 4, 0, a=400),
            record(DATAGRAM, 3, 0, a=9000, b=9),
            record(UDP, 1, 1, wnd=1, x=20),
            record(UDP, 0, 0, wnd=1, n=999, x=20),
        ],
    )
    yield (
        "ping",
        [record(ICMP, 8, 0, 0, y=1, wnd=64), record(DATAGRAM, 3, 2, a=64), answer(0), record(DATAGRAM, 4, 2, a=99)],
    )
    yield "icmp-errors", [record(ICMP, 3, back, code, wnd=60, b=600) for back in range(3) for code in (0, 1, 3, 4)]
    yield "icmp-others", [record(ICMP, kind, 0, 0, wnd=60) for kind in (4, 5, 11, 12, 13, 17, 18, 30)]
    pieces = [(0, 1), (185, 1), (370, 0)]
    yield (
        "fragments",
        [record(FRAGMENT, 0, 5, a=at, wnd=1480 - 40, y=2 * m) for at, m in reversed(pieces)] + [deadlines(2)],
    )
    yield "fragments-lost", [record(FRAGMENT, 1, k, a=0, wnd=800, y=2) for k in range(20)] + [later(31000), deadlines()]
    yield "fragments-overlap", [record(FRAGMENT, 1, 9, a=a, wnd=64, y=2) for a in (0, 4, 2, 8, 6)]
    yield (
        "arp",
        [record(ARP, 6, k, k & 1, flags=0) for k in range(10)] + [call(0, CONNECT, more=1), deadlines(), answer()],
    )
    yield (
        "neighbours",
        [r for k in range(12) for r in (record(DATAGRAM, 3, 0, 1, a=100, b=9), call(k, CONNECT, more=1))]
        + [deadlines(), deadlines()],
    )
    yield (
        "addresses",
        [
            record(NET, 0, 3, 1, a=0x800),
            deadlines(9),
            record(NET, 1, 0),
            segment(0, n=9),
            record(NET, 0, 0),
            segment(0, n=9),
            deadlines(3),
        ],
    )
    yield (
        "interface-down",
        [record(NET, 2, 0, 0), call(0, SEND, 5000), deadlines(5), record(NET, 2, 0, 1), deadlines(5)],
    )
    yield "routes", [record(NET, 3, 0, 7, a=0x0108, wnd=0xC000, n=0x0200), record(NET, 4, 0, 1, wnd=0xC000, n=0x0200)]
    yield "unplugged", [call(0, SEND, 900), record(NET, 0xF8), call(1, SEND, 900), segment(0, n=9), deadlines(9)]
    yield (
        "raw-and-packet",
        [record(DATAGRAM, 0, 3, 0x10, a=0xFF08), record(DATAGRAM, 0, 4, 0x20, a=0xFF08)]
        + [record(DATAGRAM, 0, 5, 0x70, a=0xFF50)]
        + [record(DATAGRAM, 0, 6, 0x40, a=0x0400), record(UDP, 0, 1, wnd=5000, n=7, options=0, x=200), *receive[:2]]
        + [record(DATAGRAM, 4, which, a=900) for which in (3, 4, 5, 6)],
    )
    yield "batch", [record(BATCH, 1), *receive, *receive, record(BATCH, 0), deadlines(2)]
    yield "replay", [record(REPLAY, how, back, 1 | 2 | 8, a=30, wnd=40) for how in range(8) for back in range(4)]


def recorded() -> Iterator[tuple[str, list[bytes]]]:
    """IP packets that crossed a wire between two stacks: a transfer both ways, refused and closed connections, UDP."""
    import ustack

    packets: list[bytes] = []
    ends: list[ustack.Callback] = []
    waiting: list[tuple[int, bytes]] = []

    def carry(to: int) -> None:
        def send(packet: bytes) -> None:
            packets.append(bytes(packet))
            waiting.append((to, bytes(packet)))

        ends.append(ustack.Callback(send=send, medium="ip"))

    carry(1)
    carry(0)
    now = 10**9
    stacks = [ustack.Stack(driver="manual", seed=bytes([k]) * 32) for k in (1, 2)]
    for stack, end, host in zip(stacks, ends, ("10.9.0.2/24", "10.9.0.1/24"), strict=True):
        stack.attach(end, addresses=[host])

    def settle(rounds: int = 40) -> None:
        nonlocal now
        for _ in range(rounds):
            now += 5 * 10**6
            for to, packet in [waiting.pop(0) for _ in range(len(waiting))]:
                ends[to].receive(packet)
            for stack in stacks:
                stack.poll(now)

    us, peer = stacks
    settle(1)
    server = us.create_server(("", 80))
    client = peer.socket()
    client.setblocking(False)
    client.connect_ex(("10.9.0.2", 80))
    settle()
    conn, _ = server.accept()
    for sock, size in ((client, 3000), (conn, 9000)):
        sock.send(b"x" * size)
        settle()
    conn.recv(5000)
    client.recv(9000)
    client.close()
    settle()
    conn.close()
    settle()
    refused = peer.socket()
    refused.setblocking(False)
    refused.connect_ex(("10.9.0.2", 81))
    settle()
    datagrams = peer.socket(ustack.AF_INET, ustack.SOCK_DGRAM)
    datagrams.sendto(b"y" * 3000, ("10.9.0.2", 7))
    settle()
    for stack in stacks:
        stack.close()
    yield "recorded", packets


def six() -> Iterator[tuple[str, list[bytes]]]:
    """IPv6 packets to fd09::2 and fe80::2: Neighbor Discovery, routers, MLD, extension headers, fragments, UDP, TCP."""
    from scapy.layers import inet6 as v6
    from scapy.layers.inet import TCP, UDP

    near, far = v6.IPv6(src="fe80::1", dst="fe80::2", hlim=255), v6.IPv6(src="fd09::1", dst="fd09::2")
    all_nodes = v6.IPv6(src="fe80::1", dst="ff02::1", hlim=255)
    asked = v6.IPv6(src="fd09::1", dst="ff02::1:ff00:2", hlim=255)
    mac = "06:06:06:06:06:06"
    prefix = v6.ICMPv6NDOptPrefixInfo(prefix="2001:db8::", prefixlen=64)
    echo = v6.ICMPv6EchoRequest(data=bytes(40))
    whole = bytes(v6.IPv6(bytes(far / echo))[v6.ICMPv6EchoRequest])
    yield (
        "six-neighbours",
        [
            bytes(asked / v6.ICMPv6ND_NS(tgt="fd09::2") / v6.ICMPv6NDOptSrcLLAddr(lladdr=mac)),
            bytes(near / v6.ICMPv6ND_NA(tgt="fe80::1", S=1, O=1) / v6.ICMPv6NDOptDstLLAddr(lladdr=mac)),
            bytes(v6.IPv6(src="::", dst="ff02::1:ff00:2", hlim=255) / v6.ICMPv6ND_NS(tgt="fd09::2")),
            bytes(near / v6.ICMPv6ND_Redirect(tgt="fe80::7", dst="2001:db8::9") / v6.ICMPv6NDOptDstLLAddr(lladdr=mac)),
        ],
    )
    yield (
        "six-routers",
        [
            bytes(all_nodes / v6.ICMPv6ND_RA(routerlifetime=1800) / prefix / v6.ICMPv6NDOptMTU(mtu=1400)),
            bytes(all_nodes / v6.ICMPv6ND_RA(routerlifetime=0) / prefix / v6.ICMPv6NDOptRDNSS(dns=["fd09::1"])),
            bytes(all_nodes / v6.ICMPv6ND_RA() / v6.ICMPv6NDOptDNSSL(searchlist=["corp.test.", "lab.test."])),
            bytes(all_nodes / v6.ICMPv6ND_RA() / v6.ICMPv6NDOptRouteInfo(prefix="fd10::", plen=48)),
        ],
    )
    alert = v6.IPv6ExtHdrHopByHop(options=[v6.RouterAlert()])
    yield "six-groups", [bytes(v6.IPv6(src="fe80::1", dst="ff02::1", hlim=1) / alert / v6.ICMPv6MLQuery2())]
    yield (
        "six-headers",
        [
            bytes(far / echo),
            bytes(far / v6.IPv6ExtHdrHopByHop() / v6.IPv6ExtHdrDestOpt() / echo),
            bytes(far / v6.IPv6ExtHdrRouting(addresses=["fd09::9"]) / echo),
            bytes(far / v6.IPv6ExtHdrFragment(nh=58, m=1, id=5) / whole[:24]),
            bytes(far / v6.IPv6ExtHdrFragment(nh=58, offset=3, id=5) / whole[24:]),
            bytes(far / v6.ICMPv6PacketTooBig(mtu=1280) / (v6.IPv6(src="fd09::2", dst="fd09::1") / UDP(sport=7))),
        ],
    )
    yield "six-transports", [bytes(far / UDP(dport=7) / b"payload"), bytes(far / TCP(dport=80, flags="S"))]


def raw(packet: bytes, medium: str) -> Program:
    """The packet as a RAW record and the records that carry its bytes; everything mended on the way in, but IPv6's
    addresses."""
    frame = bytes(14) + packet if medium == "ethernet" else packet
    padded = frame + bytes(-len(frame) % 16)
    how = 1 | 2 | 4 | 8 if packet[0] >> 4 == 4 else 0x80 | 1 | 2 | 8
    return [record(RAW, how, a=len(frame)), *(padded[k : k + 16] for k in range(0, len(padded), 16))]


def write(folder: Path, medium: str) -> int:
    """Write the corpus for one medium. Returns the number of seeds."""
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for name, records in programs():
        for circumstances in ((0, 0), (0, 1), (0x53, 4), (0, 6)):
            (folder / f"{name}-{circumstances[0]:02x}{circumstances[1]}").write_bytes(
                bytes(circumstances) + b"".join(records)
            )
            count += 1
    for name, packets in (*recorded(), *six()):
        for start in range(0, len(packets), 6):
            records = [r for packet in packets[start : start + 6] for r in raw(packet, medium)]
            (folder / f"{name}-{start}").write_bytes(bytes(2) + b"".join(records))
            count += 1
    return count
