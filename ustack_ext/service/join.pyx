"""A relay as Python holds it: RelayCore, the base of ustack.gateway's.

Responsible for: opening and closing it under the engine's lock, giving it flows and sockets, its counters. Not for:
what it does (service/relay), where flows lead (ustack/gateway.py).
"""
import os as _os

from libc.errno cimport EBADF, EBUSY
from libc.stdint cimport uint16_t, uint64_t
from libc.string cimport memcpy, memset
from ustack_ext.driver.driver cimport Driver, native_event
from ustack_ext.net.foreign cimport FlowId
from ustack_ext.service.relay cimport (
    JOIN_DATAGRAMS, JOIN_PING, JOIN_RAW_PING, JOIN_STREAM, Relay, RelayCounters, relay_free, relay_join, relay_new,
    relay_turn,
)

STREAM, DATAGRAMS, PING, RAW_PING = JOIN_STREAM, JOIN_DATAGRAMS, JOIN_PING, JOIN_RAW_PING


cdef class RelayCore:
    """RelayCore(driver): joins flows of a stack to sockets of the host. driver: one with a thread of its own.

    Raises TypeError (another driver), OSError: EBADF (it is closed), EBUSY (it has a relay), EMFILE, ENOMEM.
    """
    cdef Driver driver
    cdef Relay *relay
    cdef RelayCounters last            # its counters when it was closed
    cdef object __weakref__

    def __init__(self, Driver driver not None):
        cdef Relay *made = NULL
        cdef int rc = 0
        if self.driver is not None:
            raise TypeError("a relay is opened once")
        if driver.kind != "thread":
            raise TypeError(f"a relay needs a stack with the driver 'thread', not {driver.kind!r}")
        memset(&self.last, 0, sizeof(self.last))
        self.driver = driver
        with nogil:
            driver.lock()
            if driver.closed:
                rc = -EBADF
            elif driver.host_fd >= 0:
                rc = -EBUSY
            else:
                made = relay_new(driver.engine, &rc)
            if made != NULL:
                rc = 0
                driver.native_sink = native_event
                driver.host_ready = relay_turn
                driver.host = made
                driver.host_fd = made.set
                driver.generation += 1
            driver.unlock()
        if rc != 0:
            raise OSError(-rc, _os.strerror(-rc))
        self.relay = made
        driver.kick()

    def join(self, bytes identity not None, int fd, int kind, uint64_t idle, uint16_t ident=0):
        """Join a forwarder's request to a socket, non-blocking, connected or connecting, which is the relay's then.

        identity: of the request. kind: STREAM, DATAGRAMS, PING (a ping socket), RAW_PING (a raw one, whose requests
        have that ident). idle: ns without a datagram after which such a flow ends; 0: never. The request is accepted
        when the socket is connected, and refused when it cannot be. Raises OSError: EBADF (closed), ENOMEM, ENOSPC,
        ENOBUFS (too many pings).
        """
        cdef FlowId flow
        cdef Driver d = self.driver
        cdef int rc = -EBADF
        if len(identity) != sizeof(FlowId):
            raise ValueError("no request's identity")
        memcpy(&flow, <const char *>identity, sizeof(FlowId))
        with nogil:
            d.lock()
            if self.relay != NULL:
                rc = relay_join(self.relay, &flow, fd, kind, ident, idle)
            d.unlock()
        if rc != 0:
            raise OSError(-rc, _os.strerror(-rc))

    def close(self):
        """Reset every flow, and its socket. Can be called again."""
        cdef Driver d = self.driver
        cdef Relay *r
        if d is None:
            return
        with nogil:
            d.lock()
            r = self.relay
            self.relay = NULL
            if r != NULL:
                self.last = r.counters
                d.host_fd = -1
                d.host = NULL
                d.generation += 1
                relay_free(r)
            d.unlock()
        d.kick()

    def __dealloc__(self):
        if self.relay != NULL:
            self.close()

    @property
    def open(self):
        """Flows there are now, those whose socket is connecting among them."""
        cdef Driver d = self.driver
        cdef uint64_t n = 0
        with nogil:
            d.lock()
            if self.relay != NULL:
                n = self.relay.open
            d.unlock()
        return n

    def counters(self):
        """What happened so far, by name: flows (joined), refused (the host could not connect), bytes_in (from the stack
        to the host), bytes_out.
        """
        cdef Driver d = self.driver
        cdef RelayCounters now
        with nogil:
            d.lock()
            now = self.relay.counters if self.relay != NULL else self.last
            d.unlock()
        return {"flows": now.flows, "refused": now.refused, "bytes_in": now.bytes_in, "bytes_out": now.bytes_out}
