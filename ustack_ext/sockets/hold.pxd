# Holding the engine's lock while Python objects are made from what is there. The garbage collector waits: it might
# find a socket to close, and the lock isn't recursive. Nothing in between may run Python code of others.
from ustack_ext.driver.driver cimport Driver

cdef extern from "Python.h":
    int PyGC_Disable()
    int PyGC_Enable()


cdef inline int hold(Driver d) noexcept:
    cdef int collecting = PyGC_Disable()
    d.lock()
    return collecting


cdef inline void let_go(Driver d, int collecting) noexcept:
    d.unlock()
    if collecting:
        PyGC_Enable()
