"""The configuration file: which keys there are, and what they may be.

Responsible for: reading a file (TOML, or the same as JSON) and holding it against the schema, each key and what refers
to another part of the file. Not for: making a stack so (ustack/conf/applying.py), the words of errors (checks.py).
"""

from __future__ import annotations

import importlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from . import checks
from .checks import Check, ConfigError, Report, Table, many, mapping, switch, value, whole
from .lines import Path, lines_of

# ustack.service.KINDS: that module needs the extension modules, which reading a file does without.
SERVICES = ("echo", "discard", "chargen", "answer", "http")
SERVICES_WITH_TEXT = ("answer", "http")

_DHCP = switch(
    Table(
        {
            "hostname": checks.text,
            "client-id": checks.hexadecimal,
            "previous": checks.address,
            "dns": checks.boolean,
            "wait": checks.boolean,
        }
    )
)

_DHCP6 = switch(
    Table(
        {
            "mode": checks.one_of("auto", "stateful", "stateless"),
            "prefix": whole(0, 128),
            "assign": mapping(whole(0, 0xFFFFFFFF)),
            "duid": checks.hexadecimal,
            "hostname": checks.text,
            "previous": many(checks.text, alone=True),
            "rapid-commit": checks.boolean,
            "dns": checks.boolean,
            "wait": checks.boolean,
        }
    )
)

_INTERFACE = Table(
    {
        "name": checks.device,
        "kind": checks.one_of("tap", "tun", "pipe"),
        "device": checks.device,
        "peer": checks.device,
        "addresses": many(checks.interface_address, alone=True),
        "host-addresses": many(checks.interface_address, alone=True),
        "gateway": many(checks.address, alone=True),
        "mtu": checks.mtu,
        "mac": checks.mac,
        "offload": checks.boolean,
        "probe": checks.boolean,
        "autoconf": checks.boolean,
        "link-local": checks.boolean,
        "mdns": switch(Table({"hostname": checks.text})),
        "llmnr": switch(Table({"hostname": checks.text})),
        "dhcp": _DHCP,
        "dhcp6": _DHCP6,
    },
    required=("name",),
)

_ROUTE = Table(
    {
        "to": checks.destination,
        "via": checks.address,
        "interface": checks.device,
        "metric": whole(0, 0xFFFFFFFF),
        "mtu": checks.mtu,
        "source": checks.address,
    },
    required=("to",),
)

_NEIGHBOR = Table(
    {"interface": checks.device, "address": checks.address, "mac": checks.mac},
    required=("interface", "address", "mac"),
)

_DNS = Table(
    {
        "servers": many(checks.address, alone=True),
        "search": many(checks.text, alone=True),
        "ndots": whole(0, 15),
        "timeout": checks.seconds,
        "attempts": whole(1, 100),
        "cache-size": whole(0, 1_000_000),
        "port": checks.port,
        "mix-case": checks.boolean,
    },
    required=("servers",),
)

_SERVICE = Table(
    {
        "kind": checks.one_of(*SERVICES),
        "port": checks.port,
        "address": checks.address,
        "text": checks.text,
        "backlog": whole(1, 65535),
    },
    required=("kind", "port"),
)

_PUBLISH = Table(
    {"name": checks.text, "type": checks.text, "port": checks.port, "txt": mapping(checks.text)},
    required=("name", "type", "port"),
)

_SERVE = Table(
    {"directory": checks.text, "port": checks.port, "upload": checks.boolean},
    required=("directory", "port"),
)


def _memory(given: Any) -> int:
    if isinstance(given, str) and given[:-1].isdigit() and given[-1:] in "KMG":
        given = int(given[:-1]) << {"K": 10, "M": 20, "G": 30}[given[-1]]
    if isinstance(given, bool) or not isinstance(given, int) or not 1 << 20 <= given <= 1 << 40:
        raise ValueError
    return given


_STACK = Table(
    {
        "memory": value('an amount of memory of 1 MiB or more, such as 67108864 or "64M"', _memory),
        "forwarding": checks.boolean,
        "netns": checks.text,
        "outside": checks.one_of("refuse", "kernel"),
    }
)


def _knobs(given: Any, path: Path, report: Report) -> Any:
    """`net.ipv4.tcp_sack = 0` and `"net.ipv4.tcp_sack" = 0` -> [(name, value, path)], in the file's order."""
    if not isinstance(given, dict):
        report.add(path, "sysctl: a table is wanted")
        return []
    found = []
    for key, one in given.items():
        below = (*path, key)
        if isinstance(one, dict):
            found += [(f"{key}.{name}", knob, where) for name, knob, where in _knobs(one, below, report)]
        elif isinstance(one, bool):
            found.append((key, int(one), below))
        elif isinstance(one, (int, str)) or (isinstance(one, list) and all(isinstance(n, int) for n in one)):
            found.append((key, one, below))
        else:
            report.add(below, f"{key}: a number, a list of numbers or text is wanted")
    return found


SCHEMA: dict[str, Check] = {
    "stack": _STACK,
    "interface": many(_INTERFACE),
    "route": many(_ROUTE),
    "neighbor": many(_NEIGHBOR),
    "dns": _DNS,
    "hosts": mapping(many(checks.address, alone=True)),
    "sysctl": _knobs,
    "service": many(_SERVICE),
    "serve": many(_SERVE),
    "publish": many(_PUBLISH),
}


class Config:
    """A configuration that has passed the schema; settings holds its tables, dashes in keys as underscores."""

    def __init__(self, settings: Mapping[str, Any], report: Report) -> None:
        self.settings = dict(settings)
        self.report = report

    def table(self, name: str) -> dict[str, Any]:
        """One of the tables; empty where it is absent."""
        return dict(self.settings.get(name) or {})

    def list(self, name: str) -> list[dict[str, Any]]:
        """One of the lists of tables."""
        return list(self.settings.get(name, []))


def load(path: str | pathlib.Path) -> Config:
    """Read a configuration file. `*.json`: the same keys as JSON (errors have no line then).

    Raises ConfigError, OSError.
    """
    path = pathlib.Path(path)
    return parse(path.read_text(encoding="utf-8"), str(path), is_json=path.suffix == ".json")


def parse(text: str, name: str = "configuration", *, is_json: bool = False) -> Config:
    """Read a configuration. Raises ConfigError, with everything that is wrong with it."""
    settings, report = _read(text, name, is_json)
    checked = Table(SCHEMA)(settings, (), report)
    report.finish()
    assert checked is not None
    _references(checked, report)
    report.finish()
    return Config(checked, report)


def _read(text: str, name: str, is_json: bool) -> tuple[Any, Report]:
    try:
        if is_json:
            return json.loads(text), Report(name, {})
        return _toml(name).loads(text), Report(name, lines_of(text))
    except RecursionError:
        raise ConfigError(name, [(None, "brackets within brackets, too deep")]) from None
    except ConfigError:
        raise
    except ValueError as error:  # both say the line and the column themselves
        raise ConfigError(name, [(None, str(error))]) from None


def _toml(name: str) -> Any:
    for module in ("tomllib", "tomli"):  # the first is of Python 3.11
        try:
            return importlib.import_module(module)
        except ImportError:
            continue
    raise ConfigError(name, [(None, "TOML needs Python 3.11, or `pip install ustack[cli]`")])


def _references(settings: dict[str, Any], report: Report) -> None:
    """What one part of the file says of another, and what does not go together."""
    interfaces: list[dict[str, Any]] = settings.get("interface", [])
    names: dict[str, int] = {}
    for number, one in enumerate(interfaces):
        path: Path = ("interface", number)
        if one["name"] in names:
            report.add((*path, "name"), f"interface {one['name']!r} is there already")
        names.setdefault(one["name"], number)
        _interface(one, path, interfaces, report)
    for number, one in enumerate(interfaces):
        for wanted in set((one.get("dhcp6") or {}).get("assign", {})) - set(names):
            report.add(
                ("interface", number, "dhcp6", "assign", wanted), f"there is no interface {wanted!r} in this file"
            )
    for part in ("route", "neighbor"):
        for number, one in enumerate(settings.get(part, [])):
            wanted = one.get("interface")
            if wanted is not None and wanted not in names:
                known = ", ".join(sorted(names)) or "none"
                report.add((part, number, "interface"), f"there is no interface {wanted!r} in this file (but {known})")
            if part == "route" and "via" not in one and wanted is None:
                report.add((part, number), "a route needs via, interface, or both")
    if settings.get("publish") and all(one.get("mdns") is None for one in interfaces):
        report.add(("publish", 0), "nothing is published without an interface that has mdns = true")
    for number, one in enumerate(settings.get("service", [])):
        if "text" in one and one["kind"] not in SERVICES_WITH_TEXT:
            report.add(("service", number, "text"), f"{one['kind']} sends no text of yours")


def _interface(one: dict[str, Any], path: Path, interfaces: list[dict[str, Any]], report: Report) -> None:
    kind = one.get("kind", "tap")
    misplaced: tuple[str, ...]
    if kind == "pipe":
        misplaced = ("device", "host_addresses", "offload")
        peers = [other for other in interfaces if other["name"] == one.get("peer", other["name"])]
        if "peer" in one and (one["peer"] == one["name"] or [p.get("kind") for p in peers] != ["pipe"]):
            report.add((*path, "peer"), f"{one['peer']!r} is no other interface of kind pipe in this file")
        elif "peer" in one and peers[0].get("peer", one["name"]) != one["name"]:
            report.add((*path, "peer"), f"{one['peer']!r} has another peer")
    else:
        misplaced = ("peer", "mac") if kind == "tun" else ("peer",)
    for key in ("dhcp", "dhcp6", "link_local", "mdns", "llmnr"):
        if kind == "tun" and one.get(key) not in (None, False):
            report.add((*path, key.replace("_", "-")), "this needs Ethernet, which a tun has not")
    for key in misplaced:
        if key in one:
            report.add((*path, key.replace("_", "-")), f"{key.replace('_', '-')} has no place in a {kind}")
