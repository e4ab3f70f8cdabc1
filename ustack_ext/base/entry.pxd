# What a table entry with a deadline begins with: its place in one hash table and in the timer wheel. TCBs, TIME-WAITs,
# SYN-queue entries, neighbours and fragment queues all start with an Entry, so a pointer to one is a pointer to the
# other; `kind` says which.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum EntryKind:
    ENTRY_NONE
    ENTRY_NEIGH
    ENTRY_IFADDR
    ENTRY_FRAG
    ENTRY_TCB
    ENTRY_SYNREQ
    ENTRY_TIMEWAIT
    ENTRY_LISTENER
    ENTRY_BIND
    ENTRY_UDP
    ENTRY_PING
    ENTRY_UDPLITE
    ENTRY_PMTU
    ENTRY_IFACE6
    ENTRY_GROUPS
    ENTRY_NAT
    ENTRY_RAW
    ENTRY_PACKET
    ENTRY_STATION

cdef struct TimerLink:     # circular list of a wheel's slot, through the slot itself
    TimerLink *next
    TimerLink *prev

cdef struct Entry:
    TimerLink timer        # private to base/wheel, which needs it first
    uint64_t deadline      # ns; meaningful while armed
    Entry *hnext           # hash chain (private to base/table)
    uint32_t hash
    uint8_t kind           # EntryKind
    uint8_t armed          # 1 while in the wheel
    uint8_t slot           # wheel: slot in its node
    uint8_t hashed         # 1 while in a table
