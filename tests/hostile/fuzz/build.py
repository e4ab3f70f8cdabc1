"""Builds the fuzzer (clang, libFuzzer, ASan, UBSan) and the replay module (the compiler of the normal build).

Both have the data plane's sources, and both have a directory of their own under build/: what is built in place is never
touched. Only what changed is built again.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
HERE = Path(__file__).resolve().parent
PACKAGES = ("wire", "base", "net", "udp", "tcp", "engine")
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
# Without the tracing of comparisons: UBSan's own checks are most of them, and programs aim by themselves.
COVERAGE = ["-fsanitize=fuzzer-no-link", "-fno-sanitize-coverage=trace-cmp"]
# Where coverage says nothing about the input: the harness, hashing, sums.
UNCOVERED = ("fz_", "ustack_ext.base.table", "ustack_ext.base.rng", "ustack_ext.wire.checksum")
# Cython's own helpers cast functions and compare pointers in ways that are none of our business.
COMMON = [
    "-g",
    "-fPIC",
    "-fno-strict-aliasing",
    "-fno-omit-frame-pointer",
    "-Wno-unused-function",
    "-DCYTHON_WITHOUT_ASSERTIONS",
    "-DUSTACK_DEBUG=1",
]


class Missing(Exception):
    """Something to be installed first; the text says what."""


def directives() -> dict[str, Any]:
    """The Cython directives of setup.py: the same source has to mean the same thing here."""
    for node in ast.parse((ROOT / "setup.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == "DIRECTIVES" and node.value:
            found: dict[str, Any] = ast.literal_eval(node.value)
            return found
    raise LookupError("setup.py has no DIRECTIVES")


def sources(with_data_plane: bool) -> dict[str, Path]:
    """module name -> .pyx"""
    found = {path.stem: path for path in sorted((HERE / "target").glob("*.pyx"))}
    if with_data_plane:
        for package in PACKAGES:
            for path in sorted((ROOT / "ustack_ext" / package).rglob("*.pyx")):
                if path.stem not in ("testing", "codec"):
                    found[".".join(path.relative_to(ROOT).with_suffix("").parts)] = path
    return found


def translate(modules: dict[str, Path], into: Path) -> dict[str, Path]:
    """module name -> C file, translated where out of date."""
    from Cython.Build import cythonize
    from setuptools import Extension

    sys.path.insert(0, str(HERE / "target"))
    was = os.getcwd()
    os.chdir(ROOT)
    try:
        extensions = [Extension(name, [str(path.relative_to(ROOT))]) for name, path in modules.items()]
        done = cythonize(
            extensions,
            compiler_directives=directives(),
            nthreads=os.cpu_count() or 1,
            build_dir=str(into),
            include_path=[str(HERE / "target"), str(ROOT)],
            quiet=True,
        )
    finally:
        os.chdir(was)
        sys.path.remove(str(HERE / "target"))
    return {extension.name: ROOT / extension.sources[0] for extension in done}


def run(command: list[str]) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")


def compile_modules(c_files: dict[str, Path], lib: Path, compiler: list[str], coverage: list[str]) -> None:
    """Each C file to a module under lib, several at a time; `coverage`: more flags for those it is wanted of."""
    include = f"-I{sysconfig.get_path('include')}"

    def one(name: str, c_file: Path) -> None:
        target = lib / Path(*name.split(".")).with_name(name.split(".")[-1] + SUFFIX)
        if target.exists() and target.stat().st_mtime > c_file.stat().st_mtime:
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        more = [] if name.startswith(UNCOVERED) else coverage
        run([*compiler, *more, *COMMON, include, "-shared", str(c_file), "-o", f"{target}.new"])
        os.replace(f"{target}.new", target)

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for done in [pool.submit(one, name, path) for name, path in c_files.items()]:
            done.result()


def mark_packages(lib: Path) -> None:
    for path in (lib / "ustack_ext").rglob("*" + SUFFIX):
        for folder in path.relative_to(lib).parents:
            if str(folder) != ".":
                (lib / folder / "__init__.py").touch()


def clang() -> str:
    """The compiler with the fuzzing runtime. Raises Missing."""
    for name in (os.environ.get("CLANG", ""), "clang", *(f"clang-{n}" for n in range(22, 13, -1))):
        path = shutil.which(name) if name else None
        if path and runtime(path).exists():
            return path
    raise Missing(
        "The fuzzer needs clang with its compiler-rt (libFuzzer). On Debian or Ubuntu:\n"
        "    sudo apt-get install clang libclang-rt-14-dev    # the number is that of `clang --version`"
    )


def runtime(compiler: str) -> Path:
    asked = f"--print-file-name=libclang_rt.fuzzer_no_main-{os.uname().machine}.a"
    return Path(subprocess.run([compiler, asked], capture_output=True, text=True).stdout.strip())


def python_library() -> list[str]:
    """Linker flags for embedding this interpreter. Raises Missing."""
    names = (sysconfig.get_config_var("LDLIBRARY"), sysconfig.get_config_var("LIBRARY"))
    for folder in (sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("LIBPL")):
        for name in names:
            if folder and name and Path(folder, name).exists():
                extra = f"{sysconfig.get_config_var('LIBS') or ''} {sysconfig.get_config_var('SYSLIBS') or ''}".split()
                return [str(Path(folder, name)), f"-Wl,-rpath,{folder}", *extra]
    raise Missing("The fuzzer embeds Python and needs its library: sudo apt-get install libpython3-dev")


def build_fuzzer() -> tuple[Path, Path]:
    """(the program, the directory of its modules), built where out of date. Raises Missing, RuntimeError."""
    compiler = clang()
    out = ROOT / "build" / "fuzz"
    lib = out / "lib"
    # __SANITIZE_ADDRESS__ is gcc's way to say it, which base/chunk asks for.
    flags = [compiler, "-O1", *SANITIZE, "-D__SANITIZE_ADDRESS__=1", "-Wno-macro-redefined"]
    compile_modules(translate(sources(True), out / "cython"), lib, flags, COVERAGE)
    mark_packages(lib)
    program = out / "engine_fuzzer"
    main = HERE / "fuzz_main.c"
    if not program.exists() or program.stat().st_mtime < main.stat().st_mtime:
        run(
            [
                compiler,
                "-O1",
                *COMMON,
                *SANITIZE,
                *COVERAGE,
                f"-I{sysconfig.get_path('include')}",
                str(main),
                str(runtime(compiler)),
                "-o",
                str(program),
                "-rdynamic",
                *python_library(),
                "-lstdc++",
                "-lm",
                "-lpthread",
                "-ldl",
            ]
        )
    return program, lib


def build_replay() -> Path:
    """The directory of fz_target, built against the modules in place with the compiler and flags of Python."""
    out = ROOT / "build" / "fuzz-replay"
    lib = out / "lib"
    compiler = (sysconfig.get_config_var("CC") or "cc").split()
    compile_modules(translate(sources(False), out / "cython"), lib, [*compiler, "-O1"], [])
    return lib
