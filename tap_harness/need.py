"""What this machine allows: the reason why a test cannot run here, or None. No policy: the caller skips or fails."""

import ctypes
import os
import shutil

CLONE_NEWNET = 0x40000000


def missing_privilege() -> str | None:
    """Why namespaces and TAPs cannot be made here, with what would mend it; None where they can."""
    if not os.path.exists("/dev/net/tun"):
        return "/dev/net/tun is missing: run `modprobe tun` (in a container: --device /dev/net/tun)"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "/dev/net/tun may not be opened: run as root, or `chmod 666 /dev/net/tun`"
    child = os.fork()
    if child == 0:  # unshare() changes the process that calls it, so let one try that is not needed afterwards
        libc = ctypes.CDLL(None, use_errno=True)
        os._exit(1 if libc.unshare(CLONE_NEWNET) else 0)
    _, status = os.waitpid(child, 0)
    if status != 0:
        return "network namespaces may not be made: run as root, or under `unshare --user --map-root-user --net`"
    for program in ("ip", "nsenter", "setpriv"):
        if reason := missing_program(program):
            return reason
    return None


def missing_program(name: str) -> str | None:
    """Why the program `name` cannot be run; None where it can."""
    path = os.environ.get("PATH", "") + os.pathsep + os.pathsep.join(("/usr/sbin", "/sbin"))
    return None if shutil.which(name, path=path) else f"the program {name} is not installed"
