# What is kept in Tcb.quick: how soon this connection acknowledges (tcp/ackpolicy).
from libc.stdint cimport uint8_t
from ustack_ext.tcp.tcb cimport Tcb

cdef enum:
    QUICK_LEFT = 31                # segments that are acknowledged at once still
    ACK_AWAITED = 32               # the peer was seen to wait for an ACK before it went on (Nagle's algorithm)
    ACK_EXPIRED = 64               # the last ACK was sent because its time was up
    ACK_RIDES = 128                # an interactive exchange: ACKs ride on the answers


cdef inline void quick_acks(Tcb *c, uint8_t least) noexcept nogil:
    """That many segments at least are to be acknowledged at once."""
    c.quick = (c.quick & ~<uint8_t>QUICK_LEFT) | max(c.quick & <uint8_t>QUICK_LEFT, least)


cdef inline void ack_rides(Tcb *c, bint interactive) noexcept nogil:
    """Data is sent, and its ACK with it. interactive: soon after some was received."""
    c.quick &= ~<uint8_t>ACK_EXPIRED
    if interactive:
        c.quick = (c.quick & ~<uint8_t>QUICK_LEFT) | ACK_RIDES
