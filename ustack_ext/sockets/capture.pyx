"""A capture as Python holds it: CaptureCore, the base of ustack.Capture.

Responsible for: putting it into the engine and taking it out, handing over what was written down, waiting for more. Not
for: files and threads (ustack/capture.py), what is in it (net/capture).

The room is there twice: while what one half has is being written to the file, the other takes what comes. So the
engine's lock is held for a moment, however slow the file is.
"""
import os as _os
import time as _time

from cython cimport no_gc_clear
from libc.errno cimport EBADF, ENODEV
from libc.stdint cimport UINT64_MAX, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy
from ustack_ext.base.bpf cimport Bpf, bpf_free, bpf_new
from ustack_ext.driver.atomic cimport atomic_set
from ustack_ext.driver.clock cimport clock_monotonic
from ustack_ext.driver.driver cimport Driver, Waiter, waiter_get, waiter_put, waiter_sleep
from ustack_ext.net.capture cimport CAPTURE_LEAST, capture_start, capture_stop, capture_take
from ustack_ext.net.net cimport iface_by_name
from ustack_ext.net.state cimport Capture, Iface
from ustack_ext.sockets.stackcore cimport StackCore, running

cdef enum:
    SHARE = 4                      # a buffer of which this part is in use is worth being written


cdef Bpf *program_of(bytes raw) except? NULL:
    cdef int status = 0
    cdef Bpf *made
    if raw is None:
        return NULL
    made = bpf_new(<const uint8_t *><const char *>raw, len(raw), &status)
    if made == NULL:
        raise OSError(-status, f"{_os.strerror(-status)}: filter")
    return made


@no_gc_clear                           # leaving needs the driver
cdef class CaptureCore:
    """Base of ustack.Capture."""
    cdef Driver driver
    cdef Capture *capture
    cdef uint8_t *spare
    cdef Waiter *waiter            # the driver may look at it after it is through with it: it is one of those it keeps
    cdef bint stopped

    def __dealloc__(self):
        if self.capture == NULL:
            return
        if not self.stopped:
            self.leave()
        if self.waiter != NULL:
            waiter_put(self.waiter)
        bpf_free(self.capture.ether_filter)
        bpf_free(self.capture.ip_filter)
        free(self.capture.data)
        free(self.capture)
        free(self.spare)

    def _begin(self, StackCore stack not None, str interface, bytes ether, bytes ip, uint32_t snaplen, size_t size):
        """interface: None for all; ether, ip: filters of Ethernet and IP interfaces, None: everything; size: bytes.

        Raises OSError: ENODEV, EINVAL (a program that is refused), EBADF; ValueError; MemoryError.
        """
        cdef Driver d = running(stack)
        cdef bytes name = b"" if interface is None else interface.encode()
        cdef const char *cname = name
        cdef Capture *c
        if self.capture != NULL:
            raise TypeError("a capture begins once")
        if size // 2 < CAPTURE_LEAST:
            raise ValueError(f"buffer: {size} bytes are fewer than {2 * CAPTURE_LEAST}")
        if snaplen == 0:
            raise ValueError("snaplen: 0 bytes of each packet are none")
        if d.closed:
            raise OSError(EBADF, "the stack is closed")
        if name and not self.there_is(d, cname):
            raise OSError(ENODEV, f"{_os.strerror(ENODEV)}: {interface}")
        self.stopped = True
        self.capture = c = <Capture *>calloc(1, sizeof(Capture))
        self.spare = <uint8_t *>malloc(size // 2)
        if c == NULL or self.spare == NULL:
            raise MemoryError("no memory for a capture")
        c.data = <uint8_t *>malloc(size // 2)
        if c.data == NULL:
            raise MemoryError("no memory for a capture")
        c.ether_filter = program_of(ether)
        c.ip_filter = program_of(ip)
        c.size = size // 2
        c.enough = c.size // SHARE
        c.snaplen = snaplen
        c.epoch = 0 if d.kind == "virtual" else _time.time_ns() - <object>d.now()
        memcpy(c.name, cname, len(name))
        self.driver = d
        self.threaded(d)
        with nogil:
            d.lock()
            capture_start(&d.engine.net, c)
            self.stopped = False
            d.unlock()
        d.after()

    cdef bint there_is(self, Driver d, const char *name):
        cdef Iface *i
        with nogil:
            d.lock()
            i = iface_by_name(&d.engine.net, name)
            d.unlock()
        return i != NULL

    cdef threaded(self, Driver d):
        """Who writes: a thread, woken by the driver, or, where time is not the real one, the driver's deliver()."""
        self.waiter = waiter_get(d)
        if self._has_thread():
            self.capture.waiter = self.waiter
        else:
            d.dispatchers.append(self._write)

    def _has_thread(self):
        """Whether a thread of the capture's own has to call _wait() and _write()."""
        return self.driver.kind in ("thread", "asyncio")

    def _write(self):
        """Overridden: what is there goes to the file."""

    cdef void leave(self) noexcept:
        cdef Driver d = self.driver
        with nogil:
            d.lock()
            if not self.stopped:
                capture_stop(&d.engine.net, self.capture)
                self.stopped = True
                if self.capture.waiter != NULL:
                    d.fire(self.waiter)
            d.unlock()

    def _stop(self):
        """Nothing more is written down. What is there stays until it is taken."""
        if self.capture == NULL or self.stopped:
            return
        self.leave()
        if not self._has_thread() and self._write in self.driver.dispatchers:
            self.driver.dispatchers.remove(self._write)
        self.driver.after()

    def _take(self):
        """What was written down since the last time: whole blocks. One caller at a time."""
        cdef Driver d = self.driver
        cdef size_t used
        cdef uint8_t *full
        with nogil:
            d.lock()
            full = capture_take(self.capture, self.spare, &used)
            if not self.stopped:
                atomic_set(&self.waiter.fired, 0)
            d.unlock()
        self.spare = full
        return (<char *>full)[:used]

    def _after(self):
        """What _take() left to be done in Python; it may come back to _write()."""
        self.driver.after()

    def _wait(self, uint64_t linger):
        """Wait, in the writer's thread, until there is something, and then `linger` ns at most for enough of it.

        False: the capture was stopped.
        """
        cdef Driver d = self.driver
        cdef bint more
        with nogil:
            while waiter_sleep(self.waiter, UINT64_MAX) < 0:
                pass
            d.lock()
            more = not self.stopped and self.capture.told < 2
            if more:
                atomic_set(&self.waiter.fired, 0)
            d.unlock()
            if more:
                waiter_sleep(self.waiter, clock_monotonic() + linger)
        d.after()
        return not self.stopped

    @property
    def frames(self):
        """Frames written down so far."""
        return 0 if self.capture == NULL else self.capture.frames

    @property
    def dropped(self):
        """Frames that were not, for want of room: the file was slower than they came."""
        return 0 if self.capture == NULL else self.capture.dropped
