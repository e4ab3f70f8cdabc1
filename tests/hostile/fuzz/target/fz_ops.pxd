# A program: records of 16 bytes, each one thing that happens to the engine.
from libc.stdint cimport uint8_t
from fz_world cimport World

cdef enum:
    RECORD = 16
    OPS_MAX = 400

# Carries out the program; stops at its end, after OPS_MAX records, or when an invariant is broken.
cdef void run_program(World *w, const uint8_t *p, size_t n) noexcept nogil
# Connections in many states, sockets of each kind: what every program starts from.
cdef void set_scene(World *w) noexcept nogil
