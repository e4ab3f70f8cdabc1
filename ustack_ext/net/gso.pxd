# Software segmentation: a superframe, of TCP or UDP, goes out in pieces where the link can't cut it.
from libc.stdint cimport uint32_t
from ustack_ext.base.iov cimport OFF_GSO, IoVec, Offload
from ustack_ext.net.state cimport Iface, Net

# One superframe of `length` bytes as frames of off.gso_size payload bytes each. 0; -ENOBUFS: the link refused one, and
# it and those after it are lost; -EMSGSIZE: no superframe. What is lost is counted.
cdef int gso_transmit(Net *n, Iface *i, const IoVec *iov, int niov, uint32_t length,
                      const Offload *off) noexcept nogil


cdef inline bint gso_wanted(const Iface *i, const Offload *off) noexcept nogil:
    """Whether it is a superframe, and one that the link does not take."""
    return off.gso_size != 0 and not off.flags & i.offloads & OFF_GSO
