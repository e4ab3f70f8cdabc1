from collections.abc import Callable, Sequence
from typing import Any

from ustack_ext.driver.world import World
from ustack_ext.link.link import Link

SETTINGS: tuple[str, ...]

class WireEnd(Link):
    def send(self, frame: Any) -> None: ...
    def recv(self, timeout: float | None = None) -> bytes: ...
    @property
    def pending(self) -> int: ...

class Direction:
    rate: float
    delay: float
    jitter: float
    loss: float
    duplicate: float
    reorder: float
    reorder_delay: float
    corrupt: float
    queue: int | None
    queue_bytes: int | None
    up: bool
    filter: Callable[[bytes, int], bytes | list[bytes] | None] | None
    @property
    def backlog(self) -> tuple[int, int]: ...
    @property
    def stats(self) -> dict[str, int]: ...

class WirePair:
    a: WireEnd
    b: WireEnd
    a_to_b: Direction
    b_to_a: Direction
    linktype: int
    def __init__(
        self,
        world: World,
        name: str,
        seeds: Sequence[bytes],
        medium: str = "ethernet",
        mtu: int = 1500,
        macs: Any = (None, None),
    ) -> None: ...
    def capture(self, target: Any, a_to_b: int, b_to_a: int) -> Any: ...
