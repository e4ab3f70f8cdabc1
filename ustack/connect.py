"""create_connection() to a host with several addresses: RFC 8305, "Happy Eyeballs".

Responsible for the order of the addresses, and for trying the next one while an earlier one has not answered. Not for:
finding them (ustack/resolve.py).
"""

from __future__ import annotations

import errno
import os
import selectors
from socket import SO_ERROR, SOCK_STREAM, SOL_SOCKET
from typing import TYPE_CHECKING, Any

from . import clock

if TYPE_CHECKING:
    from .socket import Socket
    from .stack import Stack

_ATTEMPT_DELAY = 0.250  # s; RFC 8305 §5
_LEAST = 1e-6  # s; less is nothing but rounding
_IN_PROGRESS = (0, errno.EINPROGRESS, errno.EWOULDBLOCK)


def in_turns(infos: list[Any]) -> list[Any]:
    """Addresses in the order of getaddrinfo(), which is that of RFC 6724, but the families in turns, beginning with the
    first's (RFC 8305 §4).
    """
    first = [one for one in infos if one[0] == infos[0][0]]
    second = [one for one in infos if one[0] != infos[0][0]]
    ordered = []
    for i in range(max(len(first), len(second))):
        ordered += first[i : i + 1] + second[i : i + 1]
    return ordered


def race(stack: Stack, infos: list[Any], timeout: float | None, source: tuple[str, int] | None) -> Socket:
    """The first connection that comes about; others are given up.

    infos: of getaddrinfo, in the order to try. timeout: seconds, for all together; None: as long as TCP tries. Raises
    the last address's OSError, TimeoutError.
    """
    deadline = None if timeout is None else clock.now(stack) + timeout
    running: list[Socket] = []
    waiting = list(infos)
    last: OSError | None = None
    with stack.selector() as selector:
        try:
            while waiting or running:
                if waiting:
                    sock, error = _begin(stack, waiting.pop(0), source)
                    if sock is None:
                        last = error
                        continue
                    running.append(sock)
                    selector.register(sock, selectors.EVENT_WRITE)
                delay = _ATTEMPT_DELAY if waiting else None
                if deadline is not None:
                    left = deadline - clock.now(stack)
                    if left <= _LEAST:
                        raise TimeoutError("timed out")
                    delay = left if delay is None else min(delay, left)
                for key, _ in selector.select(delay):
                    done: Any = key.fileobj
                    selector.unregister(done)
                    running.remove(done)
                    code = done.getsockopt(SOL_SOCKET, SO_ERROR)
                    if code == 0:
                        return done
                    done.close()
                    last = OSError(code, os.strerror(code))
        finally:
            for one in running:
                one.close()
    raise last or OSError("getaddrinfo returns an empty list")


def _begin(stack: Stack, info: Any, source: tuple[str, int] | None) -> tuple[Socket | None, OSError | None]:
    """(a socket that is connecting, None) or (None, why not)."""
    try:
        sock = stack.socket(info[0], SOCK_STREAM)
    except OSError as error:
        return None, error
    try:
        sock.settimeout(0)
        if source:
            sock.bind(source)
        code = sock.connect_ex(info[4])
        if code not in _IN_PROGRESS:
            raise OSError(code, os.strerror(code))
    except OSError as error:
        sock.close()
        return None, error
    return sock, None
