"""TAP and TUN devices: Ethernet frames or IP packets to and from the kernel (Linux networking/tuntap.rst).

Responsible for: the descriptor (created, attached to, or given), reading and writing frames, and the kernel's side when
asked (host_addresses). Not for: who reads when (driver/), addresses of the stack (net/).
Devices carry frames without the packet-information header (IFF_NO_PI). With offload=True a virtio header goes before
each frame (IFF_VNET_HDR): the kernel then takes TCP superframes and unfinished checksums, and hands them over.
"""

import errno
import fcntl
import os
import socket
import stat
import struct

from ustack_ext.link import netlink

from libc.errno cimport EAGAIN, EINTR, errno as c_errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset
from posix.unistd cimport read
from ustack_ext.base.buf cimport Buf
from ustack_ext.base.iov cimport OFF_CSUM_VERIFIED, OFF_CSUM_WANTED, OFF_GSO_TCP4, IoVec, Offload
from ustack_ext.link.link cimport Link, RxFrame, check_mac, check_mtu
from ustack_ext.net.state cimport TX_IOV_MAX

cdef extern from "<linux/if_tun.h>" nogil:
    unsigned long c_TUNSETIFF "TUNSETIFF"
    unsigned long c_TUNGETIFF "TUNGETIFF"
    unsigned long c_TUNSETPERSIST "TUNSETPERSIST"
    unsigned long c_TUNSETOWNER "TUNSETOWNER"
    unsigned long c_TUNSETVNETHDRSZ "TUNSETVNETHDRSZ"
    unsigned long c_TUNSETOFFLOAD "TUNSETOFFLOAD"
    int c_TUN_F_CSUM "TUN_F_CSUM"
    int c_TUN_F_TSO4 "TUN_F_TSO4"
    int c_IFF_TUN "IFF_TUN"
    int c_IFF_TAP "IFF_TAP"
    int c_IFF_NO_PI "IFF_NO_PI"
    int c_IFF_VNET_HDR "IFF_VNET_HDR"
    int c_IFF_MULTI_QUEUE "IFF_MULTI_QUEUE"

cdef extern from * nogil:
    """
    #include <stddef.h>
    #include <sys/ioctl.h>
    #include <sys/uio.h>
    /* Our IoVec is handed to writev as it is. */
    #define USTACK_CHECK_IOVEC(p) \\
        _Static_assert(sizeof(*(p)) == sizeof(struct iovec) \\
                       && offsetof(__typeof__(*(p)), base) == offsetof(struct iovec, iov_base) \\
                       && offsetof(__typeof__(*(p)), len) == offsetof(struct iovec, iov_len), "layout of IoVec")
    """
    void USTACK_CHECK_IOVEC(IoVec *p)
    int SIOCGIFHWADDR
    ctypedef struct iovec_t "struct iovec":
        pass
    ssize_t writev(int fd, const iovec_t *iov, int count)

cdef extern from "<linux/virtio_net.h>" nogil:
    cdef struct virtio_net_hdr:
        uint8_t flags
        uint8_t gso_type
        uint16_t hdr_len
        uint16_t gso_size
        uint16_t csum_start
        uint16_t csum_offset
    int VIRTIO_NET_HDR_F_NEEDS_CSUM
    int VIRTIO_NET_HDR_F_DATA_VALID
    int VIRTIO_NET_HDR_GSO_TCPV4

DEVICE = "/dev/net/tun"
SUPERFRAME = 65535                 # bytes of IP the kernel may hand over at once
TXQUEUELEN = 4096                  # frames the kernel keeps for us; its default of 500 or 1000 is a burst of one window

cdef struct State:
    int fd
    bint offload               # a virtio header goes before each frame


cdef int tap_transmit(void *link, const IoVec *iov, int niov, const Offload *off) noexcept nogil:
    cdef State *s = <State *>link
    cdef IoVec layout
    USTACK_CHECK_IOVEC(&layout)
    while writev(s.fd, <const iovec_t *>iov, niov) < 0:
        # EAGAIN: the device's queue is full; EIO: the kernel's side is down; ENOBUFS, EBADFD: no memory, no device.
        if c_errno != EINTR:
            return -1
    return 0


cdef int tap_transmit_offload(void *link, const IoVec *iov, int niov, const Offload *off) noexcept nogil:
    cdef State *s = <State *>link
    cdef IoVec all[TX_IOV_MAX + 1]
    cdef virtio_net_hdr h
    memset(&h, 0, sizeof(h))
    if off.flags & OFF_CSUM_WANTED:
        h.flags = <uint8_t>VIRTIO_NET_HDR_F_NEEDS_CSUM
        h.csum_start = off.csum_start
        h.csum_offset = off.csum_offset
    if off.flags & OFF_GSO_TCP4 and off.gso_size:
        h.gso_type = <uint8_t>VIRTIO_NET_HDR_GSO_TCPV4
        h.gso_size = off.gso_size
        h.hdr_len = off.hdr_len
    all[0].base = &h
    all[0].len = sizeof(h)
    memcpy(&all[1], iov, niov * sizeof(IoVec))
    return tap_transmit(s, all, niov + 1, off)


cdef void read_header(const virtio_net_hdr *h, Offload *off) noexcept nogil:
    """Both flags mean that nobody needs to look at the checksum: verified, or never on a wire."""
    if h.flags & (VIRTIO_NET_HDR_F_NEEDS_CSUM | VIRTIO_NET_HDR_F_DATA_VALID):
        off.flags |= OFF_CSUM_VERIFIED
    if h.gso_type == VIRTIO_NET_HDR_GSO_TCPV4 and h.gso_size:
        off.flags |= OFF_GSO_TCP4
        off.gso_size = h.gso_size


cdef int tap_receive(void *link, RxFrame *frames, int most) noexcept nogil:
    cdef State *s = <State *>link
    cdef Buf *b
    cdef virtio_net_hdr h
    cdef ssize_t got
    cdef uint32_t before = sizeof(virtio_net_hdr) if s.offload else 0      # read into the headroom
    cdef int n = 0
    while n < most:
        b = frames[n].buf
        got = read(s.fd, b.data + b.off - before, b.cap - b.off + before)
        if got < 0:
            if c_errno == EINTR:
                continue
            if c_errno == EAGAIN or n > 0:
                break
            return -c_errno
        if got <= before:
            break
        b.len = <uint32_t>got - before
        memset(&frames[n].off, 0, sizeof(Offload))
        if before:
            memcpy(&h, b.data + b.off - before, sizeof(h))
            read_header(&h, &frames[n].off)
        n += 1
    return n


cdef class _Tuntap(Link):
    """What Tap and Tun share."""
    cdef State state
    cdef readonly bint persistent

    def __dealloc__(self):
        if self.home.driver != NULL:
            self.home.forget(self.home.driver, self.home.iface)
            self.home.driver = NULL
        self.shut()

    cdef shut(self):
        fd = self.state.fd
        if self.ops.state != NULL and fd >= 0:
            self.state.fd = -1
            self.ops.fd = -1
            os.close(fd)

    cpdef close(self):
        """Detach from the stack and close the descriptor; a device that is not persistent goes with it.

        Can be called again.
        """
        if not self.closed:
            Link.close(self)
            self.shut()

    def fileno(self) -> int:
        """The device's descriptor; it stays the link's. OSError EBADF after close()."""
        if self.closed or self.ops.state == NULL:
            raise OSError(errno.EBADF, "the link is closed")
        return self.state.fd

    @property
    def offload(self):
        """Whether checksums and TCP segmentation are left to the kernel."""
        return self.state.offload

    cdef open_device(self, int kind, name, host_addresses, mtu, mac, fd, persistent, owner, offload):
        """Everything of the constructors; on an error nothing is left open."""
        if self.ops.state != NULL:
            raise TypeError("a link is initialised once")
        wanted_mtu = None if mtu is None else check_mtu(mtu)
        if host_addresses is not None:
            host_addresses = netlink.parse_interfaces(host_addresses)
        if fd is not None:
            if persistent or owner is not None:
                raise ValueError("persistent and owner are for devices opened by name, not by fd")
            opened = adopt(fd, kind, offload)
        else:
            opened = attach(name, kind, persistent, owner, offload)
        self.state.fd = opened
        self.ops.state = &self.state
        self.ops.transmit = tap_transmit
        self.ops.receive = tap_receive
        self.ops.fd = opened
        try:
            if offload and device_of(opened)[1] & c_IFF_VNET_HDR:
                self.use_offload()
            self.name = device_of(opened)[0]
            self.persistent = persistent
            if kind == c_IFF_TAP:
                self.mac = check_mac(mac)
                if self.mac == host_mac(opened):
                    raise ValueError(f"mac: {self.mac.hex(':')} is the kernel side's address; the stack needs its own")
            self.mtu = self.configure(host_addresses, wanted_mtu, fd is not None)
        except BaseException:
            self.closed = True
            self.shut()
            raise

    cdef use_offload(self):
        """Tells the kernel what it may hand over unfinished; what it refuses stays off."""
        fcntl.ioctl(self.state.fd, c_TUNSETVNETHDRSZ, struct.pack("i", sizeof(virtio_net_hdr)))
        self.state.offload = True
        self.ops.transmit = tap_transmit_offload
        try:
            fcntl.ioctl(self.state.fd, c_TUNSETOFFLOAD, c_TUN_F_CSUM | c_TUN_F_TSO4)
        except OSError:
            return
        self.offloads = OFF_CSUM_WANTED | OFF_GSO_TCP4
        self.receive_max = SUPERFRAME

    cdef int configure(self, host_addresses, wanted_mtu, by_fd) except -1:
        """Set up the kernel's side as far as it was asked for; the MTU both sides have now."""
        if host_addresses is not None:
            with explained(f"configuring the kernel's side of {self.name}", advice_host):
                netlink.configure(self.name, host_addresses, mtu=wanted_mtu, txqueuelen=TXQUEUELEN)
        try:
            with netlink.Rtnetlink() as kernel:
                there = kernel.get_link(if_index(self.name))["mtu"]
        except OSError:
            # A descriptor may come from another network namespace, where its device cannot be looked up.
            return wanted_mtu or 1500
        if by_fd or wanted_mtu is None or wanted_mtu == there or host_addresses is not None:
            return wanted_mtu or there
        with explained(f"setting the MTU of {self.name}", advice_host), netlink.Rtnetlink() as kernel:
            kernel.set_link(if_index(self.name), mtu=wanted_mtu)
        return wanted_mtu


cdef class Tap(_Tuntap):
    """Tap(name="ust%d", *, host_addresses=None, mtu=None, mac=None, fd=None, persistent=False, owner=None)

    A TAP device: Ethernet frames to and from the kernel.

    Parameters: name, of the device, at most 15 bytes; it is created, or attached to if it exists; %d becomes a number.
    host_addresses, the kernel's own addresses on the device (["10.9.0.1/24", "fd09::1/64"]): given (even if empty), the
    device is also brought up; None: the kernel's side is left as it is. mtu, bytes of IP (default: the device's, 1500
    for a new one). mac, the stack's Ethernet address (bytes or "02:00:00:00:00:01"; default: random). fd, an open TAP
    descriptor to take over instead (it is closed with the link; IFF_NO_PI, no IFF_VNET_HDR). persistent, the device
    outlives the link (until `ip link del`); owner, the uid that may attach to it later without privilege. offload,
    leave checksums and the cutting of TCP segments to the kernel, both ways (`offload` then says whether it does).

    Raises OSError: ENOENT (no /dev/net/tun), EPERM (needs CAP_NET_ADMIN, or the device is another user's), EBUSY
    (another process has it), EINVAL (the name is another kind of device), each with what to do; ValueError for a wrong
    argument.
    The link works on when the thread later leaves the network namespace it was made in.
    """

    def __init__(self, name="ust%d", *, host_addresses=None, mtu=None, mac=None, fd=None, persistent=False, owner=None,
                 offload=False):
        self.medium = "ethernet"
        self.open_device(c_IFF_TAP, name, host_addresses, mtu, mac, fd, bool(persistent), owner, bool(offload))


cdef class Tun(_Tuntap):
    """Tun(name="ust%d", *, host_addresses=None, mtu=None, fd=None, persistent=False, owner=None)

    A TUN device: IP packets to and from the kernel, without Ethernet. Parameters and errors are those of Tap.
    """

    def __init__(self, name="ust%d", *, host_addresses=None, mtu=None, fd=None, persistent=False, owner=None,
                 offload=False):
        self.medium = "ip"
        self.open_device(c_IFF_TUN, name, host_addresses, mtu, None, fd, bool(persistent), owner, bool(offload))


def if_index(name):
    """The device's index in this thread's namespace, or OSError ENODEV."""
    return socket.if_nametoindex(name)


def adopt(fd, int kind, bint offload):
    """Check a descriptor that the caller made; it is ours from now on."""
    fd = fd if isinstance(fd, int) else fd.fileno()
    try:
        name, flags = device_of(fd)
    except OSError as error:
        if error.errno == errno.EBADF:
            raise
        raise ValueError(f"fd: descriptor {fd} is not a TAP or TUN device ({error.strerror})") from None
    word = "TAP" if kind == c_IFF_TAP else "TUN"
    if not flags & kind:
        raise ValueError(f"fd: {name} is not a {word} device")
    if not flags & c_IFF_NO_PI:
        raise ValueError(f"fd: {name} puts a header before its frames; open it with IFF_NO_PI")
    if bool(flags & c_IFF_VNET_HDR) != offload:
        raise ValueError(f"fd: {name} was opened {'with' if flags & c_IFF_VNET_HDR else 'without'} IFF_VNET_HDR: "
                         f"say offload={not offload}")
    os.set_blocking(fd, False)
    return fd


def attach(name, int kind, persistent, owner, bint offload):
    """Open /dev/net/tun and create or attach to the device `name`; a non-blocking descriptor."""
    raw = name.encode() if isinstance(name, str) else bytes(name)
    if not 0 < len(raw) <= 15 or b"/" in raw or b"\0" in raw or b" " in raw:
        raise ValueError(f"name: {name!r} is no device name (1 to 15 bytes, no slash, no space)")
    with explained("opening " + DEVICE, advice_device):
        fd = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        with explained(f"attaching to {name}", advice_device):
            set_device(fd, raw, kind | c_IFF_NO_PI | (c_IFF_VNET_HDR if offload else 0))
            if owner is not None:
                fcntl.ioctl(fd, c_TUNSETOWNER, int(owner))
            if persistent:
                fcntl.ioctl(fd, c_TUNSETPERSIST, 1)
    except BaseException:
        os.close(fd)
        raise
    return fd


def set_device(fd, raw, int flags):
    """TUNSETIFF; a persistent device that was made for several queues takes only those who say so (tuntap.rst §3.3)."""
    try:
        fcntl.ioctl(fd, c_TUNSETIFF, struct.pack("16sH22x", raw, flags))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        fcntl.ioctl(fd, c_TUNSETIFF, struct.pack("16sH22x", raw, flags | c_IFF_MULTI_QUEUE))


def device_of(fd):
    """(name, IFF_* flags) of an open device; works from any network namespace."""
    raw, flags = struct.unpack_from("16sH", fcntl.ioctl(fd, c_TUNGETIFF, bytes(40)))
    return raw.rstrip(b"\0").decode(), flags


def host_mac(fd):
    """The kernel side's Ethernet address, asked of the descriptor itself, so it works from any network namespace."""
    return fcntl.ioctl(fd, SIOCGIFHWADDR, bytes(40))[18:24]


class explained:
    """Adds to an OSError what was being done and what would help."""

    def __init__(self, doing, advice):
        self.doing = doing
        self.advice = advice

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if not isinstance(error, OSError) or error.errno is None:
            return False
        help = self.advice(error.errno)
        message = f"{self.doing}: {os.strerror(error.errno)}" + (f"; {help}" if help else "")
        raise OSError(error.errno, message) from None


def advice_host(code):
    """What to do about an errno of rtnetlink."""
    if code == errno.EPERM:
        return "it needs CAP_NET_ADMIN: run as root or inside `unshare -Urn`, or have root configure the device"
    if code == errno.EACCES:
        return "IPv6 is switched off there: `sysctl -w net.ipv6.conf.all.disable_ipv6=0`, or leave the IPv6 address out"
    if code == errno.EINVAL:
        return "the device does not take this MTU or address"
    return ""


def advice_device(code):
    """What to do about an errno of /dev/net/tun."""
    if code in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
        return ("this kernel or container has no TUN/TAP: run `modprobe tun`, or start the container with "
                "--device=/dev/net/tun --cap-add=NET_ADMIN")
    if code == errno.EACCES:
        return f"this user may not open {DEVICE}: run as root, or `chmod 666 {DEVICE}` (mode {device_mode()} now)"
    if code == errno.EPERM:
        return ("it needs CAP_NET_ADMIN: run as root or inside `unshare -Urn`, or have root make the device for you: "
                "`ip tuntap add dev NAME mode tap user $USER`")
    if code == errno.EBUSY:
        return "another process has this device open: close it, or use another name"
    if code == errno.EINVAL:
        return "the name belongs to another kind of device (TAP, TUN, …): use another name, or `ip link del` that one"
    return ""


def device_mode():
    try:
        return oct(stat.S_IMODE(os.stat(DEVICE).st_mode))[2:]
    except OSError:
        return "unknown"
