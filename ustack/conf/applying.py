"""A stack made as a configuration says.

Responsible for: the order in which it is done, and which line is to blame where the stack refuses. Not for: which keys
there are (schema.py); serving files and network namespaces, which are the command line's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import ustack

from .. import osutil
from ..service import text_options
from .lines import Path
from .schema import Config

_FORWARDING = ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding")
_SETTINGS = ("mtu", "addresses", "gateway", "probe", "autoconf")
_PIPE_MTU = 1500


@dataclass
class Applied:
    """What came of it: the far ends of pipes without a peer, by interface; clients that are to be waited for."""

    ends: dict[str, ustack.Link] = field(default_factory=dict)
    waiting: list[ustack.Dhcp | ustack.Dhcp6] = field(default_factory=list)


def open_stack(config: Config, driver: Any = "thread") -> ustack.Stack:
    """A new stack as the configuration says. driver: as Stack's. Raises ConfigError."""
    stack = ustack.Stack(driver, memory=config.table("stack").get("memory"))
    try:
        apply(config, stack)
    except BaseException:
        stack.close(timeout=0)
        raise
    return stack


def apply(config: Config, stack: ustack.Stack) -> Applied:
    """Configure a stack. Raises ConfigError; its __cause__ is the OSError of a device that cannot be had."""
    applied = Applied()
    _sysctls(config, stack, early=True)
    links, applied.ends = _links(config)
    try:
        for number, one in enumerate(config.list("interface")):
            with _blame(config, ("interface", number)):
                stack.attach(links[one["name"]], name=one["name"], **_settings(one))
            del links[one["name"]]
    except BaseException:
        for link in [*links.values(), *applied.ends.values()]:
            link.close()
        raise
    for path, one in config.interfaces():
        if path[0] != "interface":
            with _blame(config, path):
                _add_layer(stack, one)
    _sysctls(config, stack, early=False)
    _routes(config, stack)
    _nat(config, stack)
    stack.hosts.update({name.lower().rstrip("."): found for name, found in config.table("hosts").items()})
    if dns := config.table("dns"):
        with _blame(config, ("dns",)):
            stack.use_dns(dns.pop("servers"), **dns)
    _services(config, stack)
    for path, one in config.interfaces():
        if one.get("link_local"):
            with _blame(config, (*path, "link-local")):
                stack.link_local(one["name"])
        if one.get("mdns") is not None:
            _multicast_dns(config, stack, path, one)
        if one.get("llmnr") is not None:
            with _blame(config, (*path, "llmnr")):
                stack.llmnr(one["name"], **one["llmnr"])
        for key in ("dhcp", "dhcp6"):
            if one.get(key) is not None:
                with _blame(config, (*path, key)):
                    options = dict(one[key])
                    wait = options.pop("wait", True)
                    client = getattr(stack, key)(one["name"], **options)
                    applied.waiting += [client] if wait else []
    return applied


def _settings(one: dict[str, Any]) -> dict[str, Any]:
    """What Stack.attach(), add_vlan() and add_bridge() all take."""
    return {key: one[key] for key in _SETTINGS if key in one}


def _add_layer(stack: ustack.Stack, one: dict[str, Any]) -> None:
    """A VLAN or a bridge."""
    more = {key: one[key] for key in ("priority", "mac", "ageing_time") if key in one}
    if "ports" in one:
        stack.add_bridge(one["name"], one["ports"], **more, **_settings(one))
    else:
        stack.add_vlan(one["interface"], one["id"], name=one["name"], **more, **_settings(one))


def _nat(config: Config, stack: ustack.Stack) -> None:
    nat = config.table("nat")
    for number, name in enumerate(nat.get("masquerade", [])):
        with _blame(config, ("nat", "masquerade", number)):
            stack.nat.masquerade(name)
    for number, one in enumerate(nat.get("forward", [])):
        with _blame(config, ("nat", "forward", number)):
            to = (one["to"], one.get("to_port", one["port"]))
            stack.nat.forward(one["interface"], one["protocol"], one["port"], to)


@contextlib.contextmanager
def _blame(config: Config, path: Path) -> Iterator[None]:
    """What the stack refuses is this line's fault."""
    try:
        yield
    except KeyError as error:
        raise config.report.error(path, str(error.args[0])) from None
    except (ValueError, TypeError, OverflowError, OSError) as error:
        raise config.report.error(path, str(error)) from error


def _sysctls(config: Config, stack: ustack.Stack, early: bool) -> None:
    """early: those that are there without an interface, since interfaces take some over when they are made."""
    if early and "forwarding" in config.table("stack"):
        for name in _FORWARDING:
            if name in stack.sysctl:
                stack.sysctl[name] = int(config.table("stack")["forwarding"])
    names = {one["name"] for _, one in config.interfaces()}
    for name, value, path in config.settings.get("sysctl", []):
        if early != any(f".{one}." in name for one in names):
            with _blame(config, path):
                stack.sysctl[name] = value


def _links(config: Config) -> tuple[dict[str, ustack.Link], dict[str, ustack.Link]]:
    """Every interface's link, and the far ends of pipes that have no peer. Raises OSError."""
    made: dict[str, ustack.Link] = {}
    ends: dict[str, ustack.Link] = {}
    interfaces = config.list("interface")
    try:
        for number, one in enumerate(interfaces):
            name = one["name"]
            if name in made:
                continue
            if one.get("kind") != "pipe":
                with _blame(config, ("interface", number)):
                    made[name] = _device(one)
                continue
            peer = next((p for p in interfaces if one.get("peer") == p["name"] or p.get("peer") == name), None)
            mtu = max(one.get("mtu", _PIPE_MTU), peer.get("mtu", _PIPE_MTU) if peer else 0)
            macs = (one.get("mac"), peer.get("mac") if peer else None)
            made[name], far = ustack.pipe(mtu=mtu, macs=macs)
            if peer is None:
                ends[name] = far
            else:
                made[peer["name"]] = far
    except BaseException:
        for link in [*made.values(), *ends.values()]:
            link.close()
        raise
    return made, ends


def _device(one: dict[str, Any]) -> ustack.Link:
    options = {key: one[key] for key in ("host_addresses", "mtu", "mac", "offload") if key in one}
    if osutil.has_capability(osutil.CAP_NET_ADMIN):
        options.setdefault("host_addresses", [])  # only brought up
    make = ustack.Tun if one.get("kind") == "tun" else ustack.Tap
    return make(one.get("device", one["name"]), **options)


def _routes(config: Config, stack: ustack.Stack) -> None:
    for number, one in enumerate(config.list("route")):
        with _blame(config, ("route", number)):
            stack.add_route(
                one["to"], one.get("via"), one.get("interface"),
                metric=one.get("metric", 0), mtu=one.get("mtu", 0), source=one.get("source"),
                table=one.get("table", "main"),
            )  # fmt: skip
    for number, one in enumerate(config.list("rule")):
        with _blame(config, ("rule", number)):
            stack.add_rule(
                one.get("from"), one.get("to"), table=one["table"], priority=one.get("priority"),
                iif=one.get("iif"), oif=one.get("oif"),
            )  # fmt: skip
    for number, one in enumerate(config.list("neighbor")):
        with _blame(config, ("neighbor", number)):
            stack.add_neighbor(one["interface"], one["address"], one["mac"])


def _multicast_dns(config: Config, stack: ustack.Stack, path: Path, one: dict[str, Any]) -> None:
    with _blame(config, (*path, "mdns")):
        mdns = stack.mdns(one["name"], **one["mdns"])
    for place, what in enumerate(config.list("publish")):
        with _blame(config, ("publish", place)):
            mdns.publish(what["name"], what["type"], what["port"], what.get("txt", {}))


def _services(config: Config, stack: ustack.Stack) -> None:
    for number, one in enumerate(config.list("service")):
        options = text_options(one["kind"], one.get("text", ""))
        if "backlog" in one:
            options["backlog"] = one["backlog"]
        with _blame(config, ("service", number)):
            stack.start_service((one.get("address", ""), one["port"]), one["kind"], **options)
