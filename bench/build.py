"""Makes the C programs of the bench when they are needed, in build/bench/, with the system's compiler."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
TARGET = HERE.parent / "build" / "bench"
LWIP = "/usr/include/lwip"
FLAGS = ("-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror=implicit-function-declaration")


class CannotBuild(Exception):
    """One sentence: what is missing for a program, or what the compiler said."""


@functools.cache
def program(source: str, *options: str) -> str:
    """The path of the program made from bench/`source`, newly built where that is older. Raises CannotBuild.

    options: of the compiler, behind the source.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise CannotBuild("no C compiler: apt-get install gcc libc6-dev")
    code = HERE / source
    built = TARGET / code.stem
    newest = max(path.stat().st_mtime for path in (code, HERE / "common.h"))
    if built.exists() and built.stat().st_mtime > newest:
        return str(built)
    TARGET.mkdir(parents=True, exist_ok=True)
    fresh = built.with_name(f"{built.name}.{os.getpid()}")
    command = [compiler, *FLAGS, f"-I{HERE}", "-o", str(fresh), str(code), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CannotBuild(f"{source} does not compile: {done.stderr.strip()}")
    fresh.replace(built)
    return str(built)


def lwip() -> str:
    """lwIP on a TAP. Raises CannotBuild where Debian's liblwip-dev is not installed."""
    if not Path(LWIP, "lwip", "tcp.h").exists():
        raise CannotBuild("apt-get install liblwip-dev")
    return program("peers/lwip_tap.c", f"-I{LWIP}", "-llwip")
