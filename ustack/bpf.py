"""Filter expressions (pcap-filter(7)) and filters as programs: what Stack.capture() and `ustack tcpdump` take.

Responsible for: turning either into the bytes of an array of struct sock_filter. The compiler is tcpdump's (-ddd); not
here: what such a program does (ustack_ext.base.bpf).
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Iterable, Sequence

_DATALINKS = {"ethernet": "EN10MB", "ip": "RAW"}  # as tcpdump -y names them
_INSTRUCTION = struct.Struct("=HBBI")
_PATIENCE = 10.0  # seconds that tcpdump may take

Program = bytes | Sequence[tuple[int, int, int, int]]


def compile_filter(expression: str, medium: str = "ethernet") -> bytes:
    """The program of a filter expression such as "tcp port 80", for the frames of an Ethernet or an IP interface.

    medium: "ethernet" or "ip". Raises ValueError (a syntax error, with what tcpdump says of it), FileNotFoundError
    (tcpdump is not installed).
    """
    path = shutil.which("tcpdump") or shutil.which("tcpdump", path="/usr/sbin:/usr/local/sbin:/sbin")
    if path is None:
        raise FileNotFoundError("tcpdump, which compiles filter expressions, is not installed")
    command = [path, "-y", _DATALINKS[medium], "-s", "262144", "-ddd", "--", *expression.split()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.startswith("tcpdump: ")] or [done.stderr.strip()]
        raise ValueError(f"filter {expression!r}: {said[-1].removeprefix('tcpdump: ')}")
    numbers = [[int(word) for word in line.split()] for line in done.stdout.splitlines()[1:]]
    return packed(tuple(one) for one in numbers)


def packed(program: bytes | Iterable[tuple[int, ...]]) -> bytes:
    """A program as bytes; given as such, or as (code, jt, jf, k) of each instruction. Raises ValueError."""
    if isinstance(program, (bytes, bytearray, memoryview)):
        return bytes(program)
    try:
        return b"".join(_INSTRUCTION.pack(*one) for one in program)
    except (struct.error, TypeError):
        raise ValueError("filter: a program is bytes, or (code, jt, jf, k) of each instruction") from None
