"""Reads what every source file imports, cimports and includes, so that tests can hold the tree against its rules.

A module is a node with its .pyx and .pxd taken together: that `a.pyx` uses `b.pxd` and `b.pyx` uses `a.pxd` is a cycle.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from pathlib import Path

CYTHON_SUFFIXES = (".pyx", ".pxd")

STRING = re.compile(r'"""(?:[^\\]|\\.)*?"""|\'\'\'(?:[^\\]|\\.)*?\'\'\'', re.DOTALL)
FROM = re.compile(r"^[ \t]*from[ \t]+([\w.]+)[ \t]+c?import[ \t]+(\([^)]*\)|[^\n]*)", re.MULTILINE)
PLAIN = re.compile(r"^[ \t]*c?import[ \t]+([^\n]+)", re.MULTILINE)
EXTERN = re.compile(r"""^[ \t]*cdef[ \t]+extern[ \t]+from[ \t]+["']<?([^"'>]+)>?["']""", re.MULTILINE)
INCLUDE = re.compile(r"""^[ \t]*#[ \t]*include[ \t]*[<"]([^>"]+)[>"]""", re.MULTILINE)


@dataclass
class Module:
    name: str
    files: list[Path] = field(default_factory=list)
    # from a.b import c: ("a.b", "c"); import a.b: ("a.b", "")
    imports: set[tuple[str, str]] = field(default_factory=set)
    headers: set[str] = field(default_factory=set)  # C headers, e.g. "sys/socket.h"


def resolve(name: str, package: str) -> str:
    """The absolute name of `name` as written in a module of `package`: leading dots climb."""
    dots = len(name) - len(name.lstrip("."))
    if dots == 0:
        return name
    base = package.split(".")
    base = base[: len(base) - (dots - 1)]
    return ".".join([*base, *filter(None, [name[dots:]])])


def split_names(text: str) -> list[str]:
    """The names of `a, b as c  # remark` or of the same in parentheses over several lines."""
    text = re.sub(r"#[^\n]*", "", text).strip("() \t\n")
    return [part.split()[0] for part in text.replace("\n", " ").split(",") if part.split()]


def read_cython(path: Path, package: str, module: Module) -> None:
    source = path.read_text(encoding="utf-8")
    code = STRING.sub('""', source)
    for match in FROM.finditer(code):
        base = resolve(match[1], package)
        module.imports.update((base, name) for name in split_names(match[2]))
    for match in PLAIN.finditer(code):
        module.imports.update((name, "") for name in split_names(match[1]))
    module.headers.update(name for name in EXTERN.findall(code) if name != "*")
    module.headers.update(INCLUDE.findall(source))  # also in the verbatim C of `cdef extern from *`
    for base, name in module.imports:
        library, _, rest = base.partition(".")
        if library == "libc":
            module.headers.add(f"{rest or name}.h")
        elif library == "posix":
            module.headers.add(f"posix/{rest or name}.h")


def read_python(path: Path, package: str, module: Module) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_checkers_only: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for_checkers_only.update(inner for statement in node.body for inner in ast.walk(statement))
    for node in ast.walk(tree):
        if node in for_checkers_only:
            continue
        if isinstance(node, ast.Import):
            module.imports.update((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = resolve("." * node.level + (node.module or ""), package)
            module.imports.update((base, alias.name) for alias in node.names)


def read_tree(root: Path, *packages: str) -> dict[str, Module]:
    """Every module of these top-level packages under `root`, by dotted name (a package's __init__ by the package's)."""
    modules: dict[str, Module] = {}
    for top in packages:
        for path in sorted((root / top).rglob("*")):
            if path.suffix not in (".py", *CYTHON_SUFFIXES):
                continue
            parts = path.relative_to(root).with_suffix("").parts
            package = ".".join(parts[:-1])
            name = package if parts[-1] == "__init__" else ".".join(parts)
            module = modules.setdefault(name, Module(name))
            module.files.append(path)
            (read_cython if path.suffix in CYTHON_SUFFIXES else read_python)(path, package, module)
    return modules


def uses(modules: dict[str, Module]) -> dict[str, set[str]]:
    """Which module uses which. `from a.b import c` is a use of a.b.c if that is a module, else of a.b."""
    graph: dict[str, set[str]] = {}
    for module in modules.values():
        targets = set()
        for base, name in module.imports:
            target = f"{base}.{name}" if name and f"{base}.{name}" in modules else base
            if target in modules and target != module.name:
                targets.add(target)
        graph[module.name] = targets
    return graph


def find_cycle(graph: dict[str, set[str]]) -> list[str] | None:
    """Some cycle, as the names along it with the first repeated at the end; None where there is none."""
    done: set[str] = set()
    for start in sorted(graph):
        path: list[str] = []
        stack = [(start, False)]
        while stack:
            node, leaving = stack.pop()
            if leaving:
                done.add(path.pop())
            elif node in path:
                return [*path[path.index(node):], node]
            elif node not in done:
                path.append(node)
                stack.append((node, True))
                stack.extend((target, False) for target in sorted(graph.get(node, ())))
    return None
