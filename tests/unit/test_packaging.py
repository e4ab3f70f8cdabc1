"""What a user installs: wheel and sdist hold everything, and work in an empty environment away from the checkout.

The wheel is made from the checkout, whose compiled modules it reuses. The sdist goes the long way: it is unpacked,
translated and compiled from nothing but what is in it, without optimisation: that all of it is there is what is looked
for. Build requirements come from the environment of the tests.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("ustack", "ustack_ext", "tap_harness")

# The timeout is for building the whole sdist on a slow machine.
pytestmark = [pytest.mark.packaging, pytest.mark.slow, pytest.mark.timeout(1200)]

SMOKE_TEST = """
import importlib, importlib.metadata, json, pathlib, pkgutil, threading
import ustack

def modules(package):
    top = importlib.import_module(package)
    return [package, *(m.name for m in pkgutil.walk_packages(top.__path__, package + "."))]

left, right = ustack.pipe()
with ustack.Stack() as server, ustack.Stack() as client:
    server.attach(left, addresses=["10.9.0.1/24"])
    client.attach(right, addresses=["10.9.0.2/24"])
    with server.create_server(("", 7)) as listener:
        def echo():
            conn, _ = listener.accept()
            with conn:
                while data := conn.recv(65536):
                    conn.sendall(data)
        thread = threading.Thread(target=echo)
        thread.start()
        sent = bytes(range(256)) * 400
        got = bytearray()
        with client.create_connection(("10.9.0.1", 7), timeout=30) as s:
            threading.Thread(target=lambda: (s.sendall(sent), s.shutdown(ustack.SHUT_WR))).start()
            while data := s.recv(65536):
                got += data
        thread.join(30)

names = [name for package in ("ustack", "ustack_ext") for name in modules(package) if not name.endswith("__main__")]
for name in names:
    importlib.import_module(name)
print(json.dumps({
    "echoed": got == sent,
    "file": ustack.__file__,
    "modules": names,
    "requires": [r for r in importlib.metadata.requires("ustack") or [] if "extra ==" not in r],
    "typed": pathlib.Path(ustack.__file__).with_name("py.typed").exists(),
}))
"""


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Run a command outside the checkout's influence; its whole output is in the failure."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "USTACK_"))}
    result = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**inherited, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert result.returncode == 0, f"{' '.join(map(str, command))}\n{result.stdout}"
    return result.stdout


def sources(*suffixes: str) -> set[str]:
    """Files of the packages with these suffixes, relative to the checkout."""
    found = {path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.name.endswith(suffixes)}
    return {str(path.relative_to(ROOT)) for path in found}


def expected_modules() -> set[str]:
    """Dotted names of the modules a user can import from ustack and ustack_ext."""
    paths = {Path(name).with_suffix("") for name in sources(".py", ".pyx")}
    names = {".".join(path.parent.parts if path.name == "__init__" else path.parts) for path in paths}
    return {name for name in names if not name.startswith("tap_harness") and not name.endswith("__main__")}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    flags = {"USTACK_WERROR": os.environ["USTACK_WERROR"]} if "USTACK_WERROR" in os.environ else {}
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT, cwd=out, **flags)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", out, ROOT, cwd=out, USTACK_ONLY="none")
    return next(out.glob("*.tar.gz"))


def smoke_test(environment: Path) -> dict[str, Any]:
    """Run the smoke test in a virtual environment, from an empty directory."""
    elsewhere = environment / "elsewhere"
    elsewhere.mkdir()
    assert run(environment / "bin" / "ustack", "--version", cwd=elsewhere).strip() == f"ustack {version()}"
    report: dict[str, Any] = json.loads(run(environment / "bin" / "python", "-I", "-c", SMOKE_TEST, cwd=elsewhere))
    assert report["echoed"]
    assert report["typed"]
    assert report["requires"] == [], "the package must not need another one"
    assert Path(report["file"]).is_relative_to(environment)
    assert set(report["modules"]) == expected_modules()
    return report


def version() -> str:
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    return next(line.split('"')[1] for line in lines if line.startswith("version = "))


def test_wheel_holds_what_users_need(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    python = {name for name in names if not name.endswith(".so")}
    compiled = {name.split(".")[0] for name in names - python}
    assert python == sources(".py", ".pyi", ".pxd", "py.typed"), "a file was forgotten, or one too many was taken"
    assert compiled == {name.removesuffix(".pyx") for name in sources(".pyx")}
    assert {"ustack/py.typed", "ustack_ext/py.typed"} <= names


def test_wheel_works_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", tmp_path / "env", cwd=tmp_path)
    run(tmp_path / "env/bin/python", "-m", "pip", "install", "--no-index", wheel, cwd=tmp_path)
    smoke_test(tmp_path / "env")


def test_sdist_is_the_repository(sdist: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("optional: not a git checkout, so nothing says what belongs to it")
    tracked = set(run("git", "-c", f"safe.directory={ROOT}", "ls-files", cwd=ROOT).split("\n"))
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    assert {name for name in tracked if name and (ROOT / name).exists()} - names - {".gitignore"} == set()


def test_sdist_builds_and_works_in_an_empty_environment(sdist: Path, tmp_path: Path) -> None:
    shutil.unpack_archive(sdist, tmp_path / "source")
    unpacked = next((tmp_path / "source").iterdir())
    make = ("-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path)
    run(sys.executable, *make, unpacked, cwd=tmp_path, USTACK_BUILD="quick")
    run(sys.executable, "-m", "venv", tmp_path / "env", cwd=tmp_path)
    run(tmp_path / "env/bin/python", "-m", "pip", "install", "--no-index", next(tmp_path.glob("*.whl")), cwd=tmp_path)
    smoke_test(tmp_path / "env")
