from collections.abc import Callable, Iterable
from typing import Any

from ustack_ext.link.link import Link

class Callback(Link):
    def __init__(
        self,
        send: Callable[[bytes], object],
        medium: str = "ethernet",
        mtu: int = 1500,
        mac: bytes | str | None = None,
        queue: int = 1024,
        name: str = "callback",
    ) -> None: ...
    def receive(self, packet: Any) -> bool: ...
    def receive_many(self, packets: Iterable[Any]) -> int: ...
    @property
    def stats(self) -> dict[str, int]: ...
