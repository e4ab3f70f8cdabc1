"""A hook of mkdocs: what pages of docs/ link to outside of docs/ (README, examples, bench) becomes pages of the site.

A Markdown file is taken as it is, a directory as its README.md, any other file as a page that shows it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")


def _target(place: Path, link: str) -> Path | None:
    """The file that `link` in the file `place` means, None: it is none of the checkout's."""
    path = Path(os.path.normpath(place.parent / link))
    if path.is_dir():
        path /= "README.md"
    return path if path.is_file() and path.is_relative_to(ROOT) else None


def _page_of(path: Path) -> str:
    """Where in docs/ a file stands, or would: source/… for those from outside."""
    inside = path.relative_to(ROOT)
    if inside.parts[0] == "docs":
        return str(inside.relative_to("docs"))
    return f"source/{inside}" if path.suffix == ".md" else f"source/{inside}.md"


def _text(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    return f"# {path.name}\n\n```{path.suffix[1:]}\n{text}```\n"


def on_files(files: Any, config: Any) -> Any:
    """Add every file that is linked to, and those that these link to in their turn."""
    ahead = sorted((ROOT / "docs").rglob("*.md"))
    seen = set(ahead)
    while ahead:
        place = ahead.pop()
        if place.suffix != ".md":
            continue
        for link, _ in LINK.findall(place.read_text(encoding="utf-8")):
            path = _target(place, link)
            if path is not None and path not in seen and not path.is_relative_to(ROOT / "docs"):
                seen.add(path)
                ahead.append(path)
                files.append(File.generated(config, _page_of(path), content=_text(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turn links to such files into links to their pages."""
    uri = page.file.src_uri
    place = ROOT / uri.removeprefix("source/") if uri.startswith("source/") else ROOT / "docs" / uri

    def rewritten(match: re.Match[str]) -> str:
        path = _target(place, match[1])
        if path is None:
            return match[0]
        return f"]({os.path.relpath(_page_of(path), os.path.dirname(uri))}{match[2] or ''})"

    return LINK.sub(rewritten, markdown)
