"""Network and user namespaces of the calling process, and devices made in them for a moment to see what is allowed.

Responsible for: unshare(2) and setns(2), the identity maps of a fresh user namespace (user_namespaces(7)), the loopback
device of a fresh network namespace, and probing in a child process. Not for: devices that stay (ustack links), policy
(ustack.cli).

A namespace belongs to a thread, and a user namespace can be entered only by a process with one thread: call `enter_new`
and `join` before anything has started one.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path

CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000

TUN_DEVICE = "/dev/net/tun"
_TUNSETIFF = 0x400454CA
_TUNSETOFFLOAD = 0x400454D0
_TUNGETFEATURES = 0x800454CF
_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000
_IFF_MULTI_QUEUE = 0x0100
_IFF_NAPI = 0x0010
_IFF_VNET_HDR = 0x4000
_TUN_F_CSUM_TSO = 0x01 | 0x02 | 0x04
_TUN_F_USO = 0x20 | 0x40
_IFREQ_NAME_AND_FLAGS = "16sH22x"


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


def _join_one(path: str, kind: int) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        setns(fd, kind)
    finally:
        os.close(fd)


def set_up(device: str) -> None:
    """Bring a network device of the current namespace up. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
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


def _try_tap() -> dict[str, bool]:
    """Make a TAP that vanishes with its descriptor, and see which offloads it takes."""
    fd = os.open(TUN_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack(_IFREQ_NAME_AND_FLAGS, b"ustprobe%d", flags))
        return {"tso": _takes_offload(fd, _TUN_F_CSUM_TSO), "uso": _takes_offload(fd, _TUN_F_CSUM_TSO | _TUN_F_USO)}
    finally:
        os.close(fd)


def _takes_offload(fd: int, offloads: int) -> bool:
    try:
        fcntl.ioctl(fd, _TUNSETOFFLOAD, offloads)
    except OSError:
        return False
    return True


def probe_tap(place: str) -> dict[str, bool]:
    """Make a TAP for a moment in a child process and say which offloads it takes: {"tso": bool, "uso": bool}.

    place: "net" (a new network namespace), "user" (a new user and network namespace) or "here" (this namespace).
    Raises OSError with what the kernel said, its strerror opening with the step that failed.
    """

    def attempt() -> dict[str, bool]:
        if place != "here":
            enter_new(user=place == "user")
        return _try_tap()

    return _in_child(attempt)


def _in_child(function: Callable[[], dict[str, bool]]) -> dict[str, bool]:
    """Run a function in a forked child, so that the namespaces it enters stay its own.

    Return its result or raise its OSError.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            try:
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
