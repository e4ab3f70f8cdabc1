"""The driver of a stack that lives in a simulated network: its clock is the network's, and blocking runs the network.

Not here: the events (world.pyx), the wires (wire.pyx).
"""

import weakref

cimport cython
from libc.stdint cimport UINT64_MAX, uint64_t
from ustack_ext.driver.driver cimport Driver, Waiter
from ustack_ext.driver.world cimport Heap, Node, World, heap_remove, heap_set, fire_fn
from ustack_ext.engine.engine cimport engine_enter, engine_next
from ustack_ext.link.link cimport Link
from ustack_ext.net.state cimport Iface


cdef void driver_fire(VirtualDriver d, Node *n, Heap *h) noexcept nogil:
    d.run_now()


@cython.no_gc_clear    # the clock must outlive the last socket
cdef class VirtualDriver(Driver):
    """VirtualDriver(world, seed, budget=0): one stack of a simulated network; made by ustack.sim.Network.stack()."""
    cdef readonly World world
    cdef Heap *heap
    cdef Node node                     # the engine's earliest deadline
    cdef bint kicked                   # a link has something: at once

    def __init__(self, World world, seed, budget=0):
        self.kind = "virtual"
        self.world = world
        self.heap = &world.heap
        self.due = &world.heap.python_due
        self.node.owner = <void *>self
        self.node.fire = <fire_fn>driver_fire
        self.create(seed, budget, world.heap.now)
        world.drivers.append(weakref.ref(self))

    def __dealloc__(self):
        if self.heap != NULL:
            heap_remove(self.heap, &self.node)

    cdef void lock(self) noexcept nogil:
        engine_enter(self.engine, self.heap.now)

    cdef void unlock(self) noexcept nogil:
        self.finish()
        self.schedule()

    cdef uint64_t now(self) noexcept nogil:
        return self.heap.now

    cdef void run_now(self) noexcept nogil:
        """The deadline came, or a link has something."""
        self.kicked = False
        engine_enter(self.engine, self.heap.now)
        while self.pump() > 0:
            self.finish()
        self.finish()
        self.schedule()

    cdef void schedule(self) noexcept nogil:
        cdef uint64_t deadline = self.heap.now if self.kicked else engine_next(self.engine)
        if deadline == UINT64_MAX or self.closed:
            heap_remove(self.heap, &self.node)
        elif self.node.at == 0 or self.node.time != deadline:
            heap_set(self.heap, &self.node, deadline)

    cdef void kick(self) noexcept nogil:
        if not self.closed and not self.kicked:
            self.kicked = True
            heap_set(self.heap, &self.node, self.heap.now)

    cdef Iface *attach_link(self, Link link, bytes name) except NULL:
        if link.ops.fd >= 0:
            raise ValueError(f"{link!r} is a device of the real world, which does not wait for virtual time")
        return Driver.attach_link(self, link, name)

    cdef int wait(self, Waiter *waiter, uint64_t deadline) except -2:
        self.after()
        return self.world.block(waiter, deadline, None)

    cpdef close(self):
        """Detach the links and leave the network. Can be called again."""
        Driver.close(self)
        heap_remove(self.heap, &self.node)
