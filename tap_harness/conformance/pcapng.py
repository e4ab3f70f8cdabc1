"""Frames into a pcapng file (draft-ietf-opsawg-pcapng): one Ethernet interface, nanoseconds, the direction of each."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

_ETHERNET = 1
_OPT_COMMENT, _IF_NAME, _IF_TSRESOL, _EPB_FLAGS = 1, 2, 9, 2
_INBOUND, _OUTBOUND = 1, 2


def write(path: Path, frames: Iterable[tuple[float, bool, bytes]], comment: str = "") -> None:
    """Write frames as (seconds, came from the target, bytes); they are inbound and outbound as the target sees it."""
    section = struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1) + _option(_OPT_COMMENT, comment.encode()) + _END
    interface = struct.pack("<HHI", _ETHERNET, 0, 0) + _option(_IF_NAME, b"target") + _option(_IF_TSRESOL, b"\x09")
    blocks = [_block(0x0A0D0D0A, section), _block(1, interface + _END)]
    for seconds, from_target, frame in frames:
        when = round(seconds * 1e9)
        head = struct.pack("<IIIII", 0, when >> 32, when & 0xFFFFFFFF, len(frame), len(frame))
        flags = struct.pack("<I", _OUTBOUND if from_target else _INBOUND)
        blocks.append(_block(6, head + _padded(frame) + _option(_EPB_FLAGS, flags) + _END))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(blocks))


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + _padded(value) if value else b""


def _block(kind: int, body: bytes) -> bytes:
    length = struct.pack("<I", len(body) + 12)
    return struct.pack("<I", kind) + length + body + length


_END = b"\0\0\0\0"
