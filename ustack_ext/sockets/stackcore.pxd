# What all sockets of one stack share.
from libc.stdint cimport uint32_t
from ustack_ext.driver.driver cimport Driver
from ustack_ext.sockets.state cimport SockState

cdef class StackCore:
    cdef Driver driver
    cdef SockState *sockets        # all open ones; under the engine's lock
    cdef bint shut                 # no new sockets
    cdef public uint32_t rmem_max  # bytes: net.core.rmem_max, the most SO_RCVBUF may ask for
    cdef public uint32_t wmem_max
    cdef object __weakref__
