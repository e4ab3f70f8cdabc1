"""A service as Python holds it: ServiceCore, the base of ustack.Service.

Responsible for: opening and closing it under the engine's lock, and its counters. Not for: what it does
(service/responder), reading addresses and options (ustack/service.py).
"""
import os as _os

from cython cimport no_gc
from libc.errno cimport EBADF, ENOMEM
from libc.stdint cimport uint16_t, uint32_t
from libc.string cimport memset
from ustack_ext.driver.driver cimport Driver, native_event
from ustack_ext.service.responder cimport (
    ANSWER_MAX, END_MAX, Service, ServiceCounters, service_close, service_forget, service_listen,
    service_new,
)
from ustack_ext.wire.addr cimport Addr


@no_gc
cdef class ServiceCore:
    """A TCP service inside the data plane; made by Stack.start_service()."""
    cdef Driver driver
    cdef Service *service              # NULL once closed
    cdef ServiceCounters last          # its counters when it was closed
    cdef object __weakref__

    def _open(self, Driver driver not None, int kind, object address, uint16_t port, uint32_t backlog,
              bytes answer, bytes end, bint closes, bint report):
        """Begin to listen -> the port. address: the 128-bit number. Raises OSError, ValueError."""
        cdef Addr a
        cdef const unsigned char *text = answer
        cdef const unsigned char *ending = end
        cdef uint32_t text_length = <uint32_t>len(answer)
        cdef uint32_t end_length = <uint32_t>len(end)
        cdef Service *s
        cdef int rc = 0
        if self.driver is not None:
            raise TypeError("a service is opened once")
        if len(answer) > ANSWER_MAX:
            raise ValueError(f"answer: {len(answer)} bytes are more than {ANSWER_MAX}")
        if len(end) > END_MAX:
            raise ValueError(f"end: {len(end)} bytes are more than {END_MAX}")
        if driver.closed:
            raise OSError(EBADF, "the stack is closed")
        a.hi = address >> 64
        a.lo = address & 0xFFFFFFFFFFFFFFFF
        memset(&self.last, 0, sizeof(self.last))
        self.driver = driver
        with nogil:
            driver.lock()
            s = service_new(driver.engine, kind, text, text_length, ending, end_length)
            if s == NULL:
                rc = -ENOMEM
            else:
                s.closes = closes
                s.report = report
                driver.native_sink = native_event
                rc = service_listen(s, &a, port, backlog)
                if rc == 0:
                    port = s.listener.lport
                    self.service = s
                else:
                    service_close(s)
            driver.unlock()
        if rc != 0:
            raise OSError(-rc, _os.strerror(-rc))
        return port

    def close(self):
        """Stop listening, and reset the service's connections. Can be called again."""
        cdef Driver d = self.driver
        cdef Service *s
        if d is None:
            return
        with nogil:
            d.lock()
            s = self.service
            self.service = NULL
            if s != NULL:
                self.last = s.counters
                if d.closed:           # a child of fork(): what is in the engine is a copy
                    service_forget(s)
                else:
                    service_close(s)
            d.unlock()
        d.hand_back()
        d.after()

    def __dealloc__(self):
        if self.service != NULL:
            self.close()

    @property
    def closed(self):
        """Whether it was closed, or never opened."""
        return self.service == NULL

    def counters(self):
        """What happened so far, by name: connections (accepted), open (now), requests (answered in full), bytes_in
        (taken from peers), bytes_out (handed to TCP), oversized (connections reset because a request did not end
        within 16 KiB).
        """
        cdef Driver d = self.driver
        cdef ServiceCounters now
        cdef uint32_t open_now = 0
        if d is None:
            raise OSError(EBADF, "the service was not opened")
        with nogil:
            d.lock()
            if self.service != NULL:
                now = self.service.counters
                open_now = self.service.open
            else:
                now = self.last
            d.unlock()
        return {
            "connections": now.connections, "open": open_now, "requests": now.requests, "bytes_in": now.bytes_in,
            "bytes_out": now.bytes_out, "oversized": now.oversized,
        }
