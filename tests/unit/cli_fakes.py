"""A stand-in for a stack, on the kernel's loopback sockets, to test the command line without a data plane.

Also run as a program (`python -m tests.unit.cli_fakes VERB ...`): the ustack command with that stand-in.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ustack.cli import curl, main, nc, ping, serve, up
from ustack.cli.session import Session


class FakeStack:
    """What the command line asks of a stack, answered by the kernel."""

    def __init__(self, records: list[dict[str, Any]] | None = None) -> None:
        self._records = records or []

    def socket(self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM, protocol: int = 0) -> socket.socket:
        return socket.socket(family, kind, protocol)

    def create_connection(self, address: tuple[str, int], timeout: float | None = None) -> socket.socket:
        return socket.create_connection(address, timeout=timeout)

    def connections(self) -> list[dict[str, Any]]:
        return self._records

    def counters(self) -> dict[str, int]:
        return {"TcpInSegs": 1, "TcpOutSegs": 2, "TcpRetransSegs": 0}


@contextlib.contextmanager
def fake_session(args: Any, alone_is_useful: bool = False) -> Iterator[Session]:
    yield Session(FakeStack(), "fake0", ["127.0.0.1/8"], [], None, "")


def use_fake_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every verb gets the stand-in."""
    for verb in (curl, nc, ping, serve, up):
        monkeypatch.setattr(verb, "open_session", fake_session)


@contextlib.contextmanager
def scripted_server(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A listening socket on loopback whose one client is handed to a function; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve_one() -> None:
            with contextlib.suppress(OSError):
                client, _ = listener.accept()
                with client:
                    answer(client)

        thread = threading.Thread(target=serve_one, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)
        assert not thread.is_alive()


def read_head(client: socket.socket) -> bytes:
    """A request's head, from a client that sends nothing after it before it is answered."""
    head = b""
    while b"\r\n\r\n" not in head:
        piece = client.recv(4096)
        if not piece:
            break
        head += piece
    return head


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as patch:
        use_fake_stack(patch)
        sys.exit(main())
