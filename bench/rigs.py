"""Who is measured and where: a kernel client in a namespace, and a server behind a veth pair or behind a TAP.

Responsible for namespaces, devices and server processes. Everything is made for one measurement and gone after it, so
no measurement inherits another's TIME-WAITs, buffers or learnt metrics. All traffic stays in these namespaces.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bench import build
from tap_harness import need
from tap_harness.netns import Namespace
from tap_harness.process import Child
from tap_harness.tap import KernelTap

SERVER, PREFIX = "10.9.0.2", "/24"
SERVER6, CLIENT6, PREFIX6 = "fd09::2", "fd09::1", "/64"
CLIENTS = ("10.9.0.1", "10.9.0.3", "10.9.0.4", "10.9.0.5")  # several, for as many short connections (load.c)
PORT = 7000
MTU = 1500
# What a device without offloads does not do either.
OFFLOADS = "tx off rx off sg off tso off gso off gro off"
START = 20.0  # seconds a server has to say that it is ready
CPUCLOCK_SCHED = 2  # include/linux/posix-timers_types.h: user and system time of a process, in ns


@dataclass(frozen=True)
class Contender:
    """A stack with a program on it, behind a device.

    server: service and TAP descriptor -> the command that serves it. place: a key of PLACES. missing: None, or why it
    cannot be measured here. ready: what the server prints when it is.
    """

    name: str
    title: str
    place: str
    server: Callable[[str, int], list[str]]
    missing: Callable[[], str | None] = lambda: None
    ready: str = "^ready$"


def _in_c(service: str, _fd: int) -> list[str]:
    return [build.program("serve.c"), service, SERVER, str(PORT)]


def _in_python(service: str, _fd: int) -> list[str]:
    return [sys.executable, "-m", "bench.server", service, "kernel", SERVER, str(PORT)]


def _on_ustack(program: str, where: str) -> Callable[[str, int], list[str]]:
    return lambda service, fd: [sys.executable, "-m", f"bench.{program}", service, f"{where}:{fd}", SERVER, str(PORT)]


def _on_lwip(service: str, fd: int) -> list[str]:
    return [build.lwip(), service, str(fd), SERVER, str(PORT)]


def _limit(*how: str) -> Callable[[str, int], list[str]]:
    return lambda service, fd: [build.program("peers/limit_tap.c"), service, str(fd), SERVER, str(PORT), *how]


def _on_gvisor(offloads: str) -> Callable[[str, int], list[str]]:
    return lambda service, fd: [build.gvisor(), service, str(fd), SERVER, str(PORT), offloads]


def _program(service: str, _fd: int) -> list[str]:
    """What people run on the kernel's sockets."""
    commands = {
        "iperf3": ["iperf3", "-s", "--forceflush", "-p"],
        "sockperf": ["stdbuf", "-oL", "sockperf", "server", "--tcp", "-i", SERVER, "-p"],
    }
    return [*commands[service], str(PORT)]


def _verb(service: str, _fd: int) -> list[str]:
    """The verb of ustack's command line that does the same; it makes its own device."""
    verbs = {"http": ["serve", "--quiet", build.site()], "iperf3": ["iperf3", "-s"]}
    hosts = [word for one in CLIENTS for word in ("--host-address", one + PREFIX)]
    place = ["--address", SERVER + PREFIX, "--address", SERVER6 + PREFIX6, *hosts, "--host-address", CLIENT6 + PREFIX6]
    place += ["--mtu", str(MTU), "--port", str(PORT)]
    return [sys.executable, "-m", "ustack", *verbs[service], *place]


def _on_pytcp(service: str, fd: int) -> list[str]:
    return [build.pytcp(), str(build.HERE / "peers/pytcp_tap.py"), service, str(fd), SERVER, str(PORT)]


def _cannot(make: Callable[[], str]) -> Callable[[], str | None]:
    """Why a program cannot be made."""

    def missing() -> str | None:
        try:
            make()
        except build.CannotBuild as error:
            return str(error)
        return None

    return missing


def _no_ethtool() -> str | None:
    return need.missing_program("ethtool")


KERNEL = "kernel"
CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender(KERNEL, "Linux over veth, server in C", "veth", _in_c),
        Contender("kernel-plain", "the same, veth without offloads", "veth-plain", _in_c, _no_ethtool),
        Contender("kernel-python", "Linux over veth, server in Python", "veth", _in_python),
        Contender("ustack", "ustack on a plain TAP, server in Python", "tap", _on_ustack("server", "tap")),
        Contender(
            "ustack-offload",
            "ustack on a TAP with offloads, server in Python",
            "tap-offload",
            _on_ustack("server", "offload"),
        ),
        Contender("ustack-native", "ustack on a plain TAP, native service", "tap", _on_ustack("native", "tap")),
        Contender(
            "ustack-native-offload",
            "ustack on a TAP with offloads, native service",
            "tap-offload",
            _on_ustack("native", "offload"),
        ),
        Contender(
            "ustack-busy",
            "ustack on a plain TAP, busy-polled, server in Python",
            "tap",
            _on_ustack("server", "busy"),
        ),
        Contender(
            "ustack-native-busy",
            "ustack on a plain TAP, busy-polled, native service",
            "tap",
            _on_ustack("native", "busy"),
        ),
        Contender("kernel-program", "Linux over veth", "veth", _program, ready="Serving|istening|SERVER"),
        Contender("ustack-verb", "ustack", "own", _verb, ready="Serving|server on"),
        Contender("limit", "limit: TCP only faked, on a plain TAP", "tap", _limit("plain")),
        Contender("limit-offload", "limit: TCP only faked, on a TAP with offloads", "tap-offload", _limit("offload")),
        Contender("limit-busy", "limit: TCP only faked, busy-polled", "tap", _limit("plain", "busy")),
        Contender("lwip", "lwIP on a plain TAP, server in C", "tap", _on_lwip, _cannot(build.lwip)),
        Contender(
            "gvisor", "gVisor netstack on a plain TAP, server in Go", "tap", _on_gvisor("plain"), _cannot(build.gvisor)
        ),
        Contender(
            "gvisor-offload",
            "gVisor netstack on a TAP with offloads, server in Go",
            "tap-offload",
            _on_gvisor("offload"),
            _cannot(build.gvisor),
        ),
        Contender(
            "pytcp", "pmd-pytcp (pure Python) on a plain TAP, server in Python", "tap", _on_pytcp, _cannot(build.pytcp)
        ),
    )
}


@functools.cache
def missing(name: str) -> str | None:
    """Why a contender cannot be measured on this machine; None where it can."""
    try:
        build.program("load.c")
    except build.CannotBuild as error:
        return str(error)
    return need.missing_privilege() or CONTENDERS[name].missing()


@dataclass
class Rig:
    """A namespace with the kernel's client in it, and what a server for it is started with."""

    client: Namespace
    server: Namespace
    fds: Sequence[int]


@contextlib.contextmanager
def _veth(offloads: bool) -> Iterator[Rig]:
    with Namespace() as client, Namespace() as server:
        # Named by path, not by descriptor: ip does not have ours.
        there = f"/proc/{os.getpid()}/fd/{server.fd}"
        client.sh(f"ip link add veth0 type veth peer name veth0 netns {there}")
        for namespace, addresses, six in ((client, CLIENTS, CLIENT6), (server, [SERVER], SERVER6)):
            if not offloads:
                namespace.sh(f"ethtool -K veth0 {OFFLOADS}")
            given = [f"ip addr add {address}{PREFIX} dev veth0" for address in addresses]
            given.append(f"ip -6 addr add {six}{PREFIX6} dev veth0 nodad")
            namespace.sh(" && ".join([f"ip link set veth0 mtu {MTU} up", *given]))
        yield Rig(client, server, ())


@contextlib.contextmanager
def _tap(offloads: bool) -> Iterator[Rig]:
    addresses = [one + PREFIX for one in CLIENTS]
    with Namespace() as namespace:
        with KernelTap(namespace, addresses=addresses, mtu=MTU, vnet_hdr=offloads) as tap:
            yield Rig(namespace, namespace, (tap.fd,))


@contextlib.contextmanager
def _own() -> Iterator[Rig]:
    with Namespace() as namespace:
        yield Rig(namespace, namespace, ())


PLACES: dict[str, Callable[[], contextlib.AbstractContextManager[Rig]]] = {
    "own": _own,
    "veth": functools.partial(_veth, True),
    "veth-plain": functools.partial(_veth, False),
    "tap": functools.partial(_tap, False),
    "tap-offload": functools.partial(_tap, True),
}


@contextlib.contextmanager
def running(name: str, service: str, cpu: int | None) -> Iterator[tuple[Rig, Child]]:
    """A contender's server for `service`, ready, pinned to a CPU if one is given."""
    contender = CONTENDERS[name]
    with PLACES[contender.place]() as rig:
        command = contender.server(service, rig.fds[0] if rig.fds else -1)
        child = rig.server.popen(pinned(command, cpu), fds=rig.fds)
        child.wait_line(contender.ready, START)
        yield rig, child


def pinned(command: list[str], cpu: int | None) -> list[str]:
    return command if cpu is None else ["taskset", "--cpu-list", str(cpu), *command]


def cpus() -> list[int]:
    """The CPUs this process may use."""
    return sorted(os.sched_getaffinity(0))


def cores(load: str) -> tuple[int, int]:
    """The CPUs of client and server; load: "one" for both, or "two"."""
    first, *others = cpus()
    return first, first if load == "one" else others[0]


def no_core(load: str) -> str | None:
    """Why there are no cores for a load; None if there are."""
    return "this machine has one CPU" if load != "one" and len(cpus()) < 2 else None


def process_cpu(pid: int) -> float:
    """Seconds of user and system time process `pid` has used, all its threads together (clock_getcpuclockid(3))."""
    return time.clock_gettime((~pid << 3) | CPUCLOCK_SCHED)


def put_load(
    name: str,
    service: str,
    command: list[str],
    seconds: float,
    client_cpu: int | None = None,
    server_cpu: int | None = None,
    congestion: str | None = None,
) -> tuple[str, float]:
    """Run a client's command against a contender's service -> (what it printed, CPU seconds of the server meanwhile).

    seconds: what the command takes. congestion: the client's congestion control, if not the kernel's default. Raises
    AssertionError with what the programs said.
    """
    with running(name, service, server_cpu) as (rig, server):
        if congestion is not None:
            rig.client.sysctl("net.ipv4.tcp_congestion_control", congestion)
        before = process_cpu(server.pid)
        done = rig.client.run(full := pinned(command, client_cpu), timeout=seconds + 60)
        used = process_cpu(server.pid) - before
        if done.returncode != 0:
            raise AssertionError(
                f"exit code {done.returncode} from {' '.join(full)}: {done.stderr}{done.stdout}\n{server.describe()}"
            )
    return done.stdout, used


def load(
    name: str,
    service: str,
    arguments: tuple[str, float, int],
    client_cpu: int | None = None,
    server_cpu: int | None = None,
    congestion: str | None = None,
) -> dict[str, Any]:
    """Put one load on one contender.

    arguments: kind, seconds and number as load.c has them. Returns what load.c reports, and with it server_cpu_seconds
    and client_cpu_seconds. Raises AssertionError with what the programs said.
    """
    kind, seconds, number = arguments
    command = [build.program("load.c"), kind, SERVER, str(PORT), str(seconds), str(number), *CLIENTS]
    printed, used = put_load(name, service, command, seconds, client_cpu, server_cpu, congestion)
    found: dict[str, Any] = json.loads(printed)
    found["client_cpu_seconds"] = found.pop("cpu_seconds")
    found["server_cpu_seconds"] = used
    return found
