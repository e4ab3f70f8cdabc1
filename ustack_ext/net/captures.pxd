# Captures of a stack's interfaces: what is kept for whoever writes down frames (net/capture).
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from ustack_ext.base.bpf cimport Bpf

cdef struct CaptureIface:      # an interface as a capture file has it
    int index                  # Iface.index; 0: none
    int id                     # its number in the file; -1: its frames are not wanted

cdef struct Capture:           # somebody writes down the frames of this stack (net/capture)
    Capture *next
    uint8_t *data              # blocks of pcapng, one after another, until whoever writes the file takes them
    size_t used                # bytes
    size_t size
    size_t enough              # bytes that are worth being taken at once
    uint32_t snaplen
    int ids                    # interfaces in the file so far
    int64_t epoch              # ns: what is added to the engine's time to be that of the calendar
    char name[16]              # of the one interface that is wanted; empty: all
    Bpf *ether_filter          # NULL: everything. A program knows where in a frame the packet begins, ...
    Bpf *ip_filter             # ... so there is one for each kind of interface
    CaptureIface known[16]          # MAX_IFACES
    uint64_t frames            # written down
    uint64_t dropped           # ... or not, for want of room
    size_t in_at               # where in `data` the frame that is being taken in is; SIZE_MAX: nowhere
    size_t out_at              # ... and the one that was sent last
    void *waiter               # the driver's, of the thread that writes; NULL: there is no such thread
    uint8_t told               # 1: it was woken for what there is, 2: ... because that is enough
