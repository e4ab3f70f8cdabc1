"""Network and user namespaces of the calling process, and devices made in them for a moment to see what is allowed.

Responsible for: unshare(2) and setns(2), the identity maps of a fresh user namespace (user_namespaces(7)), the loopback
device of a fresh network namespace, and probing in a child process. Not for: devices that stay (ustack links), policy
(ustack.cli).

A namespace belongs to a thread, and a user namespace can be entered only by a process with one thread: call `enter_new`
and `join` before anything has started one.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000

# The kernel's whatever is patched in.
_KernelSocket = socket.socket
TUN_DEVICE = "/dev/net/tun"
_TUNSETIFF = 0x400454CA
_TUNGETFEATURES = 0x800454CF
_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000
_IFF_MULTI_QUEUE = 0x0100
_IFF_NAPI = 0x0010
_IFF_VNET_HDR = 0x4000
_IFREQ_NAME_AND_FLAGS = "16sH22x"
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000


def _libc_call(name: str, *arguments: int) -> None:
    function = getattr(ctypes.CDLL(None, use_errno=True), name, None)
    if function is None:
        raise OSError(errno.ENOSYS, f"{name}: this operating system has no namespaces")
    if function(*arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


def unshare(flags: int) -> None:
    """Move the calling thread into new namespaces (unshare(2)).

    Raises OSError: EPERM, EINVAL (more than one thread), ENOSYS.
    """
    _libc_call("unshare", flags)


def setns(fd: int, kind: int) -> None:
    """Move the calling thread into the namespace behind `fd` (setns(2)); `kind` is one CLONE_NEW* flag.

    Raises OSError.
    """
    _libc_call("setns", fd, kind)


def enter_new(user: bool) -> None:
    """Enter a new network namespace, its loopback device up.

    user: make a user namespace around it first, in which this user is root; that needs no privilege where the kernel
    allows it. Raises OSError (PermissionError when refused).
    """
    if user:
        uid, gid = os.geteuid(), os.getegid()
        unshare(CLONE_NEWUSER | CLONE_NEWNET)
        # user_namespaces(7): without privilege outside, gid_map may be written only after setgroups was denied.
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    else:
        unshare(CLONE_NEWNET)
    set_up("lo")


def enter_private(user: bool) -> None:
    """Enter new network and mount namespaces, the loopback device up; nothing mounted here is seen outside.

    user: make a user namespace around them first, in which this user is who it was, with all capabilities until it runs
    another program. Ping sockets are allowed there. Raises OSError.
    """
    uid, gid = os.geteuid(), os.getegid()
    unshare(CLONE_NEWNET | CLONE_NEWNS | (CLONE_NEWUSER if user else 0))
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    _mount(None, "/", _MS_REC | _MS_PRIVATE)
    set_up("lo")
    with contextlib.suppress(OSError):
        Path("/proc/sys/net/ipv4/ping_group_range").write_text(f"{gid} {gid}")


def bind_file(source: str, target: str) -> None:
    """Put a file in the place of another, in this mount namespace. Raises OSError."""
    _mount(source, os.path.realpath(target), _MS_BIND)


def _mount(source: str | None, target: str, flags: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.mount(source and os.fsencode(source), os.fsencode(target), None, ctypes.c_ulong(flags), None) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"mount: {os.strerror(code)}", target)


def join(where: str) -> None:
    """Enter an existing network namespace.

    where: a process id (its user namespace is entered too, where it is another one), a path, or a name as `ip netns`
    gives them. Raises OSError: FileNotFoundError when there is no such namespace, PermissionError.
    """
    if where.isdigit():
        user = f"/proc/{where}/ns/user"
        if not os.path.samefile(user, "/proc/self/ns/user"):
            _join_one(user, CLONE_NEWUSER)
        _join_one(f"/proc/{where}/ns/net", CLONE_NEWNET)
    else:
        _join_one(where if "/" in where else f"/run/netns/{where}", CLONE_NEWNET)


def shares_user(process: str) -> bool:
    """Whether the process with that id, or nobody, is in this process's user namespace."""
    with contextlib.suppress(OSError):
        return os.path.samefile(f"/proc/{process}/ns/user", "/proc/self/ns/user")
    return True


def _join_one(path: str, kind: int) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        setns(fd, kind)
    finally:
        os.close(fd)


def set_up(device: str) -> None:
    """Bring a network device of the current namespace up. Raises OSError."""
    with _KernelSocket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack(_IFREQ_NAME_AND_FLAGS, device.encode(), 0)
        answer = fcntl.ioctl(control, _SIOCGIFFLAGS, request)
        flags = struct.unpack(_IFREQ_NAME_AND_FLAGS, answer)[1]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack(_IFREQ_NAME_AND_FLAGS, device.encode(), flags | _IFF_UP))


def tun_features() -> dict[str, bool]:
    """What /dev/net/tun says it can do (TUNGETFEATURES). Raises OSError when it is not there or may not be opened."""
    fd = os.open(TUN_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        bits = struct.unpack("I", fcntl.ioctl(fd, _TUNGETFEATURES, bytes(4)))[0]
    finally:
        os.close(fd)
    return {
        "vnet_hdr": bool(bits & _IFF_VNET_HDR),
        "multi_queue": bool(bits & _IFF_MULTI_QUEUE),
        "napi": bool(bits & _IFF_NAPI),
    }


def probe_tap(place: str) -> None:
    """Make a TAP for a moment in a child process, to see whether it can be done.

    place: "net" (a new network namespace), "user" (a new user and network namespace) or "here" (this namespace).
    Raises OSError with what the kernel said, its strerror opening with the step that failed.
    """

    def attempt() -> dict[str, Any]:
        fd = os.open(TUN_DEVICE, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, _TUNSETIFF, struct.pack(_IFREQ_NAME_AND_FLAGS, b"ustprobe%d", _IFF_TAP | _IFF_NO_PI))
        finally:
            os.close(fd)
        return {}

    _in_child(place, attempt)


def probe_link(place: str) -> dict[str, Any]:
    """Make a ustack.Tap for a moment in a child process -> its `offloads`, those `refused` with the reason, and
    whether it may have several `queues`.

    place: as in probe_tap. Raises OSError; ImportError where the extension modules do not load.
    """

    from ustack import Tap  # here, so that the caller hears of it when it fails

    def attempt() -> dict[str, Any]:
        with Tap("ustprobe%d", queues=2) as link:
            return {"offloads": link.offloads, "refused": link.refused, "queues": len(link.queues) > 1}

    return _in_child(place, attempt)


def _in_child(place: str, function: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Run a function in a forked child in a namespace of its own (see probe_tap).

    Return its result or raise its OSError.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            try:
                if place != "here":
                    enter_new(user=place == "user")
                result: dict[str, object] = {"value": function()}
            except OSError as error:
                result = {"errno": error.errno, "text": error.strerror, "path": error.filename}
            os.write(writer, json.dumps(result).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as stream:
        answer = json.loads(stream.read() or b'{"errno": 0, "text": "the probing process died", "path": null}')
    os.waitpid(child, 0)
    if "value" in answer:
        return dict(answer["value"])
    raise OSError(answer["errno"], answer["text"], answer["path"])
