"""What one part of a configuration says of another, and what does not go together.

Responsible for: names of interfaces, wherever one is named; keys that a kind of thing has no use for. Not for: the
shape of single values (schema.py).
"""

from __future__ import annotations

from typing import Any

from .checks import Report
from .lines import Path

SERVICES_WITH_TEXT = ("answer", "http")

_ADDRESSING = ("addresses", "gateway", "autoconf", "link_local", "mdns", "llmnr", "dhcp", "dhcp6")

Table = dict[str, Any]


def interfaces(settings: Table) -> list[tuple[Path, Table]]:
    """Every interface with its path, in the order in which they are made: links', VLANs, bridges.

    The VLAN of a bridge comes after the bridge. Each has a name, which a VLAN gets here.
    """
    vlans: list[tuple[Path, Table]] = []
    for number, one in enumerate(settings.get("vlan", [])):
        one.setdefault("name", f"{one.get('interface')}.{one.get('id')}")
        vlans.append((("vlan", number), one))
    bridges: list[tuple[Path, Table]] = [(("bridge", n), one) for n, one in enumerate(settings.get("bridge", []))]
    above = {one.get("name") for _, one in bridges}
    return [
        *((("interface", number), one) for number, one in enumerate(settings.get("interface", []))),
        *((path, one) for path, one in vlans if one.get("interface") not in above),
        *bridges,
        *((path, one) for path, one in vlans if one.get("interface") in above),
    ]


def check(settings: Table, report: Report) -> None:
    """Report what does not fit."""
    names = _names(settings, report)
    for path, one in interfaces(settings):
        for wanted in (one.get("dhcp6") or {}).get("assign", {}):
            _known(wanted, (*path, "dhcp6", "assign", wanted), names, report)
    for number, one in enumerate(settings.get("interface", [])):
        _link(one, ("interface", number), settings["interface"], report)
    _layers(settings, names, report)
    for part in ("route", "neighbor"):
        for number, one in enumerate(settings.get(part, [])):
            if one.get("interface") is not None:
                _known(one["interface"], (part, number, "interface"), names, report)
            elif part == "route" and "via" not in one:
                report.add((part, number), "a route needs via, interface, or both")
    _nat(settings.get("nat") or {}, names, report)
    if settings.get("publish") and all(one.get("mdns") is None for _, one in interfaces(settings)):
        report.add(("publish", 0), "nothing is published without an interface that has mdns = true")
    for number, one in enumerate(settings.get("service", [])):
        if "text" in one and one["kind"] not in SERVICES_WITH_TEXT:
            report.add(("service", number, "text"), f"{one['kind']} sends no text of yours")


def _names(settings: Table, report: Report) -> set[str]:
    names: set[str] = set()
    for path, one in interfaces(settings):
        if one["name"] in names:
            report.add((*path, "name"), f"interface {one['name']!r} is there already")
        if len(one["name"].encode()) > 15:
            report.add(path, f"{one['name']!r} is longer than an interface's name may be, 15 bytes: give it a name")
        names.add(one["name"])
    return names


def _known(wanted: str, path: Path, names: set[str], report: Report) -> None:
    if wanted not in names:
        known = ", ".join(sorted(names)) or "none"
        report.add(path, f"there is no interface {wanted!r} in this file (but {known})")


def _layers(settings: Table, names: set[str], report: Report) -> None:
    """VLANs and bridges: what they stand on."""
    bare = {one["name"] for one in settings.get("interface", []) if one.get("kind") == "tun"}
    vlans = {one["name"] for one in settings.get("vlan", [])}
    bridges = {one["name"] for one in settings.get("bridge", [])}
    ids: set[tuple[str, int]] = set()
    for number, one in enumerate(settings.get("vlan", [])):
        path: Path = ("vlan", number, "interface")
        _known(one["interface"], path, names, report)
        if one["interface"] in bare | vlans:
            report.add(path, f"{one['interface']!r} carries no VLANs: it is a {_kind(one['interface'], bare)}")
        if (one["interface"], one["id"]) in ids:
            report.add(("vlan", number, "id"), f"VLAN {one['id']} of {one['interface']} is there already")
        ids.add((one["interface"], one["id"]))
    plain = {path: one for path, one in interfaces(settings) if path[0] != "bridge"}
    settled = {one["name"] for one in plain.values() if any(one.get(key) not in (None, False) for key in _ADDRESSING)}
    above = {one["name"] for one in settings.get("vlan", []) if one["interface"] in bridges}
    taken: set[str] = set()
    for number, one in enumerate(settings.get("bridge", [])):
        if not one["ports"]:
            report.add(("bridge", number, "ports"), "a bridge needs ports")
        for place, port in enumerate(one["ports"]):
            path = ("bridge", number, "ports", place)
            _known(port, path, names, report)
            if port in bare | bridges | above:
                report.add(path, f"{port!r} cannot be a port: it is {'no Ethernet' if port in bare else 'of a bridge'}")
            if port in taken:
                report.add(path, f"{port!r} is a port already")
            if port in settled:
                report.add(path, f"{port!r} is a port: its addresses belong to {one['name']!r}")
            taken.add(port)


def _kind(name: str, bare: set[str]) -> str:
    return "tun" if name in bare else "VLAN itself"


def _nat(nat: Table, names: set[str], report: Report) -> None:
    outside = nat.get("masquerade", [])
    for number, name in enumerate(outside):
        _known(name, ("nat", "masquerade", number), names, report)
    for number, one in enumerate(nat.get("forward", [])):
        path: Path = ("nat", "forward", number)
        if one["interface"] not in outside:
            report.add((*path, "interface"), f"{one['interface']!r} is not one that masquerades")
        if ":" in one["to"]:
            report.add((*path, "to"), f"{one['to']!r}: addresses are translated in IPv4 only")


def _link(one: Table, path: Path, links: list[Table], report: Report) -> None:
    kind = one.get("kind", "tap")
    misplaced: tuple[str, ...]
    if kind == "pipe":
        misplaced = ("device", "host_addresses", "offload")
        peers = [other for other in links if other["name"] == one.get("peer", other["name"])]
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
