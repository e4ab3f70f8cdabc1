"""ustack: a complete TCP/IP stack that lives inside a Python process.

    import ustack

    a, b = ustack.pipe()
    with ustack.Stack() as left, ustack.Stack() as right:
        left.attach(a, addresses=["10.9.0.1/24"])
        right.attach(b, addresses=["10.9.0.2/24"])
        server = right.create_server(("", 80))
        client = left.create_connection(("10.9.0.2", 80))

Everything is imported when it is first used, so that `ustack doctor` can run, and say what is missing, where the
extension modules are not built.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# name: module it comes from
_OWN = {
    "Stack": "ustack.stack",
    "Capture": "ustack.capture",
    "Dhcp": "ustack.dhcp",
    "Dhcp6": "ustack.dhcp6",
    "Lease": "ustack.dhcp_machine",
    "Lease6": "ustack.dhcp6_machine",
    "LinkLocal": "ustack.linklocal",
    "Llmnr": "ustack.llmnr",
    "Mdns": "ustack.mdns",
    "Resolver": "ustack.resolver",
    "EVENT_URGENT": "ustack.selector",
    "Selector": "ustack.selector",
    "Socket": "ustack.socket",
    "TCP_UTO": "ustack.options",
    "Nat": "ustack.nat",
    "NatFlow": "ustack.nat",
    "Service": "ustack.service",
    "Forwarder": "ustack.forward",
    "ForwardRequest": "ustack.forward",
    "StackGroup": "ustack.multiqueue",
    "EventLoop": "ustack.aio",
    "EventLoopPolicy": "ustack.aio",
    "Address": "ustack.records",
    "Connection": "ustack.records",
    "Interface": "ustack.records",
    "Neighbor": "ustack.records",
    "Route": "ustack.records",
    "Rule": "ustack.records",
    "Station": "ustack.records",
    "Completion": "ustack_ext.sockets.lend",
    "View": "ustack_ext.sockets.lend",
    "Callback": "ustack_ext.link.callback",
    "Link": "ustack_ext.link.link",
    "PipeEnd": "ustack_ext.link.pipe",
    "pipe": "ustack_ext.link.pipe",
    "Tap": "ustack_ext.link.tap",
    "Tun": "ustack_ext.link.tap",
}
_MODULES = ("conf", "sim")
# The standard library's names for what sockets take and raise.
_STANDARD_PREFIXES = ("AF_", "SOCK_", "SOL_", "SO_", "IPPROTO_", "IP_", "TCP_", "MSG_", "SHUT_", "INADDR_")
_STANDARD = ("SOMAXCONN", "gaierror", "herror", "timeout")

__all__ = [*_OWN, *_MODULES, *_STANDARD, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _OWN:
        value = getattr(_imported(_OWN[name], name), name)
    elif name in _MODULES:
        value = importlib.import_module(f"ustack.{name}")
    elif name in _STANDARD or name.startswith(_STANDARD_PREFIXES):
        value = _from_standard_library(name)
    else:
        raise AttributeError(f"module 'ustack' has no attribute {name!r}")
    globals()[name] = value
    return value


def _imported(module: str, name: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != "ustack_ext.link.tap":
            raise
        raise ImportError(
            f"ustack.{name}: TAP and TUN devices are Linux's, and this build has none; ustack.Callback and "
            "ustack.pipe() work everywhere (in a checkout on Linux: make build)"
        ) from error


def _from_standard_library(name: str) -> Any:
    import socket

    try:
        return getattr(socket, name)
    except AttributeError:
        raise AttributeError(f"module 'ustack' has no attribute {name!r}") from None


def __dir__() -> list[str]:
    import socket

    return sorted({*globals(), *__all__, *(name for name in dir(socket) if name.startswith(_STANDARD_PREFIXES))})
