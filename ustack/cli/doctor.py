"""`ustack doctor`: what this machine allows, and what to do about what it does not.

Responsible for: the checks, their words and the verdict whether `ustack demo` can run on a TAP. Not for: mending
anything.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import json
import os
import pkgutil
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from .. import namespace, osutil
from .errors import EXIT_FAILURE, reason
from .terminal import paint

_DESCRIPTION = (
    "Look at what this machine allows: devices, privileges, kernel features, programs; and say what to do about each."
)
_EPILOG = "exit codes: 0 `ustack demo` can run on a TAP device here, 1 it cannot."
_APT = "sudo apt-get install -y"
_OFFLOADS = {
    "csum": "checksums",
    "tso4": "TCP segmentation",
    "tso6": "over IPv6 too",
    "tso_ecn": "with ECN",
    "uso4": "UDP segmentation",
}
_OFFLOAD_FIX = "nothing to do: a link uses what there is; UDP segmentation wants Linux 6.2 or newer"
_PLACES = {
    "net": "a network namespace of its own",
    "user": "a user and network namespace of its own, without root",
    "here": "this network namespace",
}


@dataclass
class Check:
    """One thing looked at.

    state: "ok", "missing" (something will not work) or "note" (something optional is not there).
    """

    name: str
    state: str
    detail: str
    fix: str = ""


def register(verbs: Any) -> None:
    """Add the verb to the parser."""
    parser = verbs.add_parser("doctor", help="say what this machine allows", description=_DESCRIPTION, epilog=_EPILOG)
    parser.add_argument("--json", action="store_true", help="the checks as one JSON document")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Look, and print what was found."""
    place, refusals = tap_place()
    checks = [*_system(), *_tun_device(), *_privileges(refusals), *_features(place), *_programs()]
    extensions = _extensions()
    checks[1:1] = extensions
    able = place is not None and all(check.state != "missing" for check in extensions)
    if args.json:
        print(json.dumps({"tap": able, "place": place, "checks": [asdict(check) for check in checks]}, indent=2))
    else:
        _print(checks, able, place)
    return 0 if able else EXIT_FAILURE


def _print(checks: list[Check], able: bool, place: str | None) -> None:
    signs = {
        "ok": paint("ok", "green", sys.stdout),
        "missing": paint("MISSING", "red", sys.stdout),
        "note": paint("note", "yellow", sys.stdout),
    }
    width = max(len(check.name) for check in checks)
    for check in checks:
        padding = " " * (8 - len("MISSING" if check.state == "missing" else check.state))
        print(f"{signs[check.state]}{padding}{check.name:<{width}}  {check.detail}")
        if check.fix:
            print(f"{'':8}{'':{width}}  -> {check.fix}")
    print()
    if able and place:
        print(f"`ustack demo` can run on a TAP device, in {_PLACES[place]}.")
    elif place is None:
        print("No TAP device can be made here: `ustack demo` would use an in-memory pipe. The lines above say why.")
    else:
        print("The extension modules do not load: nothing of ustack runs here before they do.")


def tap_place() -> tuple[str | None, dict[str, OSError]]:
    """Where a TAP can be made (as in namespace.probe_tap, or None: nowhere), and what each refused place said.

    A namespace of one's own comes first: it keeps the machine's network as it is.
    """
    refusals: dict[str, OSError] = {}
    for place in ("net", "user", "here"):
        try:
            namespace.probe_tap(place)
        except OSError as error:
            refusals[place] = error
        else:
            return place, refusals
    return None, refusals


def _system() -> Iterator[Check]:
    version = platform.python_version()
    yield Check(
        "python",
        "ok" if sys.version_info >= (3, 10) else "missing",
        f"{version} ({sys.executable})",
        "" if sys.version_info >= (3, 10) else "use Python 3.10 or newer",
    )
    if sys.platform != "linux":
        yield Check(
            "kernel",
            "missing",
            f"{platform.system()}: TAP and TUN devices need Linux",
            "pipes, callbacks and virtual time work here; for devices use Linux",
        )
        return
    release = os.uname().release
    old = osutil.kernel_version() < (4, 8)
    yield Check("kernel", "note" if old else "ok", f"Linux {release}", "tested on Linux 5.10 and newer" if old else "")


def _extensions() -> list[Check]:
    """Whether every built module of ustack_ext loads, and how it was built."""
    how = "pip install -e . (in a checkout), or reinstall the wheel"
    try:
        import ustack_ext
    except ImportError as error:
        return [Check("extension modules", "missing", str(error), how)]
    failed, count = [], 0
    for module in pkgutil.walk_packages(ustack_ext.__path__, "ustack_ext."):
        try:
            loaded = importlib.import_module(module.name)
        except ImportError as error:
            failed.append(f"{module.name}: {error}")
        else:
            count += getattr(loaded, "__file__", "").endswith((".so", ".pyd", ".dylib"))
    if failed or not count:
        return [Check("extension modules", "missing", failed[0] if failed else "none is built", how)]
    return [Check("extension modules", "ok", f"{count} modules load, {_build_mode()} build")]


def _build_mode() -> str:
    """Debug and sanitizer builds count their live objects; a release (or profile) build has no such counters."""
    from ustack_ext.base.live import live_objects

    return "debug" if live_objects() else "release"


def _tun_device() -> Iterator[Check]:
    path = namespace.TUN_DEVICE
    if not os.path.exists(path):
        yield Check(
            path,
            "missing",
            "is not there",
            f"sudo modprobe tun; in a container: sudo mkdir -p /dev/net && sudo mknod -m 666 {path} c 10 200",
        )
        return
    try:
        features = namespace.tun_features()
    except OSError as error:
        fix = f"sudo chmod 666 {path}" if error.errno in (errno.EACCES, errno.EPERM) else "sudo modprobe tun"
        yield Check(path, "missing", f"cannot be opened: {reason(error)}", fix)
        return
    names = {"vnet_hdr": "IFF_VNET_HDR", "multi_queue": "IFF_MULTI_QUEUE", "napi": "IFF_NAPI"}
    there = [text for key, text in names.items() if features[key]]
    yield Check(path, "ok", f"opens; offers {', '.join(there) or 'no optional feature'}")


def _privileges(refusals: dict[str, OSError]) -> Iterator[Check]:
    if osutil.has_capability(osutil.CAP_NET_ADMIN):
        yield Check("CAP_NET_ADMIN", "ok", "devices can be made and configured in this network namespace")
    else:
        yield Check(
            "CAP_NET_ADMIN",
            "note",
            "not held: no device can be made in this network namespace",
            "run with sudo, or make one once: sudo ip tuntap add dev ust0 mode tap user $USER",
        )
    yield _own_namespace("network namespace", "net", refusals, "sudo ustack ...; in a container: --cap-add SYS_ADMIN")
    try:
        if "net" in refusals or osutil.has_capability(osutil.CAP_SYS_ADMIN):
            namespace.probe_tap("user")
        refusals.pop("user", None)
    except OSError as error:
        refusals["user"] = error
    yield _own_namespace("user namespace", "user", refusals, _user_namespace_fix())


def _own_namespace(name: str, place: str, refusals: dict[str, OSError], fix: str) -> Check:
    error = refusals.get(place)
    if error is None:
        return Check(name, "ok", f"a TAP can be made in {_PLACES[place]}")
    if error.filename == namespace.TUN_DEVICE:
        return Check(name, "note", f"no TAP in one: {namespace.TUN_DEVICE}: {reason(error)}")
    return Check(name, "note", f"no TAP in one: {reason(error)}", fix)


def _user_namespace_fix() -> str:
    """What to change for user namespaces: the first of the known knobs that forbids them."""
    for knob, wanted in (
        ("kernel/apparmor_restrict_unprivileged_userns", "0"),
        ("kernel/unprivileged_userns_clone", "1"),
    ):
        try:
            with open(f"/proc/sys/{knob}") as stream:
                value = stream.read().strip()
        except OSError:
            continue
        if value != wanted:
            return f"sudo sysctl -w {knob.replace('/', '.')}={wanted}"
    return "sudo sysctl -w user.max_user_namespaces=10000 (in a container: allow unshare in its seccomp profile)"


def _features(place: str | None) -> Iterator[Check]:
    if place is not None:
        yield from _link(place)
    xdp = osutil.has_af_xdp()
    yield Check(
        "AF_XDP",
        "ok" if xdp else "note",
        "the kernel has it" if xdp else "the kernel has none",
        "" if xdp else "only links over AF_XDP want it: a kernel with CONFIG_XDP_SOCKETS",
    )


def _link(place: str) -> Iterator[Check]:
    """What a Tap leaves to the kernel here, by itself, and whether it may have several queues."""
    try:
        found = namespace.probe_link(place)
    except (ImportError, OSError) as error:
        yield Check("TAP offloads", "note", f"not known: {error}")
        return
    granted = found["offloads"]
    refused = [text for text in found["refused"] if " queues: " not in text]
    detail = f"{', '.join(_OFFLOADS[name] for name in granted)}" if granted else "none: every frame is made here"
    yield Check(
        "TAP offloads",
        "ok" if "tso4" in granted else "note",
        detail + (f"; refused: {'; '.join(refused)}" if refused else ""),
        _OFFLOAD_FIX if refused else "",
    )
    why = "; ".join(text for text in found["refused"] if " queues: " in text)
    yield Check(
        "TAP queues",
        "ok" if found["queues"] else "note",
        "several, each with a stack of its own" if found["queues"] else f"one: {why}",
        "" if found["queues"] else "only ustack.StackGroup wants more: run as root (steering needs CAP_BPF)",
    )


def _programs() -> Iterator[Check]:
    wanted: tuple[tuple[str, str, str], ...] = (
        ("curl", "curl", "the demo's client on the kernel's side"),
        ("nginx", "nginx-light", "the demo's server on the kernel's side"),
        ("ip", "iproute2", "makes persistent devices"),
        ("nsenter", "util-linux", "enters a namespace that a stack runs in"),
    )
    for name, package, purpose in wanted:
        path = find_program(name)
        yield Check(
            name, "ok" if path else "note", path or f"not installed: {purpose}", "" if path else f"{_APT} {package}"
        )


def find_program(name: str) -> str | None:
    """The path of a program, looked for in the system's directories too, which a plain user's PATH may lack."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/local/sbin")
