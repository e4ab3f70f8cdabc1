"""A TAP or TUN device with the kernel on the other side of its descriptor.

The device is quiet: no IPv6 addresses of its own, no router solicitations, no multicast reports, unless asked for;
what is read from the descriptor is what the test caused. It is not persistent: it goes with its last descriptor.
"""

import fcntl
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from tap_harness.netns import Namespace

TUNSETIFF = 0x400454CA
IFF_TUN = 0x0001
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000
IFF_VNET_HDR = 0x4000


class KernelTap:
    """Make a TAP (or TUN) in `namespace`, configure the kernel's side, bring it up.

    Parameters: name, the device name (at most 15 bytes); addresses, the kernel's own as "10.9.0.1/24", those of IPv6
    without duplicate address detection (RFC 4862 §5.4): there is no third host; mtu in bytes; tun, an IP device without
    Ethernet; vnet_hdr, each frame preceded by a virtio-net header; ipv6, leave the kernel's IPv6 on (as an IPv6 address
    does); txqueuelen, frames the kernel keeps for the reader before it drops.

    Attributes: fd (non-blocking; owned by this object: `dup()` gives one to a stack), name, mac (the kernel's side, ""
    for TUN).
    """

    def __init__(
        self,
        namespace: Namespace,
        name: str = "ust0",
        *,
        addresses: Sequence[str] = (),
        mtu: int = 1500,
        tun: bool = False,
        vnet_hdr: bool = False,
        ipv6: bool = False,
        txqueuelen: int = 5000,
    ) -> None:
        self.namespace = namespace
        self.name = name
        flags = (IFF_TUN if tun else IFF_TAP) | IFF_NO_PI | (IFF_VNET_HDR if vnet_hdr else 0)
        with namespace.entered():
            self.fd = open_device(name, flags)
            if not ipv6 and not any(":" in address for address in addresses):
                Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
        commands = [f"ip link set {name} mtu {mtu} txqueuelen {txqueuelen} up"]
        for one in addresses:
            commands.append(f"ip addr add {one} dev {name}" + " nodad" * (":" in one and "nodad" not in one))
        try:
            namespace.sh(" && ".join(commands))
            self.mac = "" if tun else _link_address(namespace, name)
        except BaseException:
            os.close(self.fd)
            raise

    def dup(self) -> int:
        """A second descriptor of the same device, for an owner that closes what it is given."""
        return os.dup(self.fd)

    def close(self) -> None:
        """Close the descriptor; the device goes when no other descriptor has it. Can be called again."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> "KernelTap":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_device(name: str, flags: int) -> int:
    """Open /dev/net/tun and create or attach the device `name` in the thread's namespace; a non-blocking descriptor."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    except BaseException:
        os.close(fd)
        raise
    return fd


def _link_address(namespace: Namespace, name: str) -> str:
    words = namespace.sh(f"ip -o link show dev {name}").split()
    return words[words.index("link/ether") + 1]
