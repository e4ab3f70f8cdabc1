"""Builds the extension modules of ustack_ext: every .pyx found in the tree, with one set of directives.

What is always the same stands in pyproject.toml; here is only what has to be found out: the modules, the flags of the
build mode, and what of an earlier build can be kept. The generated C goes to build/cython/, never beside the sources.

Environment:
    USTACK_BUILD   release (default) | debug (live-object counters) | sanitize (ASan + UBSan, and the counters) |
                   profile (frame pointers and symbols for perf) | portable (as where there is no Linux: tools/portable)
                   | quick (not optimised: for tests of building itself)
    USTACK_JOBS    parallel compilations (default: the number of cores)
    USTACK_WERROR  1: C compiler warnings are errors (what CI does)
    USTACK_ONLY    comma-separated sub-packages of ustack_ext to build, a short cut while developing. Modules that
                   share a .pxd with them are NOT rebuilt: end with a full build.
"""

from __future__ import annotations

import filecmp
import os
import re
import sys
from pathlib import Path
from typing import Any

import Cython
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

MODE = os.environ.get("USTACK_BUILD") or "release"
JOBS = int(os.environ.get("USTACK_JOBS") or os.cpu_count() or 1)
GENERATED = Path("build", "cython")

# What Cython itself generates is not ours to mend: unused helpers, and its sign comparisons.
WARNINGS = ["-Wall", "-Wextra", "-Wno-unused-function", "-Wno-unused-parameter", "-Wno-unused-variable",
            "-Wno-sign-compare", "-Wno-missing-field-initializers", "-Wno-cast-function-type", "-Wno-unreachable-code"]

# mode: (compiler flags, linker flags, value of the USTACK_DEBUG macro). -fno-strict-aliasing: pool memory is reused for
# blocks, segments and connections alike. -g0 where nobody debugs, -g1 where line numbers do: Python's own flags have
# -g, which takes a quarter of the compiler's time.
MODES: dict[str, tuple[list[str], list[str], str]] = {
    "release": (["-O2", "-fno-strict-aliasing"], [], "0"),
    "debug": (["-O1", "-g", "-fno-strict-aliasing"], [], "1"),
    "sanitize": (["-O1", "-g1", "-fno-strict-aliasing", "-fno-omit-frame-pointer", "-fsanitize=address,undefined",
                  "-fno-sanitize-recover=undefined"], ["-fsanitize=address,undefined"], "1"),
    "portable": (["-O0", "-g0", "-fno-strict-aliasing", "-U__linux__", "-U__linux", "-Ulinux"], [], "0"),
    "quick": (["-O0", "-g0", "-fno-strict-aliasing"], [], "0"),
    "profile": (["-O2", "-g", "-fno-strict-aliasing", "-fno-omit-frame-pointer"], [], "0"),
}

DIRECTIVES: dict[str, Any] = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
    "embedsignature": True,
}

# A module that names one of these headers knows Linux, and is left out elsewhere.
LINUX_HEADERS = re.compile(r"""cdef\s+extern\s+from\s+["']<?(?:linux/|sys/epoll\.h|sys/eventfd\.h|netpacket/)""")


def is_linux_only(source: Path) -> bool:
    """Whether the module (its .pyx or its own .pxd) includes a header that only Linux has."""
    files = [path for path in (source, source.with_suffix(".pxd")) if path.exists()]
    return any(LINUX_HEADERS.search(path.read_text(encoding="utf-8")) for path in files)


def find_extensions() -> list[Extension]:
    """Every .pyx under ustack_ext, with the flags of the build mode."""
    if MODE not in MODES:
        raise SystemExit(f"USTACK_BUILD={MODE!r} is not a build mode: use one of {', '.join(MODES)}")
    compile_args, link_args, debug = MODES[MODE]
    if os.environ.get("USTACK_WERROR") == "1":
        compile_args = [*compile_args, "-Werror"]
    has_linux = sys.platform.startswith("linux") and MODE != "portable"
    only = {name for name in os.environ.get("USTACK_ONLY", "").split(",") if name}
    found = []
    for source in sorted(Path("ustack_ext").rglob("*.pyx")):
        if only and source.parts[1] not in only:
            continue
        if not has_linux and is_linux_only(source):
            continue
        found.append(Extension(
            ".".join(source.with_suffix("").parts),
            [str(source)],
            extra_compile_args=WARNINGS + compile_args,
            extra_link_args=link_args,
            define_macros=[("USTACK_DEBUG", debug), ("CYTHON_WITHOUT_ASSERTIONS", None)],
        ))
    return found


def generate_c(modules: list[Extension]) -> list[Extension]:
    """Translate what is out of date: a .pyx or a .pxd it cimports changed (Cython sees that), or Cython itself."""
    signature = f"{Cython.__version__} {sorted(DIRECTIVES.items())}"
    stamps = {GENERATED / Path(m.sources[0]).with_suffix(".c"): GENERATED / f"{m.name}.directives" for m in modules}
    for c_file, stamp in stamps.items():
        if c_file.exists() and not (stamp.exists() and stamp.read_text() == signature):
            c_file.unlink()
    translated = cythonize(modules, compiler_directives=DIRECTIVES, nthreads=JOBS, build_dir=str(GENERATED))
    for stamp in stamps.values():
        write_where_it_differs(stamp, signature)
    return translated


def write_where_it_differs(stamp: Path, text: str) -> None:
    """A build that has nothing to do writes nothing: others may look at that moment, and must not see half of it."""
    if not stamp.exists() or stamp.read_text() != text:
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.write_text(text)


class BuildExt(build_ext):
    """build_ext that also rebuilds when the flags change, and leaves alone what did not."""

    def build_extension(self, ext: Extension) -> None:
        flags = (ext.extra_compile_args, ext.extra_link_args, ext.define_macros)
        signature = repr((MODE, flags, self.compiler.compiler_so))
        output = Path(self.get_ext_fullpath(ext.name))
        stamp = Path(self.build_temp, f"{ext.name}.flags")
        if output.exists() and not (stamp.exists() and stamp.read_text() == signature):
            output.unlink()
        super().build_extension(ext)
        write_where_it_differs(stamp, signature)

    def copy_file(self, infile: str, outfile: str, *args: Any, **kwargs: Any) -> Any:
        """Replace an in-place module only when it differs, and in one step: a program may be importing it right now."""
        if os.path.exists(outfile) and filecmp.cmp(infile, outfile):
            return outfile, 0
        result = super().copy_file(infile, f"{outfile}.new", *args, **kwargs)
        os.replace(f"{outfile}.new", outfile)
        return outfile, result[1]


os.chdir(Path(__file__).resolve().parent)
setup(
    ext_modules=generate_c(find_extensions()),
    cmdclass={"build_ext": BuildExt},
    options={"build_ext": {"parallel": JOBS}},
)
