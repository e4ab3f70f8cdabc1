"""Socket addresses: (host, port) tuples as the socket module has them, in and out.

Responsible for: the checks and exceptions of CPython's getsockaddrarg for AF_INET and AF_INET6, addresses as text both
ways, zones (RFC 4007: "fe80::1%ust0", or the scope id of a 4-tuple). Not for: names; what is no address is answered as
a resolver without an answer does (socket.gaierror), "localhost" excepted (RFC 6761 §6.3).
"""
import socket as _socket

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from ustack_ext.driver.driver cimport Driver
from ustack_ext.net.net cimport iface_by_name
from ustack_ext.net.state cimport Iface
from ustack_ext.sockets.stackcore cimport running
from ustack_ext.wire.addr cimport (
    addr_bare_hi, addr_has_zone, addr_is_any, addr_is_v4, addr_none, addr_to_v4, addr_v4, addr_zone, addr_zoned,
)


cdef bint parse_quad(const char *text, Py_ssize_t n, uint32_t *ip) noexcept:
    """A strict dotted quad: four decimal numbers up to 255, without leading zeros."""
    cdef uint32_t value = 0
    cdef uint32_t part = 0
    cdef int digits = 0
    cdef int dots = 0
    cdef Py_ssize_t i
    cdef char c
    for i in range(n):
        c = text[i]
        if c == b'.':
            if digits == 0:
                return False
            value = value << 8 | part
            part = 0
            digits = 0
            dots += 1
        elif b'0' <= c <= b'9':
            if digits and part == 0:
                return False
            part = part * 10 + <uint32_t>(c - 48)
            digits += 1
            if part > 255:
                return False
        else:
            return False
    ip[0] = value << 8 | part
    return dots == 3 and digits > 0


cdef bytes host_bytes(object host):
    if isinstance(host, str):
        text = (<str>host).encode("idna") if not (<str>host).isascii() else (<str>host).encode("ascii")
    elif isinstance(host, (bytes, bytearray)):
        text = bytes(host)
    else:
        raise TypeError(f"str, bytes or bytearray expected, not {type(host).__name__}")
    if b"\0" in text:
        raise TypeError("host name must not contain null character")
    return text


cdef int parse_host(object host, Addr *a) except -1:
    """An IPv4 address, "" (any), "<broadcast>" or "localhost". Raises TypeError, socket.gaierror."""
    cdef bytes text = host_bytes(host)
    cdef uint32_t ip = 0
    if parse_quad(PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text), &ip):
        a[0] = addr_v4(ip)
    elif text == b"":
        a[0] = addr_v4(0)
    elif text == b"<broadcast>":
        a[0] = addr_v4(<uint32_t>0xFFFFFFFF)
    elif text.lower() == b"localhost":
        a[0] = addr_v4(<uint32_t>0x7F000001)
    else:
        a[0] = addr_v4(old_form(text))
    return 0


cdef object old_form(bytes text):
    """inet_aton's other forms (127.1, 0x7f000001), which getaddrinfo takes too."""
    name = text.decode("ascii", "replace")
    if name[:1].isdigit() and not any(c.isspace() for c in name):
        try:
            return int.from_bytes(_socket.inet_aton(name), "big")
        except OSError:
            pass
    raise _socket.gaierror(_socket.EAI_NONAME, "Name or service not known")


cdef uint32_t zone_index(StackCore stack, bytes name) except? 0xFFFFFFFF:
    """An interface's index by its name, or by the number itself. Raises socket.gaierror."""
    cdef Driver d = running(stack)
    cdef const char *cname = name
    cdef Iface *i
    cdef uint32_t index = 0
    with nogil:
        d.lock()
        i = iface_by_name(&d.engine.net, cname)
        if i != NULL:
            index = i.index
        d.unlock()
    if index == 0 and name.isdigit() and 0 < int(name) <= 0xFFFF:
        index = int(name)
    if index == 0:
        raise _socket.gaierror(_socket.EAI_NONAME, "Name or service not known")
    return index


cdef int parse_host6(StackCore stack, object host, Addr *a) except -1:
    """An IPv6 address, "%zone" behind it or not, "" (any) or "localhost". Raises TypeError, socket.gaierror."""
    cdef bytes text = host_bytes(host)
    cdef bytes name, zone
    name, _, zone = text.partition(b"%")
    if text == b"":
        a[0] = addr_none()
        return 0
    if text.lower() == b"localhost":
        a[0] = addr_none()
        a.lo = 1
        return 0
    try:
        packed = _socket.inet_pton(_socket.AF_INET6, name.decode("ascii", "replace"))
    except OSError:
        if parse_quad(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name), <uint32_t *>&a.lo):
            raise _socket.gaierror(getattr(_socket, "EAI_ADDRFAMILY", _socket.EAI_NONAME),
                                   "Address family for hostname not supported") from None
        raise _socket.gaierror(_socket.EAI_NONAME, "Name or service not known") from None
    a[0] = addr_from_int(int.from_bytes(packed, "big"))
    if addr_has_zone(a):
        a[0] = addr_zoned(a, 0)
        if zone:
            a[0] = addr_zoned(a, zone_index(stack, zone))
    elif zone:
        raise _socket.gaierror(_socket.EAI_NONAME, "Name or service not known")
    return 0


cdef int parse_port(object number, str caller, uint16_t *port) except -1:
    if not 0 <= number.__index__() <= 0xFFFF:
        raise OverflowError(f"{caller}(): port must be 0-65535.")
    port[0] = number
    return 0


cdef int parse_address6(StackCore stack, tuple address, str caller, Addr *a, uint16_t *port) except -1:
    """(host, port[, flowinfo[, scope id]]). The flow information is checked and not used, as Linux without
    IPV6_FLOWINFO_SEND."""
    if not 2 <= len(address) <= 4 or not all(isinstance(one, int) or hasattr(one, "__index__") for one in address[1:]):
        raise TypeError(f"{caller}(): AF_INET6 address must be a tuple (host, port[, flowinfo[, scopeid]])")
    parse_host6(stack, address[0], a)
    parse_port(address[1], caller, port)
    if len(address) > 2 and not 0 <= address[2] <= 0xFFFFF:
        raise OverflowError(f"{caller}(): flowinfo must be 0-1048575.")
    if len(address) > 3 and address[3] and addr_has_zone(a):
        a[0] = addr_zoned(a, <uint32_t>(address[3] & 0xFFFF))
    return 0


cdef int parse_address(StackCore stack, bint six, object address, str caller, Addr *a, uint16_t *port) except -1:
    """(host, port). Raises TypeError, OverflowError, socket.gaierror as the socket module does."""
    if not isinstance(address, tuple):
        family = "AF_INET6" if six else "AF_INET"
        raise TypeError(f"{caller}(): {family} address must be tuple, not {type(address).__name__}")
    if six:
        return parse_address6(stack, address, caller, a, port)
    if len(<tuple>address) != 2:
        raise TypeError(f"{caller}(): AF_INET address must be a pair (host, port)")
    host, number = <tuple>address
    if not isinstance(number, int) and not hasattr(number, "__index__"):
        raise TypeError(f"{caller}(): AF_INET address must be a pair (host, port)")
    parse_host(host, a)
    return parse_port(number, caller, port)


cdef str quad(uint32_t ip):
    cdef char text[16]
    cdef int n = snprintf(text, sizeof(text), "%u.%u.%u.%u", ip >> 24, ip >> 16 & 255, ip >> 8 & 255, ip & 255)
    return text[:n].decode("ascii")


cdef bytes addr_to_bytes(const Addr *a):
    cdef uint64_t lo = 0 if addr_is_any(a) and not addr_is_v4(a) else a.lo
    cdef uint64_t hi = addr_bare_hi(a.hi)
    return (int(hi) << 64 | int(lo)).to_bytes(16, "big")


cdef str format6(const Addr *a):
    return _socket.inet_ntop(_socket.AF_INET6, addr_to_bytes(a))


cdef str format_host(const Addr *a):
    return quad(addr_to_v4(a)) if addr_is_v4(a) else format6(a)


cdef tuple format_address(const Addr *a, uint16_t port, bint six):
    if six:
        return (format6(a), port, 0, addr_zone(a) if addr_has_zone(a) else 0)
    return (quad(addr_to_v4(a) if addr_is_v4(a) else 0), port)


cdef Addr addr_from_int(object number) except *:
    cdef Addr a
    a.hi = <uint64_t>(number >> 64)
    a.lo = <uint64_t>(number & 0xFFFFFFFFFFFFFFFF)
    return a
