"""Payload that is not copied, exchanged with the kernel's TCP over a TAP and verified by SHA-256."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tap_harness import payload
from tap_harness.kernel_peer import start_server
from tap_harness.wire import Impairment

MIB = 1 << 20
LONG = 300.0  # seconds: only to end a hang
SIZE = 16 * MIB


def sink(net: Any) -> Any:
    _, port = start_server(net.ns, "sink", net.kernel_ip)
    return net.stack_connect(port, timeout=LONG)


def answer(sock: Any) -> str:
    """What the sink has got, once it has got it all."""
    sock.shutdown(socket.SHUT_WR)
    return b"".join(iter(lambda: sock.recv(100), b"")).decode()


@pytest.mark.timeout(LONG)
def test_views_of_what_the_kernel_sends(net: Any) -> None:
    _, port = start_server(net.ns, "source", net.kernel_ip, 0, "--bytes", str(SIZE), "--seed", "1")
    sock = net.stack_connect(port, timeout=LONG)
    found, count = hashlib.sha256(), 0
    while True:
        with sock.recv_view() as view:
            if not view.nbytes:
                break
            count += view.nbytes
            for piece in view:
                found.update(piece)
    assert (count, found.hexdigest()) == (SIZE, payload.digest(1, SIZE))
    sock.close()


@pytest.mark.timeout(LONG)
def test_buffers_by_reference_to_the_kernel(net: Any) -> None:
    sock = sink(net)
    completions = [sock.send_zerocopy(block) for block in payload.blocks(3, SIZE)]
    assert answer(sock) == payload.digest(3, SIZE)
    for completion in completions:
        assert completion.wait(LONG)
        assert completion.acknowledged


@pytest.mark.timeout(LONG)
def test_a_file_by_reference_to_the_kernel(net: Any, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"".join(payload.blocks(4, SIZE)))
    sock = sink(net)
    with path.open("rb") as file:
        assert sock.sendfile(file, zerocopy=True) == SIZE
    assert answer(sock) == payload.digest(4, SIZE)


@pytest.mark.timeout(LONG)
def test_retransmissions_by_reference(impaired: Callable[[Impairment], Any]) -> None:
    sock = sink(impaired(Impairment(loss=0.02, reordering=0.02, seed=11)))
    data = b"".join(payload.blocks(5, 4 * MIB))
    completion = sock.send_zerocopy(data)
    assert answer(sock) == payload.digest(5, 4 * MIB)
    assert completion.wait(LONG)
    assert completion.acknowledged
