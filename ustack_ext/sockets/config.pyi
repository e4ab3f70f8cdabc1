from typing import Any

from ustack_ext.sockets.stackcore import StackCore

def attach(stack: StackCore, link: Any, name: str) -> None: ...
def detach(stack: StackCore, link: Any) -> None: ...
def set_mtu(stack: StackCore, name: str, mtu: int) -> None: ...
def add_address(stack: StackCore, name: str, address: int, plen: int, probe: bool) -> None: ...
def remove_address(stack: StackCore, name: str, address: int) -> None: ...
def change_route(
    stack: StackCore,
    add: bool,
    prefix: int,
    plen: int,
    gateway: int,
    name: str | None,
    metric: int,
    mtu: int,
    source: int,
) -> None: ...
