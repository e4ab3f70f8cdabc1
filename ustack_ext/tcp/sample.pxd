# Delivery-rate samples, as a connection holds them (congestion/rate makes them).
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef struct RateSample:            # of one ACK
    uint64_t prior_at              # ns; 0: it delivered nothing that was sent with a snapshot
    uint64_t prior_delivered
    uint64_t interval              # us
    uint64_t delivered             # bytes in that time; 0: no valid sample
    uint32_t end                   # of the record that it is of
    uint8_t app_limited

cdef struct Rate:                  # the delivery-rate estimator
    uint64_t delivered             # bytes
    uint64_t delivered_at          # ns
    uint64_t first_sent_at         # ns
    uint64_t app_limited           # until so many are delivered; 0: not
    RateSample sample
