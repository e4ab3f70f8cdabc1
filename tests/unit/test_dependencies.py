"""The one-way rule (docs/architecture.md): who may use whom, no cycles, a data plane without an operating system.

    wire → base → net → udp, tcp → engine → link, driver → sockets, service → ustack → ustack.cli

What the sources say is read from the sources; what became of them is read from the undefined symbols of the built
modules: a function whose name is not there is not called.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.unit.source_tree import Module, find_cycle, read_tree, uses

ROOT = Path(__file__).resolve().parents[2]
DATA_PLANE = ("wire", "base", "net", "udp", "tcp", "engine")

# Each package of ustack_ext, with what it may use beside itself. A new package has to be given its place here.
MAY_USE: dict[str, set[str]] = {"wire": set()}
MAY_USE["base"] = {"wire"}
MAY_USE["net"] = {"wire", "base"}
MAY_USE["udp"] = MAY_USE["tcp"] = {"wire", "base", "net"}
MAY_USE["engine"] = {"wire", "base", "net", "udp", "tcp"}
MAY_USE["link"] = {*DATA_PLANE}
MAY_USE["driver"] = {*DATA_PLANE, "link"}
MAY_USE["sockets"] = MAY_USE["service"] = {*DATA_PLANE, "link", "driver"}

# Freestanding headers, and those whose functions neither block nor ask the system for anything but memory.
ALLOWED_HEADERS = {"stdint.h", "stddef.h", "stdbool.h", "limits.h", "string.h", "stdlib.h", "errno.h", "math.h"}
# Where memory is got: its pages may be huge ones.
MEMORY_HEADERS = {"ustack_ext.base.chunk": {"sys/mman.h"}}

# Names of the C library that data-plane modules may need; the rest must be Python's (Cython's module set-up).
ALLOWED_SYMBOL = re.compile(
    r"""
      malloc | calloc | realloc | posix_memalign | madvise | free | abort | qsort | bsearch
    | mem(cpy|move|set|cmp|chr) | str(len|cmp|ncmp|chr|rchr) | cbrt | exp2? | log2? | pow | sqrt
    | v?snprintf | fprintf | fwrite | stderr                        # what Cython says before it gives up
    | __stack_chk_fail | __assert_fail | __(mem|str|v?snprintf|fprintf)\w*_chk
    | __cxa_finalize | __gmon_start__ | _ITM_\w+TMCloneTable       # every shared object
    | __(asan|ubsan)_\w+ | _?Py[A-Z_]\w*
    """,
    re.VERBOSE,
)

FORBIDDEN_PYTHON = {
    "asyncio", "ctypes", "datetime", "fcntl", "mmap", "multiprocessing", "os", "pathlib", "platform", "posix", "random",
    "secrets", "select", "selectors", "signal", "socket", "subprocess", "sys", "threading", "time",
}


def tree(root: Path = ROOT) -> dict[str, Module]:
    return read_tree(root, *(name for name in ("ustack", "ustack_ext", "tap_harness") if (root / name).is_dir()))


def layer(name: str) -> str | None:
    parts = name.split(".")
    return parts[1] if parts[0] == "ustack_ext" and len(parts) > 1 else None


def objection(user: str, target: str) -> str | None:
    """Why `user` may not use `target`, or None."""
    user_top, target_top = user.split(".")[0], target.split(".")[0]
    if user_top == "ustack_ext":
        high, low = layer(user), layer(target)
        if target_top != "ustack_ext":
            return "it is below"
        if high is None:
            return "modules belong in a package"
        return None if low in (None, high) or low in MAY_USE[high] else f"{high} is not above {low}"
    if user_top == "ustack":
        if target_top == "tap_harness":
            return "the harness is a user of ustack"
        if target.startswith("ustack.cli") and not user.startswith(("ustack.cli", "ustack.__main__")):
            return "the command line is on top"
    if user_top == "tap_harness" and target_top == "ustack_ext" and target != "ustack_ext.wire.codec":
        return "the harness has the public API only"
    return None


def wrong_direction(modules: dict[str, Module]) -> list[str]:
    """Every use of one module by another that the rule does not allow."""
    edges = [(user, target) for user, used in uses(modules).items() for target in used]
    return sorted(f"{user} uses {target}: {why}" for user, target in edges if (why := objection(user, target)))


def os_knowledge(modules: dict[str, Module]) -> list[str]:
    """Every header and Python module in the data plane that knows an operating system."""
    own = {path.name for path in (ROOT / "ustack_ext").rglob("*.h")}
    found = []
    for module in modules.values():
        if layer(module.name) in DATA_PLANE:
            allowed = ALLOWED_HEADERS | MEMORY_HEADERS.get(module.name, set())
            headers = {name for name in module.headers - allowed if Path(name).name not in own}
            imports = {base for base, _ in module.imports if base.split(".")[0] in FORBIDDEN_PYTHON}
            found += [f"{module.name} uses {name}" for name in headers | imports]
    return sorted(found)


def test_every_package_has_its_place() -> None:
    packages = {path.relative_to(ROOT / "ustack_ext").parts[0] for path in (ROOT / "ustack_ext").rglob("*.pyx")}
    assert packages <= set(MAY_USE), "a package of ustack_ext without a line in MAY_USE"
    assert set(DATA_PLANE) <= packages, "the data plane has lost a package"


def test_dependencies_point_one_way() -> None:
    assert wrong_direction(tree()) == []


def test_no_cycle_between_files() -> None:
    cycle = find_cycle(uses(tree()))
    assert cycle is None, " → ".join(cycle or ())


def test_no_cycle_between_packages() -> None:
    graph: dict[str, set[str]] = {}
    for user, used in uses(tree()).items():
        package = ".".join(user.split(".")[:2])
        graph.setdefault(package, set()).update({".".join(name.split(".")[:2]) for name in used} - {package})
    cycle = find_cycle(graph)
    assert cycle is None, " → ".join(cycle or ())


def test_data_plane_knows_no_operating_system() -> None:
    assert os_knowledge(tree()) == []


def built_modules() -> list[Path]:
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    sources = [path for name in DATA_PLANE for path in sorted((ROOT / "ustack_ext" / name).rglob("*.pyx"))]
    return [path.with_suffix(suffix) for path in sources]


def undefined_symbols(library: Path) -> set[str]:
    command = ["nm", "--dynamic", "--undefined-only", "--format=posix", str(library)]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {line.split()[0].split("@")[0] for line in listing.splitlines()}


def forbidden_symbols(library: Path) -> set[str]:
    return {name for name in undefined_symbols(library) if not ALLOWED_SYMBOL.fullmatch(name)}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="optional: nm's names are those of ELF")
@pytest.mark.parametrize("library", built_modules(), ids=lambda path: f"{path.parent.name}/{path.name.split('.')[0]}")
def test_data_plane_calls_no_system(library: Path) -> None:
    assert library.exists(), f"not built: {library}"
    assert forbidden_symbols(library) == set()


class TestTheCheckItself:
    """The same functions on small trees that break the rules."""

    @staticmethod
    def write(root: Path, files: dict[str, str]) -> dict[str, Module]:
        for name, text in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return tree(root)

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("ustack_ext/base/low.pyx", "from ustack_ext.tcp.high cimport f\n"),
            ("ustack_ext/base/low.pyx", "from ustack_ext.tcp cimport high\n"),
            ("ustack_ext/base/low.pyx", "cimport ustack_ext.tcp.high as h\n"),
            ("ustack_ext/base/low.pyx", "from ..tcp cimport (\n    high,\n)\n"),
            ("ustack_ext/base/low.pxd", "from ..tcp.high cimport f\n"),
            ("ustack_ext/base/low.pyx", "def f():\n    import ustack_ext.tcp.high\n"),
            ("ustack_ext/base/low.py", "from ..tcp import high\n"),
            ("ustack_ext/udp/low.pyx", "from ustack_ext.tcp.high cimport f\n"),
            ("ustack_ext/tcp/low.pyx", "import ustack\n"),
            ("ustack/low.py", "import tap_harness.netns\n"),
            ("ustack/low.py", "def f():\n    from tap_harness import netns\n"),
            ("ustack/low.py", "from .cli import main\n"),
            ("tap_harness/low.py", "from ustack_ext.tcp import high\n"),
        ],
    )
    def test_finds_a_wrong_direction(self, tmp_path: Path, name: str, text: str) -> None:
        good = {
            "ustack_ext/tcp/high.pyx": "",
            "ustack/__init__.py": "",
            "ustack/cli/__init__.py": "def main(): ...\n",
            "tap_harness/netns.py": "import ustack\n",
        }
        assert wrong_direction(self.write(tmp_path, good)) == []
        assert len(wrong_direction(self.write(tmp_path, {name: text}))) == 1

    def test_finds_a_cycle_between_files(self, tmp_path: Path) -> None:
        files = {
            "ustack_ext/tcp/a.pxd": "", "ustack_ext/tcp/a.pyx": "from ustack_ext.tcp.b cimport f\n",
            "ustack_ext/tcp/b.pxd": "", "ustack_ext/tcp/b.pyx": "from ustack_ext.tcp.c cimport f\n",
            "ustack_ext/tcp/c.pxd": "", "ustack_ext/tcp/c.pyx": "",
        }
        assert find_cycle(uses(self.write(tmp_path, files))) is None
        files["ustack_ext/tcp/c.pyx"] = "from ustack_ext.tcp.a cimport f\n"
        cycle = find_cycle(uses(self.write(tmp_path, files)))
        assert cycle is not None
        assert set(cycle) == {"ustack_ext.tcp.a", "ustack_ext.tcp.b", "ustack_ext.tcp.c"}

    @pytest.mark.parametrize(
        "text",
        [
            'cdef extern from "sys/socket.h":\n    pass\n',
            "cdef extern from '<unistd.h>' nogil:\n    pass\n",
            'cdef extern from *:\n    """\n    #include <time.h>\n    """\n',
            "from posix.unistd cimport read\n",
            "from libc cimport time\n",
            "from libc.stdio cimport printf\n",
            "import time\n",
            "from os import urandom\n",
        ],
    )
    def test_finds_os_knowledge(self, tmp_path: Path, text: str) -> None:
        fine = "from libc.string cimport memcpy\nfrom libc.stdint cimport uint8_t\n# import time\n"
        assert os_knowledge(self.write(tmp_path, {"ustack_ext/tcp/a.pyx": fine})) == []
        assert os_knowledge(self.write(tmp_path, {"ustack_ext/tcp/a.pyx": fine + text})) != []

    def test_finds_a_system_call_in_a_library(self, tmp_path: Path) -> None:
        source = tmp_path / "a.c"
        source.write_text("#include <unistd.h>\nint f(void) { return getpid(); }\n", encoding="utf-8")
        library = tmp_path / "a.so"
        compiler = os.environ.get("CC", "cc").split()
        subprocess.run([*compiler, "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
        assert forbidden_symbols(library) == {"getpid"}
