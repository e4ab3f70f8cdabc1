"""The tables of options in docs/cli.md, made from the parser so that they stay true.

`python -m ustack.cli.reference docs/cli.md` rewrites the part of the file below its marker; a test compares.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from .app import VERBS, build_parser

MARKER = "<!-- From here on: made by `python -m ustack.cli.reference docs/cli.md`. -->\n"
_COMMON = "the stack and its device"


def updated(document: str) -> str:
    """The document with its generated part made anew."""
    head, _, _ = document.partition(MARKER)
    return head + MARKER + _reference()


def _reference() -> str:
    parsers = _verb_parsers()
    common = next(group for group in parsers["curl"]._action_groups if group.title == _COMMON)
    sections = ["\n## Options of every verb that runs a stack\n", _table(common._group_actions)]
    for name, parser in parsers.items():
        own = [action for action in parser._actions if action not in _common_actions(parser) and action.dest != "help"]
        sections += [
            f"\n## ustack {name}\n",
            f"{_one_line(parser.description)}\n",
            _table(own) if own else "No options.\n",
        ]
    return "\n".join(sections)


def _verb_parsers() -> dict[str, argparse.ArgumentParser]:
    actions = build_parser()._actions
    choices = next(action.choices for action in actions if isinstance(action, argparse._SubParsersAction))
    assert len(choices) == len(VERBS)
    return dict(choices)


def _common_actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for group in parser._action_groups if group.title == _COMMON for action in group._group_actions]


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


def _escaped(text: str) -> str:
    """For a cell of a table: no end of the cell, no link."""
    return re.sub(r"([\[\]|])", r"\\\1", text)


def _table(actions: list[argparse.Action]) -> str:
    rows = ["| | |", "|---|---|"]
    for action in actions:
        value = f" {action.metavar or '{' + ','.join(action.choices or ()) + '}'}" if action.nargs != 0 else ""
        name = ", ".join(f"`{option}{value}`" for option in action.option_strings) or f"`{action.metavar}`"
        rows.append(f"| {name} | {_escaped(_one_line(action.help).replace('%%', '%'))} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.write_text(updated(target.read_text()))
