# Services that are answered inside the data plane. Everything here is used with the engine's lock held.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from ustack_ext.base.buf cimport Owner
from ustack_ext.driver.driver cimport Native
from ustack_ext.engine.engine cimport Engine
from ustack_ext.tcp.tcb cimport Listener
from ustack_ext.wire.addr cimport Addr

cpdef enum ServiceKind:
    SERVICE_ECHO                   # RFC 862
    SERVICE_DISCARD                # RFC 863
    SERVICE_CHARGEN                # RFC 864
    SERVICE_ANSWER                 # a fixed reply to every request

cdef enum:
    ANSWER_MAX = 65536             # bytes
    END_MAX = 64                   # bytes of a request's end
    REQUEST_MAX = 16384            # bytes of a request, its end included
    PATTERN = 65536                # bytes after which chargen begins anew

cdef struct ServiceCounters:
    uint64_t connections           # accepted
    uint64_t requests              # answered in full
    uint64_t bytes_in              # taken from peers
    uint64_t bytes_out             # handed to TCP
    uint64_t oversized             # connections reset because a request would not end

cdef struct Pattern:               # what chargen sends, for as long as a send queue points into it
    Owner owner
    uint8_t data[65536]            # PATTERN

cdef struct Service:               # Source.user of its listener and its connections points here
    Native head
    Engine *engine
    Listener *listener             # NULL once closed
    uint32_t open                  # connections that refer to it
    uint8_t kind                   # ServiceKind
    uint8_t closes                 # answer: close the connection after one
    uint8_t report                 # discard: tell how many bytes it was
    uint8_t closed                 # freed with the last connection
    uint32_t end_length            # answer: 0: whatever has come is a request
    uint32_t answer_length
    uint8_t end[64]
    uint8_t *answer                # not chargen's
    Pattern *pattern               # chargen's
    ServiceCounters counters

# answer: bytes, or NULL for none; both are copied. NULL without memory.
cdef Service *service_new(Engine *e, int kind, const uint8_t *answer, uint32_t answer_length, const uint8_t *end,
                          uint32_t end_length) noexcept nogil
# Begins to listen: 0 or -errno. port 0: an ephemeral one.
cdef int service_listen(Service *s, const Addr *a, uint16_t port, uint32_t backlog) noexcept nogil
# Stops listening, resets its connections, frees it.
cdef void service_close(Service *s) noexcept nogil
# The same where the engine will never run again: nothing is sent.
cdef void service_forget(Service *s) noexcept nogil
