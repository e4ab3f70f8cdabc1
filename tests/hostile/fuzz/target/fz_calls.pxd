# What applications and the administrator do in a fuzzing program.
from libc.stdint cimport uint8_t
from fz_world cimport World

cdef void op_call(World *w, const uint8_t *r) noexcept nogil           # stream sockets
cdef void op_datagram(World *w, const uint8_t *r) noexcept nogil       # UDP and ping sockets
cdef void op_net(World *w, const uint8_t *r) noexcept nogil            # addresses, routes, neighbours, knobs
