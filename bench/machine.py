"""On what it was measured: enough to tell whether two tables may be compared."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import ustack


def describe() -> dict[str, object]:
    """The CPU's name, how many there are for us, whether it is a virtual machine, kernel, Python, ustack and load."""
    name, virtual = _cpu()
    return {
        "cpu": name,
        "cpus": len(os.sched_getaffinity(0)),
        "virtual": virtual,
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "ustack": ustack.__version__,
        "load": round(os.getloadavg()[0], 2),
    }


def sentence(machine: dict[str, object]) -> str:
    """The same, to be read."""
    kind = "virtual machine" if machine["virtual"] else "machine"
    return (
        f"{kind}, {machine['cpus']} cores of {machine['cpu']}, {machine['kernel']}, Python {machine['python']}, "
        f"ustack {machine['ustack']}; load average when it began {machine['load']}"
    )


def _cpu() -> tuple[str, bool]:
    fields: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    # "model name" is x86's; elsewhere the architecture has to do.
    return fields.get("model name", platform.machine()), "hypervisor" in fields.get("flags", "").split()
