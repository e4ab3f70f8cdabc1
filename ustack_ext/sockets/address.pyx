"""Socket addresses: (host, port) tuples as the socket module has them, in and out.

Responsible for: the checks and exceptions of CPython's getsockaddrarg for AF_INET, dotted quads both ways. Not for:
names; what is no address is answered as a resolver without an answer does (socket.gaierror), "localhost" excepted
(RFC 6761 §6.3).
"""
import socket as _socket

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from ustack_ext.wire.addr cimport Addr, addr_is_v4, addr_none, addr_to_v4, addr_v4


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
        a[0] = addr_none()
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


cdef int parse_address(object address, str caller, Addr *a, uint16_t *port) except -1:
    """(host, port). Raises TypeError, OverflowError, socket.gaierror as the socket module does."""
    if not isinstance(address, tuple):
        raise TypeError(f"{caller}(): AF_INET address must be tuple, not {type(address).__name__}")
    if len(<tuple>address) != 2:
        raise TypeError(f"{caller}(): AF_INET address must be a pair (host, port)")
    host, number = <tuple>address
    if not isinstance(number, int) and not hasattr(number, "__index__"):
        raise TypeError(f"{caller}(): AF_INET address must be a pair (host, port)")
    parse_host(host, a)
    if not 0 <= number.__index__() <= 0xFFFF:
        raise OverflowError(f"{caller}(): port must be 0-65535.")
    port[0] = number
    return 0


cdef str format_host(const Addr *a):
    cdef char text[16]
    cdef uint32_t ip = addr_to_v4(a) if addr_is_v4(a) else 0
    cdef int n
    if not addr_is_v4(a) and (a.hi or a.lo):
        return _socket.inet_ntop(_socket.AF_INET6, (int(a.hi) << 64 | int(a.lo)).to_bytes(16, "big"))
    n = snprintf(text, sizeof(text), "%u.%u.%u.%u", ip >> 24, ip >> 16 & 255, ip >> 8 & 255, ip & 255)
    return text[:n].decode("ascii")


cdef tuple format_address(const Addr *a, uint16_t port):
    return (format_host(a), port)


cdef Addr addr_from_int(object number) except *:
    cdef Addr a
    a.hi = <uint64_t>(number >> 64)
    a.lo = <uint64_t>(number & 0xFFFFFFFFFFFFFFFF)
    return a
