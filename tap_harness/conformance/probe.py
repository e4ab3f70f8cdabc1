"""What a scenario holds: the peer it plays, connections in the state it wants, the target's sockets, and time.

Responsible for: getting a connection into a state on any target, calls of the target's application, reading segments
with a tolerance. Not for: what is right (the scenarios).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import socket
import struct
from collections.abc import Callable
from typing import Any

from scapy.layers.inet import TCP
from scapy.packet import Packet

from tap_harness.conformance.registry import NotApplicable
from tap_harness.conformance.target import Target
from tap_harness.diff import ANY
from tap_harness.flow import SYN_OPTIONS, Flow, Options
from tap_harness.lab import field
from tap_harness.packets import Mismatch, describe, payload
from tap_harness.scapy_peer import Peer
from tap_harness.segment import seq_diff

PORT = 81  # the target's listener
CLOSED_PORT = 9
BUSY = (BlockingIOError, InterruptedError)
_PIECE = 1 << 16
_SIOCATMARK = 0x8905
_INT = struct.Struct("i")
_SMALL = 1 << 14  # bytes that the buffer of a fresh socket takes at once

Options_ = Options | None


class Sock:
    """A socket of the target, non-blocking; after each call the target does what there is to do."""

    def __init__(self, target: Target, raw: Any) -> None:
        self._target = target
        self.raw = raw

    def send(self, data: bytes) -> int:
        """How many bytes were taken."""
        taken = int(self.raw.send(data))
        self._target.pump()
        return taken

    def sendto(self, data: bytes, address: tuple[str, int]) -> None:
        """Send a datagram."""
        self.raw.sendto(data, address)
        self._target.pump()

    def urgent(self, data: bytes) -> None:
        """Send with MSG_OOB."""
        self.raw.send(data, socket.MSG_OOB)
        self._target.pump()

    def at_mark(self) -> bool:
        """sockatmark(3)."""
        if not isinstance(self.raw, socket.socket):
            return bool(self.raw.ioctl(_SIOCATMARK))
        return bool(_INT.unpack(fcntl.ioctl(self.raw, _SIOCATMARK, bytes(_INT.size)))[0])

    def recv(self, most: int = 1 << 20) -> bytes:
        """Everything there is to read now, at most `most` bytes; b"" also at the end. Raises what recv raises."""
        data = bytearray()
        with contextlib.suppress(*BUSY):
            while len(data) < most and (more := self.raw.recv(min(_PIECE, most - len(data)))):
                data += more
        self._target.pump()
        return bytes(data)

    def read(self, most: int = 1 << 16) -> bytes:
        """What one call of recv gives."""
        data = bytes(self.raw.recv(most))
        self._target.pump()
        return data

    def ended(self) -> bool:
        """Whether reading tells the end of the stream."""
        try:
            return self.raw.recv(1) == b""
        except BUSY:
            return False

    def shutdown(self) -> None:
        """Send a FIN."""
        self.raw.shutdown(socket.SHUT_WR)
        self._target.pump()

    def close(self) -> None:
        """Close."""
        self.raw.close()
        self._target.pump()

    def abort(self) -> None:
        """ABORT of RFC 9293 §3.9.1: close with a linger time of zero."""
        self.option(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def option(self, level: int, name: int, value: Any = None) -> Any:
        """Set a socket option, or read it."""
        try:
            if value is None:
                return self.raw.getsockopt(level, name)
            self.raw.setsockopt(level, name, value)
            self._target.pump()
        except OSError as error:
            if error.errno in (errno.ENOPROTOOPT, errno.EOPNOTSUPP):
                raise NotApplicable(f"the target has no socket option {level}/{name}") from None
            raise
        return None

    def error(self) -> int:
        """SO_ERROR, which reading clears."""
        return int(self.raw.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))

    def failure(self) -> int:
        """The errno that reading gives now, 0 for none (then nothing or some data was there)."""
        try:
            self.raw.recv(_PIECE)
        except BUSY:
            return 0
        except OSError as error:
            return error.errno or 0
        return 0


class Conn:
    """A connection: the peer's side (flow) and the target's socket. On a remote host the socket is its service."""

    def __init__(self, probe: Probe, flow: Flow, sock: Sock | None) -> None:
        self.probe = probe
        self.flow = flow
        self._sock = sock

    @property
    def sock(self) -> Sock:
        """The target's socket. Raises NotApplicable for a remote host."""
        if self._sock is None:
            raise NotApplicable("what a remote host's applications call cannot be seen or caused on a wire")
        return self._sock

    def send(self, data: bytes) -> None:
        """The target's application sends: all of it must be taken. A remote host echoes what the peer sends it."""
        if self._sock is not None:
            if len(data) > _SMALL:
                self._sock.option(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            taken = self._sock.send(data)
            assert taken == len(data), f"the socket took {taken} of {len(data)} bytes"
            return
        for start in range(0, len(data), 1000):
            self.flow.send("PA", data[start : start + 1000])

    def delivered(self, expected: bytes) -> None:
        """The application must have been given exactly these bytes (a remote host: its echo sends them back)."""
        if self._sock is not None:
            got = self._sock.recv()
        else:
            got = b"".join(payload(packet) for packet in self.flow.collect(self.probe.soon))
        assert got == expected, f"the application was given {got!r}, not {expected!r}"

    def data(self, within: float | None = None, flags: str = "A", **expected: Any) -> Packet:
        """The next segment of the target with data; acknowledgements before it are passed over."""
        return self.probe.data(self.flow, within, flags, **expected)

    @property
    def state(self) -> str:
        """The state of the target's end."""
        return self.probe.state(self.flow)


class Probe:
    """A scenario's view of one fresh target.

    soon: seconds in which an answer at once has come.
    """

    def __init__(self, target: Target, patience: float = 10.0) -> None:
        self.target = target
        self.patience = patience
        self.soon = 0.02 if target.virtual else 0.05 if target.name == "kernel" else 0.2
        self.peer = Peer(target.wire, ip=target.peer_address, mac=target.peer_mac, target=target.address)
        self._listener: Sock | None = None
        self._socks: list[Sock] = []

    # -- time

    def wait(self, seconds: float) -> None:
        """Let time pass; in real time at most what the user has patience for."""
        if not self.target.virtual and seconds > self.patience:
            raise NotApplicable(f"it takes {seconds:g} s of real time (see --patience)")
        self.target.pump()
        self.peer.take(lambda packet: False, seconds)  # all is kept, and requests for the peer's address are answered

    def within(self, seconds: float) -> float:
        """How long to wait for something that must come within so many seconds."""
        return seconds + self.target.slack + 1e-3

    def now(self) -> float:
        """The target's time in seconds."""
        return self.peer.now()

    def close_to(self, measured: float, expected: float, part: float = 0.1) -> bool:
        """Whether a time is as expected, give or take a part of it and the target's slack."""
        low = expected * (1 - part) - self.target.slack / 2
        return low - 2e-3 <= measured <= expected * (1 + part) + self.target.slack + 2e-3

    # -- sockets

    def needs_sockets(self) -> None:
        """Raises NotApplicable for a remote host."""
        if self.target.name == "remote":
            raise NotApplicable("what a remote host's applications call cannot be seen or caused on a wire")

    def socket(self, datagram: bool = False) -> Sock:
        """A fresh socket of the target."""
        return self._kept(self.target.socket(datagram))

    def _kept(self, raw: Any) -> Sock:
        self._socks.append(Sock(self.target, raw))
        return self._socks[-1]

    def close(self) -> None:
        """Close every socket that the scenario used."""
        for sock in self._socks:
            with contextlib.suppress(OSError):
                sock.raw.close()

    def listen(self, port: int = PORT, backlog: int = 64, prepare: Callable[[Sock], None] | None = None) -> Sock:
        """A listener; prepare(socket) sets options before."""
        made = self.socket()
        if prepare is not None:
            prepare(made)
        made.raw.bind(("", port))
        made.raw.listen(backlog)
        return made

    def accept(self, listener: Sock | None = None) -> Sock:
        """The next connection of a listener (that on PORT)."""
        raw, _ = (listener or self._listening()).raw.accept()
        raw.setblocking(False)
        return self._kept(raw)

    def pending(self, listener: Sock | None = None) -> bool:
        """Whether a listener has a connection to accept; it is taken."""
        try:
            self.accept(listener)
        except BUSY:
            return False
        return True

    def _listening(self) -> Sock:
        if self._listener is None:
            self._listener = self.listen()
        return self._listener

    # -- connections

    def flow(self, port: int | None = None, **options: Any) -> Flow:
        """A conversation that has not begun, with the listener unless a port is given."""
        if port is None and self.target.name != "remote":
            self._listening()
            port = PORT
        return self.peer.flow(port or self.target.sink, **options)

    def closed_port(self) -> Flow:
        """A conversation with a port on which nobody listens."""
        return self.peer.flow(CLOSED_PORT if self.target.name != "remote" else 47)

    def established(
        self, options: Options_ = None, *, win: int | None = None, talks: bool = False, rtt: float = 0.0
    ) -> Conn:
        """The peer has opened a connection.

        talks: the target's side will send, or say what it was given. rtt: seconds the handshake takes the target, so
        that its timers leave time to look.
        """
        remote = self.target.name == "remote"
        made = self.peer.flow(self.target.echo if talks else self.target.sink) if remote else self.flow()
        if win is not None:
            made.win = win
        made.send("S", options=SYN_OPTIONS if options is None else options)
        made.expect("SA", self.within(1.0), seq=ANY)
        if rtt:
            self.wait(rtt)
        made.send("A")
        return Conn(self, made, None if remote else self.accept())

    def connecting(self, prepare: Callable[[Sock], None] | None = None) -> tuple[Conn, Packet]:
        """The target connects to the peer and has sent its SYN, which is given back."""
        self.needs_sockets()
        flow = self.peer.flow(0, isn=70000)
        sock = self.socket()
        if prepare is not None:
            prepare(sock)
        code = sock.raw.connect_ex((self.peer.ip, flow.sport))
        assert code == errno.EINPROGRESS, f"connect: {errno.errorcode.get(code, code)}"
        self.target.pump()
        return Conn(self, flow, sock), flow.expect_syn()

    def connected(self, options: Options_ = None, **fields: Any) -> Conn:
        """A connection that the target opened."""
        conn, _ = self.connecting()
        conn.flow.send("SA", options=SYN_OPTIONS if options is None else options, **fields)
        conn.flow.expect("A")
        return conn

    def closing(self, state: str) -> Conn:
        """A connection in one of the states after ESTABLISHED, or in ESTABLISHED; the target was the passive opener."""
        conn = self.established()
        flow = conn.flow
        if state in ("CLOSE-WAIT", "LAST-ACK"):
            flow.send("FA")
            flow.expect("A", self.within(0.5))
        if state in ("FIN-WAIT-1", "FIN-WAIT-2", "CLOSING", "LAST-ACK", "TIME-WAIT"):
            conn.sock.shutdown()
            flow.expect("FA", self.within(0.1))
        if state == "CLOSING":
            flow.send("FA", ack=flow.rcv - 1)
            flow.expect("A")
        elif state == "FIN-WAIT-2":
            flow.send("A")
        elif state == "TIME-WAIT":
            flow.send("FA")
            flow.expect("A")
        assert conn.state == state, f"the target says {conn.state}, not {state}"
        return conn

    def state(self, flow: Flow) -> str:
        """The state of the target's end of a conversation, CLOSED if it has none."""
        for record in self.target.connections():
            peer = field(record, "peer")
            if peer and tuple(peer) == (self.peer.ip, flow.sport) and field(record, "local")[1] == flow.dport:
                return str(field(record, "state")).upper().replace("_", "-")
        return "CLOSED"

    # -- segments

    def data(self, flow: Flow, within: float | None = None, flags: str = "A", **expected: Any) -> Packet:
        """The next segment with data, which must be as expected (see Flow.expect).

        Plain ACKs are passed over; so are retransmissions, unless `seq` says what is expected (or ANY).
        """
        limit = self.within(1.0 if within is None else within)
        deadline = self.now() + limit
        while (packet := flow.next(max(0.0, deadline - self.now()))) is not None:
            again = "seq" not in expected and seq_diff(packet[TCP].seq, flow.rcv) < 0
            if payload(packet) and not again:
                self.peer.put_back(packet)
                return flow.expect(flags, **{"data": ANY, "ack": ANY, **expected})
        raise Mismatch(self.peer.failure(f"expected a segment with data within {limit:g} s", "nothing came"))

    def again(self, flow: Flow, seq: int, within: float = 3.0) -> Packet:
        """The next segment with data that begins at seq; others are passed over."""
        deadline = self.now() + self.within(within)
        while (packet := flow.next(max(0.0, deadline - self.now()))) is not None:
            if payload(packet) and packet[TCP].seq == seq % (1 << 32):
                return packet
        raise Mismatch(self.peer.failure(f"expected segment {seq % (1 << 32)} within {within:g} s", "nothing came"))

    def burst(self, flow: Flow, within: float | None = None) -> list[Packet]:
        """All segments with data that come in so many seconds (soon)."""
        return [packet for packet in flow.collect(self.soon if within is None else within) if payload(packet)]

    def silent(self, flow: Flow, seconds: float | None = None) -> None:
        """Nothing may come for so long (soon)."""
        flow.expect_nothing(self.soon if seconds is None else seconds)

    def reset(self, flow: Flow, within: float | None = None, **fields: Any) -> Packet:
        """The next segment must be a RST, with or without an acknowledgement."""
        packet = flow.next(self.within(0.1 if within is None else within))
        if packet is None or "R" not in str(packet[TCP].flags):
            raise self.wrong("a RST", packet)
        for name, value in fields.items():
            if packet[TCP].getfieldval(name) != value:
                raise self.wrong(f"a RST with {name} {value}", packet)
        return packet

    def wrong(self, wanted: str, packet: Packet | None = None) -> Mismatch:
        """An exception that says what was wanted, what came, and what was before."""
        got = "nothing came" if packet is None else f"got: {describe(packet)}"
        return Mismatch(self.peer.failure(f"expected {wanted}", got))

    def require(self, condition: object, what: str) -> None:
        """Fail, with the exchange, unless the condition holds."""
        if not condition:
            raise Mismatch(self.peer.failure(what, ""))

    def challenge_rest(self) -> None:
        """Let the limit on answers to invalid segments come back (Linux: one in 500 ms a connection)."""
        self.wait(0.6)


def option(packet: Packet, name: str) -> Any:
    """The value of a TCP option, None if it is not there."""
    return next((value for kind, value in packet[TCP].options if kind == name), None)
