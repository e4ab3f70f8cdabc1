"""The rules of CONTRIBUTING.md that a program can see: sizes, directives, stubs, and what documents refer to."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CODE = ("ustack", "ustack_ext", "tap_harness", "tests", "bench", "examples", "tools")
DOCUMENTS = sorted(
    str(path.relative_to(ROOT))
    for folder in (".", "docs", "examples", "bench", "tap_harness")
    for path in (ROOT / folder).glob("*.md")
)

MOST_LINES_IN_A_FILE = 600
MOST_LINES_IN_A_FUNCTION = 80
GIL_FREE = ("wire", "base", "net", "udp", "tcp", "engine")


def files(*suffixes: str) -> list[Path]:
    found = [path for top in CODE for path in (ROOT / top).rglob("*") if path.suffix in suffixes]
    return sorted(path for path in found if "__pycache__" not in path.parts)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def cython_functions(text: str) -> Iterator[tuple[str, int]]:
    """Name and number of lines of each function in a .pyx or .pxd. A body is what is indented deeper than its `def`."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        match = re.match(r"(\s*)(?:def|cdef|cpdef)\b(?!\s+class)[^=#]*?(\w+)\(", line)
        if match is None:
            continue
        end = number
        for later in range(number + 1, len(lines)):
            stripped = lines[later].lstrip()
            if stripped and not stripped.startswith((")", "#")) and len(lines[later]) - len(stripped) <= len(match[1]):
                break
            if stripped:
                end = later
        yield match[2], end - number + 1


def without_noexcept(text: str) -> list[str]:
    """The heads of `cdef` functions that are `nogil` but not `noexcept`."""
    nested = r"\([^()]*(?:\([^()]*\)[^()]*)*\)"
    head = re.compile(rf"^[ \t]*cdef\b(?!\s+extern)[^\n=(]*{nested}([^\n()#]*)", re.MULTILINE)
    return [match[0].strip() for match in head.finditer(text) if "nogil" in match[1] and "noexcept" not in match[1]]


def python_functions(text: str) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1


def test_no_file_needs_a_map() -> None:
    lengths = {name(path): len(path.read_text().splitlines()) for path in files(".py", ".pyx", ".pxd", ".pyi")}
    assert {path: length for path, length in lengths.items() if length > MOST_LINES_IN_A_FILE} == {}


def test_no_function_needs_scrolling() -> None:
    found = {}
    for path in files(".py", ".pyx", ".pxd"):
        functions = python_functions if path.suffix == ".py" else cython_functions
        for function, length in functions(path.read_text(encoding="utf-8")):
            if length > MOST_LINES_IN_A_FUNCTION:
                found[f"{name(path)}:{function}"] = length
    assert found == {}


def test_every_module_says_what_it_is_for() -> None:
    silent = []
    for path in files(".py", ".pyx", ".pxd"):
        text = path.read_text(encoding="utf-8").lstrip()
        if text and not text.startswith(('"""', 'r"""', "# ")):
            silent.append(name(path))
    assert silent == []


def test_nothing_is_left_for_later() -> None:
    marks = re.compile(r"#.*\b(TODO|FIXME|XXX|HACK)\b")
    sources = [path for path in files(".py", ".pyx", ".pxd", ".pyi") if path != Path(__file__)]
    assert [name(path) for path in sources if marks.search(path.read_text())] == []


def test_directives_are_set_in_one_place() -> None:
    decorators = "boundscheck|wraparound|cdivision|initializedcheck"
    pattern = re.compile(rf"^\s*#\s*cython\s*:|^\s*@(?:cython\.)?(?:{decorators})\b", re.MULTILINE)
    assert [name(path) for path in files(".pyx", ".pxd") if pattern.search(path.read_text())] == []


def test_modules_meet_by_cimport() -> None:
    pattern = re.compile(r"^\s*include\s+[\"']", re.MULTILINE)
    assert [name(path) for path in files(".pyx", ".pxd") if pattern.search(path.read_text())] == []


def test_data_plane_functions_never_look_for_an_exception() -> None:
    """A `nogil` function without `noexcept` takes the GIL after the call (if void) or tests its result (if not)."""
    found = []
    for path in files(".pyx", ".pxd"):
        parts = path.relative_to(ROOT).parts
        if parts[0] != "ustack_ext" or parts[1] not in GIL_FREE:
            continue
        found += [f"{name(path)}: {function}" for function in without_noexcept(path.read_text(encoding="utf-8"))]
    assert found == []


def test_what_python_imports_from_the_extension_has_stubs() -> None:
    wanted = set()
    for path in files(".py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ustack_ext"):
                names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names if alias.name.startswith("ustack_ext")]
            else:
                continue
            wanted.update(ROOT / Path(*dotted.split(".")).with_suffix(".pyx") for dotted in names)
    exist = sorted(path for path in wanted if path.exists())
    assert [name(path) for path in exist if not path.with_suffix(".pyi").exists()] == []


# Modules that go through the families in a way of their own, and how; others mark what is about one or neither.
FAMILIES_OF_THEIR_OWN = {
    "tests/interop/test_capture.py": "both families' packets are in one capture",
    "tests/interop/test_cli_gateway.py": "its device has addresses of both families at once",
    "tests/interop/test_dds.py": "the programs speak IPv4",
    "tests/interop/test_mdns.py": "the daemon is told to speak IPv4",
    "tests/interop/test_self_configured.py": "IPv6 by routers and DHCPv6, IPv4 by DHCP",
    "tests/kernel/test_groups.py": "IGMP and MLD are its parameters",
    "tests/kernel/test_routing.py": "each test goes through both families",
    "tests/kernel/test_vlan_bridge.py": "each test goes through both families",
}
COLLECTED = """
import pytest

class Look:
    def pytest_collection_modifyitems(self, items):
        for item in items:
            marks = [mark for name in ("ipv4", "ipv6") for mark in item.iter_markers(name)]
            how = "marked" if any(mark.args for mark in marks) else "IPv6" if "IPv6" in item.nodeid else "IPv4"
            print("item", item.nodeid.partition("[")[0], how)

pytest.main(["-qq", "--collect-only", "-p", "no:cacheprovider", "tests/kernel", "tests/interop"], [Look()])
"""


def test_kernel_and_interop_tests_are_over_both_families() -> None:
    """Or say by a marker, `ipv4(reason)` or `ipv6(reason)`, why not."""
    done = subprocess.run([sys.executable, "-c", COLLECTED], cwd=ROOT, capture_output=True, text=True, timeout=120)
    found: dict[str, set[str]] = {}
    for test, how in re.findall(r"^item (\S+) (\w+)$", done.stdout, re.MULTILINE):
        found.setdefault(test, set()).add(how)
    assert len(found) > 100, done.stdout + done.stderr
    one = [test for test, ways in found.items() if ways == {"IPv4"}]
    assert [test for test in one if test.partition("::")[0] not in FAMILIES_OF_THEIR_OWN] == []


def test_one_version() -> None:
    pattern = re.compile(r'^(?:version|__version__) = "([^"]+)"', re.MULTILINE)
    project, package = ((ROOT / path).read_text(encoding="utf-8") for path in ("pyproject.toml", "ustack/__init__.py"))
    assert pattern.findall(project) == pattern.findall(package) != []


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documents_name_commands_that_exist(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    named = set(re.findall(r"(?:^\$ |`)(?:USTACK_\w+=\w+ )?make ([a-z-]+)", text, re.MULTILINE))
    assert named <= make_targets()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_between_documents_lead_somewhere(document: str) -> None:
    path = ROOT / document
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text(encoding="utf-8"))
    assert [target for target in targets if not (path.parent / target).exists()] == []


class TestTheCheckItself:
    @pytest.mark.parametrize(
        ("text", "found"),
        [
            ("cdef void f(int *x, void (*g)(int)) nogil:\n", 1),
            ("cdef inline int f(\n    int x,\n) nogil:\n", 1),
            ("cdef int f(int x) noexcept nogil  # nogil\n", 0),
            ("cdef extern from *:\n    int f(int x)\n", 0),
        ],
    )
    def test_nogil_without_noexcept(self, text: str, found: int) -> None:
        assert len(without_noexcept(text)) == found

    def test_length_of_cython_functions(self) -> None:
        text = """\
cdef int a(int x,
           int y) noexcept nogil:
    x += 1

    return x

cdef class B:
    cdef int c(self):
        # why
        return 1

    def d(self):
        pass
cdef int declared(int x) noexcept nogil
cdef int last():
    return 2
"""
        assert dict(cython_functions(text)) == {"a": 5, "c": 3, "d": 2, "declared": 1, "last": 2}
