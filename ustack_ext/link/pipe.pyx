"""Two ends of a wire in memory: each attached to a stack, or used raw from Python.

Frames wait in the receiver's queue until its driver takes them; a transmit never enters the other stack. Which stack
runs when is up to the drivers: between two virtual or manual ones everything is deterministic.
"""

import itertools
import select
import time

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.errno cimport EAGAIN, EBUSY, errno
from libc.stdint cimport uint16_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy
from ustack_ext.base.buf cimport Buf
from ustack_ext.base.iov cimport OFF_CSUM_VERIFIED, OFF_CSUM_WANTED, OFF_GSO_TCP, IoVec, Offload
from ustack_ext.link.frameq cimport (Frame, FrameQ, frame_data, frameq_close, frameq_destroy, frameq_fd, frameq_give,
                                     frameq_init, frameq_listen, frameq_push, frameq_take)
from ustack_ext.wire.checksum cimport csum_fold, csum_partial, csum_store
from ustack_ext.link.link cimport FRAME_MIN_ROOM, Link, RxFrame, check_mac, check_mtu

_numbers = itertools.count()
SUPERFRAME = 65535                 # bytes of IP

cdef struct Core:                  # shared by both ends; goes with the second one
    FrameQ q[2]                    # q[i]: on the way to end i
    int refs                       # changed with the GIL held

cdef struct State:
    Core *core
    int side
    uint32_t frame_max


cdef int pipe_transmit(void *link, const IoVec *iov, int niov, const Offload *off) noexcept nogil:
    cdef State *s = <State *>link
    return frameq_push(&s.core.q[1 - s.side], iov, niov, off)


cdef int pipe_receive(void *link, RxFrame *frames, int most) noexcept nogil:
    cdef State *s = <State *>link
    cdef FrameQ *q = &s.core.q[s.side]
    cdef Frame *list = frameq_take(q, most)
    cdef Frame *f = list
    cdef Buf *b
    cdef int n = 0
    while f != NULL:
        b = frames[n].buf
        # A raw end may send anything; what cannot fit is cut, and the parser drops it for its length.
        b.len = f.len if f.len <= b.cap - b.off else b.cap - b.off
        memcpy(b.data + b.off, frame_data(f), b.len)
        frames[n].off = f.off
        if f.off.flags & OFF_CSUM_WANTED:              # what never leaves this machine needs no checksum
            frames[n].off.flags |= OFF_CSUM_VERIFIED
        n += 1
        f = f.next
    if list != NULL:
        frameq_give(q, list)
    return n


cdef void complete(Frame *f) noexcept nogil:
    """Fills in a checksum that was left to the link."""
    cdef uint32_t start = f.off.csum_start
    cdef uint16_t value
    if f.off.flags & OFF_CSUM_WANTED and start + f.off.csum_offset + 2 <= f.len:
        value = csum_fold(csum_partial(frame_data(f) + start, f.len - start, 0))
        csum_store(frame_data(f) + start + f.off.csum_offset, value if value != 0 else 0xFFFF)


cdef class PipeEnd(Link):
    """One end of a pipe(). Attach it to a stack, or use send(), recv() and fileno() to be the other side yourself."""
    cdef State state

    def __init__(self):
        raise TypeError("PipeEnd objects come from ustack.pipe()")

    def __dealloc__(self):
        cdef Core *core = self.state.core
        if core == NULL:
            return
        if self.home.driver != NULL:
            self.home.forget(self.home.driver, self.home.iface)
            self.home.driver = NULL
        frameq_listen(&core.q[self.state.side], NULL, NULL)
        frameq_close(&core.q[0])
        frameq_close(&core.q[1])
        core.refs -= 1
        if core.refs == 0:
            frameq_destroy(&core.q[0])
            frameq_destroy(&core.q[1])
            free(core)

    cdef int bind(self) except -1:
        frameq_listen(&self.state.core.q[self.state.side], self.home.wake, self.home.driver)
        return 0

    cdef void unbind(self) noexcept:
        frameq_listen(&self.state.core.q[self.state.side], NULL, NULL)

    cpdef close(self):
        """Cut the wire: what waits can still be read by the other end; nothing more is carried. Can be called again."""
        if not self.closed:
            Link.close(self)
            frameq_close(&self.state.core.q[0])
            frameq_close(&self.state.core.q[1])

    def send(self, frame) -> bool:
        """Put one frame (bytes-like: an Ethernet frame without FCS, or an IP packet) on the wire.

        Returns False if the other end's queue was full or the pipe is closed: the frame is lost, as on a wire.
        Raises ValueError for an empty frame or one longer than the MTU and an Ethernet header with VLAN tag.
        """
        cdef Py_buffer view
        cdef IoVec iov
        cdef int failed
        PyObject_GetBuffer(frame, &view, PyBUF_SIMPLE)
        try:
            if view.len == 0 or view.len > self.state.frame_max:
                raise ValueError(f"a frame on this pipe has 1 to {self.state.frame_max} bytes, not {view.len}")
            iov.base = view.buf
            iov.len = view.len
            # The GIL stays held: fork() in another thread must not find the queue locked.
            failed = frameq_push(&self.state.core.q[1 - self.state.side], &iov, 1, NULL)
        finally:
            PyBuffer_Release(&view)
        return failed == 0

    def recv(self, timeout=None) -> bytes:
        """Take the next frame that came from the other end.

        Parameters: timeout, seconds to wait at most; None: for ever; 0: not at all. Returns the frame, or b"" once the
        pipe is closed and empty. Raises TimeoutError, BlockingIOError (timeout 0), and OSError if a stack owns this
        end.
        """
        cdef Frame *f
        if self.home.driver != NULL:
            raise OSError(EBUSY, "this end of the pipe is attached to a stack, which takes its frames")
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            f = frameq_take(&self.state.core.q[self.state.side], 1)
            if f != NULL:
                complete(f)
                frame = PyBytes_FromStringAndSize(<char *>frame_data(f), f.len)
                frameq_give(&self.state.core.q[self.state.side], f)
                return frame
            if self.state.core.q[self.state.side].closed:
                return b""
            if timeout == 0:
                raise BlockingIOError(EAGAIN, "no frame waits on this pipe")
            poller = select.poll()
            poller.register(self.fileno(), select.POLLIN)
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not poller.poll(None if left is None else left * 1000) and left == 0:
                raise TimeoutError("no frame came")

    def fileno(self) -> int:
        """A descriptor that is readable while a frame waits (or the pipe is closed). It stays the pipe's."""
        cdef int fd = frameq_fd(&self.state.core.q[self.state.side])
        if fd < 0:
            raise OSError(errno, "cannot make an eventfd")
        return fd

    @property
    def stats(self) -> dict:
        """Frames of each queue so far: sent, send_dropped, received (read or not), receive_dropped."""
        cdef FrameQ *out = &self.state.core.q[1 - self.state.side]
        cdef FrameQ *came = &self.state.core.q[self.state.side]
        return {"sent": out.frames, "send_dropped": out.dropped, "received": came.frames,
                "receive_dropped": came.dropped}


def pipe(medium="ethernet", mtu=1500, queue=1024, *, macs=None, name=None,
         offload=False) -> "tuple[PipeEnd, PipeEnd]":
    """Make a wire in memory and return its two ends.

    Parameters: medium, "ethernet" or "ip"; mtu, bytes of IP; queue, frames each direction holds before it drops; macs,
    the two ends' Ethernet addresses (default: random, locally administered); name, of the interfaces (NAME.0 and
    NAME.1); offload, between two stacks superframes of up to 64 KB travel uncut and nothing is checksummed, as between
    a TAP and its kernel: faster, but no longer what a wire carries. (The default is; recv() gets superframes whole,
    with their checksum.)
    """
    if medium not in ("ethernet", "ip"):
        raise ValueError(f'medium: {medium!r} is neither "ethernet" nor "ip"')
    cdef int size = check_mtu(mtu)
    limit = int(queue)
    if not 1 <= limit <= 1 << 24:
        raise ValueError(f"queue: {limit} frames is not between 1 and {1 << 24}")
    if macs is None:
        macs = (None, None)
    addresses = [check_mac(mac) if medium == "ethernet" else None for mac in macs]
    if name is None:
        name = f"pipe{next(_numbers)}"
    cdef PipeEnd a = PipeEnd.__new__(PipeEnd)
    cdef PipeEnd b = PipeEnd.__new__(PipeEnd)
    cdef Core *core = <Core *>calloc(1, sizeof(Core))
    if core == NULL:
        raise MemoryError("no memory for a pipe")
    frameq_init(&core.q[0], limit)
    frameq_init(&core.q[1], limit)
    core.refs = 2
    cdef int side
    cdef PipeEnd end
    for side in range(2):
        end = a if side == 0 else b
        end.state.core = core
        end.state.side = side
        end.state.frame_max = size + (FRAME_MIN_ROOM if medium == "ethernet" else 0)
        end.ops.transmit = pipe_transmit
        end.ops.receive = pipe_receive
        end.ops.state = &end.state
        end.name = f"{name}.{side}"
        end.medium = medium
        end.mtu = size
        end.mac = addresses[side]
        if offload:
            end.offload_flags = OFF_CSUM_WANTED | OFF_GSO_TCP
            end.receive_max = SUPERFRAME
    return a, b
