# What must hold of an engine between any two calls.
from fz_world cimport World

# Sets w.failed to the first rule that does not hold.
cdef void check_world(World *w) noexcept nogil
