"""The scripted peer on a real TAP: what tests/hostile shows in memory and virtual time holds on a device in real time.

The peer sits behind a packet socket on the TAP's netdev; the kernel of that namespace has no address and keeps out of
it.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6

import ustack
from tap_harness.carrier import TapCarrier
from tap_harness.diff import ANY
from tap_harness.ends import Ends
from tap_harness.net import echo
from tap_harness.netns import Namespace
from tap_harness.process import wait_for
from tap_harness.scapy_peer import Peer
from tap_harness.tap import KernelTap
from tap_harness.wire import packet_socket

PORT = 80
QUIET = 0.3  # seconds in which an unwanted answer would have come


class OnTap:
    """A stack on a TAP, a peer on the netdev that has the kernel's address, an echo on PORT."""

    def __init__(self, ns: Namespace, ends: Ends, cleanup: contextlib.ExitStack) -> None:
        self.ends = ends
        tap = cleanup.enter_context(KernelTap(ns))
        self.stack = cleanup.enter_context(ustack.Stack())
        self.stack.attach(ustack.Tap(fd=tap.dup()), addresses=[ends.stack_net], probe=False)
        wire = cleanup.enter_context(packet_socket(ns, tap.name))
        self.peer = Peer(TapCarrier(wire.fileno()), ip=ends.kernel, target=ends.stack)
        self.listener = cleanup.enter_context(self.stack.create_server(("", PORT), family=ends.family))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # the listener was closed
            while True:
                connection, _ = self.listener.accept()
                threading.Thread(target=self._handle, args=(connection,), daemon=True).start()

    @staticmethod
    def _handle(connection: Any) -> None:
        with connection, contextlib.suppress(OSError):
            echo(connection)


@pytest.fixture
def tap(ns: Namespace, ends: Ends) -> Iterator[OnTap]:
    with contextlib.ExitStack() as cleanup:
        yield OnTap(ns, ends, cleanup)


def still_echoes(flow: Any) -> None:
    flow.send("PA", b"still here")
    assert flow.read(10) == b"still here"


def test_handshake_echo_close(tap: OnTap) -> None:
    tap.peer.ping(within=2)
    flow = tap.peer.flow(PORT)
    flow.handshake()
    still_echoes(flow)
    flow.close()


@pytest.mark.rfc("9293", "MUST-10")
def test_simultaneous_open(tap: OnTap) -> None:
    flow = tap.peer.flow(0, isn=70000)
    sock = tap.stack.socket(tap.ends.family)
    with sock:
        sock.setblocking(False)
        sock.connect_ex((tap.peer.ip, flow.sport))
        flow.expect_syn()
        flow.send("S", options=[("MSS", 1460)])
        flow.expect("SA", seq=flow.irs)
        flow.inject("SA", seq=flow.isn, ack=flow.rcv)
        flow.collect(QUIET)
        flow.send("A")
        sock.settimeout(5)
        sock.sendall(b"open")
        assert flow.read(4) == b"open"
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


@pytest.mark.parametrize("flags", ["", "F", "FPU", "SF", "SR", "FSRPAU"])
def test_odd_flags_for_a_listener(tap: OnTap, flags: str) -> None:
    flow = tap.peer.flow(PORT)
    flow.inject(flags)
    flow.expect_nothing(QUIET)
    tap.peer.ping(within=2)


def test_bad_checksums(tap: OnTap) -> None:
    flow = tap.peer.flow(PORT)
    flow.inject("S", chksum=0xBAD)
    flow.expect_nothing(QUIET)
    flow.handshake()
    flow.inject("PA", b"wrong", chksum=0xBAD)
    packet = flow.build("PA", b"wrong")
    if tap.ends.six:  # no checksum of its own: the length is wrong instead
        packet[IPv6].plen = 2000
    else:
        packet[IP].chksum = 0xBAD
    tap.peer.send(packet)
    flow.expect_nothing(QUIET)
    still_echoes(flow)


def test_outside_the_window(tap: OnTap) -> None:
    flow = tap.peer.flow(PORT)
    flow.handshake()
    flow.inject("PA", b"far ahead", seq=flow.snd + (1 << 24))
    flow.expect("A")
    flow.inject("PA", b"long ago", seq=flow.snd - 5000)
    flow.expect("A")
    still_echoes(flow)


def test_old_duplicate(tap: OnTap) -> None:
    flow = tap.peer.flow(PORT)
    flow.handshake()
    still_echoes(flow)
    flow.inject("PA", b"still here", seq=flow.snd - 10)
    flow.expect("A")
    flow.expect_nothing(QUIET)
    still_echoes(flow)


@pytest.mark.rfc("5961", "3.2")
def test_resets(tap: OnTap) -> None:
    """Out of the window: nothing. In it: a challenge. Exactly in order: the end."""
    flow = tap.peer.flow(PORT)
    flow.handshake()
    flow.inject("R", seq=flow.snd - 1)
    flow.expect_nothing(QUIET)
    flow.inject("R", seq=flow.snd + 1000)
    flow.expect("A")
    still_echoes(flow)
    flow.inject("R")
    flow.expect_nothing(QUIET)
    wait_for(lambda: all(record.peer is None for record in tap.stack.connections()), "the connection to be gone", 5)
    flow.inject("A")
    flow.expect("R", seq=flow.rcv, ack=ANY)


def test_segment_to_nobody(tap: OnTap) -> None:
    flow = tap.peer.flow(9)
    flow.inject("S", seq=0xFFFFFFFF)
    assert flow.expect("RA", seq=0, ack=0)[TCP].window == 0
