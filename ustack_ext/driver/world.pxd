# Virtual time: one clock that jumps from event to event, for many engines and simulated wires.
from libc.stdint cimport uint32_t, uint64_t
from ustack_ext.driver.driver cimport Waiter

cdef struct Node
cdef struct Heap

# An event came due. It has left the heap.
ctypedef void (*fire_fn)(void *owner, Node *n, Heap *h) noexcept nogil
# The part of an event that needs Python; run by the world's loop, with no lock, after fire put it on `deferred`.
ctypedef int (*run_fn)(void *owner, Node *n, Heap *h) except -1
# The world ends with the event still in the heap. GIL held.
ctypedef void (*drop_fn)(void *owner, Node *n) noexcept

cdef struct Node:              # an event, embedded in what it happens to
    uint64_t time              # ns
    uint64_t order             # of two at one time, the one that was asked for first
    uint32_t at                # 1 + index in the heap, 0: not in it
    void *owner
    fire_fn fire
    run_fn run
    drop_fn drop
    Node *next                 # on `deferred`

cdef struct HeapItem:
    uint64_t time
    uint64_t order
    Node *node

cdef struct Heap:
    HeapItem *items
    uint32_t count
    uint32_t cap
    uint64_t now               # ns
    uint64_t order
    uint64_t events            # fired so far
    Node *deferred
    Node *deferred_last
    int python_due             # captures to be written, frames for Callback links
    void *free_frames          # wire.pyx keeps frames here

# puts it in, or moves it. 0, or -1 without memory
cdef int heap_set(Heap *h, Node *n, uint64_t time) noexcept nogil
cdef void heap_remove(Heap *h, Node *n) noexcept nogil                  # no-op if not in
cdef void heap_defer(Heap *h, Node *n) noexcept nogil                   # for fire: the rest needs Python

cdef class World:
    cdef Heap heap
    cdef list drivers          # weak references to VirtualDrivers
    cdef list wires            # state of the wires: frames under way point into it
    cdef list captures
    cdef set calls             # to be made
    cdef readonly object tasks          # ustack_ext.driver.task.Tasks
    cdef int step(self, uint64_t limit, uint64_t most) except -1
    cdef void drop_events(self) noexcept
    cdef int python(self) except -1
    cdef int block(self, Waiter *w, uint64_t deadline, object until) except -2

cdef class Flag:
    cdef Waiter waiter
    cdef World world
    cdef void fire(self) noexcept nogil
