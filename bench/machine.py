"""On what it was measured: enough to tell whether two tables may be compared."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import ustack
from tap_harness.netns import ROOT


def describe() -> dict[str, object]:
    """CPU, how many there are for us, whether it is a virtual machine; kernel, Python, ustack; how busy it is."""
    name, virtual = _cpu()
    return {
        "cpu": name,
        "cpus": len(os.sched_getaffinity(0)),
        "virtual": virtual,
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "ustack": ustack.__version__,
        "commit": _commit(),
        "nice": os.nice(0),
        "load": load(),
    }


def load() -> float:
    """The load average of the last minute."""
    return round(os.getloadavg()[0], 2)


def sentence(machine: dict[str, object]) -> str:
    """The same, to be read."""
    kind = "virtual machine" if machine["virtual"] else "machine"
    commit = f" at {machine['commit']}" if machine["commit"] else ""
    return (
        f"{kind}, {machine['cpus']} cores of {machine['cpu']}, {machine['kernel']}, Python {machine['python']}, "
        f"ustack {machine['ustack']}{commit}; niceness {machine['nice']}, load average {machine['load']} when it began"
    )


def _commit() -> str | None:
    """The checkout's commit; None outside one. What is built may be of another: that is for `make bench` to see to."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _cpu() -> tuple[str, bool]:
    fields: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    # "model name" is x86's; elsewhere the architecture has to do.
    return fields.get("model name", platform.machine()), "hypervisor" in fields.get("flags", "").split()
