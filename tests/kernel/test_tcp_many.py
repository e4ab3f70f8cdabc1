"""Many connections: one after the other, at once, idle; and what they leave behind."""

from __future__ import annotations

import select
import socket
import struct
import threading
from typing import Any

import pytest

from tap_harness.checks import echo_through, kernel_health, rss
from tap_harness.net import echo
from tap_harness.process import wait_for


def test_one_after_the_other(net: Any) -> None:
    port = net.serve(echo)
    for number in range(net.amount(500)):
        with net.kernel_socket() as sock:
            sock.connect((net.stack_ip, port))
            sock.sendall(number.to_bytes(4, "big"))
            assert sock.recv(10) == number.to_bytes(4, "big")
    kernel_health(net.ns, net.stack_ip, port)


def test_at_once(net: Any) -> None:
    port = net.serve(echo, backlog=512)
    socks = []
    for _ in range(net.amount(400)):
        sock = net.keep(net.kernel_socket())
        sock.setblocking(False)
        sock.connect_ex((net.stack_ip, port))
        socks.append(sock)
    for number, sock in enumerate(socks):
        sock.settimeout(20)
        sock.sendall(number.to_bytes(4, "big") * 100)
    for number, sock in enumerate(socks):
        assert sock.recv(4, socket.MSG_WAITALL) == number.to_bytes(4, "big")


def test_stack_as_client_of_many(net: Any) -> None:
    listener, port = net.kernel_listen(backlog=512)
    ours = [net.stack_connect(port) for _ in range(net.amount(200))]
    names = {sock.getsockname() for sock in ours}
    assert len(names) == len(ours)
    theirs = {}
    for _ in ours:
        connection, name = listener.accept()
        theirs[name] = net.keep(connection)
    for sock in ours:
        sock.sendall(b"mine")
        assert theirs[sock.getsockname()].recv(10) == b"mine"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_opened_and_closed_leave_nothing(net: Any, full: bool) -> None:
    """Connections that the kernel opens and closes: tables and RSS come back (the kernel keeps the TIME-WAITs)."""
    count = 10_000 if full else net.amount(2000)
    net.ns.sysctl("net.ipv4.tcp_max_tw_buckets", 100)
    listener, port = net.stack_listen(backlog=128)

    def cycle(times: int) -> None:
        for _ in range(times):
            theirs = net.kernel_socket()
            theirs.connect((net.stack_ip, port))
            ours, _ = listener.accept()
            theirs.close()
            assert ours.recv(1) == b""
            ours.close()

    cycle(200)
    wait_for(lambda: len(net.stack.connections()) == 1, "the listener to be alone", 10)
    base = rss()
    cycle(count)
    wait_for(lambda: len(net.stack.connections()) == 1, "the listener to be alone", 10)
    assert rss() - base < 4 << 20


def test_threads_share_the_stack(net: Any) -> None:
    """Eight threads at once, each with a connection of its own to the stack's echo."""
    port = net.serve(echo)
    failures: list[BaseException] = []

    def run(number: int) -> None:
        try:
            with net.kernel_socket() as sock:
                sock.connect((net.stack_ip, port))
                echo_through(sock, bytes([number]) * (1 << 20))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_connect_and_reset_before_accept(net: Any) -> None:
    """Entries of the accept queue whose peer has gone are freed; the backlog recovers."""
    listener, port = net.stack_listen(backlog=8)
    for _ in range(net.amount(300)):
        sock = net.kernel_socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.setblocking(False)
        sock.connect_ex((net.stack_ip, port))
        select.select([], [sock], [], 0.02)  # answered, or the backlog is full just now: either will do
        sock.close()
    listener.close()
    kernel_health(net.ns, net.stack_ip, net.serve(echo, port))
