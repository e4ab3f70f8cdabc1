"""Where a socket test runs: on the kernel's sockets and on ustack's, so that one test function says what both must do.

kernel   socket.socket over the kernel's loopback: what the standard library's sockets really do
pipe     two stacks with the thread driver, joined by a pipe
own      one stack talking to itself over its loopback
sim      two stacks in virtual time
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import ustack
from ustack import sim

PATIENCE = 20.0  # s; a test that gets here has failed


def fails(code: int, function: Any, *arguments: Any) -> None:
    """The call raises an OSError of exactly the class that Python has for that errno."""
    with pytest.raises(OSError) as caught:
        function(*arguments)
    assert caught.value.errno == code, caught.value
    assert type(caught.value) is type(OSError(code, ""))


class ThreadTask:
    """A function running in a thread; result() is what it returned or raised."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self._value: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(function, arguments), daemon=True)
        self._thread.start()

    def _run(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        try:
            self._value = function(*arguments)
        except BaseException as error:
            self._error = error

    def result(self) -> Any:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "still blocked"
        if self._error is not None:
            raise self._error
        return self._value


class World:
    """Two hosts: sockets of `left` and `right`, and the addresses under which each is reached."""

    name = ""
    left_host = ""
    right_host = ""

    def __init__(self) -> None:
        self.cleanup = contextlib.ExitStack()

    def left(self, type: int = socket.SOCK_STREAM, proto: int = 0) -> Any:
        return self.keep(self.make_left(type, proto))

    def right(self, type: int = socket.SOCK_STREAM, proto: int = 0) -> Any:
        return self.keep(self.make_right(type, proto))

    def keep(self, sock: Any) -> Any:
        """Close a socket at the end of the test."""
        sock.settimeout(PATIENCE)
        self.cleanup.callback(sock.close)
        return sock

    def make_left(self, type: int, proto: int) -> Any:
        raise NotImplementedError

    def make_right(self, type: int, proto: int) -> Any:
        raise NotImplementedError

    def spawn(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a function beside the test; .result() waits for it."""
        return ThreadTask(function, arguments)

    def let_time_pass(self) -> None:
        """A little: for loops that wait for something that no call waits for."""
        time.sleep(0.005)

    def listener(self, backlog: int = 8) -> tuple[Any, tuple[str, int]]:
        """A listening socket on the right, and the address under which the left reaches it."""
        sock = self.right()
        sock.bind(("", 0))
        sock.listen(backlog)
        return sock, (self.right_host, sock.getsockname()[1])

    def pair(self) -> tuple[Any, Any]:
        """A TCP connection: (left's socket, which connected, right's socket, which was accepted)."""
        listener, address = self.listener()
        left = self.left()
        left.connect(address)
        right, _ = listener.accept()
        listener.close()
        return left, self.keep(right)

    def datagrams(self) -> tuple[Any, tuple[str, int], Any, tuple[str, int]]:
        """Two bound UDP sockets: left, its address as seen by right, right, its address as seen by left."""
        left, right = self.left(socket.SOCK_DGRAM), self.right(socket.SOCK_DGRAM)
        left.bind((self.left_host, 0))
        right.bind((self.right_host, 0))
        return left, left.getsockname(), right, right.getsockname()

    @property
    def is_kernel(self) -> bool:
        return self.name == "kernel"


class KernelWorld(World):
    name = "kernel"
    left_host = right_host = "127.0.0.1"

    def make_left(self, type: int, proto: int) -> Any:
        return socket.socket(socket.AF_INET, type, proto)

    make_right = make_left


class StackWorld(World):
    """Sockets of two ustack stacks (which may be one)."""

    left_stack: ustack.Stack
    right_stack: ustack.Stack

    def make_left(self, type: int, proto: int) -> Any:
        return self.left_stack.socket(socket.AF_INET, type, proto)

    def make_right(self, type: int, proto: int) -> Any:
        return self.right_stack.socket(socket.AF_INET, type, proto)


class PipeWorld(StackWorld):
    name = "pipe"
    left_host, right_host = "10.9.0.1", "10.9.0.2"

    def __init__(self) -> None:
        super().__init__()
        a, b = ustack.pipe()
        self.left_stack = self.cleanup.enter_context(ustack.Stack())
        self.right_stack = self.cleanup.enter_context(ustack.Stack())
        self.left_stack.attach(a, addresses=["10.9.0.1/24"], gateway="10.9.0.2")
        self.right_stack.attach(b, addresses=["10.9.0.2/24"], gateway="10.9.0.1")


class OwnWorld(StackWorld):
    name = "own"
    left_host = right_host = "127.0.0.1"

    def __init__(self) -> None:
        super().__init__()
        self.left_stack = self.right_stack = self.cleanup.enter_context(ustack.Stack())


class SimWorld(StackWorld):
    name = "sim"
    left_host, right_host = "10.9.0.1", "10.9.0.2"

    def __init__(self) -> None:
        super().__init__()
        self.network = self.cleanup.enter_context(sim.Network(seed=1))
        self.left_stack, self.right_stack = self.network.stack("left"), self.network.stack("right")
        addresses = "10.9.0.1/24", "10.9.0.2/24"
        self.wire = self.network.wire(self.left_stack, self.right_stack, addresses=addresses, delay=0.001)

    def spawn(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self.network.spawn(function, *arguments)

    def let_time_pass(self) -> None:
        self.network.run(0.005)


WORLDS = {world.name: world for world in (KernelWorld, PipeWorld, OwnWorld, SimWorld)}
EVERYWHERE = tuple(WORLDS)
WITH_THREADS = ("kernel", "pipe", "own")  # time passes by itself, descriptors can be waited on


def open_world(name: str) -> Iterator[World]:
    """For a fixture: the world of that name, closed afterwards."""
    world = WORLDS[name]()
    with world.cleanup:
        yield world
    # pytest keeps the world for a while; the stacks go now, so that the check for what is left over sees what there is.
    vars(world).clear()
