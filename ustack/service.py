"""ustack.Service: a small TCP service that the data plane answers by itself.

Responsible for: the kinds and their options as a person writes them, addresses, the HTTP answer. Not for: what a
service does with a connection (ustack_ext.service).
"""

from __future__ import annotations

import ipaddress
from typing import Any

from ustack_ext.service.handle import ServiceCore
from ustack_ext.service.responder import ServiceKind

KINDS = ("echo", "discard", "chargen", "answer", "http")
_V4_MARK = 0xFFFF << 32  # IPv4 lives at ::ffff:a.b.c.d inside
_HTTP_END = b"\r\n\r\n"


class Service(ServiceCore):
    """A TCP service inside the data plane; made by Stack.start_service(). A context manager that closes it.

    Whatever thread takes packets in answers them, without Python. It goes on until it or its stack is closed, whether
    or not this object is kept.
    """

    def __init__(
        self, driver: Any, address: tuple[str, int], kind: str, *, backlog: int = 4096, **options: Any
    ) -> None:
        host, port = address
        if not 0 <= port <= 65535:
            raise OverflowError(f"port must be 0-65535, not {port}")
        if backlog < 0:
            raise ValueError(f"backlog: {backlog} is negative")
        number, answer, end, close, report = _described(kind, options)
        self._kind = kind
        self._host = host or "0.0.0.0"
        self._port = self._open(driver, number, _number(host), port, backlog, answer, end, close, report)

    @property
    def kind(self) -> str:
        """What it does, as start_service() was told."""
        return self._kind

    @property
    def address(self) -> tuple[str, int]:
        """(host, port) where it listens."""
        return self._host, self._port

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<ustack.Service {self._kind} {self._host}:{self._port}{' closed' if self.closed else ''}>"


def text_options(kind: str, text: str) -> dict[str, Any]:
    """The options of a service that a person gives a line of text: what every HTTP request, or whatever comes, gets."""
    if kind == "http":
        return {"body": text + "\n"}
    return {"answer": text.encode() + b"\n", "close": True} if kind == "answer" else {}


def _described(kind: str, options: dict[str, Any]) -> tuple[int, bytes, bytes, bool, bool]:
    """(ServiceKind, answer, end, close, report) of a kind and its options. Raises ValueError, TypeError."""
    if kind == "echo":
        return _taken(kind, options, ServiceKind.SERVICE_ECHO)
    if kind == "discard":
        return _taken(kind, options, ServiceKind.SERVICE_DISCARD, report=bool(options.pop("report", False)))
    if kind == "chargen":
        return _taken(kind, options, ServiceKind.SERVICE_CHARGEN)
    if kind == "answer":
        text, end = bytes(options.pop("answer", b"")), bytes(options.pop("end", b""))
        close = bool(options.pop("close", False))
        return _taken(kind, options, ServiceKind.SERVICE_ANSWER, text, end, close)
    if kind == "http":
        body = options.pop("body", b"")
        body = body.encode() if isinstance(body, str) else bytes(body)
        close = bool(options.pop("close", False))
        text = http_answer(body, options.pop("content_type", "text/plain; charset=utf-8"), close)
        return _taken(kind, options, ServiceKind.SERVICE_ANSWER, text, _HTTP_END, close)
    raise ValueError(f"kind: {kind!r} is none of {', '.join(KINDS)}")


def _taken(
    kind: str,
    left: dict[str, Any],
    number: int,
    answer: bytes = b"",
    end: bytes = b"",
    close: bool = False,
    report: bool = False,
) -> tuple[int, bytes, bytes, bool, bool]:
    if left:
        raise TypeError(f"a service of kind {kind!r} has no option {next(iter(left))!r}")
    return int(number), answer, end, close, report


def http_answer(body: bytes, content_type: str, close: bool = False) -> bytes:
    """A complete HTTP/1.1 response with that body. Raises ValueError for a content type that is no header value."""
    if not content_type.isprintable():
        raise ValueError(f"content_type: {content_type!r} cannot stand in a header")
    connection = "Connection: close\r\n" if close else ""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n{connection}\r\n"
    return head.encode() + body


def _number(host: str) -> int:
    """A host to listen on as the stack's 128-bit number; "" is any. Raises ValueError."""
    if host in ("", "0.0.0.0"):
        return 0
    address = ipaddress.ip_address(host)
    return int(address) | (_V4_MARK if address.version == 4 else 0)
