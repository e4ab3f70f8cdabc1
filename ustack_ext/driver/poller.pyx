"""Reads links in batches without the lock and sleeps (poller.pxd).

Responsible for the buffers that frames are read into and the descriptors that are slept on. Not for who polls when
(driver/thread), nor for the engine beyond handing frames to it.

Frames are read without the lock into buffers taken under it, so that a socket call waits for the engine's work only,
not for system calls. A link that was quiet gets one buffer, which stays ready while the poller sleeps: the first frame
after a pause is read as soon as it wakes.
"""
from libc.errno cimport ENOMEM
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from ustack_ext.base.buf cimport BUF_LARGE, Buf, BufPool, buf_class_cap, buf_unref
from ustack_ext.driver.atomic cimport atomic_get, atomic_set, atomic_swap
from ustack_ext.driver.clock cimport clock_monotonic
from ustack_ext.driver.driver cimport MAX_LINKS, Driver, Slot, look_ahead, receive_buffer
from ustack_ext.driver.waitset cimport (waitset_add, waitset_clear, waitset_close, waitset_doze, waitset_open,
                                        waitset_wait)
from ustack_ext.engine.engine cimport engine_input
from ustack_ext.link.link cimport LINK_BATCH, RxFrame
from ustack_ext.link.wakefd cimport wakefd_clear, wakefd_open, wakefd_set

cdef enum:
    QUICK = 3000               # ns between two rounds without a pause: frames come faster than they are asked for
    SHY_MOST = 127             # frames between two reads that try in vain whether the next is there already
    BATCH_BYTES = 512 << 10    # of buffers in one batch: what is read should still be in the cache when it is copied


cdef int poller_init(Poller *p) noexcept nogil:
    p.set.bell = -1
    p.rx = <Rx *>calloc(MAX_LINKS, sizeof(Rx))
    p.scratch.cap = buf_class_cap(BUF_LARGE)
    p.scratch.data = <uint8_t *>malloc(p.scratch.cap)
    if p.rx == NULL or p.scratch.data == NULL:
        return -ENOMEM
    return waitset_open(&p.set, wakefd_open())


cdef void poller_free(Poller *p) noexcept nogil:
    if p.rx != NULL:
        waitset_close(&p.set)
    free(p.rx)
    free(p.scratch.data)
    p.rx = NULL
    p.scratch.data = NULL


cdef void give_back(Rx *rx, Driver d, int keep) noexcept nogil:
    while rx.have > keep:
        rx.have -= 1
        d.ready -= 1
        buf_unref(&d.engine.core.pool, rx.frames[rx.have].buf)


cdef void poller_release(Poller *p, Driver d) noexcept nogil:
    cdef int i
    for i in range(p.n_rx):
        give_back(&p.rx[i], d, 0)
        p.rx[i].got = 0


cdef void learn_links(Poller *p, Driver d) noexcept nogil:
    """The links changed since the last round."""
    cdef Slot *slot
    cdef Rx *rx
    cdef int i, n = 0
    poller_release(p, d)
    p.generation = d.generation
    waitset_clear(&p.set)
    for i in range(MAX_LINKS):
        slot = &d.slots[i]
        if slot.iface == NULL or slot.ops.receive == NULL or slot.gone:
            continue
        rx = &p.rx[n]
        rx.slot = i
        rx.receive = slot.ops.receive
        rx.state = slot.ops.state
        rx.want = 1
        rx.most = min(max(<int>(BATCH_BYTES // slot.need), 2), <int>LINK_BATCH)
        rx.ready = 1
        rx.tried = False
        rx.shy = 0
        rx.misses = 0
        rx.fd_at = -1
        rx.calls = slot.ops.fd < 0 or slot.ops.calls
        n += 1
        if slot.ops.fd >= 0:
            rx.fd_at = p.set.links
            waitset_add(&p.set, slot.ops.fd)
    if d.host_fd >= 0:                                        # which of its sockets it is, the relay finds out
        waitset_add(&p.set, d.host_fd)
    p.n_rx = n


cdef void poller_prepare(Poller *p, Driver d, bint all_wanted) noexcept nogil:
    cdef BufPool *pool = &d.engine.core.pool
    cdef Rx *rx
    cdef Buf *b
    cdef int i, want
    if p.generation != d.generation:
        learn_links(p, d)
    for i in range(p.n_rx):
        rx = &p.rx[i]
        want = rx.want if all_wanted else 1
        give_back(rx, d, want)
        while rx.have < want:
            b = receive_buffer(pool, d.slots[rx.slot].need)
            if b == NULL:
                break
            rx.frames[rx.have].buf = b
            rx.have += 1
            d.ready += 1


cdef void take_frames(Rx *rx, Driver d) noexcept nogil:
    """The first `got` of its buffers go to the engine; what is left moves up."""
    cdef Slot *slot = &d.slots[rx.slot]
    cdef int j
    if rx.have == 0:                                          # read into the scratch buffer
        slot.iface.rx_dropped += 1
        return
    look_ahead(d.engine, slot.iface, rx.frames, rx.got)
    for j in range(rx.got):
        engine_input(d.engine, slot.iface, rx.frames[j].buf, &rx.frames[j].off)
    rx.have -= rx.got
    d.ready -= rx.got
    for j in range(rx.have):
        rx.frames[j] = rx.frames[j + rx.got]


cdef inline void learn(Rx *rx) noexcept nogil:
    """Whether trying was worth it."""
    rx.tried = False
    rx.misses = 0 if rx.got > 0 else min(2 * rx.misses + 1, <int>SHY_MOST)
    rx.shy = rx.misses


cdef inline bint tries(Rx *rx) noexcept nogil:
    rx.tried = rx.shy == 0
    if rx.shy > 0:
        rx.shy -= 1
    return rx.tried


cdef bint adapt(Rx *rx, bint quick, bint only) noexcept nogil:
    """How many frames to ask for next time, and whether there may be more right now. only: it is the only link."""
    if rx.got < rx.asked:                                     # the link said that this was all
        if rx.got == 1:
            rx.want = 1
        return False
    if rx.want == 1 and not rx.calls and not quick:
        # No stream yet: the wait will tell whether there is another frame, without a read that finds none.
        return only and tries(rx)
    if rx.asked == rx.want:
        rx.want = min(rx.want * 2, rx.most)
    return True


cdef bint poller_take_in(Poller *p, Driver d) noexcept nogil:
    cdef uint64_t now = d.engine.core.now
    cdef bint more = False, quick = now - p.last < QUICK
    cdef Slot *slot
    cdef Rx *rx
    cdef int i
    p.last = now
    for i in range(p.n_rx):
        rx = &p.rx[i]
        slot = &d.slots[rx.slot]
        if slot.iface == NULL or slot.ops.state != rx.state:      # the link went meanwhile, and its frames with it
            continue
        if rx.tried:
            learn(rx)
        if rx.got > 0:
            more |= adapt(rx, quick, p.n_rx == 1)
            take_frames(rx, d)
        elif rx.got < 0:
            d.mark_gone(rx.slot)
        rx.got = 0
    if d.host_fd >= 0 and d.host_ready(d.host):
        more = True
    if p.generation != d.generation:
        learn_links(p, d)
        more = True
    p.keen = more
    if more:                                                  # nobody polls meanwhile: quiet links are looked at, too
        for i in range(p.n_rx):
            p.rx[i].ready = 1
    return more


cdef void poller_look(Poller *p, bint everywhere) noexcept nogil:
    cdef int i
    for i in range(p.n_rx):
        if everywhere or p.rx[i].calls:
            p.rx[i].ready = 1


cdef bint poller_pending(Poller *p) noexcept nogil:
    cdef int i
    for i in range(p.n_rx):
        if p.rx[i].calls and p.rx[i].ready:
            return True
    return False


cdef int poller_read(Poller *p) noexcept nogil:
    cdef RxFrame dropped
    cdef Rx *rx
    cdef int i, taken = 0
    atomic_set(&p.reading, 1)
    for i in range(p.n_rx):
        rx = &p.rx[i]
        if not rx.ready:
            continue
        rx.ready = 0
        if rx.have > 0:
            rx.asked = min(rx.have, rx.want)
            rx.got = rx.receive(rx.state, rx.frames, rx.asked)
        else:
            rx.asked = 1
            p.scratch.off = 0
            dropped.buf = &p.scratch
            rx.got = rx.receive(rx.state, &dropped, 1)
        taken += rx.got != 0
    atomic_set(&p.reading, 0)
    return taken


cdef bint poller_spin(Poller *p, uint64_t until, uint32_t spin_us) noexcept nogil:
    cdef uint64_t end = min(clock_monotonic() + <uint64_t>spin_us * 1000, until)
    cdef int i
    while True:
        for i in range(p.n_rx):
            p.rx[i].ready = 1
        if poller_read(p) or atomic_get(&p.look):
            return True
        if clock_monotonic() >= end:
            return False


cdef bint poller_sleep(Poller *p, uint64_t until) noexcept nogil:
    cdef uint32_t found
    cdef Rx *rx
    cdef int i
    atomic_set(&p.asleep, 1)
    # Who wants attention sets look, then looks at asleep; here it is the other way round: one of the two sees the
    # other.
    if atomic_get(&p.look):
        atomic_set(&p.asleep, 0)
        return True
    i = waitset_wait(&p.set, until, &found)
    atomic_set(&p.asleep, 0)
    if i < 0:
        return False
    if found & 1:
        wakefd_clear(p.set.bell)
    for i in range(p.n_rx):
        rx = &p.rx[i]
        if rx.fd_at >= 0:
            rx.ready = (found >> (1 + rx.fd_at)) & 1
            if (found >> (17 + rx.fd_at)) & 1:                # it may read as empty, and would wake us for ever
                rx.ready = 0
                rx.got = -1
    return True


cdef void poller_doze(Poller *p, uint64_t ns) noexcept nogil:
    atomic_set(&p.asleep, 1)
    if not atomic_get(&p.look):
        waitset_doze(&p.set, ns)
        wakefd_clear(p.set.bell)
    atomic_set(&p.asleep, 0)
    atomic_set(&p.look, 0)


cdef void poller_rouse(Poller *p) noexcept nogil:
    atomic_set(&p.look, 1)
    if atomic_swap(&p.asleep, 0):
        wakefd_set(p.set.bell)
