"""The base of every link, and what links share: arguments checked the same way, attachment, the context manager.

Not here: any device. A link is attached by a driver, which fills in `home`; a link that goes away while attached tells
its driver first, so the engine never transmits into freed memory, whichever of the two dies first.
"""

import os

from libc.string cimport memset
from ustack_ext.base.iov cimport OFF_CSUM_WANTED, OFF_GSO_TCP4, OFF_GSO_TCP6


cdef class Link:
    """Base of every link (Tap, Tun, Callback, PipeEnd, …). Not made directly.

    Attributes: name; mtu (bytes of IP); medium ("ethernet" or "ip"); mac (6 bytes, the stack's side; None for medium
    "ip"); attached; closed.
    """

    def __cinit__(self, *args, **kwargs):
        memset(&self.ops, 0, sizeof(LinkOps))
        memset(&self.home, 0, sizeof(Home))
        self.ops.fd = -1
        self.name = ""
        self.medium = "ethernet"
        self.mtu = 1500

    def __init__(self):
        raise TypeError(f"{type(self).__name__} is a base class: make a Tap, Tun or Callback, or call pipe()")

    def __dealloc__(self):
        if self.home.driver != NULL:
            self.home.forget(self.home.driver, self.home.iface)
            self.home.driver = NULL

    cdef int bind(self) except -1:
        return 0

    cdef void unbind(self) noexcept:
        pass

    cpdef close(self):
        """Detach from the stack and give the device back. Can be called again."""
        if self.home.driver != NULL:
            driver = self.driver_ref()
            if driver is not None:
                driver.detach_link(self)
        self.closed = True

    cdef bint pending_python(self) noexcept:
        return False

    cpdef deliver(self):
        """Hand the frames that wait for a Python callback to it. Only links that have one do anything."""

    @property
    def offloads(self) -> tuple:
        """What the link does for the stack: of "csum" (checksums), "tso4" and "tso6" (cutting TCP superframes of IPv4
        and IPv6), …; () for none."""
        return (("csum",) if self.offload_flags & OFF_CSUM_WANTED else ()) + (
            ("tso4",) if self.offload_flags & OFF_GSO_TCP4 else ()) + (
            ("tso6",) if self.offload_flags & OFF_GSO_TCP6 else ())

    @property
    def attached(self) -> bool:
        """Whether a stack uses the link now."""
        return self.home.driver != NULL

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def __repr__(self):
        state = "closed" if self.closed else "attached" if self.attached else "not attached"
        return f"<{type(self).__name__} {self.name!r} {self.medium} mtu {self.mtu} {state}>"


cdef bytes check_mac(object mac):
    """A station's address as 6 bytes, from bytes or "02:00:00:00:00:01"; None: a random local one (IEEE 802)."""
    if mac is None:
        raw = bytearray(os.urandom(6))
        raw[0] = (raw[0] & 0xFC) | 0x02
        return bytes(raw)
    if isinstance(mac, str):
        try:
            checked = bytes.fromhex(mac.replace(":", "").replace("-", ""))
        except ValueError:
            raise ValueError(f"mac: {mac!r} is not an Ethernet address") from None
    else:
        checked = bytes(mac)
    if len(checked) != 6:
        raise ValueError(f"mac: an Ethernet address has 6 bytes, not {len(checked)}")
    if checked[0] & 1:
        raise ValueError("mac: a station cannot have a group address (its first byte is odd)")
    if checked == bytes(6):
        raise ValueError("mac: all zeroes is no address")
    return checked


cdef int check_mtu(object mtu) except -1:
    """RFC 791 §3.2: every internet module must be able to forward 68 bytes; 65535 is the largest IP packet."""
    value = int(mtu)
    if not 68 <= value <= 65535:
        raise ValueError(f"mtu: {value} is not between 68 and 65535")
    return value
