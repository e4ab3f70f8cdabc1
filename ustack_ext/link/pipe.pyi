from typing import Any

from ustack_ext.link.link import Link

class PipeEnd(Link):
    def send(self, frame: Any) -> bool: ...
    def recv(self, timeout: float | None = None) -> bytes: ...
    def fileno(self) -> int: ...
    @property
    def stats(self) -> dict[str, int]: ...

def pipe(
    medium: str = "ethernet",
    mtu: int = 1500,
    queue: int = 1024,
    *,
    macs: tuple[bytes | str | None, bytes | str | None] | None = None,
    name: str | None = None,
    offload: bool = False,
) -> tuple[PipeEnd, PipeEnd]: ...
