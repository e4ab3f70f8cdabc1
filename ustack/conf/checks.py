"""The shape that a configuration must have, and what is said where it has not.

Responsible for: tables, lists and values as a schema is built of them, every error with its line, a suggestion for a
key that is nearly right. Not for: which keys there are (ustack/conf/schema.py).
"""

from __future__ import annotations

import difflib
import ipaddress
from collections.abc import Callable, Mapping
from typing import Any

from .lines import Path

Check = Callable[[Any, Path, "Report"], Any]


class ConfigError(ValueError):
    """A configuration that cannot be used. errors: (line or None, what is wrong) for everything that was found."""

    def __init__(self, name: str, errors: list[tuple[int | None, str]]) -> None:
        self.name, self.errors = name, errors
        super().__init__("\n".join(f"{name}:{f'{line}:' if line else ''} {text}" for line, text in errors))


class Report:
    """What was found wrong with one file, and where its keys are."""

    def __init__(self, name: str, lines: Mapping[Path, int]) -> None:
        self.name = name
        self._lines = lines
        self._errors: list[tuple[int | None, str]] = []

    def add(self, path: Path, text: str) -> None:
        """Something is wrong at a path, or at what is missing below it."""
        self._errors.append((self.line(path), text))

    def line(self, path: Path) -> int | None:
        """The line of a path, or of what it would be in; None where no lines are known."""
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path)

    def error(self, path: Path, text: str) -> ConfigError:
        """One error, to be raised."""
        return ConfigError(self.name, [(self.line(path), text)])

    def finish(self) -> None:
        """Raises ConfigError where anything was added."""
        if self._errors:
            raise ConfigError(self.name, sorted(self._errors, key=lambda one: one[0] or 0))


def _dotted(path: Path) -> str:
    return "".join(f"[{one}]" if isinstance(one, int) else f".{one}" for one in path).lstrip(".")


class Table:
    """A check: a table with these keys. -> a dict, dashes in keys turned into underscores; what is absent is absent."""

    def __init__(self, fields: Mapping[str, Check], required: tuple[str, ...] = ()) -> None:
        self._fields, self._required = fields, required

    def __call__(self, value: Any, path: Path, report: Report) -> dict[str, Any] | None:
        """Check."""
        if not isinstance(value, dict):
            report.add(path, f"{_dotted(path)}: a table is wanted, not {_kind(value)}")
            return None
        found = {}
        for key, one in value.items():
            if key not in self._fields:
                report.add((*path, key), self._unknown(key, path))
            else:
                found[key.replace("-", "_")] = self._fields[key](one, (*path, key), report)
        for key in self._required:
            if key not in value:
                report.add(path, f"{_dotted(path)}: {key!r} is missing")
        return found

    def _unknown(self, key: str, path: Path) -> str:
        where = f" in {_dotted(path)}" if path else ""
        close = difflib.get_close_matches(key.lower().replace("_", "-"), self._fields, n=1, cutoff=0.5)
        known = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(sorted(self._fields))}"
        return f"no key {key!r}{where}: {known}"


def value(kind: str, read: Callable[[Any], Any]) -> Check:
    """A check: what `read` makes of the value; it raises ValueError, and `kind` says what is wanted."""

    def check(given: Any, path: Path, report: Report) -> Any:
        try:
            return read(given)
        except (ValueError, TypeError):
            report.add(path, f"{_dotted(path)}: {_shown(given)} is not {kind}")
            return None

    return check


def many(check: Check, alone: bool = False) -> Check:
    """A check: a list -> a list. alone: one value stands for a list of one."""

    def check_all(given: Any, path: Path, report: Report) -> Any:
        if not isinstance(given, list):
            if alone:
                return [check(given, path, report)]
            report.add(path, f"{_dotted(path)}: a list is wanted, not {_kind(given)}")
            return []
        return [check(one, (*path, number), report) for number, one in enumerate(given)]

    return check_all


def mapping(check: Check) -> Check:
    """A check: a table with any keys -> a dict."""

    def check_all(given: Any, path: Path, report: Report) -> Any:
        if not isinstance(given, dict):
            report.add(path, f"{_dotted(path)}: a table is wanted, not {_kind(given)}")
            return {}
        return {key: check(one, (*path, key), report) for key, one in given.items()}

    return check_all


def switch(table: Table) -> Check:
    """A check: true, false, or a table -> a dict, or None for false."""

    def check(given: Any, path: Path, report: Report) -> Any:
        if isinstance(given, bool):
            return {} if given else None
        return table(given, path, report)

    return check


def one_of(*words: str) -> Check:
    """A check: one of these words, with a suggestion."""

    def check(given: Any, path: Path, report: Report) -> Any:
        if given not in words:
            close = difflib.get_close_matches(str(given), words, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"one of {', '.join(words)} is wanted"
            report.add(path, f"{_dotted(path)}: {_shown(given)}: {hint}")
        return given

    return check


def _kind(given: Any) -> str:
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list", dict: "a table"}
    return names.get(type(given), type(given).__name__)


def _shown(given: Any) -> str:
    return _kind(given) if isinstance(given, (dict, list)) else repr(given)


# -- values


def _text(given: Any) -> str:
    if not isinstance(given, str) or not given:
        raise ValueError
    return given


def _boolean(given: Any) -> bool:
    if not isinstance(given, bool):
        raise ValueError
    return given


def whole(least: int, most: int) -> Check:
    """A check: a whole number between two, both included."""

    def read(given: Any) -> int:
        if isinstance(given, bool) or not isinstance(given, int) or not least <= given <= most:
            raise ValueError
        return given

    return value(f"a whole number from {least} to {most}", read)


def _seconds(given: Any) -> float:
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not 0 < given < 1e9:
        raise ValueError
    return float(given)


def _interface_address(given: Any) -> str:
    if "/" not in _text(given):
        raise ValueError
    return str(ipaddress.ip_interface(given))


def _destination(given: Any) -> str:
    return given if given == "default" else str(ipaddress.ip_network(_text(given)))


def _device(given: Any) -> str:
    if len(_text(given).encode()) > 15 or "/" in given or any(c.isspace() for c in given) or given in (".", ".."):
        raise ValueError
    return str(given)


def _mac(given: Any) -> str:
    raw = bytes.fromhex(_text(given).replace(":", ""))
    if len(raw) != 6 or raw[0] & 1:
        raise ValueError
    return raw.hex(":")


def _address(given: Any) -> str:
    bare, percent, zone = _text(given).partition("%")
    return str(ipaddress.ip_address(bare)) + percent + zone


text = value("text", _text)
boolean = value("true or false", _boolean)
seconds = value("a time in seconds", _seconds)
address = value("an address, such as 10.9.0.1", _address)
interface_address = value("an address with a prefix length, such as 10.9.0.2/24", _interface_address)
destination = value('a network without host bits, such as 192.0.2.0/24, or "default"', _destination)
device = value("a device name (1 to 15 characters, no space, no slash)", _device)
mac = value("one station's Ethernet address, such as 02:00:00:00:00:01", _mac)
hexadecimal = value("bytes in hexadecimal", lambda given: bytes.fromhex(_text(given).replace(":", "")))
port = whole(1, 65535)
mtu = whole(68, 65535)
