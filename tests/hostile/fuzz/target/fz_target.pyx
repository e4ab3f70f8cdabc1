"""The entry of the fuzzer and of the replay: one input, one engine, from its making to its end.

The first byte says what is scarce in this run (fz_world), the second how it ends: with every socket closed and time
let pass until nothing is left, or torn down as it is (bit 0); whether the link has offloads (bit 1), and whether frames
are captured (bit 2). The rest is the program.
"""
from libc.stdint cimport uint8_t, uintptr_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc
from ustack_ext.tcp.tcb cimport TCP_FIN_WAIT1
from fz_check cimport check_world
from fz_ops cimport run_program, set_scene
from fz_world cimport World, world_capture, world_close, world_drop, world_open

cdef World *shared = <World *>calloc(1, sizeof(World))
if shared == NULL:
    raise MemoryError
cdef char message[200]


cdef const char *run_one(int medium, const uint8_t *p, size_t n) noexcept nogil:
    """NULL, or the invariant that was broken."""
    cdef World *w = shared
    if n < 2:
        return NULL
    if not world_open(w, medium, p[0], p[1] & 2):
        return NULL
    if p[1] & 4 and not world_capture(w):
        world_drop(w)
        return NULL
    set_scene(w)
    run_program(w, p + 2, n - 2)
    if w.failed != NULL or p[1] & 1:
        world_drop(w)
    else:
        world_close(w)
    if w.failed == NULL:
        return NULL
    snprintf(message, sizeof(message), b"%s (record %d, state %d, flags %#x)", w.failed, w.record, w.failed_state, w.failed_flags)
    return message


def entry():
    """The address of run_one, for the fuzzer's main program."""
    return <uintptr_t>&run_one


def replay(medium, data):
    """Run one input. medium: 0 Ethernet, 1 IP. Returns None, or which invariant it broke."""
    cdef const uint8_t[::1] view = data
    cdef const char *failed
    if view.shape[0] == 0:
        return None
    failed = run_one(medium, &view[0], view.shape[0])
    return None if failed == NULL else failed.decode()


SELF_CHECKS = 5


def self_check():
    """Breaks one thing at a time in a world in order, and counts how many of SELF_CHECKS the checks see."""
    cdef World *w = shared
    cdef int which, seen = 0
    for which in range(SELF_CHECKS):
        if not world_open(w, 0, 0, False):
            raise MemoryError
        set_scene(w)
        if w.failed != NULL or w.e.tcp.n_established != 9 or w.tcbs[6].state != TCP_FIN_WAIT1 or w.tcbs[7] != NULL:
            raise RuntimeError("the scene is not as fz_ops describes it")
        if which == 0:
            w.tcbs[0].tx.flight += 1
        elif which == 1:
            w.e.core.pool.live += 1
        elif which == 2:
            w.tcbs[1].tx.rto_at -= 1
        elif which == 3:
            w.listeners[0].synq += 1
        else:
            w.e.net.neigh_queued += 1
        check_world(w)
        seen += w.failed != NULL
        world_drop(w)
    return seen
