from typing import Any

from ustack_ext.sockets.stackcore import StackCore

def change_rule(
    stack: StackCore,
    add: bool,
    priority: int,
    table: int,
    six: bool,
    source: tuple[int, int],
    destination: tuple[int, int],
    iif: str | None,
    oif: str | None,
) -> None: ...
def rules(stack: StackCore) -> list[tuple[Any, ...]]: ...
