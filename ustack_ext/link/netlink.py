"""What a link needs of rtnetlink to configure the kernel's side of a TAP or TUN: up, MTU, queue length, addresses.

Pure Python over an AF_NETLINK socket, so that no `ip` program is needed. Not here: the device itself (tap.pyx).
RFC 3549; the numbers are those of linux/rtnetlink.h, if_link.h and if_addr.h.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from typing import Any

_RTM_NEWLINK, _RTM_GETLINK, _RTM_NEWADDR, _RTM_NEWROUTE = 16, 18, 20, 24
_NLMSG_ERROR = 2
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_EXCL, _NLM_F_CREATE = 0x1, 0x4, 0x200, 0x400
_IFLA_ADDRESS, _IFLA_MTU, _IFLA_TXQLEN, _IFLA_LINKINFO = 1, 4, 13, 18
_IFLA_INFO_DATA = 2
_IFLA_TUN_VNET_HDR, _IFLA_TUN_NUM_QUEUES = 5, 8
_IFLA_GRO_IPV4_MAX_SIZE = 64  # since Linux 6.3, with BIG TCP for IPv4
_NLA_TYPE_MASK = 0x3FFF  # the rest are flags
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST = 1, 2, 4
_IFA_F_NODAD = 0x02
_IFF_UP = 0x1
_EEXIST = 17
_RTA_OIF = 4
_RT_TABLE_MAIN, _RTPROT_STATIC, _RT_SCOPE_LINK, _RTN_UNICAST = 254, 4, 253, 1


def _attribute(kind: int, value: bytes) -> bytes:
    padding = -len(value) % 4
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(padding)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(kind, value) of each attribute, as far as they are whole."""
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if length < 4 or at + length > len(data):
            return
        yield kind & _NLA_TYPE_MASK, data[at + 4 : at + length]
        at += (length + 3) & ~3


def _tun_data(linkinfo: bytes) -> dict[int, bytes]:
    """IFLA_TUN_* of a device that is a TAP or TUN; of others, whatever they have under those numbers."""
    return dict(_attributes(dict(_attributes(linkinfo)).get(_IFLA_INFO_DATA, b"")))


class Rtnetlink:
    """A conversation with the kernel about the network namespace the calling thread is in. A context manager.

    Every method raises OSError with the kernel's errno: EPERM without CAP_NET_ADMIN, ENODEV for an unknown device.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Rtnetlink:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def get_link(self, index: int) -> dict[str, Any]:
        """A device's `mtu` (bytes), `txqueuelen` (frames), `mac` (bytes) and `up` (0 or 1).

        Of a TAP or TUN also `tun_queues` (descriptors that have it open) and `tun_vnet_hdr` (0 or 1); 0 where the
        kernel does not say. And `big_tcp` (0 or 1): whether this kernel knows IPv4 packets whose length field is 0.
        """
        request = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, 0, 0)
        reply = self._ask(_RTM_GETLINK, 0, request)
        flags = struct.unpack_from("=I", reply, 8)[0]
        found: dict[str, Any] = {"up": int(bool(flags & _IFF_UP)), "mtu": 0, "txqueuelen": 0, "mac": b""}
        found.update(tun_queues=0, tun_vnet_hdr=0, big_tcp=0)
        for kind, value in _attributes(reply[16:]):
            if kind == _IFLA_ADDRESS:
                found["mac"] = value
            elif kind in (_IFLA_MTU, _IFLA_TXQLEN):
                found["mtu" if kind == _IFLA_MTU else "txqueuelen"] = struct.unpack("=I", value)[0]
            elif kind == _IFLA_GRO_IPV4_MAX_SIZE:
                found["big_tcp"] = 1
            elif kind == _IFLA_LINKINFO:
                tun = _tun_data(value)
                found["tun_queues"] = int.from_bytes(tun.get(_IFLA_TUN_NUM_QUEUES, b"")[:4], sys.byteorder)
                found["tun_vnet_hdr"] = int.from_bytes(tun.get(_IFLA_TUN_VNET_HDR, b"")[:1], sys.byteorder)
        return found

    def set_link(
        self, index: int, *, up: bool | None = None, mtu: int | None = None, txqueuelen: int | None = None
    ) -> None:
        """Change what is given: up or down, mtu in bytes, txqueuelen in frames."""
        attributes = b""
        if mtu is not None:
            attributes += _attribute(_IFLA_MTU, struct.pack("=I", mtu))
        if txqueuelen is not None:
            attributes += _attribute(_IFLA_TXQLEN, struct.pack("=I", txqueuelen))
        flags = _IFF_UP if up else 0
        change = 0 if up is None else _IFF_UP
        header = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, flags, change)
        self._ask(_RTM_NEWLINK, _NLM_F_ACK, header + attributes)

    def add_address(self, index: int, interface: ipaddress.IPv4Interface | ipaddress.IPv6Interface) -> None:
        """Add an address with its prefix; one that is there already stays. IPv6 ones are usable at once (no DAD)."""
        family = socket.AF_INET if interface.version == 4 else socket.AF_INET6
        length = interface.network.prefixlen
        packed = interface.ip.packed
        attributes = _attribute(_IFA_LOCAL, packed) + _attribute(_IFA_ADDRESS, packed)
        flags = _IFA_F_NODAD if interface.version == 6 else 0
        if interface.version == 4 and length < 31:
            attributes += _attribute(_IFA_BROADCAST, interface.network.broadcast_address.packed)
        header = struct.pack("=BBBBi", family, length, flags, 0, index)
        try:
            self._ask(_RTM_NEWADDR, _NLM_F_ACK | _NLM_F_CREATE | _NLM_F_EXCL, header + attributes)
        except OSError as error:
            if error.errno != _EEXIST:
                raise

    def add_default_route(self, index: int, family: int) -> None:
        """All of a family (AF_INET, AF_INET6) goes out by this device, without a gateway: of one without Ethernet."""
        header = struct.pack(
            "=BBBBBBBBI", family, 0, 0, 0, _RT_TABLE_MAIN, _RTPROT_STATIC, _RT_SCOPE_LINK, _RTN_UNICAST, 0
        )
        attributes = _attribute(_RTA_OIF, struct.pack("=i", index))
        self._ask(_RTM_NEWROUTE, _NLM_F_ACK | _NLM_F_CREATE | _NLM_F_EXCL, header + attributes)

    def _ask(self, kind: int, flags: int, body: bytes) -> bytes:
        """Send one request; the body of the answer, b"" for a plain acknowledgement."""
        self._sequence += 1
        message = struct.pack("=IHHII", 16 + len(body), kind, flags | _NLM_F_REQUEST, self._sequence, 0) + body
        self._socket.send(message)
        while True:
            answer = self._socket.recv(65536)
            if len(answer) < 16:
                continue
            length, got, _, sequence, _ = struct.unpack_from("=IHHII", answer)
            if sequence != self._sequence:
                continue
            if got == _NLMSG_ERROR:
                code = -struct.unpack_from("=i", answer, 16)[0]
                if code:
                    raise OSError(code, os.strerror(code))
                return b""
            return answer[16:length]


def parse_interfaces(addresses: Iterable[object]) -> list[ipaddress.IPv4Interface | ipaddress.IPv6Interface]:
    """Addresses with prefix, as "10.9.0.1/24". ValueError for one that is none, or has no prefix length."""
    found = []
    for address in addresses:
        if isinstance(address, str) and "/" not in address:
            raise ValueError(f"host_addresses: {address!r} needs a prefix length, as in {address}/24")
        found.append(ipaddress.ip_interface(address))  # type: ignore[arg-type]
    return found


def configure(
    name: str,
    addresses: Iterable[object],
    *,
    mtu: int | None = None,
    txqueuelen: int | None = None,
) -> None:
    """Bring the device `name` of this thread's namespace up with these addresses.

    Parameters: addresses, as "10.9.0.1/24"; mtu, bytes; txqueuelen, frames the kernel keeps for the reader.
    Raises OSError (EPERM: needs CAP_NET_ADMIN; ENODEV) and ValueError.
    """
    interfaces = parse_interfaces(addresses)
    index = socket.if_nametoindex(name)
    with Rtnetlink() as kernel:
        kernel.set_link(index, mtu=mtu, txqueuelen=txqueuelen, up=True)
        for interface in interfaces:
            kernel.add_address(index, interface)
