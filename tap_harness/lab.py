"""A stack with an echo, a scripted neighbour and a health check: what most scripted tests start with.

And the way into each state of RFC 9293 figure 5 for one connection (`Lab.reach`).
"""

from __future__ import annotations

import contextlib
import errno
import socket
from dataclasses import dataclass
from typing import Any

from tap_harness.carrier import LabCarrier, MemoryCarrier
from tap_harness.checks import ScriptedHealth
from tap_harness.diff import ANY
from tap_harness.ends import FOUR, Ends
from tap_harness.flow import SYN_OPTIONS, Flow, Options
from tap_harness.scapy_peer import Peer
from tap_harness.segment import ACK, MODULUS, SYN, Path, Segment, is_resolution, parse
from tap_harness.service import EchoService

ECHO_PORT = 80  # an echo that serves itself
PORT = 81  # a listener whose connections the test accepts
CLOSED_PORT = 9

# In the order in which a connection can come to them.
STATES = (
    "CLOSED",
    "LISTEN",
    "SYN-SENT",
    "SYN-RECEIVED",
    "ESTABLISHED",
    "FIN-WAIT-1",
    "FIN-WAIT-2",
    "CLOSE-WAIT",
    "CLOSING",
    "LAST-ACK",
    "TIME-WAIT",
)
SYNCHRONIZED = STATES[3:]


@dataclass
class Situation:
    """A connection in a state: the peer's side and the stack's socket (None where it has none)."""

    state: str
    flow: Flow
    sock: Any


@dataclass
class RawEnd:
    """The peer's end of a connection whose segments are made as bytes: where it stands in sequence space."""

    path: Path
    snd: int
    rcv: int

    def frame(self, flags: int, data: bytes = b"", win: int = 65535, options: bytes = b"") -> bytes:
        """A segment that is in order."""
        return self.path.frame(self.snd, self.rcv, flags, win, data, options)


class Lab:
    """The stack (`stack`, in `carrier`) and the peer (`peer`): 10.9.0.2 and 10.9.0.1, or those of `ends`. `health` is
    made at its first use.

    Without a carrier it has a fresh ustack.Stack on the manual driver; keyword arguments go to MemoryCarrier.
    """

    def __init__(self, carrier: LabCarrier | None = None, ends: Ends = FOUR, **options: Any) -> None:
        if carrier is None:
            carrier = MemoryCarrier(**{"address": ends.stack_net, **options})
        self.ends = ends
        self.carrier: LabCarrier = carrier
        self.stack = self.carrier.stack
        self.echo = EchoService(self.stack, ECHO_PORT, keep=True, family=ends.family)
        self.carrier.apps.append(self.echo.step)
        self.listener = self.stack.create_server(("", PORT), family=ends.family, backlog=64)
        self.listener.setblocking(False)
        self.peer = Peer(self.carrier, ip=ends.kernel, target=ends.stack)
        self._health: ScriptedHealth | None = None

    @property
    def health(self) -> ScriptedHealth:
        """The health check, its base taken at the first use."""
        if self._health is None:
            self._health = ScriptedHealth(self.peer, self.carrier, ECHO_PORT)
        return self._health

    def close(self) -> None:
        """Close the stack."""
        self.carrier.close()

    def flow(self, port: int = ECHO_PORT, **options: Any) -> Flow:
        """A conversation with the stack's `port`; see Peer.flow."""
        return self.peer.flow(port, **options)

    def accept(self) -> Any:
        """The next connection of the listener on PORT, non-blocking."""
        sock, _ = self.listener.accept()
        sock.setblocking(False)
        return sock

    def established(self, options: Options | None = None, *, win: int | None = None, **flow: Any) -> Situation:
        """A connection to PORT, opened by the peer and accepted."""
        made = self.flow(PORT, **flow)
        made.handshake(options, win=win)
        return Situation("ESTABLISHED", made, self.accept())

    def connecting(self, sport: int | None = None) -> Situation:
        """The stack connects to a port of the peer and has sent its SYN, which the flow has seen."""
        listening = self.peer.flow(0, sport=sport, isn=70000)
        sock = self.stack.socket(self.ends.family)
        sock.setblocking(False)
        code = sock.connect_ex((self.peer.ip, listening.sport))
        assert code == errno.EINPROGRESS, errno.errorcode.get(code, code)
        self.carrier.pump()
        listening.expect_syn()
        return Situation("SYN-SENT", listening, sock)

    def connected(self, options: Options | None = None) -> Situation:
        """A connection that the stack opened to the peer."""
        situation = self.connecting()
        situation.flow.send("SA", options=SYN_OPTIONS if options is None else options)
        situation.flow.expect("A")
        return Situation("ESTABLISHED", situation.flow, situation.sock)

    def open_raw(self, sport: int, port: int = ECHO_PORT, *, win: int = 65535, options: bytes = b"") -> RawEnd:
        """A connection opened with segments as bytes, a hundred times faster than with scapy."""
        path = Path(self.peer.mac, self.peer.target_mac, self.peer.ip, self.peer.target, sport, port)
        self.carrier.send(path.frame(sport, 0, SYN, win, options=options))
        answers = [segment for segment in self.segments() if segment.dport == sport]
        assert len(answers) == 1, answers
        assert answers[0].flags == SYN | ACK, answers
        end = RawEnd(path, sport + 1, (answers[0].seq + 1) % MODULUS)
        self.carrier.send(path.frame(end.snd, end.rcv, ACK, win))
        return end

    def shutdown(self, sock: Any) -> None:
        """The stack's side sends its FIN."""
        sock.shutdown(socket.SHUT_WR)
        self.carrier.pump()

    def reach(self, state: str) -> Situation:
        """A fresh connection in `state` (one of STATES); the stack was the passive side, except in SYN-SENT."""
        if state == "CLOSED":
            return Situation(state, self.flow(CLOSED_PORT), None)
        if state == "LISTEN":
            return Situation(state, self.flow(PORT), None)
        if state == "SYN-SENT":
            return self.connecting()
        if state == "SYN-RECEIVED":
            flow = self.flow(PORT)
            flow.send("S", options=SYN_OPTIONS)
            flow.expect("SA", seq=ANY)
            return Situation(state, flow, None)
        situation = self.established()
        flow, sock = situation.flow, situation.sock
        if state in ("CLOSE-WAIT", "LAST-ACK"):
            flow.send("FA")
            flow.expect("A")
        if state in ("FIN-WAIT-1", "FIN-WAIT-2", "CLOSING", "LAST-ACK", "TIME-WAIT"):
            self.shutdown(sock)
            flow.expect("FA")
        if state == "CLOSING":
            flow.send("FA", ack=flow.rcv - 1)  # their FIN crossed ours: ours is not acknowledged
            flow.expect("A")
        elif state == "FIN-WAIT-2":
            flow.send("A")
        elif state == "TIME-WAIT":
            flow.send("FA")
            flow.expect("A")
        found = self.state_of(flow)
        assert found == state, f"the stack says {found}, not {state}"
        return Situation(state, flow, sock)

    def state_of(self, flow: Flow) -> str:
        """The state of the stack's end of a conversation, CLOSED if it has none."""
        for record in self.stack.connections():
            peer = field(record, "peer")
            if peer and peer[0] == self.peer.ip and peer[1] == flow.sport and field(record, "local")[1] == flow.dport:
                return str(field(record, "state")).upper().replace("_", "-")
        return "CLOSED"

    def path(self, flow: Flow) -> Path:
        """The way of a conversation's segments as bytes, for floods."""
        return Path(self.peer.mac, self.peer.target_mac, self.peer.ip, self.peer.target, flow.sport, flow.dport)

    def segments(self) -> list[Segment]:
        """All segments that wait to be taken, parsed; ARP requests among them are answered."""
        found = []
        while frames := self.carrier.drain():  # again, for what waited for the answer to ARP
            for frame in frames:
                if is_resolution(frame):
                    self.peer.answer_arp(frame)
                elif (segment := parse(frame)) is not None:
                    found.append(segment)
        return found

    def read(self, sock: Any) -> bytes:
        """Everything a non-blocking socket of the stack has to read now."""
        data = bytearray()
        with contextlib.suppress(BlockingIOError):
            while more := sock.recv(1 << 16):
                data += more
        self.carrier.pump()
        return bytes(data)

    def write(self, sock: Any, data: bytes) -> int:
        """What a non-blocking socket of the stack takes of data; the stack then sends what it may."""
        taken = int(sock.send(data))
        self.carrier.pump()
        return taken

    def tidy(self, situation: Situation) -> None:
        """End a situation however it stands, and forget what is still under way."""
        if situation.state not in ("CLOSED", "LISTEN"):
            situation.flow.reset()
        if situation.sock is not None:
            with contextlib.suppress(OSError):
                situation.sock.close()
        self.carrier.pump()
        with contextlib.suppress(BlockingIOError):
            while True:
                self.accept().close()
        self.carrier.pump()
        self.peer.discard()


def field(record: Any, name: str) -> Any:
    """A field of one of stack.connections()' records."""
    return record[name] if isinstance(record, dict) else getattr(record, name)
