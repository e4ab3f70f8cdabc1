"""A link whose other side is the embedder: packets out through a callable, packets in through receive().

The stack's side is C: a transmit copies the frame into a bounded queue and goes on. The queue is emptied by whoever
next holds the GIL and no lock: the socket call that caused the frames, or the driver's thread.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_SetObject, PyErr_WriteUnraisable
from libc.errno cimport EBADF, ENOTCONN
from libc.stdint cimport uint8_t, uint32_t
from ustack_ext.base.iov cimport IoVec, Offload
from ustack_ext.link.frameq cimport (Frame, FrameQ, frame_data, frameq_close, frameq_destroy, frameq_give, frameq_init,
                                     frameq_push, frameq_take)
from ustack_ext.link.link cimport FRAME_MIN_ROOM, Link, check_mac, check_mtu

cdef enum:
    CHUNK = 64                 # packets taken under one lock

cdef struct State:
    FrameQ out
    int *python_due            # the driver's, or NULL


cdef int callback_transmit(void *link, const IoVec *iov, int niov, const Offload *off) noexcept nogil:
    cdef State *s = <State *>link
    if s.python_due != NULL:
        s.python_due[0] = 1
    return frameq_push(&s.out, iov, niov, NULL)


cdef class Callback(Link):
    """Callback(send, medium="ethernet", mtu=1500, mac=None, queue=1024, name="callback")

    A link made of two functions: the stack calls send(frame: bytes) for each frame it sends, you call receive(frame)
    for each frame that came.

    Parameters: send, a callable taking one bytes object; it is called with no lock held, may use the stack, and may run
    in any thread that uses it; an exception it raises goes to sys.unraisablehook, and the frame is lost. medium,
    "ethernet" (frames without FCS) or "ip" (packets). mtu, bytes of IP. mac, the stack's Ethernet address (bytes or
    "02:00:00:00:00:01"; default: random). queue, frames that may wait for send() before more are dropped.
    """
    cdef State state
    cdef object send
    cdef bint ready
    cdef bint delivering
    cdef uint32_t frame_max

    def __init__(self, send, medium="ethernet", mtu=1500, mac=None, queue=1024, name="callback"):
        if self.ready:
            raise TypeError("a Callback is initialised once")
        if not callable(send):
            raise TypeError(f"send: {send!r} is not callable")
        if medium not in ("ethernet", "ip"):
            raise ValueError(f'medium: {medium!r} is neither "ethernet" nor "ip"')
        if medium == "ip" and mac is not None:
            raise ValueError('mac: medium "ip" has no Ethernet addresses')
        limit = int(queue)
        if not 1 <= limit <= 1 << 24:
            raise ValueError(f"queue: {limit} frames is not between 1 and {1 << 24}")
        self.mtu = check_mtu(mtu)
        self.medium = medium
        self.mac = check_mac(mac) if medium == "ethernet" else None
        self.name = name
        self.send = send
        self.frame_max = self.mtu + (FRAME_MIN_ROOM if medium == "ethernet" else 0)
        if frameq_init(&self.state.out, limit) != 0:
            raise MemoryError("no memory for a lock")
        self.ready = True
        self.ops.transmit = callback_transmit
        self.ops.state = &self.state

    def __dealloc__(self):
        if self.home.driver != NULL:
            self.home.forget(self.home.driver, self.home.iface)
            self.home.driver = NULL
        if self.ready:
            frameq_destroy(&self.state.out)

    cdef int bind(self) except -1:
        self.state.python_due = self.home.python_due
        return 0

    cdef void unbind(self) noexcept:
        self.state.python_due = NULL

    cpdef close(self):
        """Detach from the stack; frames not yet handed to send() are dropped. Can be called again."""
        cdef Frame *f
        if not self.closed:
            Link.close(self)
            frameq_close(&self.state.out)
            f = frameq_take(&self.state.out, <uint32_t>-1)
            if f != NULL:
                frameq_give(&self.state.out, f)

    cdef bint pending_python(self) noexcept:
        return self.state.out.head != NULL

    cpdef deliver(self):
        """Call send() for every frame that waits. Nothing to do for an embedder: the stack does it."""
        cdef Frame *f
        # Frames keep their order: one thread delivers, and a send() that uses the stack does not start a second round.
        if self.delivering:
            return
        self.delivering = True
        try:
            f = frameq_take(&self.state.out, 1)
            while f != NULL:
                frame = PyBytes_FromStringAndSize(<char *>frame_data(f), f.len)
                frameq_give(&self.state.out, f)
                try:
                    self.send(frame)
                except Exception as error:
                    report_unraisable(error, self.send)
                f = frameq_take(&self.state.out, 1)
        finally:
            self.delivering = False

    def receive(self, packet) -> bool:
        """Hand one frame (medium "ethernet") or IP packet (medium "ip") to the stack.

        Parameters: packet, bytes-like; it is copied. Any thread may call. Returns False if the packet was dropped for
        want of memory; a malformed one is dropped by the stack and counted under its reason.
        Raises OSError ENOTCONN before the link is attached, EBADF after close(), ValueError for an empty packet or one
        longer than the MTU (and an Ethernet header with VLAN tag).
        """
        return self.receive_many((packet,)) == 1

    def receive_many(self, packets) -> int:
        """Hand several packets to the stack under one lock; see receive(). Returns how many were taken."""
        cdef int taken = 0
        driver = self.open_driver()
        checked = packets if type(packets) in (list, tuple) else list(packets)
        for at in range(0, len(checked), CHUNK):
            taken += self.take(checked[at:at + CHUNK])
        driver.deliver()
        return taken

    cdef int take(self, packets) except -1:
        """Up to CHUNK packets.

        Every argument is checked before the lock is taken, and the lock is never held while waiting for the GIL.
        """
        cdef Py_buffer views[CHUNK]
        cdef int n = 0, taken = 0, i
        try:
            for packet in packets:
                PyObject_GetBuffer(packet, &views[n], PyBUF_SIMPLE)
                n += 1
                self.check_length(views[n - 1].len)
            with nogil:
                self.home.lock(self.home.driver)
                for i in range(n):
                    taken += self.home.inject(self.home.driver, self.home.iface, <const uint8_t *>views[i].buf,
                                              <uint32_t>views[i].len) == 0
                self.home.unlock(self.home.driver)
        finally:
            for i in range(n):
                PyBuffer_Release(&views[i])
        return taken

    def open_driver(self):
        """The driver, kept alive by the caller while it uses self.home."""
        if self.closed:
            raise OSError(EBADF, "the link is closed")
        driver = self.driver_ref() if self.driver_ref is not None else None
        if driver is None or self.home.driver == NULL:
            raise OSError(ENOTCONN, "the link is not attached to a stack: stack.attach(link, ...) comes first")
        return driver

    def check_length(self, length):
        if not 1 <= length <= self.frame_max:
            raise ValueError(f"a packet on this link has 1 to {self.frame_max} bytes, not {length}")
        return length

    @property
    def stats(self) -> dict:
        """Frames the stack sent through the link (sent), and those dropped as send() did not keep up (send_dropped)."""
        return {"sent": self.state.out.frames, "send_dropped": self.state.out.dropped}


cdef report_unraisable(error, where):
    """sys.unraisablehook, with the callable as the object at fault."""
    PyErr_SetObject(type(error), error)
    PyErr_WriteUnraisable(where)
