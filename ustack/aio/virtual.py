"""An asyncio event loop in virtual time: programs over a simulated network, fast, and the same each time.

Responsible for: running the network where another loop would sleep. Not for: transports (ustack/aio), the network
(ustack.sim). There is no descriptor here: only what goes over the network's stacks can be waited for.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .calls import SocketCalls

if TYPE_CHECKING:
    from ..sim import Network


class _World:
    """What the loop has for a selector: waiting lets virtual time pass."""

    def __init__(self, loop: VirtualEventLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None or timeout > 0:
            world = self._loop._network._world
            deadline = None if timeout is None else world.now + math.ceil(timeout * 1e9)
            world.run_until(deadline, self._loop._has_work)
        return []

    def close(self) -> None:
        pass


class VirtualEventLoop(SocketCalls, asyncio.BaseEventLoop):
    """An event loop of one simulated network; Network.run_async() makes one."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self._network = network
        self._selector = _World(self)
        self._clock_resolution = 1e-9

    def time(self) -> float:
        """Virtual time in seconds."""
        return self._network.now / 1e9

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """As asyncio's, but func runs here and now: no virtual time passes, and the run is the same each time."""
        future: asyncio.Future[Any] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def _has_work(self) -> bool:
        return bool(self._ready)  # type: ignore[attr-defined]

    def _process_events(self, events: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass
