from typing import Any

class ServiceCore:
    def _open(
        self,
        driver: Any,
        kind: int,
        address: int,
        port: int,
        backlog: int,
        answer: bytes,
        end: bytes,
        closes: bool,
        report: bool,
    ) -> int: ...
    def close(self) -> None: ...
    @property
    def closed(self) -> bool: ...
    def counters(self) -> dict[str, int]: ...
