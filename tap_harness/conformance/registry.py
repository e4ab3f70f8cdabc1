"""The requirements and the scenario that shows each: what is to be checked, in the order of the documents.

A scenario is a function of a Probe that returns when the requirement is met, raises AssertionError (Mismatch) with what
was seen when it is not, and NotApplicable where this target cannot be asked.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tap_harness.conformance.probe import Probe

MUST, SHOULD, MAY = "MUST", "SHOULD", "MAY"
_LEVELS = {"MUST": MUST, "SHLD": SHOULD, "MAY": MAY, "REC": SHOULD}

# The modules with the scenarios; their order is that of reports.
MODULES = (
    "rfc9293_open",
    "rfc9293_segments",
    "rfc9293_close",
    "rfc9293_window",
    "rfc9293_send",
    "rfc9293_life",
    "rfc9293_ip",
    "rfc9293_states",
    "rfc7323",
    "rfc2018",
    "rfc5961",
    "rfc6298",
    "rfc5681",
    "rfc8985",
    "rfc7413",
    "rfc5682",
    "rfc9406",
    "rfc6093",
    "rfc1191",
    "rfc6528",
    "rfc1122",
    "rfc8200",
    "rfc4861",
    "rfc3376",
    "rfc3376_sources",
    "rfc2131",
    "rfc8415",
)

Scenario = Callable[["Probe"], None]


class NotApplicable(Exception):
    """This requirement cannot be asked of this target; the message is the reason, one sentence."""


@dataclass(frozen=True)
class Check:
    """A requirement and its scenario (None: it can be asked of no target; `reason` says why).

    ident: "MUST-13", or a section. level: MUST, SHOULD or MAY. takes: seconds of the target's time it lasts, as far as
    that matters in real time. because: why a target ("stack", "kernel") does not meet it, one sentence.
    """

    rfc: str
    ident: str
    level: str
    text: str
    scenario: Scenario | None
    reason: str = ""
    takes: float = 0.0
    because: dict[str, str] = field(default_factory=dict)
    serial: int = 0

    @property
    def name(self) -> str:
        """A name for files and messages, its own: rfc9293-MUST-13-time_wait_lasts."""
        function = "" if self.scenario is None else "-" + getattr(self.scenario, "__name__", "")
        serial = f"-{self.serial}" if self.serial else ""
        return f"rfc{self.rfc}-{self.ident.replace('§', '').replace(' ', '-')}{function}{serial}"


class Rfc:
    """One document: the decorator that ties a scenario to one of its requirements."""

    def __init__(self, number: str, title: str) -> None:
        self.number = number
        self.title = title
        self.checks: list[Check] = []

    def check(
        self, ident: str, text: str, level: str = "", *, takes: float = 0.0, because: dict[str, str] | None = None
    ) -> Callable[[Scenario], Scenario]:
        """Register the decorated function as the scenario of a requirement; parameters as in Check."""

        def register(scenario: Scenario) -> Scenario:
            name = getattr(scenario, "__name__", "")
            same = sum(one.ident == ident and getattr(one.scenario, "__name__", "") == name for one in self.checks)
            given = (self.number, ident, _level(ident, level), text, scenario, "", takes, because or {})
            self.checks.append(Check(*given, serial=same))
            return scenario

        return register

    def not_applicable(self, ident: str, text: str, reason: str, level: str = "") -> None:
        """Register a requirement that can be asked of no target."""
        self.checks.append(Check(self.number, ident, _level(ident, level), text, None, reason))


def _level(ident: str, level: str) -> str:
    return level or _LEVELS[ident.split("-")[0]]


_documents: dict[str, Rfc] = {}


def document(number: str, title: str = "") -> Rfc:
    """The document of that number, one object however many modules ask."""
    return _documents.setdefault(number, Rfc(number, title))


def load() -> list[Rfc]:
    """All documents, with all their checks."""
    for module in MODULES:
        importlib.import_module(f"tap_harness.conformance.{module}")
    return list(_documents.values())


def checks(rfcs: Iterable[str] = (), idents: Iterable[str] = ()) -> list[Check]:
    """The checks of those documents (all if none are named), those with one of `idents` only if any are named.

    Raises KeyError with the number of a document that there is not.
    """
    known = {one.number: one for one in load()}
    wanted = [known[number] for number in rfcs] or list(known.values())
    only = set(idents)
    found = [check for one in wanted for check in one.checks if not only or check.ident in only]
    return sorted(found, key=lambda check: (list(known).index(check.rfc), _order(check.ident)))


def _order(ident: str) -> tuple[int, int]:
    """MUST-1 … MUST-69, SHLD-1 …; sections stay as they were registered."""
    kind, _, number = ident.partition("-")
    return (list(_LEVELS).index(kind), int(number)) if kind in _LEVELS and number.isdigit() else (9, 0)
