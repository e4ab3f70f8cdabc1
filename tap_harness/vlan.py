"""A kernel peer in a VLAN: `ip link … type vlan`, or what does the same where the kernel was built without.

Without 8021q two small eBPF programs at the device's own hooks (tcx, Linux 6.6) put the tag on and take it off. Above
and below them all is as with a VLAN device: the kernel's TCP hands over superframes whose tag is beside them, and the
driver of the TAP puts it in, with the offsets of the virtio header behind it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import struct

import pytest

from tap_harness.netns import Namespace

_libc = ctypes.CDLL(None, use_errno=True)
_SYS_BPF = {"x86_64": 321, "aarch64": 280}.get(platform.machine(), -1)
_PROG_LOAD, _LINK_CREATE = 5, 28
_SCHED_CLS = 3
_INGRESS, _EGRESS = 46, 47
_PUSH, _POP = 18, 19
_NEXT, _DROP = -1, 2
_VLAN_PRESENT, _VLAN_TCI = 20, 24  # in struct __sk_buff


def tag(ns: Namespace, device: str, vlan: int) -> tuple[str, list[int]]:
    """Put the kernel's side of a device into a VLAN -> the device that is in it, descriptors to close at the end."""
    made = ns.run(["ip", "link", "add", "link", device, "name", f"{device}.{vlan}", "type", "vlan", "id", str(vlan)])
    if made.returncode == 0:
        ns.sh(f"ip link set {device}.{vlan} up")
        return f"{device}.{vlan}", []
    if "Unknown device type" not in made.stderr:
        raise AssertionError(made.stderr)
    index = ns.call(socket.if_nametoindex, device)
    kept: list[int] = []
    try:
        for code, hook in ((_push(vlan), _EGRESS), (_pop(vlan), _INGRESS)):
            kept.append(_load(code))
            kept.append(ns.call(_attach, kept[-1], index, hook))
    except OSError as error:
        for fd in kept:
            os.close(fd)
        pytest.skip(f"optional: this kernel has neither VLAN devices nor tcx ({error})")
    return device, kept


def _step(code: int, dst: int = 0, src: int = 0, to: int = 0, value: int = 0) -> bytes:
    return struct.pack("=BBhi", code, src << 4 | dst, to, value)


def _push(vlan: int) -> bytes:
    """r1 is the packet: bpf_skb_vlan_push(r1, htons(0x8100), vlan), and on."""
    return b"".join([
        _step(0xB7, 2, value=int.from_bytes(b"\x81\x00", "little")), _step(0xB7, 3, value=vlan),
        _step(0x85, value=_PUSH), _step(0xB7, 0, value=_NEXT), _step(0x95),
    ])  # fmt: skip


def _pop(vlan: int) -> bytes:
    """Only what has the tag goes on, without it."""
    return b"".join([
        _step(0x61, 2, 1, _VLAN_PRESENT), _step(0x15, 2, to=6), _step(0x61, 2, 1, _VLAN_TCI),
        _step(0x57, 2, value=0xFFF), _step(0x55, 2, to=3, value=vlan),
        _step(0x85, value=_POP), _step(0xB7, 0, value=_NEXT), _step(0x95),
        _step(0xB7, 0, value=_DROP), _step(0x95),
    ])  # fmt: skip


def _bpf(command: int, attributes: bytes) -> int:
    if _SYS_BPF < 0:
        raise OSError(errno.ENOSYS, f"the number of bpf() on {platform.machine()} is not known here")
    block = ctypes.create_string_buffer(attributes.ljust(144, b"\0"), 144)
    fd = _libc.syscall(_SYS_BPF, command, block, 144)
    if fd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(fd)


def _load(code: bytes) -> int:
    steps, licence = ctypes.create_string_buffer(code, len(code)), ctypes.create_string_buffer(b"GPL")
    return _bpf(
        _PROG_LOAD,
        struct.pack("=IIQQ", _SCHED_CLS, len(code) // 8, ctypes.addressof(steps), ctypes.addressof(licence)),
    )


def _attach(program: int, index: int, hook: int) -> int:
    return _bpf(_LINK_CREATE, struct.pack("=IIII", program, index, hook, 0))
