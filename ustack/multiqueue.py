"""ustack.StackGroup: several stacks behind one address, each with a queue of one TAP or TUN device and a thread.

Responsible for: attaching each queue to a stack, listening on all of them at once, and choosing local ports so that the
answers come to the queue of the stack that asked. Not for: steering itself (ustack_ext.link.steer); what a connection
does (ustack.socket). A connection belongs to one stack for its life; the stacks share nothing.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import random
import select
import threading
import time
import weakref
from collections.abc import Iterable
from socket import AF_INET, AF_INET6, SOCK_DGRAM, SOCK_STREAM, socketpair
from typing import Any

from ustack_ext.link.tap import Tap, Tun

from . import connect, resolve
from .records import Connection
from .socket import Socket
from .stack import _NO_TIMEOUT, Stack

_PORT_ATTEMPTS = 64

Name = tuple[Any, ...]  # (host, port), of IPv6 with flow label and zone behind them


class StackGroup:
    """One stack for each queue of a link, all with the same addresses: TCP on as many cores as there are queues.

    link: Tap(queues=N) or Tun(queues=N). With one queue (all that some kernels give) the group is one stack.
    addresses, gateway, mtu, name: as for Stack.attach. memory: bytes of packet memory of each stack.
    Attributes: stacks, a tuple, in the order of the queues. Knobs are set on each: for one in group.stacks:
    one.sysctl[...] = .... What is not TCP (UDP, ping) comes to stacks[0]: its sockets belong there.
    Raises ValueError, OSError.
    """

    def __init__(
        self,
        link: Tap | Tun,
        addresses: Iterable[str] = (),
        gateway: str | Iterable[str] | None = None,
        *,
        mtu: int | None = None,
        name: str | None = None,
        memory: int | None = None,
    ) -> None:
        if not isinstance(link, (Tap, Tun)):
            raise TypeError(f"link: {link!r} is no Tap or Tun")
        addresses = [addresses] if isinstance(addresses, str) else list(addresses)
        self._link = link
        self._turn = itertools.count()
        self._listeners: weakref.WeakSet[Listeners] = weakref.WeakSet()
        self.stacks: tuple[Stack, ...] = ()
        try:
            for queue in link.queues:
                stack = Stack(memory=memory)
                self.stacks += (stack,)
                stack.attach(queue, addresses, gateway, mtu=mtu, name=name)
                addresses = _addresses(stack)
        except BaseException:
            self.close(timeout=0)
            raise

    def close(self, timeout: float = 1.0) -> None:
        """Close every stack, and with them the device; see Stack.close. timeout: seconds for all together."""
        deadline = time.monotonic() + timeout
        for listeners in list(self._listeners):
            listeners.close()
        for stack in self.stacks:
            stack.close(timeout=max(0.0, deadline - time.monotonic()))

    @property
    def closed(self) -> bool:
        """Whether every stack is closed."""
        return all(stack.closed for stack in self.stacks)

    def __enter__(self) -> StackGroup:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<ustack.StackGroup {len(self.stacks)} stacks on {self._link.name}{', closed' if self.closed else ''}>"

    # -- sockets

    def create_server(
        self,
        address: Name,
        *,
        family: int = AF_INET,
        backlog: int | None = None,
        dualstack_ipv6: bool = False,
    ) -> Listeners:
        """Listen on every stack. Arguments and errors are those of Stack.create_server; backlog is each stack's."""
        made: list[Socket] = []
        for _ in range(_PORT_ATTEMPTS):
            try:
                for stack in self._running():
                    at = (address[0], made[0].getsockname()[1]) if made else address
                    sock = stack.create_server(at, family=family, backlog=backlog, dualstack_ipv6=dualstack_ipv6)
                    made.append(sock)
                listeners = Listeners(made)
                self._listeners.add(listeners)
                return listeners
            except OSError as error:
                for sock in made:
                    sock.close()
                # A port that the first stack chose may be taken on another.
                if error.errno != errno.EADDRINUSE or address[1] != 0 or not made:
                    raise
                made.clear()
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))

    def create_connection(
        self,
        address: Name,
        timeout: float | None = _NO_TIMEOUT,
        source_address: Name | None = None,
    ) -> Socket:
        """A connected TCP socket, of each stack in turn; as Stack.create_connection, but only the first of a name's
        addresses is tried. With a source port the stack is the one that the answers come to. Raises OSError,
        TimeoutError."""
        running = self._running()
        if len(running) == 1:
            return running[0].create_connection(address, timeout, source_address)
        stack = running[next(self._turn) % len(running)]
        local, peer = _names(stack, address, source_address)
        if local[1] != 0:
            stack = self.stacks[self._link.queue_of(local, peer)]
            return stack.create_connection(peer, timeout, local)
        for port in self._ports(stack, local, peer):
            try:
                return stack.create_connection(peer, timeout, (local[0], port, *local[2:]))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
        raise OSError(errno.EADDRNOTAVAIL, f"no free port leads to queue {self.stacks.index(stack)}")

    def _ports(self, stack: Stack, local: Name, peer: Name) -> Iterable[int]:
        """Ports of the range, from a random one on (RFC 6056 §3.3.1), whose answers come to `stack`."""
        low, high = _pair(stack.sysctl["net.ipv4.ip_local_port_range"])
        index = self.stacks.index(stack)
        start = random.SystemRandom().randrange(high - low + 1)
        for step in range(high - low + 1):
            port = low + (start + step) % (high - low + 1)
            if self._link.queue_of((local[0], port), peer) == index:
                yield port

    def _running(self) -> list[Stack]:
        found = [stack for stack in self.stacks if not stack.closed]
        if not found:
            raise OSError(errno.EBADF, "the group is closed")
        return found

    # -- what it knows

    def connections(self) -> list[Connection]:
        """What Stack.connections() says of each stack; a listener of the group is there once for each."""
        return [one for stack in self._running() for one in stack.connections()]

    def counters(self) -> dict[str, int]:
        """What Stack.counters() says, added up."""
        total: dict[str, int] = {}
        for stack in self._running():
            for name, value in stack.counters().items():
                total[name] = total.get(name, 0) + value
        return total


class Listeners:
    """A listening socket on each stack of a group, used as one. A context manager.

    Attributes: sockets, the listeners themselves: with a thread for each, in place of accept() here, connections stay
    on their own core.
    """

    def __init__(self, sockets: list[Socket]) -> None:
        self.sockets = tuple(sockets)
        self._serving = self.sockets
        self._timeout: float | None = None
        self._turn = 0
        self._lock = threading.Lock()
        self._closed = False
        self._waiting = 0
        self._epoll = select.epoll()
        self._bell, self._cord = socketpair()  # closing the one makes the other readable
        self._epoll.register(self._bell, select.EPOLLIN)
        for sock in sockets:
            sock.setblocking(False)
            self._epoll.register(sock.fileno(), select.EPOLLIN)

    def accept(self) -> tuple[Socket, Name]:
        """accept() -> (socket, address), from each stack in turn. Raises OSError, TimeoutError, BlockingIOError."""
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        while True:
            found = self._accept_now()
            if found is not None:
                return found
            if self._timeout == 0:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError("timed out")
            self._wait(left)

    def _accept_now(self) -> tuple[Socket, Name] | None:
        with self._lock:
            serving = self._serving
            self._turn += 1
        if self._closed or not serving:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        first = self._turn % len(serving)
        for sock in serving[first:] + serving[:first]:
            try:
                return sock.accept()
            except BlockingIOError:
                continue
            except OSError:
                if not (sock._closed or sock.stack.closed):
                    raise
                self._drop(sock)  # its stack was closed: the others serve on
        return None

    def _wait(self, timeout: float | None) -> None:
        with self._lock:
            if self._closed:
                return
            self._waiting += 1
        try:
            self._epoll.poll(timeout)
        finally:
            with self._lock:
                self._waiting -= 1
                self._close_when_unused()

    def _close_when_unused(self) -> None:
        if self._closed and self._waiting == 0:
            self._epoll.close()
            self._bell.close()

    def _drop(self, sock: Socket) -> None:
        with self._lock:
            self._serving = tuple(one for one in self._serving if one is not sock)
        with contextlib.suppress(OSError, ValueError):
            self._epoll.unregister(sock.fileno())
        sock.close()

    def fileno(self) -> int:
        """A descriptor that is readable while a connection waits on any of them; good for waiting only."""
        return -1 if self._closed else self._epoll.fileno()

    def getsockname(self) -> Name:
        """The address they share. Raises OSError."""
        return self.sockets[0].getsockname()

    def settimeout(self, timeout: float | None) -> None:
        """Seconds that accept() waits; None: for ever; 0: not at all."""
        self._timeout = timeout

    def gettimeout(self) -> float | None:
        """What settimeout() set."""
        return self._timeout

    def setblocking(self, blocking: bool) -> None:
        """settimeout(None) or settimeout(0)."""
        self._timeout = None if blocking else 0.0

    def close(self) -> None:
        """Stop listening; who waits in accept() gets OSError EBADF. Can be called again."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._cord.close()
            self._close_when_unused()
        for sock in self.sockets:
            with contextlib.suppress(OSError):
                sock.close()

    def __enter__(self) -> Listeners:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _pair(value: object) -> tuple[int, int]:
    assert isinstance(value, tuple)
    first, second = value
    return int(first), int(second)


def _addresses(stack: Stack) -> list[str]:
    """What a stack's link has: the others are the same host, also by the link-local address that came by itself."""
    shown = [str(one) for interface in stack.interfaces() if interface.name != "lo" for one in interface.addresses]
    return sorted(shown, key=lambda text: not text.startswith("fe80:"))  # before it would be made anew


def _names(stack: Stack, address: Name, source: Name | None) -> tuple[Name, Name]:
    """(own address and port as far as they are settled, the peer's): what connect() would use. Raises OSError."""
    family = AF_INET6 if ":" in address[0] else AF_INET
    if resolve.is_name(address[0]):
        infos = connect.in_turns(stack.getaddrinfo(address[0], address[1], 0, SOCK_STREAM))
        family, _, _, _, address = infos[0]
    with stack.socket(family, SOCK_DGRAM) as probe:
        if source is not None and source[0]:
            probe.bind((source[0], 0))
        probe.connect(address)  # sends nothing
        name = probe.getsockname()
        return (name[0], source[1] if source else 0, *name[2:]), probe.getpeername()
