from collections.abc import Callable, Iterable
from typing import Any

from ustack_ext.link.link import Link

class Callback(Link):
    def __init__(
        self,
        send: Callable[[bytes], object] | None = None,
        medium: str = "ethernet",
        mtu: int = 1500,
        mac: bytes | str | None = None,
        queue: int = 1024,
        name: str = "callback",
        *,
        send_many: Callable[[list[bytes]], int | None] | None = None,
        send_stream: Callable[[bytes], object] | None = None,
        length_bytes: int = 2,
        verify_checksums: bool = True,
        generate_checksums: bool = True,
    ) -> None: ...
    def receive(self, packet: Any) -> bool: ...
    def receive_many(self, packets: Iterable[Any]) -> int: ...
    def receive_stream(self, data: Any) -> int: ...
    def resume(self) -> None: ...
    @property
    def stats(self) -> dict[str, int]: ...
