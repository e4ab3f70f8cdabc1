"""Selectors without descriptors: SelectorCore, what ustack.Selector waits with.

Responsible for: which sockets of one stack are registered for what, and waiting until one of them is ready. Not for:
keys and descriptors of the kernel (ustack/selector.py), what is ready (sockets/interest).
"""
from cython cimport final, no_gc_clear
from libc.errno cimport EBADF, errno
from libc.stdint cimport UINT64_MAX, uint16_t, uint64_t
from posix.unistd cimport close
from ustack_ext.base.event cimport EV_READABLE, EV_URGENT, EV_WRITABLE
from ustack_ext.driver.driver cimport Driver, Waiter, waiter_get, waiter_put
from ustack_ext.link.wakefd cimport wakefd_clear, wakefd_open, wakefd_set
from ustack_ext.sockets.handle cimport SocketHandle, closed_error, error
from ustack_ext.sockets.hold cimport hold, let_go
from ustack_ext.sockets.interest cimport (
    hub_unlist, interest_add, interest_note, interest_remove, interest_shown,
)
from ustack_ext.sockets.ready cimport watch_of
from ustack_ext.sockets.stackcore cimport StackCore, running
from ustack_ext.sockets.state cimport OPEN, Hub, Interest, SockState, Watch
from ustack_ext.sockets.wait cimport sock_ready, waiter_link, waiter_unlink, waiters_fire

cdef enum:
    NS = 1000000000
    FOREVER = 1000000000           # s; more is as good as no timeout


@final
@no_gc_clear
cdef class Registration:
    """A socket in a selector; keeps the socket, in which `interest.sock` lies."""
    cdef Interest interest
    cdef SocketHandle socket
    cdef object key


@no_gc_clear
cdef class SelectorCore:
    """The registered sockets of one stack. events: 1 readable, 2 writable, as in the selectors module; 32 urgent."""
    cdef readonly StackCore stack
    cdef dict registered               # socket: Registration
    cdef Hub hub
    cdef bint closed

    def __cinit__(self, StackCore stack not None):
        running(stack)
        self.stack = stack
        self.registered = {}
        self.hub.wakefd = -1

    def __dealloc__(self):
        self._close()

    def _close(self):
        """Forget every socket; a thread in _wait() returns."""
        cdef Driver d
        cdef Registration r
        if self.closed or self.registered is None:
            return
        self.closed = True
        d = self.stack.driver
        collecting = hold(d)
        for r in self.registered.values():
            interest_remove(&r.interest)
        waiters_fire(&self.hub.state, EV_READABLE)
        let_go(d, collecting)
        if self.hub.due != NULL:
            self.hub.due = NULL
            d.on_ready = None
        self.registered = {}
        if self.hub.wakefd >= 0:
            close(self.hub.wakefd)
            self.hub.wakefd = -1
        self.stack = None              # a closed selector keeps nothing alive

    def _fd(self):
        """A descriptor that is readable while one of the sockets may be ready. Raises OSError."""
        cdef Driver d
        cdef int fd = self.hub.wakefd
        if self.closed:
            raise ValueError("the selector is closed")
        d = self.stack.driver
        if fd < 0:
            fd = wakefd_open()
            if fd < 0:
                raise error(errno)
            collecting = hold(d)
            self.hub.wakefd = fd
            if self.hub.first != NULL:
                wakefd_set(fd)
            let_go(d, collecting)
        return fd

    def _announce(self, function):
        """From here on call function() in the driver's deliver() when a socket may be ready. Raises RuntimeError."""
        cdef Driver d
        if self.closed:
            raise ValueError("the selector is closed")
        d = self.stack.driver
        if d.on_ready is not None:
            raise RuntimeError("another event loop has this stack")
        d.on_ready = function
        self.hub.due = d.due

    @property
    def _listed(self):
        """Whether a socket may be ready."""
        return self.hub.first != NULL

    def _keys(self):
        """The keys of all that is registered."""
        cdef Registration r
        return [r.key for r in self.registered.values()]

    def _register(self, SocketHandle socket not None, int events, key):
        """Raises OSError: EBADF, ECONNABORTED on a closed socket; RuntimeError: it is registered."""
        cdef Registration r = Registration.__new__(Registration)
        cdef Driver d
        cdef SockState *s = &socket.state
        cdef Watch *w = NULL
        cdef int rc = 0
        if self.closed:
            raise ValueError("the selector is closed")
        if socket in self.registered:  # forgetting the first would leave the socket with a pointer to it
            raise RuntimeError(f"{socket!r} is waited for already")
        d = self.stack.driver
        r.socket = socket
        r.key = key
        r.interest.hub = &self.hub
        r.interest.registration = <void *>r
        self.registered[socket] = r
        collecting = hold(d)
        if s.closed != OPEN:
            rc = closed_error(s)
        elif d.closed:                 # a child of fork()
            rc = -EBADF
        else:
            w = watch_of(s)
            if w != NULL:
                r.interest.sock = s
                r.interest.want = wanted(events)
                interest_add(w, &r.interest)
                self.note(&r.interest)
        let_go(d, collecting)
        if rc == 0 and w != NULL:
            return
        del self.registered[socket]
        if rc == 0:
            raise MemoryError
        raise error(-rc)

    def _modify(self, socket, int events, key):
        cdef Registration r = self.registered[socket]
        cdef Driver d = self.stack.driver
        r.key = key
        collecting = hold(d)
        r.interest.want = wanted(events)
        if r.interest.sock != NULL:
            self.note(&r.interest)
        let_go(d, collecting)

    def _unregister(self, socket):
        cdef Registration r = self.registered.pop(socket)
        cdef Driver d = self.stack.driver
        collecting = hold(d)
        interest_remove(&r.interest)
        let_go(d, collecting)

    cdef void note(self, Interest *i) noexcept:
        if interest_note(i, sock_ready(i.sock)):
            waiters_fire(&self.hub.state, EV_READABLE)

    cdef list collect(self, Waiter *w):
        """[(key, events), ...] of what is ready; when that is nothing `w`, if given, is linked. The lock is held."""
        cdef list found = []
        cdef Interest *i = self.hub.first
        cdef Interest *following
        cdef uint16_t shown
        while i != NULL:
            following = i.after
            shown = interest_shown(i, sock_ready(i.sock))
            if shown:
                found.append(((<Registration>i.registration).key, <int>shown))
            else:
                hub_unlist(i)
            i = following
        if self.hub.wakefd >= 0 and self.hub.first == NULL:
            wakefd_clear(self.hub.wakefd)
        if w != NULL and not found:
            waiter_link(&self.hub.state, w)
        return found

    def _ready(self):
        """[(key, events), ...] of the sockets that are ready now."""
        cdef Driver d
        if self.closed:
            return []
        d = self.stack.driver
        d.after()
        collecting = hold(d)
        try:
            return self.collect(NULL)
        finally:
            let_go(d, collecting)

    def _wait(self, timeout):
        """The same; where nothing is ready waits for it, at most `timeout` seconds (None: for ever). With the manual
        driver nothing waits.
        """
        cdef Driver d
        cdef uint64_t deadline = UINT64_MAX
        cdef double seconds = FOREVER if timeout is None else timeout
        cdef list found = self._ready()
        cdef Waiter *w
        cdef int fired = 1
        if found or self.closed or not seconds > 0:
            return found
        d = self.stack.driver
        if seconds < FOREVER:
            deadline = d.now() + <uint64_t>(seconds * NS)
        w = waiter_get(d)
        w.want = EV_READABLE
        try:
            while fired == 1 and not found and not self.closed:
                collecting = hold(d)
                try:
                    waiter_unlink(&self.hub.state, w)
                    found = self.collect(w)
                finally:
                    let_go(d, collecting)
                if not found:
                    fired = d.wait(w, deadline)
        finally:
            collecting = hold(d)
            waiter_unlink(&self.hub.state, w)
            let_go(d, collecting)
            waiter_put(w)
        return found


cdef inline uint16_t wanted(int events) noexcept:
    return events & (EV_READABLE | EV_WRITABLE | EV_URGENT)
