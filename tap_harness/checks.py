"""The health of a stack after something bad was done to it.

Four questions: does it live, does it answer a ping within 100 ms, does a new TCP connection echo a megabyte unharmed,
and have memory and tables come back to where they were. By a scripted peer (ScriptedHealth) and with the kernel as the
neighbour (kernel_health).
"""

import ctypes
import functools
import gc
import hashlib
import os
import random
import socket
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any

from tap_harness import segment
from tap_harness.carrier import LabCarrier
from tap_harness.netns import Namespace
from tap_harness.scapy_peer import Peer
from tap_harness.segment import ACK, FIN, PSH, RST, SYN, Path, parse, seq_diff

MEGABYTE = 1 << 20
MSS = 1460
WINDOW = 65535
RSS_SLACK = 8 << 20  # bytes RSS may be above the base: allocators keep pages, scapy keeps packets


@functools.cache
def _sanitized() -> bool:
    return "libasan" in FilePath("/proc/self/maps").read_text()


def rss() -> int:
    """The resident memory of this process in bytes.

    Under AddressSanitizer always 0: it keeps what was freed, so that the number says nothing about the stack.
    """
    if _sanitized():
        return 0
    pages = int(FilePath("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def give_back_what_is_free() -> None:
    """Have Python and the C library return to the system what nobody uses (malloc_trim(3), where there is one)."""
    gc.collect()
    if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)


class ScriptedHealth:
    """Health of the stack in a carrier that has an echo on `port`; the base is taken when this is made.

    Parameters: peer, whose addresses are used; carrier, its way to the stack; port, of the echo service.
    """

    def __init__(self, peer: Peer, carrier: LabCarrier, port: int = 80) -> None:
        self.peer = peer
        self.carrier = carrier
        self.port = port
        self._next_port = 61000
        peer.ping()
        self.echo(1 << 16)
        self.base_rss = rss()
        self.base_connections = len(self.carrier.stack.connections())

    def check(self, size: int = MEGABYTE, *, rss_slack: int = RSS_SLACK) -> None:
        """All four; AssertionError says which fails. `size` bytes are echoed."""
        self.peer.discard()
        self.peer.ping(within=0.1)
        self.echo(size)
        grown = rss() - self.base_rss
        if grown >= rss_slack:  # what is free counts for nothing; which tests ran before says how much of it there is
            give_back_what_is_free()
            grown = rss() - self.base_rss
        assert grown < rss_slack, f"RSS grew by {grown >> 10} KiB"

    def check_returned(self, after: float = 0.0) -> None:
        """After `after` more seconds no connection may be left that was not there in the beginning."""
        self.carrier.advance(after)
        self.peer.discard()
        left = self.carrier.stack.connections()
        assert len(left) <= self.base_connections, f"{len(left) - self.base_connections} connections left: {left}"

    def echo(self, size: int) -> None:
        """A new connection must echo `size` random bytes. The wire must lose nothing."""
        self._next_port = 61000 + (self._next_port - 60999) % 4000
        client = _EchoClient(self.carrier, self.peer, self._next_port, self.port)
        client.run(random.Random(size).randbytes(size))


class _EchoClient:
    """The least TCP that can send to an echo and read the answer where nothing is lost."""

    def __init__(self, carrier: LabCarrier, peer: Peer, sport: int, dport: int) -> None:
        self.carrier = carrier
        self.path = Path(peer.mac, peer.target_mac, peer.ip, peer.target, sport, dport)
        self.arp = peer
        self.snd = self.una = random.Random(sport).randrange(1 << 32)
        self.rcv = 0
        self.window = 0
        self.state = hashlib.sha256()
        self.got = 0
        self.fin = False

    def run(self, data: bytes) -> None:
        """Handshake, echo, close; AssertionError with what went wrong."""
        self._send(SYN, options=b"\x02\x04" + MSS.to_bytes(2, "big"))
        self._wait(lambda: self.rcv != 0, "SYN-ACK")
        self._send(ACK)
        start, sent = self.snd, 0
        while self.got < len(data):
            burst = []
            while sent < len(data) and sent + MSS - seq_diff(self.una, start) <= self.window:
                chunk = data[sent : sent + MSS]
                burst.append(self.path.frame(self.snd, self.rcv, PSH | ACK, WINDOW, chunk))
                self.snd = (self.snd + len(chunk)) % segment.MODULUS
                sent += len(chunk)
            self.carrier.send_many(burst)
            before = (self.got, self.una)
            self._wait(
                lambda before=before: (self.got, self.una) != before, f"progress at {self.got} of {len(data)} echoed"
            )
        self._send(FIN | ACK)
        self._wait(lambda: self.fin, "FIN")
        assert self.state.digest() == hashlib.sha256(data).digest(), f"the echo of {len(data)} bytes came back changed"

    def _send(self, flags: int, data: bytes = b"", options: bytes = b"") -> None:
        self.carrier.send(self.path.frame(self.snd, self.rcv, flags, WINDOW, data, options))
        self.snd = (self.snd + len(data) + bool(flags & SYN) + bool(flags & FIN)) % segment.MODULUS

    def _wait(self, condition: Any, what: str, within: float = 5.0) -> None:
        deadline = self.carrier.now() + within
        while not condition():
            frame = self.carrier.receive(max(0.0, deadline - self.carrier.now()))
            assert frame is not None, f"health: no {what} within {within} s"
            answer = False
            while frame is not None:  # all that waits, so that one acknowledgement answers a burst
                answer |= self._take(frame)
                frame = self.carrier.receive(0)
            if answer:
                self._send(ACK)

    def _take(self, frame: bytes) -> bool:
        """Digest a frame from the stack; True if it wants an acknowledgement."""
        if segment.is_resolution(frame):
            self.arp.answer_arp(frame)
            return False
        got = parse(frame)
        if got is None or got.dport != self.path.sport:
            return False
        assert not got.flags & RST, "health: the connection was reset"
        self.window = got.win
        if got.flags & SYN:
            self.rcv = (got.seq + 1) % segment.MODULUS
            self.una = got.ack
            return False
        if got.flags & ACK and seq_diff(got.ack, self.una) > 0:
            self.una = got.ack
        if got.length == 0:
            return False
        if got.seq == self.rcv:
            self.state.update(got.data)
            self.got += len(got.data)
            self.rcv = (self.rcv + got.length) % segment.MODULUS
            self.fin = bool(got.flags & FIN)
        return True


def kernel_health(namespace: Namespace, address: str, port: int, size: int = MEGABYTE) -> None:
    """Ping `address` and echo `size` bytes through its `port` from the kernel; AssertionError otherwise."""
    ping = namespace.run(["ping", "-c", "1", "-W", "1", address])
    assert ping.returncode == 0, f"no answer to ping:\n{ping.stdout}{ping.stderr}"
    with namespace.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as sock:
        sock.connect((address, port))
        echo_through(sock, random.Random(size).randbytes(size))


def echo_through(sock: socket.socket, data: bytes) -> None:
    """Send `data`, read as much back, compare. Small pieces, so that neither side has to buffer it all."""
    view = memoryview(data)
    for start in range(0, len(data), 1 << 15):
        piece = view[start : start + (1 << 15)]
        sock.sendall(piece)
        back = bytearray()
        while len(back) < len(piece):
            more = sock.recv(len(piece) - len(back))
            assert more, f"the connection ended after {start + len(back)} of {len(data)} bytes"
            back += more
        assert back == piece, f"changed between bytes {start} and {start + len(piece)}"


def growth(before: Mapping[str, int], after: Mapping[str, int], *names: str) -> dict[str, int]:
    """How much each counter grew between two stack.counters(); all that grew if no names are given."""
    wanted = names or tuple(after)
    return {
        name: after.get(name, 0) - before.get(name, 0)
        for name in wanted
        if names or after.get(name, 0) != before.get(name, 0)
    }
