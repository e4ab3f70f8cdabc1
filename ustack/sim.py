"""Simulated networks: many stacks and the wires between them under one virtual clock.

The clock jumps from event to event, so an hour of TCP takes milliseconds; the same seed gives the same run, bit for
bit.

    net = ustack.sim.Network(seed=1)
    a, b = net.stack("a"), net.stack("b")
    wire = net.wire(a, b, addresses=("10.0.0.1/24", "10.0.0.2/24"), rate=1e9, delay=0.025, loss=0.001)
    server = b.create_server(("", 80))
    client = a.create_connection(("10.0.0.2", 80))     # blocks in virtual time: 50 ms pass, at once
    conn, peer = server.accept()

Blocking calls run the network until they are done. Code for several hosts at a time is given to Network.spawn(), which
runs it like a thread of which only one runs at a time, in an order that never varies.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Coroutine, Sequence
from types import TracebackType
from typing import Any, TypeVar

import ustack
from ustack_ext.driver.task import Task
from ustack_ext.driver.virtual import VirtualDriver
from ustack_ext.driver.wire import SETTINGS, Direction, WireEnd, WirePair
from ustack_ext.driver.world import World

__all__ = ["Direction", "Network", "Task", "Wire", "WireEnd"]

T = TypeVar("T")
Addresses = str | Sequence[str] | None


class Network:
    """A simulated network. Use it as a context manager, or close() it.

    Parameters: seed, an int, str or bytes from which every random choice follows: those of the wires and those of the
    stacks (initial sequence numbers, ports, hash keys).
    """

    def __init__(self, seed: int | str | bytes = 0) -> None:
        self._seed = seed if isinstance(seed, bytes) else str(seed).encode()
        self._world = World()
        self._stacks: dict[str, ustack.Stack] = {}
        self._wires: list[Wire] = []
        self._closed = False

    def stack(self, name: str | None = None, **options: Any) -> ustack.Stack:
        """Add a stack. Parameters: name (default: "s0", "s1", …); options, passed on to ustack.Stack."""
        if name is None:
            name = f"s{len(self._stacks)}"
        if name in self._stacks:
            raise ValueError(f"this network has a stack named {name!r} already")
        driver = VirtualDriver(self._world, self._secret("stack", name))
        made = ustack.Stack(driver=driver, **options)
        self._stacks[name] = made
        return made

    def wire(
        self,
        a: ustack.Stack | None,
        b: ustack.Stack | None,
        *,
        addresses: tuple[Addresses, Addresses] = (None, None),
        medium: str = "ethernet",
        mtu: int = 1500,
        macs: tuple[Any, Any] | None = None,
        name: str | None = None,
        **settings: Any,
    ) -> Wire:
        """Join two stacks by a wire.

        Parameters: a, b, the stacks; None: that end stays raw, and the test is the peer through wire.a or wire.b (send,
        recv).
        addresses, of each side, "10.0.0.1/24" or a list of such. medium, "ethernet" or "ip". mtu, bytes of IP. macs,
        the two Ethernet addresses (default: 02:00:00:00:WW:01 and …:02 for wire number WW). settings: see Wire; each
        holds for both directions, or is a tuple (a to b, b to a).
        """
        number = len(self._wires)
        if macs is None:
            macs = (bytes((2, 0, 0, number >> 8, number & 255, 1)), bytes((2, 0, 0, number >> 8, number & 255, 2)))
        name = name or f"w{number}"
        seeds = [self._secret("wire", name, side) for side in ("a", "b")]
        made = Wire(WirePair(self._world, name, seeds, medium, mtu, macs), a, b)
        made.set(**settings)
        for stack, end, own in ((a, made.a, addresses[0]), (b, made.b, addresses[1])):
            if stack is not None:
                stack.attach(end, addresses=[own] if isinstance(own, str) else list(own or ()))
        self._wires.append(made)
        return made

    @property
    def now(self) -> int:
        """Virtual time in ns; a network begins at 0."""
        return int(self._world.now)

    @property
    def events(self) -> int:
        """Events so far: arrivals, timers, calls."""
        return int(self._world.events)

    def run(self, duration: float | None = None, until: Callable[[], object] | float | None = None) -> bool:
        """Let time pass.

        Parameters: duration, seconds to run at most; until, a function without arguments, asked after every event: run
        until it is true; or a virtual time in seconds to run to. Neither: run until nothing is left to happen (a
        listening or idle stack has nothing to do). Returns whether until() became true.
        Raises OSError EDEADLK where until() is false and nothing can change that.
        """
        deadline = None if duration is None else self.now + _nanoseconds(duration)
        if until is not None and not callable(until):
            moment = _nanoseconds(until)
            deadline = moment if deadline is None else min(deadline, moment)
            until = None
        if deadline is None and until is None:
            self._world.run_idle()
            return False
        return bool(self._world.run_until(deadline, until))

    def call_later(self, delay: float, function: Callable[..., object], *arguments: object) -> Any:
        """Call function(*arguments) after `delay` seconds of virtual time.

        Returns an object with cancel() and when (ns).
        """
        return self._world.call_at(self.now + _nanoseconds(delay), function, *arguments)

    def spawn(self, function: Callable[..., Any], *arguments: Any, name: str | None = None) -> Task:
        """Run function(*arguments) as a task beside the caller: it begins when the caller blocks. See Task.result()."""
        task: Task = self._world.spawn(function, arguments, name)
        return task

    def run_async(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end in an asyncio event loop of this network -> its result.

        Time there is virtual time: asyncio.sleep(3600) is over at once. What it awaits must go over the network's
        stacks (stack.open_connection, start_server, stack.aio, …). Raises what the coroutine raises; OSError EDEADLK
        where it waits for what can't happen.
        """
        from .aio.virtual import VirtualEventLoop

        loop = VirtualEventLoop(self)
        try:
            return loop.run_until_complete(coroutine)
        finally:
            for task in asyncio.all_tasks(loop):
                task.cancel()
                loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
            loop.run_until_complete(loop.shutdown_asyncgens())
            for stack in self._stacks.values():
                reactor = stack._reactors.pop(loop, None)
                if reactor is not None:
                    reactor.close()
            loop.close()

    def close(self) -> None:
        """End the tasks, close the stacks and the captures. Can be called again."""
        if self._closed:
            return
        self._closed = True
        self._world.close()
        for stack in self._stacks.values():
            stack.close()
        self._world.close()
        self._stacks.clear()
        self._wires.clear()

    def _secret(self, *words: str) -> bytes:
        return hashlib.sha256(b"\0".join([self._seed, *(word.encode() for word in words)])).digest()

    def __enter__(self) -> Network:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        failed = [task for task in self._world.tasks.all if task.error is not None and not task.observed]
        self.close()
        if kind is None and failed:
            raise failed[0].error


class Wire:
    """A wire between two stacks; made by Network.wire().

    Settings (attributes; assigning sets both directions, `wire.a_to_b.loss = 0.1` sets one; all can change while it
    runs):

    rate            bit/s over whole frames, 0: without limit
    delay           s from the last bit sent to the arrival
    jitter          s: up to this much more delay, uniform; frames stay in order
    queue           frames the queue before the wire holds, 0: without limit (queue_bytes: the same in bytes)
    loss, duplicate, corrupt    probability a frame; corrupt turns over one random bit
    reorder         probability that a frame is held back by reorder_delay (s, 0.001 unless set)
    up              False: cut
    filter          filter(frame: bytes, n: int) -> bytes, list of bytes, or None to take the frame off; n counts from 1

    Reading one gives the value, or a tuple (a to b, b to a) where they differ.
    """

    def __init__(self, pair: WirePair, a: ustack.Stack | None, b: ustack.Stack | None) -> None:
        self.__dict__.update(_pair=pair, _sides=(a, b))

    @property
    def a(self) -> WireEnd:
        """The first stack's end."""
        return self._pair.a

    @property
    def b(self) -> WireEnd:
        """The second stack's end."""
        return self._pair.b

    @property
    def a_to_b(self) -> Direction:
        return self._pair.a_to_b

    @property
    def b_to_a(self) -> Direction:
        return self._pair.b_to_a

    @property
    def stats(self) -> dict[str, dict[str, int]]:
        """Counters of both directions: {"a_to_b": {"sent": …, "lost": …}, "b_to_a": …}; see Direction.stats."""
        return {"a_to_b": dict(self.a_to_b.stats), "b_to_a": dict(self.b_to_a.stats)}

    def set(self, **settings: Any) -> None:
        """Change several settings; a tuple of two sets the directions apart."""
        for name, value in settings.items():
            setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in SETTINGS:
            raise AttributeError(f"a wire has no setting {name!r}; it has {', '.join(SETTINGS)}")
        first, second = value if isinstance(value, tuple) else (value, value)
        setattr(self.a_to_b, name, first)
        setattr(self.b_to_a, name, second)

    def __getattr__(self, name: str) -> Any:
        if name not in SETTINGS:
            raise AttributeError(name)
        first, second = getattr(self.a_to_b, name), getattr(self.b_to_a, name)
        return first if first == second else (first, second)

    def capture(self, target: Any, *, point: Any = "sent") -> Any:
        """Write a pcap file (nanosecond timestamps, virtual time) until the network or the returned object is closed.

        Parameters: target, a path or a binary file object; point, where the frames are seen: "sent" (both directions,
        as they enter the wire, before anything happens to them), "delivered" (as they come out), or one of the two
        stacks: as a tcpdump on that host would see them. Returns an object with close(), flush() and frames.
        """
        sent, delivered = 1, 2
        if isinstance(point, str):
            if point not in ("sent", "delivered"):
                raise ValueError(f'point: {point!r} is not "sent", "delivered" or one of the wire\'s stacks')
            both = sent if point == "sent" else delivered
            return self._pair.capture(target, both, both)
        if point is None or point not in self._sides:
            raise ValueError("point: this stack is not on the wire")
        at_a = point is self._sides[0]
        return self._pair.capture(target, sent if at_a else delivered, delivered if at_a else sent)


def _nanoseconds(seconds: float) -> int:
    if not 0 <= seconds < 1e9:
        raise ValueError(f"{seconds!r} seconds is not between 0 and 1e9")
    return round(seconds * 1e9)
