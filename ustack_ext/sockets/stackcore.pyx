"""What all sockets of one stack share: the driver, and the list of open sockets, so that closing the stack reaches
each.

Responsible for: connecting the driver's events to sockets, and taking the sockets away from an engine that ends.
Not for: interfaces and routes (sockets/config), reading the tables (sockets/inspect).
"""
from cython cimport no_gc_clear
from ustack_ext.base.event cimport EV_CLOSED
from ustack_ext.driver.driver cimport Driver
from ustack_ext.engine.engine cimport Engine
from ustack_ext.sockets.datagram cimport datagram_release
from ustack_ext.sockets.state cimport CLOSED_BY_STACK, SK_UDP, SockState, sock_delist
from ustack_ext.sockets.stream cimport stream_forget, stream_release
from ustack_ext.sockets.wait cimport sock_event, sock_sync, waiters_fire


cdef void abort_all(StackCore self, Engine *e) noexcept nogil:
    cdef SockState *s = self.sockets
    while s != NULL:
        sock_delist(&self.sockets, s)
        s.closed = CLOSED_BY_STACK
        if s.kind == SK_UDP:
            datagram_release(e, s)
        else:
            stream_release(e, s, True)
        waiters_fire(s, EV_CLOSED)
        sock_sync(s)
        s = self.sockets


cdef void forget_all(StackCore self) noexcept nogil:
    cdef SockState *s = self.sockets
    while s != NULL:
        sock_delist(&self.sockets, s)
        s.closed = CLOSED_BY_STACK
        stream_forget(s)
        s = self.sockets


@no_gc_clear                           # sockets that the collector takes with it still need the driver
cdef class StackCore:
    """Base of ustack.Stack. driver: the driver that runs the stack's engine; it belongs to this stack from here on."""

    def __cinit__(self):
        self.rmem_max = 212992
        self.wmem_max = 212992

    def _start(self, Driver driver not None):
        """Take the driver and its events. Raises RuntimeError when there is one already."""
        if self.driver is not None:
            raise RuntimeError("the stack has a driver")
        self.driver = driver
        driver.sink = sock_event

    @property
    def _driver(self):
        return self.driver

    def _abort_sockets(self):
        """Take every open socket out of the engine: peers get RST, blocked calls end with ECONNABORTED; no new
        sockets.
        """
        cdef Driver d = running(self)
        with nogil:
            d.lock()
            if not self.shut:
                self.shut = True
                if d.closed:           # a child of fork(): engine and descriptors are the parent's
                    forget_all(self)
                else:
                    abort_all(self, d.engine)
            d.unlock()
        d.after()
