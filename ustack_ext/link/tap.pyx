"""TAP and TUN links: Ethernet frames or IP packets to and from the kernel (Linux networking/tuntap.rst).

Responsible for reading and writing frames, and for the kernel's side when asked (host_addresses). Not for: opening the
device and what it grants (tundev.pyx), who reads when (driver/), addresses of the stack (net/).
Devices carry frames without the packet-information header (IFF_NO_PI). Where the kernel has it, a virtio header goes
before each frame (IFF_VNET_HDR): the kernel then takes TCP superframes and unfinished checksums, and hands them over.
"""

import errno
import ipaddress
import os
import socket
import weakref

from ustack_ext.link import netlink, tundev

from libc.errno cimport EAGAIN, EINTR, errno as c_errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset
from ustack_ext.base.buf cimport Buf
from ustack_ext.base.iov cimport (OFF_CSUM_VERIFIED, OFF_CSUM_WANTED, OFF_ECN, OFF_GSO_TCP4, OFF_GSO_TCP6, OFF_GSO_UDP,
                                  IoVec, Offload)
from ustack_ext.link.frameq cimport frameq_listen
from ustack_ext.link.link cimport Link, RxFrame, check_mac, check_mtu
from ustack_ext.link.steer cimport (
    KEY_BYTES, MAX_QUEUES, Fan, fan_bucket, fan_free, fan_new, fan_out, fan_pair, fan_take,
)
from ustack_ext.net.state cimport TX_HEADROOM, TX_IOV_MAX

cdef extern from * nogil:
    """
    #include <stddef.h>
    #include <sys/syscall.h>
    #include <sys/uio.h>
    #include <unistd.h>
    /* Our IoVec is handed to writev as it is. */
    #define USTACK_CHECK_IOVEC(p) \\
        _Static_assert(sizeof(*(p)) == sizeof(struct iovec) \\
                       && offsetof(__typeof__(*(p)), base) == offsetof(struct iovec, iov_base) \\
                       && offsetof(__typeof__(*(p)), len) == offsetof(struct iovec, iov_len), "layout of IoVec")
    /* The C library's read() and writev() are cancellation points: two locked instructions a call and more, for a
       feature of threads that nobody here uses. */
    static long frame_read(int fd, void *p, size_t n) { return syscall(SYS_read, fd, p, n); }
    static long frame_write(int fd, const void *iov, int n) {
        const struct iovec *v = iov;
        return n == 1 ? syscall(SYS_write, fd, v->iov_base, v->iov_len) : syscall(SYS_writev, fd, v, n);
    }
    """
    void USTACK_CHECK_IOVEC(IoVec *p)
    long frame_read(int fd, void *p, size_t n)
    long frame_write(int fd, const IoVec *iov, int n)

cdef extern from "<linux/virtio_net.h>" nogil:
    """
    #ifndef VIRTIO_NET_HDR_GSO_UDP_L4
    #define VIRTIO_NET_HDR_GSO_UDP_L4 5        /* Linux 6.2 */
    #endif
    """
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
    int VIRTIO_NET_HDR_GSO_TCPV6
    int VIRTIO_NET_HDR_GSO_UDP_L4
    int VIRTIO_NET_HDR_GSO_ECN

cdef enum:
    SMALL = 320                    # bytes of a frame that is put together before it is written

SUPERFRAME = 65535                 # bytes of IP the kernel may hand over at once
TXQUEUELEN = 4096                  # frames the kernel keeps for us; its default of 500 or 1000 is a burst of one window

cdef struct State:
    int fd
    uint32_t before            # bytes of virtio header
    uint32_t queue             # which of the device's
    Fan *fan                   # NULL: the device has one queue

cdef struct Head:                  # what is written before the payload, in one piece
    virtio_net_hdr virtio
    uint8_t frame[TX_HEADROOM]


cdef int tap_transmit(void *link, const IoVec *iov, int niov, const Offload *off) noexcept nogil:
    cdef State *s = <State *>link
    cdef uint8_t small[SMALL]
    cdef IoVec whole
    USTACK_CHECK_IOVEC(&whole)
    if niov == 2 and iov[0].len + iov[1].len <= sizeof(small):
        # One piece is less for the kernel to look up than two, and so small a copy.
        memcpy(small, iov[0].base, iov[0].len)
        memcpy(small + iov[0].len, iov[1].base, iov[1].len)
        whole.base = small
        whole.len = iov[0].len + iov[1].len
        iov = &whole
        niov = 1
    while frame_write(s.fd, iov, niov) < 0:
        # EAGAIN: the device's queue is full; EIO: the kernel's side is down; ENOBUFS, EBADFD: no memory, no device.
        if c_errno != EINTR:
            return -1
    return 0


cdef void fill_header(virtio_net_hdr *h, const Offload *off) noexcept nogil:
    memset(h, 0, sizeof(h[0]))
    if off.flags & OFF_CSUM_WANTED:
        h.flags = <uint8_t>VIRTIO_NET_HDR_F_NEEDS_CSUM
        h.csum_start = off.csum_start
        h.csum_offset = off.csum_offset
    if off.gso_size == 0:
        return
    if off.flags & OFF_GSO_TCP4:
        h.gso_type = <uint8_t>VIRTIO_NET_HDR_GSO_TCPV4
    elif off.flags & OFF_GSO_TCP6:
        h.gso_type = <uint8_t>VIRTIO_NET_HDR_GSO_TCPV6
    elif off.flags & OFF_GSO_UDP:
        h.gso_type = <uint8_t>VIRTIO_NET_HDR_GSO_UDP_L4
    else:
        return
    if off.flags & OFF_ECN:
        h.gso_type |= <uint8_t>VIRTIO_NET_HDR_GSO_ECN
    h.gso_size = off.gso_size
    h.hdr_len = off.hdr_len


cdef int tap_transmit_header(void *link, const IoVec *iov, int niov, const Offload *off) noexcept nogil:
    cdef IoVec all[TX_IOV_MAX + 1]
    cdef Head head
    fill_header(&head.virtio, off)
    all[0].base = &head
    all[0].len = sizeof(virtio_net_hdr)
    if iov[0].len <= TX_HEADROOM:
        # One piece less for the kernel to look up; an acknowledgement is a single one.
        memcpy(head.frame, iov[0].base, iov[0].len)
        all[0].len += iov[0].len
        memcpy(&all[1], &iov[1], (niov - 1) * sizeof(IoVec))
        return tap_transmit(link, all, niov, off)
    memcpy(&all[1], iov, niov * sizeof(IoVec))
    return tap_transmit(link, all, niov + 1, off)


cdef void read_header(const virtio_net_hdr *h, uint32_t length, Offload *off) noexcept nogil:
    """What the kernel says of a frame of `length` bytes. It is trusted, but nothing that cannot be is passed on."""
    cdef uint32_t checked = <uint32_t>h.csum_start + h.csum_offset + 2
    cdef int kind = h.gso_type & ~VIRTIO_NET_HDR_GSO_ECN
    # Both flags mean that nobody needs to look at the checksum: verified, or never on a wire.
    if h.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM and checked <= length:
        off.flags |= OFF_CSUM_VERIFIED | OFF_CSUM_WANTED
        off.csum_start = h.csum_start
        off.csum_offset = h.csum_offset
    elif h.flags & VIRTIO_NET_HDR_F_DATA_VALID:
        off.flags |= OFF_CSUM_VERIFIED
    if h.gso_size == 0 or h.gso_size >= length or h.hdr_len > length:
        return
    if kind == VIRTIO_NET_HDR_GSO_TCPV4:
        off.flags |= OFF_GSO_TCP4
    elif kind == VIRTIO_NET_HDR_GSO_TCPV6:
        off.flags |= OFF_GSO_TCP6
    elif kind == VIRTIO_NET_HDR_GSO_UDP_L4:
        off.flags |= OFF_GSO_UDP
    else:
        return
    if h.gso_type & VIRTIO_NET_HDR_GSO_ECN:
        off.flags |= OFF_ECN
    off.gso_size = h.gso_size


cdef int read_frames(State *s, RxFrame *frames, int most, uint32_t before) noexcept nogil:
    """`before`: bytes of header, which go to the headroom."""
    cdef Buf *b
    cdef virtio_net_hdr h
    cdef long got
    cdef int n = 0
    while n < most:
        b = frames[n].buf
        b.off = max(b.off, before)
        got = frame_read(s.fd, b.data + b.off - before, b.cap - b.off + before)
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
            read_header(&h, b.len, &frames[n].off)
        n += 1
    return n


cdef int tap_receive_queue(void *link, RxFrame *frames, int most) noexcept nogil:
    """One queue of several: what siblings handed over, then what the device has, less what is theirs."""
    cdef State *s = <State *>link
    cdef int n = fan_take(s.fan, s.queue, frames, most)
    cdef int got = 0
    if n < most:
        got = read_frames(s, frames + n, most - n, s.before)
    if got > 0:
        return n + fan_out(s.fan, s.queue, frames + n, got)
    return n if n > 0 else got


cdef int tap_receive(void *link, RxFrame *frames, int most) noexcept nogil:
    return read_frames(<State *>link, frames, most, 0)


cdef int tap_receive_header(void *link, RxFrame *frames, int most) noexcept nogil:
    return read_frames(<State *>link, frames, most, sizeof(virtio_net_hdr))


def packed(host):
    """An address as on the wire: 4 bytes, of a mapped one too, or 16."""
    address = ipaddress.ip_address(host)
    return (getattr(address, "ipv4_mapped", None) or address).packed


cdef class _Tuntap(Link):
    """What Tap and Tun share."""
    cdef State state
    cdef object device                 # tundev.Opened
    cdef readonly bint persistent
    cdef list siblings                 # the first queue's: the links of the others
    cdef object first                  # theirs: a weak reference to the first
    cdef object __weakref__

    def __dealloc__(self):
        cdef Fan *fan = self.state.fan
        if fan != NULL:
            frameq_listen(&fan.inbox[self.state.queue], NULL, NULL)
        if self.home.driver != NULL:
            self.home.forget(self.home.driver, self.home.iface)
            self.home.driver = NULL
        self.shut()
        if fan != NULL:
            fan.attached[self.state.queue] = 0
            fan.refs -= 1
            if fan.refs == 0:
                fan_free(fan)

    cdef shut(self):
        device, self.device = self.device, None
        self.state.fd = -1
        self.ops.fd = -1
        if device is not None:
            device.close()

    cdef int bind(self) except -1:
        if self.state.fan != NULL:
            frameq_listen(&self.state.fan.inbox[self.state.queue], self.home.wake, self.home.driver)
            self.state.fan.attached[self.state.queue] = 1
            self.steer()
        return 0

    cdef void unbind(self) noexcept:
        if self.state.fan != NULL:
            frameq_listen(&self.state.fan.inbox[self.state.queue], NULL, NULL)
            self.state.fan.attached[self.state.queue] = 0
            try:
                self.steer()
            except OSError:
                pass                   # the program there is sends flows to a queue that nobody reads: they end anyway

    cdef int steer(self) except -1:
        """Flows go to the queues that are attached: to their own, or shared out where that one is not."""
        cdef Fan *fan = self.state.fan
        cdef uint32_t i
        attached = [i for i in range(fan.queues) if fan.attached[i]] or [0]
        for i in range(fan.queues):
            fan.target[i] = i if fan.attached[i] else attached[i % len(attached)]
        if self.device is not None:
            self.device.steer([fan.target[i] for i in range(fan.queues)], attached[0])
        return 0

    @property
    def queues(self) -> tuple:
        """The links of the device's queues, this one among them: each is attached to a stack of its own."""
        if self.first is not None:
            first = self.first()
            return (self,) if first is None else first.queues
        return (self, *self.siblings) if self.siblings else (self,)

    def queue_of(self, local, peer) -> int:
        """Which of `queues` a TCP connection's packets come to. local, peer: (address, port), of one family."""
        cdef Fan *fan = self.state.fan
        cdef bytes one = packed(local[0]), other = packed(peer[0])
        cdef const unsigned char *src = one
        cdef const unsigned char *dst = other
        if len(one) != len(other):
            raise ValueError(f"{local[0]} and {peer[0]} are of two families")
        if fan == NULL:
            return 0
        return fan.target[fan_bucket(fan, fan_pair(fan, src, dst, len(one)), local[1], peer[1])]

    cpdef close(self):
        """Detach from the stack and close the descriptor; a device that is not persistent goes with it.

        Can be called again.
        """
        if not self.closed:
            Link.close(self)
            self.shut()

    def fileno(self) -> int:
        """The device's descriptor; it stays the link's. OSError EBADF after close()."""
        if self.closed or self.device is None:
            raise OSError(errno.EBADF, "the link is closed")
        return self.state.fd

    @property
    def offloads(self) -> tuple:
        """What is left to the kernel, in both directions: of "csum" (checksums), "tso4" and "tso6" (cutting TCP
        superframes), "tso_ecn" (those that carry CWR, too), "uso4" (UDP: from the kernel only). Empty: nothing."""
        return () if self.device is None else self.device.offloads

    @property
    def superframe(self) -> int:
        """Bytes of IP in the largest TCP superframe the kernel takes; 0: none."""
        return 0 if self.device is None else self.device.superframe

    @property
    def refused(self) -> tuple:
        """What the kernel did not grant of the offloads, and why: a sentence each. Empty if all were granted."""
        return () if self.device is None else tuple(self.device.refused)

    cdef open_device(self, int kind, name, host_addresses, mtu, mac, fd, persistent, owner, offload, queues):
        """Everything of the constructors; on an error nothing is left open."""
        if self.device is not None:
            raise TypeError("a link is initialised once")
        count = int(queues)
        if not 1 <= count <= MAX_QUEUES:
            raise ValueError(f"queues: {count} is not between 1 and {MAX_QUEUES}")
        wanted_mtu = None if mtu is None else check_mtu(mtu)
        wanted = None if offload is None else bool(offload)
        if host_addresses is not None:
            host_addresses = netlink.parse_interfaces(host_addresses)
        if fd is not None:
            if persistent or owner is not None or count > 1:
                raise ValueError("persistent, owner and queues are for devices opened by name, not by fd")
            self.device = tundev.adopt(fd, kind, wanted)
        else:
            self.device = tundev.attach(name, kind, persistent, owner, wanted, count > 1)
        try:
            self.device.negotiate(wanted)
            self.settle_on(self.device, 0)
            self.name = self.device.name
            self.persistent = persistent
            if kind == tundev.IFF_TAP:
                self.mac = check_mac(mac)
                if self.mac == tundev.host_mac(self.state.fd):
                    raise ValueError(f"mac: {self.mac.hex(':')} is the kernel side's address; the stack needs its own")
            self.mtu = self.configure(host_addresses, wanted_mtu, fd is not None)
            if count > 1:
                self.widen(count, kind)
        except BaseException:
            self.closed = True
            self.shut()
            raise

    cdef widen(self, int queues, int kind):
        """More queues, where the kernel lets us, and a link for each."""
        cdef _Tuntap other
        cdef Fan *fan
        cdef bytes secret = os.urandom(KEY_BYTES)
        cdef const unsigned char *key = secret
        self.device.widen(queues, kind, secret)
        queues = len(self.device.fds)
        if queues == 1:
            return
        fan = fan_new(queues, 14 if kind == tundev.IFF_TAP else 0, key)
        if fan == NULL:
            raise MemoryError("no memory for queues")
        self.state.fan = fan
        self.siblings = []
        for number in range(1, queues):
            other = type(self).__new__(type(self))
            other.first = weakref.ref(self)
            other.state.fan = fan
            fan.refs += 1
            other.device = self.device
            other.settle_on(self.device, number)
            other.name, other.medium, other.mac, other.mtu = self.name, self.medium, self.mac, self.mtu
            other.persistent = self.persistent
            self.siblings.append(other)
        self.settle_on(self.device, 0)

    cdef settle_on(self, device, int queue):
        """The data path for what was negotiated."""
        self.state.fd = device.fds[queue]
        self.state.queue = queue
        self.state.before = sizeof(virtio_net_hdr) if device.header else 0
        self.ops.fd = self.state.fd
        self.ops.state = &self.state
        self.ops.transmit = tap_transmit_header if device.header else tap_transmit
        self.ops.receive = tap_receive_header if device.header else tap_receive
        if self.state.fan != NULL:
            self.ops.receive = tap_receive_queue
            self.ops.calls = 1         # for the inbox
        if "csum" in device.offloads:
            self.offload_flags |= OFF_CSUM_WANTED
        if "tso4" in device.offloads:
            self.offload_flags |= OFF_GSO_TCP4
            self.gso_max = device.superframe
        if "tso6" in device.offloads:
            self.offload_flags |= OFF_GSO_TCP6
        if "tso4" in device.offloads or device.shared:
            self.receive_max = SUPERFRAME

    cdef int configure(self, host_addresses, wanted_mtu, by_fd) except -1:
        """Set up the kernel's side as far as it was asked for; the MTU both sides have now."""
        if host_addresses is not None:
            with tundev.explained(f"configuring the kernel's side of {self.name}", tundev.advice_host):
                netlink.configure(self.name, host_addresses, mtu=wanted_mtu, txqueuelen=TXQUEUELEN)
        try:
            with netlink.Rtnetlink() as kernel:
                there = kernel.get_link(if_index(self.name))["mtu"]
        except OSError:
            # A descriptor may come from another network namespace, where its device cannot be looked up.
            return wanted_mtu or 1500
        if by_fd or wanted_mtu is None or wanted_mtu == there or host_addresses is not None:
            return wanted_mtu or there
        with tundev.explained(f"setting the MTU of {self.name}", tundev.advice_host), netlink.Rtnetlink() as kernel:
            kernel.set_link(if_index(self.name), mtu=wanted_mtu)
        return wanted_mtu


cdef class Tap(_Tuntap):
    """Tap(name="ust%d", *, host_addresses=None, mtu=None, mac=None, fd=None, persistent=False, owner=None,
        offload=None, queues=1)

    A TAP device: Ethernet frames to and from the kernel.

    Parameters: name, of the device, at most 15 bytes; it is created, or attached to if it exists; %d becomes a number.
    host_addresses, the kernel's own addresses on the device (["10.9.0.1/24", "fd09::1/64"]): given (even if empty), the
    device is also brought up; None: the kernel's side is left as it is. mtu, bytes of IP (default: the device's, 1500
    for a new one). mac, the stack's Ethernet address (bytes or "02:00:00:00:00:01"; default: random). fd, an open TAP
    descriptor to take over instead (it is closed with the link; IFF_NO_PI, IFF_VNET_HDR or not). persistent, the device
    outlives the link (until `ip link del`); owner, the uid that may attach to it later without privilege. offload,
    leave checksums and the cutting of TCP segments to the kernel: None, as far as it can (`offloads` then says what,
    `refused` what not and why); True, or else OSError; False, not at all. queues, how many the device is to have
    (IFF_MULTI_QUEUE; at most 16), each a link of its own in `queues`, for StackGroup; where the kernel refuses, it has
    one, and `refused` says why. Attached alone, the first queue gets everything.

    Raises OSError: ENOENT (no /dev/net/tun), EPERM (needs CAP_NET_ADMIN, or the device is another user's), EBUSY
    (another process has it), EINVAL (the name is another kind of device), EOPNOTSUPP (offload=True), each with what to
    do; ValueError for a wrong argument.
    The link works on when the thread later leaves the network namespace it was made in.
    """

    def __init__(self, name="ust%d", *, host_addresses=None, mtu=None, mac=None, fd=None, persistent=False, owner=None,
                 offload=None, queues=1):
        self.medium = "ethernet"
        self.open_device(tundev.IFF_TAP, name, host_addresses, mtu, mac, fd, bool(persistent), owner, offload,
                         queues)


cdef class Tun(_Tuntap):
    """Tun(name="ust%d", *, host_addresses=None, mtu=None, fd=None, persistent=False, owner=None, offload=None,
        queues=1)

    A TUN device: IP packets to and from the kernel, without Ethernet. Parameters and errors are those of Tap.
    """

    def __init__(self, name="ust%d", *, host_addresses=None, mtu=None, fd=None, persistent=False, owner=None,
                 offload=None, queues=1):
        self.medium = "ip"
        self.open_device(tundev.IFF_TUN, name, host_addresses, mtu, None, fd, bool(persistent), owner, offload,
                         queues)


def if_index(name):
    """The device's index in this thread's namespace, or OSError ENODEV."""
    return socket.if_nametoindex(name)
