"""A stack's forwarder as Python holds it: ForwardCore, the base of ustack.Forwarder.

Responsible for: opening and closing it, the requests to open a flow, and making a socket of one that is accepted. Not
for: what the engine does with SYNs and datagrams nobody listens for (tcp/forward, udp/flow), who is asked
(ustack/forward.py).
"""
from libc.errno cimport EBADF, ECONNABORTED
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy
from ustack_ext.base.event cimport Source
from ustack_ext.driver.atomic cimport atomic_set
from ustack_ext.driver.driver cimport Driver, Native, native_event
from ustack_ext.net.foreign cimport FlowId
from ustack_ext.sockets.address cimport format_address
from ustack_ext.sockets.handle cimport SocketHandle, check, error
from ustack_ext.sockets.stackcore cimport StackCore, running
from ustack_ext.sockets.state cimport (
    SHAPE_STREAM, SHAPE_V6, SK_TCB, SK_UDP, SS_CONNECTED, SockState, sock_enlist,
)
from ustack_ext.tcp.tcb cimport Tcb
from ustack_ext.tcp.tcp cimport forward_accept, forward_close, forward_open, forward_refuse, forward_take
from ustack_ext.udp.udp cimport UdpSock, flow_accept, flow_refuse, flow_take, flows_close, flows_open
from ustack_ext.wire.addr cimport addr_is_v4

cdef enum:
    TAKEN = 64                     # requests looked at a time

cdef struct ForwardState:          # Source.user of the forwarder points here
    Native head
    int *due


cdef void forward_event(Source *source, uint16_t bits) noexcept nogil:
    """There is a request: whoever holds the lock has Python look for it."""
    atomic_set((<ForwardState *>source.user).due, 1)


cdef class ForwardCore:
    """A forwarder of one stack and one protocol; made by Stack.forward_tcp() and Stack.forward_udp()."""
    cdef Driver driver
    cdef ForwardState state
    cdef bint stream
    cdef bint is_open
    cdef object dispatch
    cdef object __weakref__

    def _open(self, StackCore stack not None, bint stream, uint32_t backlog, uint64_t patience, bint pings,
              object dispatch):
        """Begin to take flows. patience: ns. pings: echo requests beside datagrams. dispatch: called, without
        arguments, when there may be requests. Raises OSError: EBUSY (there is a forwarder), EBADF, ENOMEM.
        """
        cdef Driver d = running(stack)
        cdef int rc
        if self.driver is not None:
            raise TypeError("a forwarder is opened once")
        if d.closed:
            raise error(EBADF)
        self.driver = d
        self.stream = stream
        self.state.head.event = forward_event
        self.state.due = d.due
        with nogil:
            d.lock()
            d.native_sink = native_event
            if stream:
                rc = forward_open(&d.engine.tcp, backlog, patience, &self.state)
            else:
                rc = flows_open(&d.engine.udp, backlog, patience, pings, &self.state)
            d.unlock()
        check(rc)
        self.is_open = True
        d.dispatchers.append(dispatch)
        self.dispatch = dispatch

    def close(self):
        """Take no more flows, and forget those that are undecided. Accepted ones go on. Can be called again."""
        cdef Driver d = self.driver
        if not self.is_open:
            return
        self.is_open = False
        d.dispatchers = [one for one in d.dispatchers if one is not self.dispatch]
        self.dispatch = None
        with nogil:
            d.lock()
            if self.stream:
                forward_close(&d.engine.tcp)
            else:
                flows_close(&d.engine.udp)
            d.unlock()

    def __dealloc__(self):
        if self.is_open:
            self.close()

    @property
    def closed(self):
        """Whether it was closed, or its stack."""
        return not self.is_open

    @property
    def undecided(self):
        """Requests that wait for a decision, those not yet shown to the handler among them."""
        cdef Driver d = self.driver
        cdef uint32_t n = 0
        with nogil:
            d.lock()
            if self.is_open:
                n = d.engine.tcp.forward.l.synq if self.stream else d.engine.udp.flows.undecided
            d.unlock()
        return n

    def _take(self):
        """-> [(identity, source, destination), ...]: requests nobody has seen; addresses as a socket's names."""
        cdef FlowId found[TAKEN]
        cdef Driver d = self.driver
        cdef int i, n = 0
        cdef bint six
        if not self.is_open:
            return []
        with nogil:
            d.lock()
            while n < TAKEN and (forward_take(&d.engine.tcp, &found[n]) if self.stream
                                 else flow_take(&d.engine.udp, &found[n])):
                n += 1
            d.unlock()
        rows = []
        for i in range(n):
            six = not addr_is_v4(&found[i].laddr)
            rows.append(((<char *>&found[i])[:sizeof(FlowId)], format_address(&found[i].raddr, found[i].rport, six),
                         format_address(&found[i].laddr, found[i].lport, six)))
        return rows

    def _accept(self, StackCore stack not None, type cls not None, bytes identity not None, uint64_t idle):
        """-> a socket of class `cls`. idle: ns, of a datagram flow. Raises OSError: ENOENT (the request is gone),
        ENOBUFS, ECONNABORTED (the stack is closed).
        """
        cdef FlowId flow
        cdef Driver d = self.driver
        cdef SocketHandle new = cls.__new__(cls)
        cdef SockState *s = &new.state
        cdef Tcb *c = NULL
        cdef UdpSock *u = NULL
        cdef int rc = -ECONNABORTED
        if len(identity) != sizeof(FlowId):
            raise ValueError("no request's identity")
        memcpy(&flow, <const char *>identity, sizeof(FlowId))
        new._adopt(stack, (SHAPE_STREAM if self.stream else 0) | (0 if addr_is_v4(&flow.laddr) else SHAPE_V6))
        with nogil:
            d.lock()
            if not stack.shut and not d.closed:
                if self.stream:
                    rc = forward_accept(&d.engine.tcp, &flow, s, &c)
                else:
                    rc = flow_accept(&d.engine.udp, &flow, idle, s, &u)
            if rc == 0:
                s.obj = <void *>c if self.stream else <void *>u
                s.kind = SK_TCB if self.stream else SK_UDP
                s.connect = SS_CONNECTED
                sock_enlist(&stack.sockets, s)
            d.unlock()
        d.after()
        check(rc)
        s.done = 0
        return new

    def _refuse(self, bytes identity not None, int how, uint8_t code):
        """how: 0 silence, 1 RST, 2 an ICMP error with that code -> whether the request was still there."""
        cdef FlowId flow
        cdef Driver d = self.driver
        cdef int rc
        if len(identity) != sizeof(FlowId):
            raise ValueError("no request's identity")
        memcpy(&flow, <const char *>identity, sizeof(FlowId))
        with nogil:
            d.lock()
            rc = (forward_refuse(&d.engine.tcp, &flow, how, code) if self.stream
                  else flow_refuse(&d.engine.udp, &flow, how, code))
            d.unlock()
        d.after()
        return rc == 0
