"""Makes the programs and the extension module of the bench when they are needed, in build/bench/."""

from __future__ import annotations

import ast
import functools
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).resolve().parent
TARGET = HERE.parent / "build" / "bench"
LWIP = "/usr/include/lwip"
GO_CODE = "/usr/share/gocode"  # where Debian puts Go packages
FLAGS = ("-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror=implicit-function-declaration")
PYTCP = "pmd-pytcp"  # on PyPI
OUTPUT = "<output>"


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
    return _made(source, [compiler, *FLAGS, f"-I{HERE}", "-o", OUTPUT, str(HERE / source), *options], "common.h")


def _made(source: str, command: list[str], *more: str, **environment: str) -> str:
    """Run `command`, whose OUTPUT is the program, unless there is one newer than bench/`source` and `more`."""
    built = TARGET / Path(source).stem
    newest = max((HERE / name).stat().st_mtime for name in (source, *more))
    if built.exists() and built.stat().st_mtime > newest:
        return str(built)
    TARGET.mkdir(parents=True, exist_ok=True)
    fresh = built.with_name(f"{built.name}.{os.getpid()}")
    command = [str(fresh) if word == OUTPUT else word for word in command]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)
    if done.returncode != 0:
        raise CannotBuild(f"{source} does not compile: {done.stderr.strip()}")
    fresh.replace(built)
    return str(built)


def lwip() -> str:
    """lwIP on a TAP. Raises CannotBuild where Debian's liblwip-dev is not installed."""
    if not Path(LWIP, "lwip", "tcp.h").exists():
        raise CannotBuild("apt-get install liblwip-dev")
    return program("peers/lwip_tap.c", f"-I{LWIP}", "-llwip")


@functools.cache
def gvisor() -> str:
    """gVisor's netstack on a TAP, built from what is installed alone. Raises CannotBuild where that is not enough."""
    if not Path(GO_CODE, "src", "gvisor.dev", "gvisor").exists() or shutil.which("go") is None:
        raise CannotBuild("apt-get install golang-gvisor-gvisor-dev golang-go")
    source = "peers/gvisor_tap.go"
    offline = {"GO111MODULE": "off", "GOPATH": GO_CODE, "GOFLAGS": "", "GOCACHE": str(TARGET / "go")}
    return _made(source, ["go", "build", "-o", OUTPUT, str(HERE / source)], **offline)


@functools.cache
def pytcp() -> str:
    """A Python with pmd-pytcp, in a virtual environment of its own. Raises CannotBuild where pip cannot install it."""
    place = TARGET / "pytcp"
    made = place / "bin" / "python"
    if (place / ".complete").exists():
        return str(made)
    install = [str(made), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for command in ([sys.executable, "-m", "venv", "--clear", str(place)], [*install, "--retries=0", PYTCP]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
            raise CannotBuild(f"pip cannot install {PYTCP}: {said[-1]}")
    (place / ".complete").touch()
    return str(made)


@functools.cache
def site() -> str:
    """A directory to serve: its index is 128 bytes."""
    place = TARGET / "site"
    place.mkdir(parents=True, exist_ok=True)
    (place / "index.html").write_bytes(b"0" * 128)
    return str(place)


# A phase of a load has to stay a function of its own, whoever calls it.
MODULE_FLAGS = ("-O2", "-g", "-fno-strict-aliasing", "-fno-inline-functions-called-once", "-fno-inline-small-functions")


def engines() -> ModuleType:
    """The module bench/engines.pyx. Raises CannotBuild."""
    return _module("engines")


def crowd() -> ModuleType:
    """The module bench/crowd.pyx. Raises CannotBuild."""
    return _module("crowd")


def _module(name: str) -> ModuleType:
    """The module bench/`name`.pyx, newly translated and compiled where it or what it cimports changed.

    Needs Cython, as the build of ustack itself does, and the extension modules in place. Raises CannotBuild.
    """
    try:
        from Cython.Build import cythonize
        from setuptools import Extension
    except ImportError as error:
        raise CannotBuild(f"{error.name} is not installed: pip install cython setuptools") from None
    was = os.getcwd()
    os.chdir(HERE.parent)
    try:
        (made,) = cythonize(
            [Extension(f"bench_{name}", [f"bench/{name}.pyx"])],
            compiler_directives=_directives(),
            build_dir=str(TARGET.relative_to(HERE.parent)),
            include_path=["."],
            quiet=True,
        )
    finally:
        os.chdir(was)
    code = HERE.parent / made.sources[0]
    built = TARGET / f"bench_{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
    if not built.exists() or built.stat().st_mtime <= code.stat().st_mtime:
        fresh = built.with_name(f"{built.name}.{os.getpid()}")
        compiler = (sysconfig.get_config_var("CC") or "cc").split()
        include = f"-I{sysconfig.get_path('include')}"
        command = [*compiler, *MODULE_FLAGS, "-fPIC", "-shared", include, str(code), "-o", str(fresh)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise CannotBuild(f"{name}.pyx does not compile: {done.stderr.strip()}")
        fresh.replace(built)
    spec = importlib.util.spec_from_file_location(f"bench_{name}", built)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _directives() -> dict[str, Any]:
    """The Cython directives of setup.py: the same source has to mean the same thing here."""
    for node in ast.parse((HERE.parent / "setup.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == "DIRECTIVES" and node.value:
            found: dict[str, Any] = ast.literal_eval(node.value)
            return found
    raise LookupError("setup.py has no DIRECTIVES")
