from collections.abc import Iterable

from ustack_ext.link.link import Link

class _Tuntap(Link):
    @property
    def persistent(self) -> bool: ...
    @property
    def refused(self) -> tuple[str, ...]: ...
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
    ) -> None: ...
