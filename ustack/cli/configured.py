"""`--config FILE`: the stack that a file describes, with what the command line says put in its place.

Responsible for: options that count for more than the file's, waiting for leases, what the session says of itself.
Not for: the file (ustack.conf), where the process runs and devices (session.py).
"""

from __future__ import annotations

import argparse
from typing import Any

from .. import conf
from .errors import CommandError, reason

LEASE_PATIENCE = 40.0  # seconds

# argparse's names and those of the file's first interface
_OF_INTERFACE = {"address": "addresses", "host_address": "host_addresses", "mtu": "mtu", "offload": "offload"}


def read(args: argparse.Namespace, otherwise: dict[str, Any]) -> conf.Config:
    """The file, changed by the options. otherwise: the interface where the file has none. Raises CommandError."""
    try:
        config = conf.load(args.config)
    except OSError as error:
        raise CommandError(f"{args.config} cannot be read: {reason(error)}") from None
    except UnicodeDecodeError as error:
        raise CommandError(f"{args.config}: {error}") from None
    except conf.ConfigError as error:
        raise CommandError(str(error)) from None
    if not config.settings.get("interface"):
        config.settings["interface"] = [otherwise]
    first = config.settings["interface"][0]
    for option, key in _OF_INTERFACE.items():
        if getattr(args, option) is not None:
            first[key] = getattr(args, option)
    tun = getattr(args, "tun", None)
    if args.device or tun:
        first.update(device=tun or args.device, kind="tun" if tun else "tap")
    if args.gateway:
        first["gateway"] = [] if args.gateway == "none" else [args.gateway]
    if args.dhcp:
        first.setdefault("dhcp", {})
    if args.dhcp6:
        first.setdefault("dhcp6", {})
    if args.dns:
        config.settings["dns"] = {**config.table("dns"), "servers": args.dns}
    return config


def take_over(args: argparse.Namespace, config: conf.Config) -> None:
    """What of the file the options decide elsewhere: the device that has to be made, and where."""
    args.netns = args.netns or config.table("stack").get("netns")
    for one in config.list("interface"):
        if one.get("kind") != "pipe":
            name = one.get("device", one["name"])
            args.tun, args.device = (name, None) if one.get("kind") == "tun" else (None, name)
            return


def lease(client: Any) -> Any:
    """Wait for a DHCP client's lease. Raises CommandError."""
    try:
        return client.wait(LEASE_PATIENCE)
    except TimeoutError:
        raise CommandError(
            f"no DHCP server on {client.interface} answered in {LEASE_PATIENCE:.0f} s: is one running there?"
        ) from None


def addresses(stack: Any) -> list[str]:
    """Every address of a stack's interfaces; link-local ones only where there are no others."""
    found = [str(a) for i in stack.interfaces() if i.medium != "loopback" for a in i.addresses]
    return [one for one in found if not one.startswith("fe80:")] or found
