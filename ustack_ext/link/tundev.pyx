"""Opening a TAP or TUN device: the descriptor, its flags, and which offloads the kernel grants on it.

Responsible for /dev/net/tun's ioctls (Linux networking/tuntap.rst) and for saying what helps when one is refused. Not
for frames, nor for the link object (tap.pyx), nor for the kernel's addresses (netlink.py).

Flags and offloads belong to the device, not to the descriptor: a second queue changes them for the first, and on a
persistent device they outlive whoever set them. So what others use is left as it is, what is ours alone is set anew,
and switched off again on leaving.
"""

import contextlib
import errno
import fcntl
import os
import socket
import stat
import struct

from ustack_ext.link import netlink, steer

cdef extern from "<linux/if_tun.h>" nogil:
    """
    #ifndef TUN_F_USO4
    #define TUN_F_USO4 0x20        /* Linux 6.2 */
    #define TUN_F_USO6 0x40
    #endif
    """
    unsigned long c_TUNSETIFF "TUNSETIFF"
    unsigned long c_TUNGETIFF "TUNGETIFF"
    unsigned long c_TUNGETFEATURES "TUNGETFEATURES"
    unsigned long c_TUNSETPERSIST "TUNSETPERSIST"
    unsigned long c_TUNSETOWNER "TUNSETOWNER"
    unsigned long c_TUNGETVNETHDRSZ "TUNGETVNETHDRSZ"
    unsigned long c_TUNSETVNETHDRSZ "TUNSETVNETHDRSZ"
    unsigned long c_TUNSETOFFLOAD "TUNSETOFFLOAD"
    unsigned long c_TUNSETSTEERINGEBPF "TUNSETSTEERINGEBPF"
    int TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_TSO_ECN, TUN_F_USO4, TUN_F_USO6
    int c_IFF_TUN "IFF_TUN"
    int c_IFF_TAP "IFF_TAP"
    int c_IFF_NO_PI "IFF_NO_PI"
    int c_IFF_VNET_HDR "IFF_VNET_HDR"
    int c_IFF_MULTI_QUEUE "IFF_MULTI_QUEUE"
    int c_IFF_PERSIST "IFF_PERSIST"

cdef extern from "<linux/virtio_net.h>" nogil:
    cdef struct virtio_net_hdr:
        pass

cdef extern from "<sys/ioctl.h>" nogil:
    int SIOCGIFHWADDR

DEVICE = "/dev/net/tun"
IFF_TAP = c_IFF_TAP
IFF_TUN = c_IFF_TUN
IFF_VNET_HDR = c_IFF_VNET_HDR
IFF_MULTI_QUEUE = c_IFF_MULTI_QUEUE
HEADER = sizeof(virtio_net_hdr)

# What the kernel may leave to us, from most to least. It has USO for both families or for none.
BITS = {"csum": TUN_F_CSUM, "tso4": TUN_F_TSO4, "tso6": TUN_F_TSO6, "tso_ecn": TUN_F_TSO_ECN,
        "uso4": TUN_F_USO4 | TUN_F_USO6}
BIG = 120000                       # bytes of IP in a superframe to a kernel that takes more than a length field can say
LADDER = (("csum", "tso4", "tso6", "tso_ecn", "uso4"), ("csum", "tso4", "tso6", "tso_ecn"), ("csum", "tso4", "tso6"),
          ("csum", "tso4"), ("csum",))


class Opened:
    """An open device: `fds` (one a queue; they are closed together), `name`, `header` (a virtio header goes before each
    frame), `offloads` (a tuple of names from BITS), `refused` (what was not granted and why, as sentences), and
    `shared` (others use the device too)."""

    def __init__(self, fd, shared=False):
        self.fds = [fd]
        self.users = 1
        self.shared = shared
        self.refused = []
        self.offloads = ()
        self.superframe = 0
        self.name, flags = device_of(fd)
        self.header = bool(flags & c_IFF_VNET_HDR)
        self.pid = os.getpid()

    def negotiate(self, wanted):
        """Settle the offloads. wanted: True (insist: OSError), False (none) or None (as many as can be had)."""
        if self.header:
            self.fix_header()
        fd = self.fds[0]
        if self.shared:
            # Changing what others rely on is out of the question. The virtio header is there for everybody, and what
            # it can say is understood in both directions.
            self.offloads = ("csum", "tso4", "tso6") if self.header and wanted is not False else ()
            self.superframe = 65535 if self.offloads else 0
            return
        if not self.header or wanted is False:
            set_offload(fd, 0)
            return
        for names in LADDER:
            error = set_offload(fd, sum(BITS[name] for name in names))
            if error is None:
                self.offloads = names
                self.superframe = superframe_of() if "tso4" in names else 0
                break
            self.refused.append(f"TUNSETOFFLOAD {'+'.join(names)}: {error.strerror}")
        if wanted and "tso4" not in self.offloads:
            raise OSError(errno.EOPNOTSUPP,
                          f"{self.name}: the kernel refuses TCP segmentation ({'; '.join(self.refused)}); "
                          "leave offload out to do without")

    def fix_header(self):
        """The header's size is the device's, too: 10 bytes unless somebody changed it."""
        size = struct.unpack("i", fcntl.ioctl(self.fds[0], c_TUNGETVNETHDRSZ, bytes(4)))[0]
        if size == HEADER:
            return
        if self.shared:
            raise OSError(errno.EBUSY, f"{self.name}: another program uses it with virtio headers of {size} bytes; "
                          f"only {HEADER} are understood here: close it, or use another name")
        fcntl.ioctl(self.fds[0], c_TUNSETVNETHDRSZ, struct.pack("i", HEADER))

    def widen(self, int queues, int kind, secret):
        """Open more queues, up to `queues`, steered by `secret`. One it stays where the kernel refuses any of it."""
        flags = kind | c_IFF_NO_PI | c_IFF_MULTI_QUEUE | (c_IFF_VNET_HDR if self.header else 0)
        try:
            if self.shared or not device_of(self.fds[0])[1] & c_IFF_MULTI_QUEUE:
                raise OSError(errno.EBUSY, "the device is others' too, or was made for one")
            for _ in range(1, queues):
                fd = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
                self.fds.append(fd)
                fcntl.ioctl(fd, c_TUNSETIFF, struct.pack("16sH22x", self.name.encode(), flags))
            self.secret = secret
            self.header_bytes = 14 if kind == c_IFF_TAP else 0
            self.steer([0] * queues, 0)
        except OSError as error:
            self.refused.append(f"{queues} queues: {error.strerror}")
            while len(self.fds) > 1:
                os.close(self.fds.pop())
        self.users = len(self.fds)

    def steer(self, targets, otherwise):
        """Have the kernel pick the queue of each bucket (see steer.program). OSError."""
        loaded = steer.load(steer.program(self.header_bytes, self.secret, targets, otherwise))
        try:
            fcntl.ioctl(self.fds[0], c_TUNSETSTEERINGEBPF, struct.pack("i", loaded))
        finally:
            os.close(loaded)

    def __del__(self):
        self.users = 1
        self.close()

    def close(self):
        """One link less uses it. With the last the descriptors are closed: all at once, as the kernel numbers the
        queues anew when one goes, and flows would come to the wrong engine.

        A persistent device is left as a plain one: the next program may know no offloads.
        """
        self.users -= 1
        if self.users > 0:
            return
        fds, self.fds = self.fds, []
        if not fds:
            return
        if self.offloads and not self.shared and self.pid == os.getpid():
            with contextlib.suppress(OSError):
                if device_of(fds[0])[1] & c_IFF_PERSIST:
                    set_offload(fds[0], 0)
        for fd in fds:
            os.close(fd)


def superframe_of():
    """Bytes of IP that this kernel takes in a TCP superframe. Its own TUN driver hands none over beyond 65535."""
    with contextlib.suppress(OSError), netlink.Rtnetlink() as kernel:
        if kernel.get_link(1)["big_tcp"]:              # 1: lo, in every namespace
            return BIG
    return 65535


def set_offload(fd, bits):
    """TUNSETOFFLOAD. None, or the OSError it gave."""
    try:
        fcntl.ioctl(fd, c_TUNSETOFFLOAD, bits)
    except OSError as error:
        return error
    return None


def adopt(fd, int kind, wanted):
    """An Opened over a descriptor that the caller made; it is ours from now on. Raises OSError, ValueError."""
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
    if wanted and not flags & c_IFF_VNET_HDR:
        raise ValueError(f"fd: {name} was opened without IFF_VNET_HDR: open it with that, or leave offload out")
    os.set_blocking(fd, False)
    found = Opened(fd, shared=bool(flags & c_IFF_MULTI_QUEUE))
    if not found.header and wanted is None:
        found.refused.append("the descriptor was opened without IFF_VNET_HDR")
    return found


def attach(name, int kind, persistent, owner, wanted, bint several=False):
    """An Opened for a device created, or attached to if it exists; non-blocking. several: it is to have more
    queues. Raises OSError, ValueError."""
    raw = name.encode() if isinstance(name, str) else bytes(name)
    if not 0 < len(raw) <= 15 or b"/" in raw or b"\0" in raw or b" " in raw:
        raise ValueError(f"name: {name!r} is no device name (1 to 15 bytes, no slash, no space)")
    with explained("opening " + DEVICE, advice_device):
        fd = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        with explained(f"attaching to {name}", advice_device):
            shared = set_device(fd, raw, kind, wanted, several)
            if owner is not None:
                fcntl.ioctl(fd, c_TUNSETOWNER, int(owner))
            if persistent:
                fcntl.ioctl(fd, c_TUNSETPERSIST, 1)
        found = Opened(fd, shared)
    except BaseException:
        os.close(fd)
        raise
    if not found.header and wanted is not False:
        why = "others use the device without it" if shared else "this kernel has none"
        found.refused.append(f"IFF_VNET_HDR: {why}")
        if wanted:
            os.close(fd)
            raise OSError(errno.EOPNOTSUPP,
                          f"{name}: no offloads (IFF_VNET_HDR: {why}); leave offload out to do without")
    return found


def set_device(fd, raw, int kind, wanted, bint several):
    """TUNSETIFF. Whether the device has queues of others.

    A persistent device that was made for several queues takes only those who say so (tuntap.rst §3.3), and the latest
    comer's flags become everybody's.
    """
    features = struct.unpack("I", fcntl.ioctl(fd, c_TUNGETFEATURES, bytes(4)))[0]
    flags = kind | c_IFF_NO_PI
    header = c_IFF_VNET_HDR & features if wanted is not False else 0
    first = c_IFF_MULTI_QUEUE & features if several and not is_there(raw) else 0
    try:
        fcntl.ioctl(fd, c_TUNSETIFF, struct.pack("16sH22x", raw, flags | header | first))
        return False
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    shared = False
    with contextlib.suppress(OSError), netlink.Rtnetlink() as kernel:
        there = kernel.get_link(socket.if_nametoindex(os.fsdecode(raw)))
        shared = there["tun_queues"] > 0
        if shared:
            header = c_IFF_VNET_HDR if there["tun_vnet_hdr"] else 0
    fcntl.ioctl(fd, c_TUNSETIFF, struct.pack("16sH22x", raw, flags | header | c_IFF_MULTI_QUEUE))
    return shared


def is_there(raw):
    """Whether this thread's namespace has a device of that name."""
    try:
        socket.if_nametoindex(os.fsdecode(raw))
    except OSError:
        return False
    return True


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
