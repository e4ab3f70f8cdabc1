"""Payload that isn't copied, as Python holds it.

Responsible for: View, received buffers that the program reads in place and hands back; Completion, memory of the
program's that the stack sends from, and when it is the program's again; bytes, which nobody can change, and which the
stack keeps for as long as it sends from them. Not for: queues (tcp/zerocopy), the calls (sockets/core).

A View keeps its socket, and so the stack and the pool that its memory is from: a memoryview of it is good for as long
as anybody has it, whatever becomes of the connection and the stack. The other way round, the stack keeps a Completion
until the last byte is acknowledged or given up.
"""
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from cython cimport final, no_gc_clear
from libc.stdint cimport UINT64_MAX, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy
from ustack_ext.base.buf cimport Owner, buf_unref, owner_unref
from ustack_ext.base.event cimport EV_CLOSED
from ustack_ext.driver.driver cimport Driver, Waiter, waiter_get, waiter_put
from ustack_ext.sockets.buffers cimport Buffers
from ustack_ext.sockets.handle cimport SocketHandle
from ustack_ext.sockets.hold cimport hold, let_go
from ustack_ext.sockets.state cimport SK_TCB
from ustack_ext.sockets.wait cimport waiter_link, waiter_unlink, waiters_fire
from ustack_ext.tcp.reassembly cimport Lent
from ustack_ext.tcp.tcb cimport Tcb
from ustack_ext.tcp.tcp cimport tcp_give_back

cdef enum:
    NS = 1000000000
    FOREVER = 1000000000           # s; more is as good as no timeout


# -- received

@final
@no_gc_clear
cdef class Loan:
    """What one recv_view() took out of the queue; goes back when the last memoryview of it is gone."""
    cdef SocketHandle sock
    cdef void *tcb                     # compared, never followed, unless it still is the socket's
    cdef Lent *lent                    # malloc
    cdef int count

    def __dealloc__(self):
        if self.lent != NULL:
            hand_back(self.sock, self.tcb, self.lent, self.count)
            free(self.lent)


cdef void hand_back(SocketHandle sock, void *tcb, const Lent *lent, int count) noexcept:
    cdef Driver d = sock.stack.driver
    cdef uint32_t bytes = 0
    cdef int i
    with nogil:
        d.lock()
        for i in range(count):
            bytes += lent[i].len
            buf_unref(&d.engine.core.pool, lent[i].buf)
        if sock.state.kind == SK_TCB and sock.state.obj == tcb:
            tcp_give_back(&d.engine.tcp, <Tcb *>tcb, bytes)
        d.unlock()


@final
cdef class Piece:
    """The exporter of one memoryview."""
    cdef Loan loan
    cdef uint8_t *data
    cdef Py_ssize_t len

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.data, self.len, 1, flags)


@final
cdef class View:
    """What recv_view() received: a sequence of read-only memoryviews, in order, over the stack's own buffers.

    nbytes: bytes in all; 0 at the end of the stream. The memory is the receive queue's until it is handed back, by
    release(), at the end of a `with` block, or when the view and all that was made of it is gone; so much less may the
    peer send.
    """

    def __init__(self):
        raise TypeError("recv_view() makes these")

    def __len__(self):
        return len(self.pieces)

    def __getitem__(self, index):
        return self.pieces[index]

    def __iter__(self):
        return iter(self.pieces)

    def __bytes__(self):
        return b"".join(self.pieces)

    def tobytes(self):
        """A copy of all of it."""
        return b"".join(self.pieces)

    def release(self):
        """Hand the memory back; the memoryviews can't be used any more. Can be called again.

        Slices, and what else was made of the memoryviews, stay good, and keep the memory until they are gone.
        """
        cdef list pieces = self.pieces
        self.pieces = []
        for piece in pieces:
            try:
                piece.release()
            except BufferError:        # somebody works on it: it goes when he lets go
                pass

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.release()

    def __repr__(self):
        return f"<ustack.View {self.nbytes} bytes in {len(self.pieces)} pieces>"


cdef View lend(SocketHandle sock, void *tcb, const Lent *pieces, int count):
    """Takes over the references of `pieces`, whatever happens."""
    cdef View view = View.__new__(View)
    cdef Loan loan = Loan.__new__(Loan)
    cdef Piece piece
    cdef int i
    view.pieces = []
    if count == 0:
        return view
    loan.sock = sock
    loan.tcb = tcb
    loan.lent = <Lent *>malloc(count * sizeof(Lent))
    if loan.lent == NULL:
        hand_back(sock, tcb, pieces, count)
        raise MemoryError
    memcpy(loan.lent, pieces, count * sizeof(Lent))
    loan.count = count
    for i in range(count):
        piece = Piece.__new__(Piece)
        piece.loan = loan
        piece.data = pieces[i].data
        piece.len = pieces[i].len
        view.pieces.append(memoryview(piece))
        view.nbytes += piece.len
    return view


# -- sent

@final
@no_gc_clear
cdef class Completion:
    """A buffer that is being sent without having been copied; made by send_zerocopy().

    nbytes: how many bytes of it were taken. Until done() is true its memory must not change, and stays exported: a
    bytearray can't be resized, a mapping can't be closed.
    """

    def __init__(self):
        raise TypeError("send_zerocopy() makes these")

    def done(self):
        """Whether the stack needs the buffer no more: every byte was acknowledged, or the connection is over."""
        self.driver.after()
        return self.completed

    @property
    def acknowledged(self):
        """True: the peer has acknowledged every byte; False: not so, and it will not; None: that is not known yet."""
        if not self.done():
            return None
        return not self.owner.given_up

    def wait(self, timeout=None):
        """Wait until done(), at most `timeout` seconds (None: for ever) -> done(). With the manual driver nothing
        waits.
        """
        cdef Driver d = self.driver
        cdef double seconds = FOREVER if timeout is None else timeout
        cdef uint64_t deadline = UINT64_MAX
        cdef Waiter *w
        cdef int fired = 1
        if self.done() or not seconds > 0:
            return self.completed
        if seconds < FOREVER:
            deadline = d.now() + <uint64_t>(seconds * NS)
        w = waiter_get(d)
        w.want = EV_CLOSED
        try:
            collecting = hold(d)
            waiter_link(&self.hub, w)
            let_go(d, collecting)
            while fired == 1 and not self.completed:
                fired = d.wait(w, deadline)
                d.after()
        finally:
            collecting = hold(d)
            waiter_unlink(&self.hub, w)
            let_go(d, collecting)
            waiter_put(w)
        return self.completed

    cdef void sent(self, Py_ssize_t nbytes) noexcept:
        """No more of it will be queued."""
        self.nbytes = nbytes
        kept(self.driver, &self.owner)

    def __repr__(self):
        return f"<ustack.Completion of {self.nbytes} bytes{', done' if self.completed else ''}>"


cdef void complete(Owner *o) noexcept:
    cdef Completion self = <Completion>o.holder
    cdef object callback = self.callback
    cdef Driver d = self.driver
    self.buffers = None
    self.callback = None
    self.completed = True
    if self.hub.waiters != NULL:
        with nogil:
            d.lock()
            waiters_fire(&self.hub, EV_CLOSED)
            d.unlock()
    Py_DECREF(self)                    # the stack's reference; `self` has another
    if callback is not None:
        callback(self)


cdef Completion begin_completion(Driver driver, Buffers buffers, object callback):
    """Lives until `complete`, which follows when sent() was called and no block points into the buffers any more."""
    cdef Completion self = Completion.__new__(Completion)
    self.driver = driver
    self.buffers = buffers
    self.callback = callback
    self.owner.refs = 1
    self.owner.done = complete
    self.owner.holder = <void *>self
    Py_INCREF(self)
    return self


cdef struct Kept:
    Owner owner
    PyObject *data


cdef void drop(Owner *o) noexcept:
    cdef Kept *self = <Kept *>o
    Py_DECREF(<object>self.data)
    free(self)


cdef Owner *keep(bytes data):
    cdef Kept *self = <Kept *>calloc(1, sizeof(Kept))
    if self == NULL:
        return NULL
    self.owner.refs = 1
    self.owner.patient = 1
    self.owner.done = drop
    self.data = <PyObject *>data
    Py_INCREF(data)
    return &self.owner


cdef void kept(Driver driver, Owner *owner) noexcept:
    with nogil:
        driver.lock()
        owner_unref(&driver.engine.core.pool, owner)
        driver.unlock()
