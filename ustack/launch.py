"""Runs a program, whatever it is written in, in a network of its own whose only way out is a gateway in this process.

Responsible for: the namespaces, the device between them and its addresses, resolv.conf, starting the program, and
passing on signals and how it ended. Not for: what the gateway does (ustack/gateway.py).

The program's process makes its namespaces and the device itself, hands the descriptor over, and waits for the gateway
before it turns into the program. It stays the user it was; where that is not root, a user namespace around it gives it
the rights for that, which end with exec.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import signal
import socket
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from . import namespace, osutil
from .gateway import Gateway, raise_descriptor_limit

# The kernel's whatever is patched in.
_KernelSocket, _socketpair = socket.socket, socket.socketpair
DEVICE = "tun0"
MTU = 65520
_NOT_FOUND, _NOT_RUN = 127, 126  # as a shell reports them
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


@dataclass(frozen=True)
class Network:
    """The addresses in a program's network: its own, the host's (the gateway, standing for the host's loopback) and the
    DNS relay's."""

    program: tuple[str, ...] = ("10.0.2.100/24", "fd00:2::100/64")
    host: tuple[str, ...] = ("10.0.2.2", "fd00:2::2")
    dns: tuple[str, ...] = ("10.0.2.3", "fd00:2::3")


class LaunchError(OSError):
    """The program could not be started: the sentence, and the exit code that a shell would have for it."""

    def __init__(self, sentence: str, code: int) -> None:
        super().__init__(sentence)
        self.code = code


def launch(
    argv: Sequence[str],
    *,
    network: Network | None = None,
    mtu: int = MTU,
    resolver: str | None = None,
    host_loopback: bool = True,
    blocked: tuple[str, ...] = (),
) -> int:
    """Run a program to its end -> its exit code; -N: signal N ended it.

    network: addresses. mtu: bytes, of the device. resolver: the DNS server behind the relay (None: the host's).
    host_loopback: whether network.host stands for the host's 127.0.0.1 and ::1. blocked: networks that the program may
    not reach. For a process with one thread, in the main thread. Raises LaunchError; OSError (PermissionError: the
    kernel allows no user namespace, or /dev/net/tun may not be opened).
    """
    plan = network or Network()
    ours, theirs = _socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*_PASSED_ON, signal.SIGCHLD})
    try:
        child = os.fork()
        if child == 0:
            ours.close()
            _become(argv, theirs, plan, mtu, before)
        theirs.close()
        try:
            with contextlib.ExitStack() as stack:
                device = _device_of(ours)
                stack.enter_context(_serve(device, plan, mtu, resolver, host_loopback, blocked))
                ours.sendall(b"!")
                _started(ours)
                return _wait(child)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, 0)
            raise
    finally:
        ours.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# -- the gateway's side


@contextlib.contextmanager
def _serve(device: int, plan: Network, mtu: int, resolver: str | None, host_loopback: bool, blocked: Any) -> Any:
    import ustack

    raise_descriptor_limit()
    with ustack.Stack() as stack:
        own = [*plan.host, *plan.dns]
        stack.attach(ustack.Tun(fd=device, mtu=mtu), addresses=own)
        for family in ("0.0.0.0/0", "::/0"):
            stack.add_route(family, interface=stack.interfaces()[-1].name)
        host = plan.host if host_loopback else ()
        shut = blocked if host_loopback else (*blocked, *plan.host)
        with Gateway(stack, host=host, dns=plan.dns, resolver=resolver, blocked=shut) as gateway:
            yield gateway


def _device_of(ours: Any) -> int:
    """The device's descriptor, from the other process. Raises what that had to say."""
    data, ancillary, _, _ = ours.recvmsg(65536, socket.CMSG_SPACE(4))
    for level, kind, value in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            return array.array("i", value)[0]
    _complain(data or b"{}")
    raise LaunchError("the new process ended before it had a network", _NOT_RUN)


def _started(ours: Any) -> None:
    """Returns when the program runs: exec has closed the other end. Raises LaunchError."""
    if data := ours.recv(65536):
        _complain(data)


def _complain(data: bytes) -> None:
    said = json.loads(data)
    if "code" in said:
        raise LaunchError(said["text"], said["code"])
    if "errno" in said:
        raise OSError(said["errno"], said["text"])


def _wait(child: int) -> int:
    """Until it has ended. What the terminal sends reaches the program by itself; what was sent to this process alone
    is passed on."""
    while True:
        got = signal.sigwaitinfo({*_PASSED_ON, signal.SIGCHLD})
        if got.si_signo != signal.SIGCHLD:
            if got.si_code <= 0:  # by kill(2) and its like, not by the kernel
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, got.si_signo)
            continue
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)


# -- the program's side


def _become(argv: Sequence[str], theirs: Any, plan: Network, mtu: int, mask: Any) -> None:
    """The rest of the new process's life as ours."""
    said: dict[str, Any] = {}
    try:
        osutil.death_with_parent()()
        namespace.enter_private(user=not osutil.has_capability(osutil.CAP_SYS_ADMIN))
        link = _make_device(plan, mtu)
        _own_resolv_conf(plan)
        theirs.sendmsg([b"+"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [link.fileno()]))])
        if theirs.recv(1) != b"!":
            os._exit(_NOT_RUN)
        for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # by Python; exec undoes what is caught, not this
            signal.signal(ignored, signal.SIG_DFL)
        for caught in _PASSED_ON:  # what has come meanwhile, from the terminal, is for the program, not for Python
            if callable(signal.getsignal(caught)):
                signal.signal(caught, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        try:
            os.execvp(argv[0], list(argv))
        except OSError as error:
            found = _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_RUN
            said = {"text": f"{argv[0]}: {error.strerror}", "code": found}
    except OSError as error:
        said = {"errno": error.errno, "text": error.strerror}
    except BaseException as error:
        said = {"text": repr(error), "code": _NOT_RUN}
    with contextlib.suppress(OSError):
        theirs.send(json.dumps(said).encode())
    os._exit(_NOT_RUN)


def _make_device(plan: Network, mtu: int) -> Any:
    import ustack
    from ustack_ext.link import netlink

    addresses = list(plan.program)
    with contextlib.suppress(OSError), open("/proc/sys/net/ipv6/conf/all/disable_ipv6") as knob:
        if knob.read().strip() != "0":
            addresses = [one for one in addresses if ":" not in one]
    if not os.path.exists("/proc/sys/net/ipv6"):
        addresses = [one for one in addresses if ":" not in one]
    link = ustack.Tun(DEVICE, host_addresses=addresses, mtu=mtu)
    with netlink.Rtnetlink() as kernel:
        for family in sorted({socket.AF_INET6 if ":" in one else socket.AF_INET for one in addresses}):
            kernel.add_default_route(socket.if_nametoindex(link.name), family)
    return link


def _own_resolv_conf(plan: Network) -> None:
    """The program asks the relay for names; what is outside does not change. Where there is no such file, there is
    nothing to put it in the place of."""
    if not os.path.exists("/etc/resolv.conf"):
        return
    with tempfile.NamedTemporaryFile("w", prefix="ustack-resolv-") as file:
        os.fchmod(file.fileno(), 0o644)
        file.write("".join(f"nameserver {one}\n" for one in plan.dns if ":" not in one))
        file.flush()
        namespace.bind_file(file.name, "/etc/resolv.conf")
