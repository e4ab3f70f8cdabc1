"""Urgent data between the kernel's TCP and the stack's, both ways (RFC 9293 §3.8.5)."""

from __future__ import annotations

import fcntl
import select
import socket
import struct
import threading
from typing import Any

import pytest

ROLES = pytest.mark.parametrize("role", ["client", "server"])
WAYS = pytest.mark.parametrize("way", ["to the kernel", "from the kernel"])
SIOCATMARK = 0x8905


def ioctl(sock: Any, request: int) -> int:
    if isinstance(sock, socket.socket):
        return int(struct.unpack("i", fcntl.ioctl(sock, request, bytes(4)))[0])
    return int(sock.ioctl(request))


def ends(net: Any, role: str, way: str) -> tuple[Any, Any]:
    """(who sends, who receives)."""
    ours, theirs = net.pair(role)
    return (ours, theirs) if way == "to the kernel" else (theirs, ours)


@ROLES
@WAYS
@pytest.mark.rfc("9293", "MUST-30", "MUST-32", "MUST-62")
def test_out_of_line(net: Any, role: str, way: str) -> None:
    sender, receiver = ends(net, role, way)
    sender.send(b"ab")
    sender.send(b"cd!", socket.MSG_OOB)
    sender.send(b"ef")
    assert select.select([], [], [receiver], 10)[2] == [receiver]
    assert receiver.recv(1, socket.MSG_OOB) == b"!"
    assert receiver.recv(10, socket.MSG_WAITALL) == b"abcd"
    assert ioctl(receiver, SIOCATMARK) == 1
    assert receiver.recv(2, socket.MSG_WAITALL) == b"ef"


@ROLES
@WAYS
@pytest.mark.rfc("9293", "MUST-31", "MUST-33")
def test_in_line_and_long(net: Any, role: str, way: str) -> None:
    """More urgent data than the pointer can name at once, and in several segments; what follows is not urgent."""
    sender, receiver = ends(net, role, way)
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    data = bytes(range(256)) * 600

    def send() -> None:
        for at in range(0, len(data), 4096):
            sender.sendall(data[at : at + 4096], socket.MSG_OOB)
        sender.sendall(b"the rest")
        sender.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=send)
    thread.start()
    got = bytearray()
    marks = []
    while more := receiver.recv(1 << 16):
        got += more
        if ioctl(receiver, SIOCATMARK):
            marks.append(len(got))
    thread.join()
    assert got == data + b"the rest"
    assert marks[-1] == len(data) - 1
