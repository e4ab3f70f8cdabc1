"""pcapng (draft-ietf-opsawg-pcapng): the blocks that captures are made of, written and read.

Responsible for: whole files of frames that are in memory (write), and reading a stream block by block (read). Not for:
how a block's bytes are laid out (ustack_ext.wire.pcapng), capturing (ustack.capture).
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ustack_ext.wire.pcapng import interface, packet, section

__all__ = ["ETHERNET", "INBOUND", "OUTBOUND", "RAW", "Packet", "read", "write"]

ETHERNET, RAW = 1, 101  # link types
INBOUND, OUTBOUND = 1, 2

_SECTION, _INTERFACE, _PACKET = 0x0A0D0D0A, 1, 6
_MAGIC = {b"\x1a\x2b\x3c\x4d": ">", b"\x4d\x3c\x2b\x1a": "<"}
_OPT_END, _OPT_COMMENT, _EPB_FLAGS, _IF_NAME, _IF_TSRESOL = 0, 1, 2, 2, 9
_BLOCK_MAX = 1 << 24  # bytes; a longer one is no block


@dataclasses.dataclass(frozen=True)
class Packet:
    """A packet of a file. ns: since 1970; length: in bytes, as it was on the wire; direction: INBOUND, OUTBOUND, 0."""

    interface: str
    linktype: int
    ns: int
    data: bytes
    length: int
    direction: int = 0
    comments: tuple[str, ...] = ()


def write(path: Path, frames: Iterable[tuple[float, int, bytes]], name: str, comment: str = "") -> None:
    """Write a file of one Ethernet interface. frames: (seconds, INBOUND or OUTBOUND, bytes)."""
    blocks = [section(comment=comment.encode()), interface(ETHERNET, 0, name.encode())]
    blocks += [packet(0, round(seconds * 1e9), frame, direction) for seconds, direction, frame in frames]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(blocks))


def read(stream: Any) -> Iterator[Packet]:
    """The packets of a file, or of a stream that goes on, as they come. stream: has read(n).

    Ends where the stream does, also within a block. Raises ValueError on what is no pcapng.
    """
    order = ""
    interfaces: list[tuple[str, int, int]] = []  # name, link type, units of time in a second
    while len(head := stream.read(8)) == 8:
        if struct.unpack("<I", head[:4])[0] == _SECTION:
            magic = stream.read(4)
            order = _MAGIC.get(magic, "") or _refuse("no byte order that pcapng has")
            interfaces = []
            head += magic
        elif not order:
            _refuse("it does not begin with a section")
        kind, length = struct.unpack(f"{order}II", head[:8])
        if length < 12 or length % 4 or length > _BLOCK_MAX:
            _refuse(f"a block of {length} bytes")
        body = stream.read(length - len(head))
        if len(body) < length - len(head):
            return
        body = body[:-4]
        if kind == _INTERFACE:
            interfaces.append(_interface(order, body))
        elif kind == _PACKET:
            yield _packet(order, body, interfaces)


def _refuse(why: str) -> Any:
    raise ValueError(f"this is no pcapng file: {why}")


def _options(order: str, body: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(body):
        code, length = struct.unpack_from(f"{order}HH", body, at)
        if code == _OPT_END:
            return
        yield code, body[at + 4 : at + 4 + length]
        at += 4 + (length + 3) // 4 * 4


def _interface(order: str, body: bytes) -> tuple[str, int, int]:
    if len(body) < 8:
        _refuse("a short interface block")
    options = dict(_options(order, body[8:]))
    resolution = (options.get(_IF_TSRESOL) or b"\x06")[0]
    per_second = 2 ** (resolution & 0x7F) if resolution & 0x80 else 10**resolution
    name = options.get(_IF_NAME, b"").decode(errors="replace")
    return name, struct.unpack_from(f"{order}H", body)[0], per_second


def _packet(order: str, body: bytes, interfaces: list[tuple[str, int, int]]) -> Packet:
    if len(body) < 20:
        _refuse("a short packet block")
    number, high, low, captured, length = struct.unpack_from(f"{order}5I", body)
    if number >= len(interfaces) or captured > len(body) - 20:
        _refuse("a packet of no interface, or longer than its block")
    name, linktype, per_second = interfaces[number]
    options = list(_options(order, body[20 + (captured + 3) // 4 * 4 :]))
    flags = next((struct.unpack(f"{order}I", value)[0] for code, value in options if code == _EPB_FLAGS), 0)
    comments = tuple(value.decode(errors="replace") for code, value in options if code == _OPT_COMMENT)
    ns = (high << 32 | low) * 10**9 // per_second
    return Packet(name, linktype, ns, body[20 : 20 + captured], length, flags & 3, comments)
