"""ustack.Capture: the frames of a stack's interfaces, in a pcapng file.

Responsible for: the file, and the thread that writes it. Not for: which frames, and what became of them
(ustack_ext.net.capture), the bytes of a block (ustack_ext.wire.pcapng).

A stack that runs by itself never waits for the file: a thread writes it, and what comes faster than that is counted in
`dropped`. A stack that is driven by hand, or lives in virtual time, writes from within poll(), or between two events,
when a quarter of the buffer is full.
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING, Any, cast

from ustack_ext.sockets.capture import CaptureCore

from . import __version__, bpf, pcapng

if TYPE_CHECKING:
    from .stack import Stack

SNAPLEN = 262144
BUFFER = 8 << 20  # bytes
_PATIENCE = 1.0  # seconds that a file object may take with what it was given before it is told to abort(), if it can
_LINGER = 20_000_000  # ns that a frame may wait for more, so that a write is worth its while


class Capture(CaptureCore):
    """Frames on their way into a file; made by Stack.capture(). A context manager that closes it.

    A file object that has abort() is told by it that nothing more is written; a write() that waits is to end then.
    """

    def __init__(
        self,
        stack: Stack,
        target: Any,
        *,
        interface: str | None = None,
        filter: str | bpf.Program | dict[str, bpf.Program] | None = None,
        snaplen: int = SNAPLEN,
        buffer: int = BUFFER,
    ) -> None:
        ether, ip = _programs(filter)
        self._pid = os.getpid()
        self._error: BaseException | None = None
        self._is_closed = False
        self._writing = threading.RLock()
        self._busy = False
        self._thread: threading.Thread | None = None
        self._begin(stack, interface, ether, ip, snaplen, buffer)
        self._own = not hasattr(target, "write")
        self._file: Any = None
        try:
            self._file = open(target, "wb") if self._own else target  # noqa: SIM115 - close() closes it
            self._put(pcapng.section(f"ustack {__version__}".encode()))
        except BaseException:
            self._is_closed = True
            self._stop()
            if self._own and self._file is not None:
                self._file.close()
            raise
        if self._has_thread():
            self._thread = threading.Thread(target=self._run, name="ustack-capture", daemon=True)
            self._thread.start()

    @property
    def closed(self) -> bool:
        """Whether close() was called, or the file could not be written any more."""
        return self._is_closed

    @property
    def error(self) -> BaseException | None:
        """Why the file could not be written any more; None: it could."""
        return self._error

    def flush(self) -> None:
        """Write what was captured so far. Raises what writing raised, now or before: OSError."""
        if not self._is_closed:
            self._write()
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """End it: what was captured is written, a file that was given by its path closed. Can be called again.

        Raises what writing raised: OSError.
        """
        if not self._is_closed:
            self._end()
            if self._error is not None:
                raise self._error

    def _end(self) -> None:
        self._is_closed = True
        self._stop()
        abort = getattr(self._file, "abort", lambda: None)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_PATIENCE)
            if self._thread.is_alive():
                abort()
            self._thread.join()
        if os.getpid() == self._pid:  # what a child of fork() has in its buffer, the parent writes
            self._write()
        abort()
        if self._own:
            with contextlib.suppress(OSError):
                self._file.close()

    def _run(self) -> None:
        while self._wait(_LINGER) and self._error is None:
            self._write()

    def _write(self) -> None:
        with self._writing:
            if self._busy:  # what is written calls the stack, which calls this
                return
            self._busy = True
            try:
                data = self._take()
                if data and self._error is None:
                    self._put(data)
            except Exception as error:  # a file object may raise anything
                self._error = error
                self._is_closed = True
                self._stop()
            finally:
                self._busy = False
        self._after()

    def _put(self, data: bytes) -> None:
        self._file.write(data)
        if hasattr(self._file, "flush"):
            self._file.flush()

    def __enter__(self) -> Capture:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<ustack.Capture {self.frames} frames, {self.dropped} dropped{', closed' if self._is_closed else ''}>"


def _programs(given: Any) -> tuple[bytes | None, bytes | None]:
    """Of Ethernet interfaces, and of IP interfaces. Raises ValueError, FileNotFoundError."""
    if given is None:
        return None, None
    if isinstance(given, str):
        return bpf.compile_filter(given, "ethernet"), bpf.compile_filter(given, "ip")
    if isinstance(given, dict):
        ether, ip = given.get("ethernet"), given.get("ip")
        return None if ether is None else bpf.packed(ether), None if ip is None else bpf.packed(ip)
    program = bpf.packed(given)
    return program, program


class Capturing:
    """A base class of ustack.Stack."""

    def _no_captures(self) -> None:
        self._captures: list[Capture] = []

    def _end_captures(self) -> None:
        for capture in self._captures:
            with contextlib.suppress(OSError):
                capture.close()
        self._captures.clear()

    def capture(self, target: Any, **options: Any) -> Capture:
        """Write the frames of this stack's interfaces into a pcapng file, from now on -> Capture; a context manager.

        target: a path, or a binary file object, which stays open. Each frame has its interface, its direction and, if
        the stack dropped it, the names of the counters that say why, as a comment. options:
        interface: the name of the only one that is wanted.
        filter: an expression (pcap-filter(7); tcpdump has to be installed), or a classic BPF program: bytes, or (code,
        jt, jf, k) of each instruction; {"ethernet": …, "ip": …} where interfaces of both kinds need their own.
        snaplen: bytes of each frame at most; buffer: bytes that wait for the file at most: beyond it frames are not
        captured, and counted in Capture.dropped.
        Superframes are written as they are, of a link without segmentation offload as they were before they were cut.
        Checksums that are the link's to fill in are not right yet.
        Raises OSError: ENODEV, EINVAL (filter), and of the file; ValueError; FileNotFoundError (no tcpdump).
        """
        made = Capture(cast("Stack", self), target, **options)
        self._captures = [*(one for one in self._captures if not one.closed), made]
        return made
