"""`ustack addr|link|route|rule|neigh|stats|sysctl`: show and change a running stack from another terminal.

Responsible for: words as iproute2 and sysctl(8) take them, and how answers are printed. Not for: reaching the stack
(ustack.control), or what a change does (ustack.Stack).
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from .. import control, routing
from .errors import EXIT_USAGE, CommandError, reason

Row = dict[str, Any]
_NUMBERS = ("metric", "mtu", "priority", "table", "vlan")


class Verb(NamedTuple):
    """One of the verbs here, as app.VERBS wants them."""

    name: str
    help: str
    question: str
    words: str  # what its words may be
    changes: dict[str, Callable[[list[str]], tuple[str, Row]]]
    show: Callable[[list[Row]], Iterator[str]]
    pick: Callable[[list[Row], list[str]], list[Row]] | None = None  # of the rows, those that words after "show" mean

    def register(self, verbs: Any) -> None:
        """Add the verb to the parser."""
        parser = verbs.add_parser(self.name, help=self.help, description=f"{self.help[0].upper()}{self.help[1:]}.")
        parser.add_argument("words", metavar="WORDS", nargs="*", help=self.words)
        parser.add_argument("--stack", metavar="WHICH", help="the stack of this process id or device name")
        parser.add_argument("--json", action="store_true", help="JSON, as the stack answers it")
        parser.set_defaults(run=self.run)

    def run(self, args: argparse.Namespace) -> int:
        """Show, or change."""
        words = args.words or ["show"]
        if self.name == "sysctl" and words != ["show"]:
            return _sysctl(args, words)
        if words[0] in ("show", "list", "ls"):
            rows = _answer(one_stack(args.stack), {"ask": self.question})
            if self.pick is not None:
                rows = self.pick(rows, words[1:])
            for line in map(json.dumps, rows) if args.json else self.show(rows):
                print(line)
            return 0
        if words[0] not in self.changes:
            raise CommandError(f"{words[0]!r}: {self.words}", EXIT_USAGE)
        name, arguments = self.changes[words[0]](words[1:])
        _change(one_stack(args.stack), name, arguments)
        return 0


def one_stack(which: str | None) -> Path:
    """The control socket of the stack that is meant. Raises CommandError."""
    found = []
    for path in control.sockets():
        with contextlib.suppress(OSError, ValueError):
            about = control.ask(path, {"ask": "about"})[0]
            if which is None or which in (str(about.get("pid")), about.get("device")):
                found.append((about, path))
    if not found:
        raise CommandError(
            f"no running stack has a control socket in {control.directory()}: start one with `ustack up ust0`"
        )
    if len(found) > 1:
        names = ", ".join(str(about.get("device")) for about, _ in found)
        raise CommandError(f"several stacks are running: choose one by --stack ({names})", EXIT_USAGE)
    return found[0][1]


def _answer(path: Path, question: Row) -> list[Row]:
    try:
        rows = control.ask(path, question)
    except (OSError, ValueError) as error:
        raise CommandError(f"{path.name}: {reason(error) if isinstance(error, OSError) else error}") from None
    if rows and "error" in rows[0]:
        raise CommandError(str(rows[0]["error"]))
    return rows[1:]


def _change(path: Path, name: str, arguments: Row) -> None:
    _answer(path, {"change": name, "arguments": arguments})


def _pairs(words: list[str], known: dict[str, str], needed: tuple[str, ...] = ()) -> Row:
    """Arguments from "via ADDR dev NAME": word -> argument's name. Raises CommandError."""
    found: Row = {}
    for word, value in zip(words[::2], [*words[1::2], None], strict=False):
        if word not in known or value is None:
            raise CommandError(f"{word!r}: there may be {', '.join(f'{one} …' for one in known)}", EXIT_USAGE)
        found[known[word]] = int(value) if value.isdigit() and known[word] in _NUMBERS else value
    for word in needed:
        if known[word] not in found:
            raise CommandError(f"{word} … is missing", EXIT_USAGE)
    return found


def _first(words: list[str], what: str) -> str:
    if not words:
        raise CommandError(f"{what} is missing", EXIT_USAGE)
    return words[0]


def _address_change(name: str) -> Callable[[list[str]], tuple[str, Row]]:
    def read(words: list[str]) -> tuple[str, Row]:
        address = _first(words, "ADDR/LEN")
        return name, {"address": address, **_pairs(words[1:], {"dev": "interface"}, ("dev",))}

    return read


def _route_change(name: str) -> Callable[[list[str]], tuple[str, Row]]:
    def read(words: list[str]) -> tuple[str, Row]:
        known = {"via": "gateway", "dev": "interface", "table": "table"}
        if name == "add_route":
            known.update(metric="metric", mtu="mtu", src="source")
        return name, {"destination": _first(words, "a destination"), **_pairs(words[1:], known)}

    return read


def _main_table(rows: list[Row], words: list[str]) -> list[Row]:
    """Of the routes, the main table's; "table N": that one's, "table all": those of each."""
    wanted = _pairs(words, {"table": "table"}).get("table", "main")
    if wanted == "all":
        return rows
    try:
        return [row for row in rows if row["table"] == routing.table_number(wanted)]
    except ValueError as error:
        raise CommandError(str(error), EXIT_USAGE) from None


def _rule_change(name: str) -> Callable[[list[str]], tuple[str, Row]]:
    def read(words: list[str]) -> tuple[str, Row]:
        known = {"from": "from_", "to": "to", "iif": "iif", "oif": "oif"}
        known |= dict.fromkeys(("table", "lookup"), "table") | dict.fromkeys(("priority", "pref"), "priority")
        found = _pairs(words, known)
        if name == "add_rule" and "table" not in found:
            raise CommandError("table … is missing", EXIT_USAGE)
        return name, found

    return read


def _neighbor_add(words: list[str]) -> tuple[str, Row]:
    pairs = _pairs(words[1:], {"lladdr": "mac", "dev": "interface"}, ("lladdr", "dev"))
    return "add_neighbor", {"address": _first(words, "an address"), **pairs}


def _neighbor_del(words: list[str]) -> tuple[str, Row]:
    return "del_neighbor", {"address": _first(words, "an address"), **_pairs(words[1:], {"dev": "interface"}, ("dev",))}


def _link_add(words: list[str]) -> tuple[str, Row]:
    """[link ust0] [name] ust0.5 type vlan id 5, or [name] br0 type bridge ust1 ust2."""
    at = words.index("type") if "type" in words else len(words)
    kind = words[at + 1] if at + 1 < len(words) else ""
    # As ip-link(8) has it, a name may stand without the word.
    first = words[:at] if at % 2 == 0 else [*words[: at - 1], "name", words[at - 1]]
    pairs = _pairs(first, {"name": "name", "link": "interface"}, ("name",) if kind == "bridge" else ())
    if kind == "bridge":
        return "add_bridge", {"name": pairs["name"], "ports": words[at + 2 :]}
    if kind != "vlan" or "interface" not in pairs:
        raise CommandError("link NAME … type vlan id N, or NAME type bridge PORT … is wanted", EXIT_USAGE)
    known = {"id": "vlan", "priority": "priority", "mtu": "mtu"}
    return "add_vlan", {**pairs, **_pairs(words[at + 2 :], known, ("id",))}


def _link_del(words: list[str]) -> tuple[str, Row]:
    return "remove_interface", {"name": _first([word for word in words if word != "dev"], "a name")}


def _sysctl(args: argparse.Namespace, words: list[str]) -> int:
    path = one_stack(args.stack)
    for word in words:
        name, equals, value = word.partition("=")
        name = name.strip()
        if equals:
            _change(path, "sysctl", {"name": name, "value": value.strip()})
        known = _answer(path, {"ask": "sysctl"})[0]
        if name not in known:
            raise CommandError(f"{name!r} is no knob of this stack")
        print(json.dumps({name: known[name]}) if args.json else _knob(name, known[name]))
    return 0


# -- printing

_RULE_WORDS = {"to": "destination", "iif": "iif", "oif": "oif"}


def _knob(name: str, value: Any) -> str:
    return f"{name} = {' '.join(map(str, value)) if isinstance(value, list) else value}"


def _heading(row: Row) -> Iterator[str]:
    """The lines of an interface that `addr` and `link` share."""
    state = "UP" if row["up"] else "DOWN"
    below = f"@{row['parent']}" if row.get("parent") else ""
    above = f" master {row['bridge']}" if row.get("bridge") else ""
    yield f"{row['index']}: {row['name']}{below}: <{row['medium'].upper()},{state}> mtu {row['mtu']}{above}"
    if row.get("mac"):
        yield f"    link/ether {row['mac']}"


def _show_links(rows: list[Row]) -> Iterator[str]:
    for row in rows:
        yield from _heading(row)
        if row.get("vlan"):
            yield f"    vlan id {row['vlan']}"
        if row.get("ports"):
            yield f"    bridge of {' '.join(row['ports'])}"
        for way in ("rx", "tx"):
            counts = ", ".join(f"{row[f'{way}_{what}']} {what}" for what in ("packets", "bytes", "dropped"))
            yield f"    {way.upper()}: {counts}"


def _show_addresses(rows: list[Row]) -> Iterator[str]:
    for row in rows:
        yield from _heading(row)
        for one in row["addresses"]:
            family = "inet6" if ":" in one["address"] else "inet"
            extra = "" if one["state"] == "PREFERRED" else f" {one['state'].lower()}"
            yield f"    {family} {one['address']}/{one['prefix_length']}{extra}"


def _show_routes(rows: list[Row]) -> Iterator[str]:
    for row in rows:
        parts = ["default" if row["destination"] == "0.0.0.0/0" else row["destination"]]
        parts += [f"via {row['gateway']}"] if row["gateway"] else []
        parts.append(f"dev {row['interface']}")
        parts += [f"src {row['source']}"] if row["source"] else []
        parts += [f"{name} {row[name]}" for name in ("metric", "mtu") if row[name]]
        parts += [f"table {routing.table_name(row['table'])}"] if row["table"] != routing.TABLES["main"] else []
        yield " ".join(parts)


def _show_rules(rows: list[Row]) -> Iterator[str]:
    for row in rows:
        source = row["source"] or ("all" if row["family"] == 4 else "::/0")
        parts = [f"{row['priority']}:\tfrom {source}"]
        parts += [f"{word} {row[name]}" for word, name in _RULE_WORDS.items() if row[name]]
        yield " ".join([*parts, f"lookup {routing.table_name(row['table'])}"])


def _show_neighbors(rows: list[Row]) -> Iterator[str]:
    for row in rows:
        link = f" lladdr {row['mac']}" if row["mac"] else ""
        yield f"{row['address']} dev {row['interface']}{link} {row['state']}"


def _show_counters(rows: list[Row]) -> Iterator[str]:
    for name, value in sorted(rows[0].items()):
        if value:
            yield f"{name:<32}{value}"


def _show_knobs(rows: list[Row]) -> Iterator[str]:
    for name, value in sorted(rows[0].items()):
        yield _knob(name, value)


VERBS = (
    Verb(
        "addr",
        "show or change the addresses of a running stack, as ip-address(8) does",
        "interfaces",
        "show (the default), add ADDR/LEN dev NAME, or del ADDR dev NAME",
        {"add": _address_change("add_address"), "del": _address_change("remove_address")},
        _show_addresses,
    ),
    Verb(
        "link",
        "show the interfaces of a running stack, make and remove VLANs and bridges, as ip-link(8) does",
        "interfaces",
        "show (the default), add link NAME [name NAME] type vlan id N [priority N], add NAME type bridge PORT …, or "
        "del NAME",
        {"add": _link_add, "del": _link_del},
        _show_links,
    ),
    Verb(
        "route",
        "show or change the routes of a running stack, as ip-route(8) does",
        "routes",
        "show (the default) [table N|all], add DEST [via ADDR] [dev NAME] [metric N] [mtu N] [src ADDR] [table N], or "
        "del DEST [via ADDR] [dev NAME] [table N]; DEST: a prefix or 'default'",
        {"add": _route_change("add_route"), "del": _route_change("del_route")},
        _show_routes,
        _main_table,
    ),
    Verb(
        "rule",
        "show or change the rules of policy routing of a running stack, as ip-rule(8) does",
        "rules",
        "show (the default), add [from PREFIX] [to PREFIX] [iif NAME] [oif NAME] [priority N] table N, or del with the "
        "same words; IPv6 by its prefixes, 'from ::/0' for all of it",
        {"add": _rule_change("add_rule"), "del": _rule_change("del_rule")},
        _show_rules,
    ),
    Verb(
        "neigh",
        "show or change the neighbour table of a running stack, as ip-neighbour(8) does",
        "neighbors",
        "show (the default), add ADDR lladdr MAC dev NAME, or del ADDR dev NAME",
        {"add": _neighbor_add, "del": _neighbor_del},
        _show_neighbors,
    ),
    Verb(
        "stats",
        "show the counters of a running stack that are not 0, by Linux's names",
        "counters",
        "show (the default)",
        {},
        _show_counters,
    ),
    Verb(
        "sysctl",
        "show or change the knobs of a running stack, as sysctl(8) does",
        "sysctl",
        "NAME (show it) or NAME=VALUE (change it), any number of them; none: show all",
        {},
        _show_knobs,
    ),
)
