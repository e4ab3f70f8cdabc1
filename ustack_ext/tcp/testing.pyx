"""For tests: how large TCP's structs are, and where the fields of a connection lie."""
from ustack_ext.tcp.tcb cimport ConfCell, Seg, SynReq, Tcb, TimeWait, Tx

cdef enum:
    LINE = 64                      # bytes a cache line


def sizes():
    """{struct: bytes an object}."""
    return {"Tcb": sizeof(Tcb), "Tx": sizeof(Tx), "Seg": sizeof(Seg), "SynReq": sizeof(SynReq),
            "TimeWait": sizeof(TimeWait), "ConfCell": sizeof(ConfCell)}


def tcb_lines():
    """{cache line of a Tcb: its first field's offset in it}, 0 where tcb.pxd says that a line begins."""
    cdef Tcb c
    cdef char *at = <char *>&c
    return {0: <char *>&c.entry - at, 1: (<char *>&c.raddr - at) - LINE, 2: (<char *>&c.rcvq_head - at) - 2 * LINE,
            3: (<char *>&c.source - at) - 3 * LINE, 4: (<char *>&c.idle_at - at) - 4 * LINE}
