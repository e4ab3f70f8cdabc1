"""Small facts about the machine and the process that the command line and `ustack doctor` ask for.

Responsible for: capabilities, kernel version, the kind and owner of a network device, whether AF_XDP is there, dying
with one's parent. Not for: namespaces (ustack.namespace), opening devices (links).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import signal
import socket
import struct
from collections.abc import Callable
from pathlib import Path

CAP_NET_ADMIN = 12
CAP_NET_RAW = 13
CAP_SYS_ADMIN = 21

# The kernel's whatever is patched in.
_KernelSocket = socket.socket
_PR_SET_PDEATHSIG = 1
_AF_XDP = 44
_SIOCETHTOOL = 0x8946
_ETHTOOL_GDRVINFO = 0x3


def has_capability(number: int) -> bool:
    """Whether the process has a capability effective (capabilities(7)), read from /proc.

    False where there is no /proc.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return False
    found = re.search(r"^CapEff:\s*([0-9a-f]+)", status, re.MULTILINE)
    return bool(found and int(found[1], 16) >> number & 1)


def kernel_version() -> tuple[int, int]:
    """(major, minor) of the running kernel; (0, 0) when it does not say."""
    found = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def device_kind(name: str) -> str | None:
    """What the network device `name` of this namespace is: "tap", "tun", "other", or None when there is none."""
    if name not in {known for _, known in socket.if_nameindex()}:
        return None
    # ethtool's driver information, not sysfs: /sys may be mounted for another network namespace.
    information = ctypes.create_string_buffer(struct.pack("I192x", _ETHTOOL_GDRVINFO), 196)
    request = struct.pack("16sP16x", name.encode(), ctypes.addressof(information))
    with _KernelSocket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        try:
            fcntl.ioctl(control, _SIOCETHTOOL, request)
        except OSError:
            return "other"
    driver = information.raw[4:36].rstrip(b"\0")
    bus = information.raw[100:132].split(b"\0")[0].decode()
    return bus if driver == b"tun" and bus in ("tap", "tun") else "other"


def has_af_xdp() -> bool:
    """Whether the kernel knows AF_XDP sockets; a refusal for want of privilege counts as knowing them."""
    try:
        socket.socket(_AF_XDP, socket.SOCK_RAW, 0).close()
    except OSError as error:
        return error.errno in (errno.EPERM, errno.EACCES)
    return True


def death_with_parent() -> Callable[[], None]:
    """A preexec_fn for subprocess: the child gets SIGTERM when the thread that started it dies (PR_SET_PDEATHSIG)."""
    prctl = ctypes.CDLL(None).prctl

    def set_it() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)

    return set_it
