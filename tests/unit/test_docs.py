"""Every block of code in README and docs/ is run, or checked, as its language asks.

    python      run, a page's blocks one after the other in one namespace; `await` may stand outside a function
    console     each command line that begins with `$ ustack` is one that the parser takes
    packetdrill run in virtual time
    toml        read as `ustack up --config` reads it
    text        nothing to run: a drawing, output, another's code

What a reader knows without being told (a stack, a peer that answers) is made in a comment `<!-- test … -->`, which a
page does not show; such comments run in their turn, and may also assert what came of a block. A comment `<!-- run by
FILE -->` before a block says which test runs it instead, one that needs a device.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import io
import re
import shlex
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tap_harness.packetdrill.__main__ import main as packetdrill
from ustack import conf
from ustack.cli.app import build_parser

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LANGUAGES = {"python", "console", "packetdrill", "toml", "text"}
PIECE = re.compile(
    r"^```(?P<language>\w*)\n(?P<code>.*?)^```$|^<!-- test\n(?P<test>.*?)^-->$|^<!-- run by (?P<elsewhere>\S+) -->$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Piece:
    """A block of a page, or a comment for its test. line: where its text begins."""

    kind: str
    text: str
    line: int


def pieces(page: Path) -> list[Piece]:
    text = page.read_text(encoding="utf-8")
    found = []
    for match in PIECE.finditer(text):
        name = str(match.lastgroup)
        kind = match["language"] if name == "code" else name
        found.append(Piece(kind, match[name], text.count("\n", 0, match.start(name)) + 1))
    return found


def pages_with(*kinds: str) -> list[Path]:
    return [page for page in PAGES if any(piece.kind in kinds for piece in pieces(page))]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_has_a_language(page: Path) -> None:
    blocks = [piece for piece in pieces(page) if piece.kind not in ("test", "elsewhere")]
    assert [f"{name(page)}:{block.line}" for block in blocks if block.kind not in LANGUAGES] == []
    fences = re.findall(r"^\s*```", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(fences) == 2 * len(blocks), "a fence that is not closed, or that is indented"
    indented = re.findall(r"^\n {4,}\S.*", re.sub(PIECE, "", page.read_text(encoding="utf-8")), re.MULTILINE)
    assert indented == [], "blocks of code are fenced, so that they are run"


def test_the_site_has_every_page() -> None:
    listed = re.findall(r"- (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(str(page.relative_to(ROOT / "docs")) for page in PAGES[1:])


@pytest.mark.parametrize("page", pages_with("python"), ids=name)
def test_python_runs(page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A failure is a traceback with the page's lines."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "page"}
    loop = asyncio.new_event_loop()
    elsewhere = False
    try:
        for piece in pieces(page):
            if piece.kind == "elsewhere":
                assert (ROOT / piece.text).exists()
                elsewhere = True
            elif piece.kind in ("python", "test"):
                if not elsewhere:
                    code = compile(
                        "\n" * (piece.line - 1) + piece.text, str(page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
                    )
                    if code.co_flags & inspect.CO_COROUTINE:
                        loop.run_until_complete(eval(code, namespace))
                    else:
                        exec(code, namespace)
                elsewhere = False
        assert asyncio.all_tasks(loop) == set(), "an example leaves something pending"
    finally:
        loop.close()


@pytest.mark.parametrize("page", pages_with("console"), ids=name)
def test_commands_parse(page: Path) -> None:
    for piece in pieces(page):
        if piece.kind != "console":
            continue
        for line in piece.text.splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] != ["$"] or "ustack" not in words:
                continue
            said, code = io.StringIO(), None
            try:
                with redirect_stderr(said):
                    build_parser().parse_args(words[words.index("ustack") + 1 :])
            except SystemExit as end:
                code = end.code
            assert not code, f"{name(page)}: {line}\n{said.getvalue()}"


@pytest.mark.parametrize("page", pages_with("toml"), ids=name)
def test_configurations_are_good(page: Path) -> None:
    for piece in pieces(page):
        if piece.kind == "toml":
            conf.parse(piece.text, f"{name(page)} line {piece.line}")


@pytest.mark.parametrize("page", pages_with("packetdrill"), ids=name)
def test_scripts_run(page: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for piece in pieces(page):
        if piece.kind == "packetdrill":
            script = tmp_path / f"line{piece.line}.pkt"
            script.write_text(piece.text, encoding="utf-8")
            assert packetdrill([str(script)]) == 0, capsys.readouterr().out
