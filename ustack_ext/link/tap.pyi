from collections.abc import Iterable
from typing import Any, TypeVar

from ustack_ext.link.link import Link

_Self = TypeVar("_Self", bound=_Tuntap)

class _Tuntap(Link):
    @property
    def persistent(self) -> bool: ...
    @property
    def superframe(self) -> int: ...
    @property
    def refused(self) -> tuple[str, ...]: ...
    @property
    def queues(self: _Self) -> tuple[_Self, ...]: ...
    def queue_of(self, local: tuple[Any, ...], peer: tuple[Any, ...]) -> int: ...
    def fileno(self) -> int: ...

class Tap(_Tuntap):
    def __init__(
        self,
        name: str = "ust%d",
        *,
        host_addresses: Iterable[str] | None = None,
        mtu: int | None = None,
        mac: bytes | str | None = None,
        fd: int | None = None,
        persistent: bool = False,
        owner: int | None = None,
        offload: bool | None = None,
        queues: int = 1,
    ) -> None: ...

class Tun(_Tuntap):
    def __init__(
        self,
        name: str = "ust%d",
        *,
        host_addresses: Iterable[str] | None = None,
        mtu: int | None = None,
        fd: int | None = None,
        persistent: bool = False,
        owner: int | None = None,
        offload: bool | None = None,
        queues: int = 1,
    ) -> None: ...
