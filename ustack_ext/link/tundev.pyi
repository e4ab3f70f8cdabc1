from typing import Any

DEVICE: str
IFF_TAP: int
IFF_TUN: int
IFF_VNET_HDR: int
IFF_MULTI_QUEUE: int
LADDER: tuple[tuple[str, ...], ...]

class Opened:
    fds: list[int]
    name: str
    header: bool
    shared: bool
    superframe: int
    offloads: tuple[str, ...]
    refused: list[str]
    def negotiate(self, wanted: bool | None) -> None: ...
    def widen(self, queues: int, kind: int, key: tuple[int, int]) -> None: ...
    def steer(self, targets: list[int], otherwise: int) -> None: ...
    def close(self) -> None: ...

def adopt(fd: Any, kind: int, wanted: bool | None) -> Opened: ...
def attach(
    name: str | bytes, kind: int, persistent: bool, owner: int | None, wanted: bool | None, several: bool = False
) -> Opened: ...
def set_offload(fd: int, bits: int) -> OSError | None: ...
def device_of(fd: int) -> tuple[str, int]: ...
