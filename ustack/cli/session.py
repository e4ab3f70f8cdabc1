"""A stack on a device, as the options that all verbs share describe it.

Responsible for: those options, where the process runs (its own namespace, a new one, somebody else's), making the
link and attaching it, and turning what the kernel refuses into one sentence with the command that mends it.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import getpass
import ipaddress
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ustack

from .. import conf, control, namespace, osutil
from . import configured
from .errors import EXIT_USAGE, CommandError, reason

DEFAULT_DEVICE = "ust0"
DEFAULT_ADDRESS = "10.9.0.2/24"
DEFAULT_HOST_ADDRESS = "10.9.0.1/24"
_REFUSALS = (errno.EPERM, errno.EACCES, errno.EBUSY, errno.ENOENT)  # of a device that cannot be had
_NAME_LIMIT = 15  # IFNAMSIZ less the closing zero


@dataclass
class Session:
    """A running stack and where it runs: `place` says which namespace was entered ("", "net", "user", "joined").

    config: what --config named, or None.
    """

    stack: Any
    device: str
    addresses: list[str]
    host_addresses: list[str]
    gateway: str | None
    place: str
    config: conf.Config | None = None

    @property
    def address(self) -> str:
        """The stack's first address, without its prefix length; empty where it has none yet."""
        return self.addresses[0].split("/")[0] if self.addresses else ""


def interface_address(text: str) -> str:
    """An argparse type: an address with a prefix length, such as 10.9.0.2/24."""
    try:
        found = ipaddress.ip_interface(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not an address with a prefix length, such as 10.9.0.2/24"
        ) from None
    if "/" not in text:
        raise argparse.ArgumentTypeError(f"{text!r} has no prefix length: write {text}/24, for instance")
    return str(found)


def gateway_address(text: str) -> str:
    """An argparse type: a plain address, or "none"."""
    if text == "none":
        return text
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither an address, such as 10.9.0.1, nor 'none'") from None


def plain_address(text: str) -> str:
    """An argparse type: an address without a prefix length."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not an address, such as 10.9.0.1") from None


def device_name(text: str) -> str:
    """An argparse type: a name the kernel takes for a network device."""
    if (
        not text
        or len(text.encode()) > _NAME_LIMIT
        or "/" in text
        or any(c.isspace() for c in text)
        or text in (".", "..")
    ):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a device name (1 to {_NAME_LIMIT} characters, no space, no slash)"
        )
    return text


def mtu(text: str) -> int:
    """An argparse type: bytes in one packet, 68 (RFC 791) to 65535."""
    if not text.isdigit() or not 68 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not an MTU (68 to 65535 bytes)")
    return int(text)


def positive_seconds(text: str) -> float:
    """An argparse type: a time in seconds, more than nothing."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time in seconds")
    return seconds


def port_number(text: str) -> int:
    """An argparse type: a port, 1 to 65535."""
    if not text.isdigit() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port (1 to 65535)")
    return int(text)


def add_stack_options(parser: argparse.ArgumentParser, device_option: bool = True) -> None:
    """Add the options that say which device and which addresses the stack has."""
    group = parser.add_argument_group("the stack and its device")
    if device_option:
        which = group.add_mutually_exclusive_group()
        which.add_argument(
            "--tap",
            dest="device",
            metavar="NAME",
            type=device_name,
            help=f"the TAP device between kernel and stack, made if there is none (default: {DEFAULT_DEVICE})",
        )
        which.add_argument(
            "--tun", metavar="NAME", type=device_name, help="a TUN device instead: IP packets without Ethernet"
        )
    group.add_argument(
        "--address",
        metavar="ADDR/LEN",
        type=interface_address,
        action="append",
        help=f"an address of the stack; may be repeated (default: {DEFAULT_ADDRESS})",
    )
    group.add_argument(
        "--host-address",
        metavar="ADDR/LEN",
        type=interface_address,
        action="append",
        help="an address for the kernel's side of the device; may be repeated "
        f"(default: {DEFAULT_HOST_ADDRESS}, when the device is made)",
    )
    group.add_argument(
        "--gateway",
        metavar="ADDR",
        type=gateway_address,
        help="the stack's default gateway, or 'none' (default: the first host address)",
    )
    group.add_argument(
        "--dhcp",
        action="store_true",
        help="get address, routes and DNS servers from a DHCP server on the device, instead of --address and --gateway",
    )
    group.add_argument(
        "--dhcp6",
        action="store_true",
        help="get IPv6 addresses and DNS servers from a DHCPv6 server, as the routers on the device say",
    )
    group.add_argument(
        "--dns",
        metavar="ADDR",
        type=plain_address,
        action="append",
        help="a DNS server that the stack asks for names; may be repeated (default: names are looked up by this "
        "machine's resolver)",
    )
    group.add_argument(
        "--mtu", metavar="BYTES", type=mtu, help="largest packet on the device (default: its own; 1500 for a new one)"
    )
    group.add_argument(
        "--offload",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="leave checksums and the cutting of TCP segments to the kernel (default: as far as it can; "
        "--offload: or fail; --no-offload: not at all)",
    )
    group.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        help="take all this, and more, from a TOML file (docs/configuring.md); options given here count for more, and "
        "are about its first interface",
    )
    group.add_argument(
        "--netns",
        metavar="WHERE",
        help="the network namespace to run in: 'new', the id of a process in it, its path, or its `ip netns` name",
    )


def enter_network(args: argparse.Namespace, alone_is_useful: bool) -> str:
    """Go where the stack is to run: what --netns says, or where no device can be made here, a namespace of one's own.

    alone_is_useful: the verb makes sense in a namespace that holds nothing else. Returns Session.place. Raises
    CommandError.
    """
    try:
        if args.netns == "new":
            return _enter_own()
        if args.netns is not None:
            # The control socket's place depends on who one is; settle it before a user namespace changes that.
            control.pin_directory()
            namespace.join(args.netns)
            return "joined"
    except FileNotFoundError:
        raise CommandError(
            f"there is no network namespace {args.netns!r}: `lsns -t net` and `ip netns` list them"
        ) from None
    except OSError as error:
        raise CommandError(
            f"entering the network namespace {args.netns!r} was refused ({reason(error)}): run it as root with `sudo`"
        ) from None
    if (
        osutil.has_capability(osutil.CAP_NET_ADMIN)
        or osutil.device_kind(_wanted_device(args)[0]) is not None
        or not alone_is_useful
    ):
        return ""
    try:
        namespace.probe_tap("user")
    except OSError:
        return ""  # opening the device will say what is missing
    return _enter_own()


@contextlib.contextmanager
def _there_and_back(args: argparse.Namespace) -> Iterator[None]:
    """Come back to this network namespace, whatever was entered within. Raises CommandError where that cannot be."""
    where = args.netns
    if where is not None and where.isdigit() and not namespace.shares_user(where):
        raise CommandError(
            f"--netns {where}: that process is in a user namespace of its own, and who enters it does not come back; "
            "`ustack run -- PROGRAM` gives a program a network of its own with a gateway"
        )
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC) if where is not None else -1
    try:
        yield
        if home >= 0:
            namespace.setns(home, namespace.CLONE_NEWNET)
    finally:
        if home >= 0:
            os.close(home)


def _enter_own() -> str:
    control.pin_directory()
    user = not osutil.has_capability(osutil.CAP_SYS_ADMIN)
    namespace.enter_new(user=user)
    return "user" if user else "net"


def how_to_enter(place: str) -> str:
    """The command prefix that runs a program in this process's network namespace; empty where none is needed."""
    if place == "user":
        return f"nsenter -U -n --preserve-credentials -t {os.getpid()} "
    return f"nsenter -n -t {os.getpid()} " if place == "net" else ""


def _wanted_device(args: argparse.Namespace) -> tuple[str, str]:
    """(name, kind): what was asked for; a device that is there already decides its kind itself."""
    tun = getattr(args, "tun", None)
    name = tun or args.device or DEFAULT_DEVICE
    kind = osutil.device_kind(name)
    return name, kind if kind in ("tap", "tun") else "tun" if tun else "tap"


@contextlib.contextmanager
def open_session(
    args: argparse.Namespace, alone_is_useful: bool = False, device_only: bool = False
) -> Iterator[Session]:
    """A context manager: the stack that the options of `add_stack_options` describe, running.

    alone_is_useful: see `enter_network`. device_only: --netns is where the device is, not where this process goes on to
    run. On leaving, the stack is closed and a device made for it vanishes. Raises CommandError.
    """
    if args.dhcp and (args.address or args.gateway):
        raise CommandError("--dhcp goes with neither --address nor --gateway", EXIT_USAGE)
    if args.config is not None:
        with _open_configured(args, alone_is_useful) as session:
            yield session
        return
    with _there_and_back(args) if device_only else contextlib.nullcontext():
        place = enter_network(args, alone_is_useful)
        link, host_addresses = _open_link(args)
    addresses, gateway = ([], None) if args.dhcp else (args.address or [DEFAULT_ADDRESS], _gateway(args))
    with ustack.Stack() as stack:
        try:
            stack.attach(link, addresses=addresses, gateway=gateway)
        except (OSError, ValueError) as error:
            raise CommandError(
                f"{link.name} cannot have {', '.join(addresses)} with gateway {gateway}: {error}"
            ) from None
        if args.dns:
            stack.use_dns(args.dns)
        if args.dhcp:
            addresses, gateway = _lease(stack, link.name)
        if args.dhcp6:
            lease6 = configured.lease(stack.dhcp6(link.name))
            addresses = [*addresses, *(f"{one.what}/128" for one in lease6.addresses)]
        session = Session(stack, link.name, addresses, host_addresses, gateway, place)
        with control.publish(stack, device=link.name, addresses=addresses):
            yield session


@contextlib.contextmanager
def _open_configured(args: argparse.Namespace, alone_is_useful: bool) -> Iterator[Session]:
    """The stack that the file of --config describes."""
    name, kind = _wanted_device(args)
    otherwise: dict[str, Any] = {"name": name, "kind": kind, "addresses": [DEFAULT_ADDRESS]}
    if (host := _host_addresses(args, name)) is not None:
        otherwise["host_addresses"] = host
    if (via := _gateway(args)) is not None:
        otherwise["gateway"] = [via]
    config = configured.read(args, otherwise)
    configured.take_over(args, config)
    needs_device = any(one.get("kind") != "pipe" for one in config.list("interface"))
    place = enter_network(args, alone_is_useful) if needs_device or args.netns else ""
    with ustack.Stack(memory=config.table("stack").get("memory")) as stack:
        try:
            applied = conf.apply(config, stack)
        except conf.ConfigError as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and needs_device and cause.errno in _REFUSALS:
                raise CommandError(f"{error} ({explain_device(cause, *_wanted_device(args))})") from None
            raise CommandError(str(error)) from None
        for client in applied.waiting:
            configured.lease(client)
        first = config.list("interface")[0]
        addresses = configured.addresses(stack)
        defaults = [r.gateway for r in stack.routes() if r.destination in ("0.0.0.0/0", "::/0") and r.gateway]
        device = first.get("device", first["name"])
        session = Session(
            stack, device, addresses, first.get("host_addresses", []), next(iter(defaults), None), place, config
        )
        with control.publish(stack, device=device, addresses=addresses):
            yield session


def _lease(stack: Any, name: str) -> tuple[list[str], str | None]:
    """(addresses, default gateway) from a DHCP server. Raises CommandError."""
    try:
        lease = configured.lease(stack.dhcp(name))
    except ValueError as error:
        raise CommandError(str(error)) from None
    gateway = next((via for to, via in lease.routes if to == "0.0.0.0/0" and via != "0.0.0.0"), None)
    return [f"{lease.address}/{lease.prefix_length}"], gateway


def _open_link(args: argparse.Namespace) -> tuple[Any, list[str]]:
    """The device that the options describe, and the addresses given to its kernel side. Raises CommandError."""
    name, kind = _wanted_device(args)
    host_addresses = _host_addresses(args, name)
    make = ustack.Tap if kind == "tap" else ustack.Tun
    try:
        return make(name, host_addresses=host_addresses, mtu=args.mtu, offload=args.offload), host_addresses or []
    except OSError as error:
        host = (args.host_address or [DEFAULT_HOST_ADDRESS])[0]
        raise CommandError(explain_device(error, name, kind, host)) from None


def _host_addresses(args: argparse.Namespace, name: str) -> list[str] | None:
    """The kernel side's addresses: those asked for; the default only for a device that is made here.

    An empty list: the device is only to be brought up. None: it is somebody else's, to be used as it is.
    """
    if args.host_address:
        return list(args.host_address)
    if osutil.device_kind(name) is None:
        return [DEFAULT_HOST_ADDRESS]
    return [] if osutil.has_capability(osutil.CAP_NET_ADMIN) else None


def _gateway(args: argparse.Namespace) -> str | None:
    if args.gateway:
        return None if args.gateway == "none" else str(args.gateway)
    own = [ipaddress.ip_interface(text) for text in args.address or [DEFAULT_ADDRESS]]
    for text in args.host_address or [DEFAULT_HOST_ADDRESS]:
        address = ipaddress.ip_interface(text).ip
        if any(address in mine.network for mine in own):
            return str(address)
    return None


def explain_device(error: OSError, name: str, kind: str, host: str = DEFAULT_HOST_ADDRESS) -> str:
    """One sentence for why a TAP or TUN could not be had, with the command that mends it."""
    if not os.path.exists(namespace.TUN_DEVICE):
        return (
            f"{namespace.TUN_DEVICE} is missing: run `sudo modprobe tun`, or where that is no help "
            f"`sudo mkdir -p /dev/net && sudo mknod -m 666 {namespace.TUN_DEVICE} c 10 200`"
        )
    if not os.access(namespace.TUN_DEVICE, os.R_OK | os.W_OK):
        return f"this user may not open {namespace.TUN_DEVICE}: run `sudo chmod 666 {namespace.TUN_DEVICE}`"
    if error.errno in (errno.EPERM, errno.EACCES):
        return (
            f"making or configuring the device {name} needs CAP_NET_ADMIN: run this with `sudo`, or once "
            f"`sudo ip tuntap add dev {name} mode {kind} user {_user()} && sudo ip address add {host} dev {name} "
            f"&& sudo ip link set {name} up`"
        )
    if error.errno == errno.EBUSY:
        return f"the device {name} is in use by another process: end that one, or choose another name"
    if error.errno == errno.EINVAL and osutil.device_kind(name) is not None:
        return f"the device {name} exists and is not a {kind.upper()}: choose another name"
    return f"the device {name} cannot be had: {reason(error)}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def resolve(host: str, stack: Any = None) -> str:
    """A numeric address for a host's name, of IPv4 if there is one: by the stack, where it has a DNS server, else by
    this machine's resolver.

    Raises socket.gaierror when there is no such name.
    """
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(host.strip("[]")))
    if not asks_itself(stack):
        return str(socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)[0][4][0])
    answers = stack.getaddrinfo(host, None, socket.AF_UNSPEC, socket.SOCK_STREAM)
    return str(min(answers, key=lambda info: info[0] != socket.AF_INET)[4][0])


def asks_itself(stack: Any) -> bool:
    """Whether the stack looks names up by itself."""
    return getattr(stack, "resolver", None) is not None


def note(text: str) -> None:
    """Tell the person something that is not the result: a line on stderr."""
    print(f"ustack: {text}", file=sys.stderr, flush=True)
