"""A link whose other side is the embedder: packets out through a callable, packets in through receive().

The stack's side is C: a transmit copies the frame into a bounded queue and goes on. The queue is emptied by whoever
next holds the GIL and no lock: the socket call that caused the frames, or the driver's thread.
"""

from operator import index

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_SetObject, PyErr_WriteUnraisable
from libc.errno cimport EBADF, ENOTCONN
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy
from ustack_ext.base.iov cimport OFF_CSUM_VERIFIED, OFF_CSUM_WANTED, IoVec, Offload
from ustack_ext.link.framing cimport Framing, framing_destroy, framing_init, framing_next, framing_put
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
    """Callback(send=None, medium="ethernet", mtu=1500, mac=None, queue=1024, name="callback", *, send_many=None,
    send_stream=None, length_bytes=2, verify_checksums=True, generate_checksums=True)

    A link made of two functions: the stack calls send(frame: bytes) for each frame it sends, you call receive(frame)
    for each frame that came.

    Parameters: send, a callable taking one bytes object; it is called with no lock held, may use the stack, and may run
    in any thread that uses it (with driver="asyncio": in the loop's); an exception it raises goes to
    sys.unraisablehook, and the frame is lost. If it returns False, the frame was not taken: it waits, and what follows
    it, until resume() is called. send_many, instead of send: a callable taking a list of frames, all that wait at this
    moment, up to 64; it returns None, or how many of them it took, and for the others resume() is awaited, too.
    send_stream, instead of either: a callable taking one bytes object, as many of those frames as there are one behind
    another, each after its length in length_bytes (2 or 4, big-endian; 0, for packets: they follow each other, and say
    in their own headers how long they are); it returns what send does. receive_stream() is its other side.
    medium, "ethernet" (frames without FCS) or "ip" (packets). mtu, bytes of IP, 68 to 65535. mac, the stack's Ethernet
    address (bytes or "02:00:00:00:00:01"; default: random). queue, frames that may wait for send() before more are
    dropped. verify_checksums, generate_checksums: False for what is authenticated anyway: TCP's, UDP's and ICMP's
    checksums of received frames are not looked at; those of TCP and UDP in sent ones cover the pseudo-header only, as
    if a device were to finish them, and whoever receives them must not verify them.
    """
    cdef State state
    cdef object send
    cdef object send_many
    cdef object send_stream
    cdef list held                     # what send_many(), send() or send_stream() has not taken
    cdef uint32_t held_frames          # in a stream of them
    cdef Framing framing
    cdef bint reading                  # a thread is in receive_stream()
    cdef uint64_t refused              # of a stream: the stack had no memory for them
    cdef bint busy                     # ... and resume() has not been called
    cdef uint32_t resumed              # times that it was
    cdef bint ready
    cdef bint delivering
    cdef uint32_t frame_max
    cdef Offload received              # what is said of every frame

    def __init__(self, send=None, medium="ethernet", mtu=1500, mac=None, queue=1024, name="callback", *,
                 send_many=None, send_stream=None, length_bytes=2, verify_checksums=True, generate_checksums=True):
        if self.ready:
            raise TypeError("a Callback is initialised once")
        given = [one for one in (send, send_many, send_stream) if one is not None]
        if len(given) != 1:
            raise TypeError("one of send, send_many and send_stream is needed")
        if not callable(given[0]):
            raise TypeError(f"send: {given[0]!r} is not callable")
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
        self.send_many = send_many
        self.send_stream = send_stream
        self.held = []
        if not verify_checksums:
            self.received.flags = OFF_CSUM_VERIFIED
        if not generate_checksums:
            self.offload_flags = OFF_CSUM_WANTED
        self.frame_max = self.mtu + (FRAME_MIN_ROOM if medium == "ethernet" else 0)
        if send_stream is not None:
            self.open_stream(length_bytes)
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
        framing_destroy(&self.framing)

    cdef open_stream(self, object prefix):
        if prefix not in (0, 2, 4):
            raise ValueError(f"length_bytes: {prefix!r} is none of 0, 2 and 4")
        if prefix == 0 and self.medium != "ip":
            raise ValueError('length_bytes: only packets (medium "ip") say their own length')
        if prefix == 2 and self.frame_max > 0xFFFF:
            raise ValueError(f"length_bytes: a frame may have {self.frame_max} bytes, which 2 cannot say")
        if framing_init(&self.framing, prefix, self.frame_max) != 0:
            raise MemoryError("no memory for a packet")

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
            self.held = []
            f = frameq_take(&self.state.out, <uint32_t>-1)
            if f != NULL:
                frameq_give(&self.state.out, f)

    cdef bint pending_python(self) noexcept:
        return not self.busy and (self.state.out.head != NULL or len(self.held) > 0)

    cpdef deliver(self):
        """Call send() for every frame that waits. Nothing to do for an embedder: the stack does it."""
        # Frames keep their order: one thread delivers, and a send() that uses the stack does not start a second round.
        if self.delivering:
            return
        self.delivering = True
        try:
            while not self.busy and (self.held or self.fetch()):
                frames = self.held
                self.held = []
                resumed = self.resumed
                taken = self.hand_over(frames)
                if taken < len(frames):
                    self.held = frames[taken:]
                    self.busy = self.resumed == resumed      # resume() may come before send() has returned
        finally:
            self.delivering = False

    cdef bint fetch(self) except -1:
        """Move what the stack has sent to `held`. False: nothing."""
        cdef Frame *first = frameq_take(&self.state.out, 1 if self.send is not None else CHUNK)
        cdef Frame *f = first
        if first == NULL:
            return False
        try:
            if self.send_stream is not None:
                self.held.append(self.joined(first))
                return True
            while f != NULL:
                self.held.append(PyBytes_FromStringAndSize(<char *>frame_data(f), f.len))
                f = f.next
        finally:
            frameq_give(&self.state.out, first)
        return True

    cdef bytes joined(self, Frame *first):
        """Frames one behind another, each after its length."""
        cdef Frame *f = first
        cdef Py_ssize_t total = 0
        cdef uint8_t *at
        self.held_frames = 0
        while f != NULL:
            total += self.framing.prefix + f.len
            self.held_frames += 1
            f = f.next
        made = PyBytes_FromStringAndSize(NULL, total)
        at = <uint8_t *>PyBytes_AS_STRING(made)
        f = first
        while f != NULL:
            framing_put(&self.framing, at, f.len)
            memcpy(at + self.framing.prefix, frame_data(f), f.len)
            at += self.framing.prefix + f.len
            f = f.next
        return made

    cdef Py_ssize_t hand_over(self, list frames) except -1:
        """How many of the frames were taken; those of which an exception was raised count as taken, and are lost."""
        send = self.send if self.send_stream is None else self.send_stream
        try:
            if self.send_many is None:
                return 0 if send(frames[0]) is False else 1
            taken = self.send_many(frames)
            return len(frames) if taken is None else min(max(index(taken), 0), len(frames))
        except Exception as error:
            report_unraisable(error, self.send_many if send is None else send)
            return len(frames)

    def resume(self):
        """send() takes frames again: those that wait are handed over. Any thread may call."""
        self.resumed += 1
        self.busy = False
        driver = self.driver_ref() if self.driver_ref is not None else None
        if driver is not None:
            driver.deliver()

    def receive(self, packet) -> bool:
        """Hand one frame (medium "ethernet") or IP packet (medium "ip") to the stack.

        Parameters: packet, bytes-like; it is copied. Any thread may call. Returns False if the stack has no memory for
        it just now: offer it again later, or drop it. A malformed one is dropped by the stack and counted under its
        reason.
        Raises OSError ENOTCONN before the link is attached, EBADF after close(), ValueError for an empty packet or one
        longer than the MTU (and an Ethernet header with VLAN tag).
        """
        return self.receive_many((packet,)) == 1

    def receive_many(self, packets) -> int:
        """Hand several packets to the stack, 64 under one lock; see receive(). Returns how many were taken: the first
        so many. For the others there was no memory.
        """
        cdef int taken = 0
        driver = self.open_driver()
        checked = packets if type(packets) in (list, tuple) else list(packets)
        for at in range(0, len(checked), CHUNK):
            some = self.take(checked[at:at + CHUNK])
            taken += some
            if some < CHUNK:
                break
        driver.deliver()
        return taken

    def receive_stream(self, data) -> int:
        """Hand over what came of a stream of frames, as send_stream is given them -> how many frames ended in it.

        Parameters: data, bytes-like, of any length: what is not whole at its end is kept until more comes. Frames that
        the stack has no memory for are dropped and counted (`stats`: receive_dropped); that aside the peers are held
        back by TCP's windows. One thread at a time.
        Raises ValueError where no frame can have the length that is said: the stream is out of step, and what follows
        cannot be read; OSError as receive(); TypeError for a link without send_stream.
        """
        cdef Py_buffer view
        cdef const uint8_t *at
        cdef size_t left
        cdef int total = 0, n = CHUNK
        if self.send_stream is None:
            raise TypeError("receive_stream: the link was made without send_stream")
        driver = self.open_driver()
        if self.reading:
            raise RuntimeError("receive_stream: another thread is in it")
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        self.reading = True
        at = <const uint8_t *>view.buf
        left = view.len
        with nogil:
            while n == CHUNK:
                n = self.take_frames(&at, &left)
                total += n if n > 0 else 0
        self.reading = False
        PyBuffer_Release(&view)
        driver.deliver()
        if n < 0:
            raise ValueError(f"the stream is out of step: no frame on this link has more than {self.frame_max} bytes")
        return total

    cdef int take_frames(self, const uint8_t **at, size_t *left) noexcept nogil:
        """Up to CHUNK frames, under one lock. How many; -1: out of step."""
        cdef const uint8_t *frame
        cdef uint32_t length
        cdef int n = 0, got = 1
        self.home.lock(self.home.driver)
        while n < CHUNK:
            got = framing_next(&self.framing, at, left, &frame, &length)
            if got != 1:
                break
            n += 1
            if self.home.inject(self.home.driver, self.home.iface, frame, length, &self.received) != 0:
                self.refused += 1
        self.home.unlock(self.home.driver)
        return n if got >= 0 else -1

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
                while taken < n and self.home.inject(self.home.driver, self.home.iface,
                                                     <const uint8_t *>views[taken].buf,
                                                     <uint32_t>views[taken].len, &self.received) == 0:
                    taken += 1
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
        """Frames the stack sent through the link (sent), those dropped as send() did not keep up (send_dropped), and
        those that wait for it now (send_waiting); of receive_stream(), those that there was no memory for
        (receive_dropped).
        """
        held = len(self.held) if self.send_stream is None or not self.held else self.held_frames
        return {"sent": self.state.out.frames, "send_dropped": self.state.out.dropped,
                "send_waiting": self.state.out.count + held, "receive_dropped": self.refused}


cdef report_unraisable(error, where):
    """sys.unraisablehook, with the callable as the object at fault."""
    PyErr_SetObject(type(error), error)
    PyErr_WriteUnraisable(where)
