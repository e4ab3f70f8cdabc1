"""The configuration file: which keys there are, and what they may be.

Responsible for: reading a file (TOML, or the same as JSON) and holding it against the schema, key by key. Not for: what
refers to another part of the file (references.py), making a stack so (applying.py), the words of errors (checks.py).
"""

from __future__ import annotations

import builtins
import importlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from . import checks, references
from .checks import Check, ConfigError, Report, Table, many, mapping, switch, value, whole
from .lines import Path, lines_of

# ustack.service.KINDS: that module needs the extension modules, which reading a file does without.
SERVICES = ("echo", "discard", "chargen", "answer", "http")

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

# What any interface may get: that of a link, a VLAN, a bridge.
_SETTINGS: dict[str, Check] = {
    "addresses": many(checks.interface_address, alone=True),
    "gateway": many(checks.address, alone=True),
    "mtu": checks.mtu,
    "probe": checks.boolean,
    "autoconf": checks.boolean,
    "link-local": checks.boolean,
    "mdns": switch(Table({"hostname": checks.text})),
    "llmnr": switch(Table({"hostname": checks.text})),
    "dhcp": _DHCP,
    "dhcp6": _DHCP6,
}

_INTERFACE = Table(
    {
        "name": checks.device,
        "kind": checks.one_of("tap", "tun", "pipe"),
        "device": checks.device,
        "peer": checks.device,
        "host-addresses": many(checks.interface_address, alone=True),
        "mac": checks.mac,
        "offload": checks.boolean,
        **_SETTINGS,
    },
    required=("name",),
)


def _table(given: Any) -> int | str:
    if given in ("main", "default") or (type(given) is int and 1 <= given < 1 << 32 and given != 255):
        return given
    raise ValueError


_ROUTING_TABLE = value('a number from 1 on, "main" or "default"', _table)

_VLAN = Table(
    {
        "interface": checks.device,
        "id": whole(1, 4094),
        "name": checks.device,
        "priority": whole(0, 7),
        **_SETTINGS,
    },
    required=("interface", "id"),
)

_BRIDGE = Table(
    {
        "name": checks.device,
        "ports": many(checks.device),
        "mac": checks.mac,
        "ageing-time": checks.seconds,
        **_SETTINGS,
    },
    required=("name", "ports"),
)

_NAT = Table(
    {
        "masquerade": many(checks.device, alone=True),
        "forward": many(
            Table(
                {
                    "interface": checks.device,
                    "protocol": checks.one_of("tcp", "udp"),
                    "port": checks.port,
                    "to": checks.address,
                    "to-port": checks.port,
                },
                required=("interface", "protocol", "port", "to"),
            )
        ),
    }
)

_ROUTE = Table(
    {
        "to": checks.destination,
        "via": checks.address,
        "interface": checks.device,
        "metric": whole(0, 0xFFFFFFFF),
        "mtu": checks.mtu,
        "source": checks.address,
        "table": _ROUTING_TABLE,
    },
    required=("to",),
)

_RULE = Table(
    {
        "from": checks.destination,
        "to": checks.destination,
        "iif": checks.device,
        "oif": checks.device,
        "priority": whole(1, 0xFFFFFFFF),
        "table": _ROUTING_TABLE,
    },
    required=("table",),
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
    "vlan": many(_VLAN),
    "bridge": many(_BRIDGE),
    "route": many(_ROUTE),
    "rule": many(_RULE),
    "neighbor": many(_NEIGHBOR),
    "nat": _NAT,
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

    def interfaces(self) -> builtins.list[tuple[Path, dict[str, Any]]]:
        """Every interface with its path, in the order in which they are made: links', VLANs, bridges."""
        return references.interfaces(self.settings)


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
    references.check(checked, report)
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
