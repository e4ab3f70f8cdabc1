"""For tests: how large TCP's structs are, where the fields of a connection lie, and arithmetic of its own."""
from ustack_ext.tcp.congestion.cubic cimport Curve, cube_root, curve_at, curve_k
from ustack_ext.tcp.tcb cimport Cc, ConfCell, Seg, SynReq, Tcb, TimeWait, Tx

cdef enum:
    LINE = 64                      # bytes a cache line


def sizes():
    """{struct: bytes an object}."""
    return {"Tcb": sizeof(Tcb), "Tx": sizeof(Tx), "Cc": sizeof(Cc), "Seg": sizeof(Seg), "SynReq": sizeof(SynReq),
            "TimeWait": sizeof(TimeWait), "ConfCell": sizeof(ConfCell)}


def tcb_lines():
    """{cache line of a Tcb: its first field's offset in it}, 0 where tcb.pxd says that a line begins."""
    cdef Tcb c
    cdef char *at = <char *>&c
    return {0: <char *>&c.entry - at, 1: (<char *>&c.raddr - at) - LINE, 2: (<char *>&c.rcvq_head - at) - 2 * LINE,
            3: (<char *>&c.source - at) - 3 * LINE, 4: (<char *>&c.idle_at - at) - 4 * LINE}


def cubic_root(x):
    """The integer cube root that CUBIC uses; x below 2**63."""
    return cube_root(x)


def cubic_curve(w_max, cwnd, mss, ticks):
    """(K, W_cubic at each of `ticks` ticks after an epoch that began at cwnd): bytes, ticks of 1/1024 s."""
    cdef Curve v
    v.epoch = 1
    v.w_max = w_max
    v.origin = max(w_max, cwnd)
    v.k = curve_k(w_max, cwnd, mss)
    v.w_est = cwnd
    return v.k, [curve_at(&v, tick, mss) for tick in ticks]
