"""Small servers on a stack with non-blocking sockets: `step` does what can be done now and says whether it did."""

import contextlib
import socket
from typing import Any

CHUNK = 1 << 16
HIGH_WATER = 1 << 18  # bytes an echo keeps before it stops reading


class EchoService:
    """A TCP echo on `stack`, to be put into MemoryCarrier.apps as `service.step`.

    Attributes: connections, the sockets accepted and still open; received, all that every connection got, by peer
    address (kept for the test to look at when `keep` is true); errors, what broke connections.
    """

    def __init__(
        self, stack: Any, port: int = 80, *, backlog: int = 128, keep: bool = False, family: int = socket.AF_INET
    ) -> None:
        self.listener = stack.create_server(("", port), family=family, backlog=backlog)
        self.listener.setblocking(False)
        self.connections: dict[Any, bytearray] = {}
        self.received: dict[tuple[str, int], bytearray] = {}
        self.errors: list[OSError] = []
        self._keep = keep
        self._ended: set[Any] = set()
        self._names: dict[Any, tuple[str, int]] = {}

    def step(self) -> bool:
        """Accept, read, answer, close: whatever is possible now."""
        did = self._accept()
        for connection in list(self.connections):
            try:
                did |= self._serve(connection)
            except OSError as error:
                self.errors.append(error)
                self.drop(connection)
                did = True
        return did

    def _accept(self) -> bool:
        with contextlib.suppress(BlockingIOError):
            connection, name = self.listener.accept()
            connection.setblocking(False)
            self.connections[connection] = bytearray()
            self._names[connection] = name
            if self._keep:
                self.received[name] = bytearray()
            return True
        return False

    def _serve(self, connection: Any) -> bool:
        pending, did = self.connections[connection], False
        with contextlib.suppress(BlockingIOError):
            while connection not in self._ended and len(pending) < HIGH_WATER:
                data = connection.recv(CHUNK)
                did = True
                if not data:
                    self._ended.add(connection)
                pending += data
                if self._keep:
                    self.received[self._names[connection]] += data
        with contextlib.suppress(BlockingIOError):
            while pending:
                sent = connection.send(pending)
                del pending[:sent]
                did = True
        if connection in self._ended and not pending:
            self.drop(connection)
            did = True
        return did

    def drop(self, connection: Any) -> None:
        """Close a connection, whatever is still to be echoed."""
        connection.close()
        self.connections.pop(connection)
        self._ended.discard(connection)
        del self._names[connection]

    def close(self) -> None:
        """Close the listener and every connection."""
        self.listener.close()
        for connection in list(self.connections):
            self.drop(connection)
