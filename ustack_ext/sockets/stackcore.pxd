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


cdef inline Driver running(StackCore stack):
    """The stack's driver. Raises RuntimeError where there is none: a Stack whose __init__ did not get that far."""
    if stack.driver is None:
        raise RuntimeError("the stack was not initialised")
    return stack.driver
