"""The streams of an iperf3 test: what is sent and received, how fast, and what is counted.

Responsible for: TCP streams, UDP streams with iperf3's packet header (time of sending, number), loss and jitter (RFC
3550 §A.8), pacing. Not for: when a test begins and ends (iperf3.py).
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

_STEP = 0.25  # s a call waits before it looks whether the test is over
_BLOCK = 256 * 1024  # bytes read at a time, at least
_DRAIN = 16 << 20  # bytes read after the end, at most: what is here already counts
_HEADERS = {False: struct.Struct(">III"), True: struct.Struct(">IIQ")}  # s, µs, number: 32 or 64 bits wide
# What opens a UDP stream, and its answer: the numbers as the client's machine writes them, today's and the older ones.
_HELLO = {b"9876": b"6789", b"6789": b"9876"}
_HELLO |= {struct.pack(order + "I", 123456789): struct.pack(order + "I", 987654321) for order in "<>"}


class Pace:
    """Holds a sender to so many bit/s."""

    def __init__(self, rate: int, stop: threading.Event) -> None:
        self._rate, self._stop = rate, stop
        self._began, self._sent = time.monotonic(), 0

    def sent(self, size: int) -> None:
        """Account for what was sent, and wait until more may be."""
        if not self._rate:
            return
        self._sent += size
        ahead = self._began + self._sent * 8 / self._rate - time.monotonic()
        if ahead > 0:
            self._stop.wait(ahead)


class TcpStream:
    """A TCP connection that sends as much as it can, or reads whatever comes. settings: iperf3.Settings."""

    def __init__(self, sock: Any, sends: bool, settings: Any, number: int) -> None:
        self.sock, self.sends, self.id = sock, sends, number
        self.bytes = 0
        self._settings = settings
        sock.settimeout(_STEP)
        if settings.nodelay:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if settings.window:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, settings.window)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, settings.window)
        if settings.tos:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, settings.tos)

    def work(self, stop: threading.Event) -> list[Callable[[], None]]:
        """What to run, each in a thread of its own, until `stop` is set."""
        return [lambda: self._send(stop) if self.sends else self._receive(stop)]

    def _send(self, stop: threading.Event) -> None:
        length = self._settings.length
        block = memoryview(bytes(range(256)) * (length // 256 + 1))[:length]
        pace = Pace(self._settings.bandwidth, stop)
        at = 0
        while not stop.is_set():
            try:
                sent = self.sock.send(block[at:])
            except TimeoutError:
                continue
            except OSError:
                return  # the other side closed: the control connection says why
            self.bytes += sent
            at = (at + sent) % length
            pace.sent(sent)
        # iperf3 reads whole blocks: an end in the middle of one has to be seen as such.
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def _receive(self, stop: threading.Event) -> None:
        buffer = bytearray(max(self._settings.length, _BLOCK))
        left = _DRAIN
        while left > 0:
            if stop.is_set():
                self.sock.settimeout(0)
            try:
                got = self.sock.recv_into(buffer)
            except TimeoutError:
                continue
            except OSError:  # BlockingIOError among them: all is read
                return
            if not got:
                return
            self.bytes += got
            if stop.is_set():
                left -= got

    def omit(self) -> None:
        """Forget what was counted so far."""
        self.bytes = 0

    def figures(self) -> dict[str, Any]:
        """What was counted; retransmits -1: not known here."""
        return {"bytes": self.bytes, "retransmits": -1, "jitter": 0, "errors": 0, "packets": 0}

    def close(self) -> None:
        self.sock.close()


class UdpStream:
    """The datagrams to or from one client's port."""

    def __init__(self, port: UdpPort, address: tuple[str, int], sends: bool, number: int) -> None:
        self.port, self.address, self.sends, self.id = port, address, sends, number
        self.bytes = 0
        self.packets = 0  # sent, or the highest number received
        self.errors = 0  # lost
        self._jitter = 0.0
        self._transit: float | None = None
        self._omitted = (0, 0)

    def work(self, stop: threading.Event) -> list[Callable[[], None]]:
        """What to run for it; the port's first stream brings the reader that all share."""
        found: list[Callable[[], None]] = [lambda: self._send(stop)] if self.sends else []
        if self.port.streams[0] is self:
            found.append(lambda: self.port.receive(stop))
        return found

    def _send(self, stop: threading.Event) -> None:
        settings = self.port.settings
        header = _HEADERS[settings.wide_counters]
        block = bytearray(settings.length)
        pace = Pace(settings.bandwidth, stop)
        while not stop.is_set():
            now = time.monotonic()
            header.pack_into(block, 0, int(now) & 0xFFFFFFFF, int(now % 1 * 1e6), self.packets + 1)
            try:
                sent = self.port.sock.sendto(block, self.address)
            except TimeoutError:
                continue
            except OSError:
                stop.wait(0.001)  # no memory, or an ICMP error: the next one may go
                continue
            self.packets += 1
            self.bytes += sent
            pace.sent(sent)

    def take(self, datagram: memoryview, now: float) -> None:
        """A datagram that came in."""
        header = _HEADERS[self.port.settings.wide_counters]
        if len(datagram) < header.size:
            return
        seconds, micros, number = header.unpack_from(datagram)
        self.bytes += len(datagram)
        if number > self.packets:
            self.errors += number - self.packets - 1
            self.packets = number
        elif self.errors > 0:  # out of order: it was counted as lost
            self.errors -= 1
        transit = now - (seconds + micros / 1e6)
        if self._transit is not None:
            self._jitter += (abs(transit - self._transit) - self._jitter) / 16
        self._transit = transit

    def omit(self) -> None:
        """Forget what was counted so far."""
        self.bytes, self._jitter = 0, 0.0
        self._omitted = (self.packets, self.errors)

    def figures(self) -> dict[str, Any]:
        """What was counted."""
        packets, errors = self._omitted
        return {
            "bytes": self.bytes, "retransmits": -1, "jitter": self._jitter, "errors": max(self.errors - errors, 0),
            "packets": self.packets - packets,
        }  # fmt: skip

    def close(self) -> None:
        pass


class UdpPort:
    """The server's UDP port, and the streams of the one test that uses it. settings: iperf3.Settings. OSError."""

    def __init__(self, stack: Any, port: int, settings: Any) -> None:
        self.settings = settings
        self.streams: list[UdpStream] = []
        self._by_address: dict[tuple[str, int], UdpStream] = {}
        self.sock = stack.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        try:
            self.sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                self.sock.setsockopt(socket.SOL_SOCKET, option, settings.window or 2 << 20)
            self.sock.bind(("", port))
        except BaseException:
            self.sock.close()
            raise

    def open_streams(self, directions: list[bool], deadline: float) -> list[UdpStream]:
        """Answer clients' greetings until each direction has its stream, or the deadline (time.monotonic()) comes."""
        while len(self.streams) < len(directions) and (left := deadline - time.monotonic()) > 0:
            self.sock.settimeout(left)
            with contextlib.suppress(OSError):
                datagram, address = self.sock.recvfrom(65536)
                self._greet(datagram, address, directions)
        return self.streams

    def _greet(self, datagram: bytes, address: tuple[str, int], directions: list[bool]) -> None:
        if datagram not in _HELLO:
            return
        if address not in self._by_address:
            number = len(self.streams) + 1
            stream = UdpStream(self, address, directions[number - 1], number)
            self.streams.append(stream)
            self._by_address[address] = stream
        self.sock.sendto(_HELLO[datagram], address)

    def receive(self, stop: threading.Event) -> None:
        """Read until `stop` is set, and what is here already then."""
        buffer = bytearray(65536)
        view = memoryview(buffer)
        self.sock.settimeout(_STEP)
        left = _DRAIN
        while left > 0:
            if stop.is_set():
                self.sock.settimeout(0)
            try:
                size, address = self.sock.recvfrom_into(buffer)
            except TimeoutError:
                continue
            except BlockingIOError:
                return
            except OSError:
                if stop.is_set():
                    return
                continue
            stream = self._by_address.get(address)
            if stream is not None and not stream.sends:
                stream.take(view[:size], time.monotonic())
            if stop.is_set():
                left -= size + 1

    def close(self) -> None:
        self.sock.close()
