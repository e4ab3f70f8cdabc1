// The services on gVisor's netstack (Debian's golang-gvisor-gvisor-dev), by its endpoints, on a TAP: a peer.
//
//	gvisor_tap sink|source|echo|short|reply FD ADDRESS PORT plain|offload       FD: of the TAP, non-blocking
//
// offload: the TAP has virtio-net headers (IFF_VNET_HDR). gVisor's own link on a descriptor (fdbased) uses them on
// sockets only, so what it does there is done here for a TAP: superframes both ways, no checksums, by its readv and
// writev.
//
// Prints "ready" and serves until it is killed, each connection in a goroutine. Set up as runsc does: SACK, RACK and
// moderated receive buffers, whose limits are raised to what Linux has (6 MB).
package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/bufferv2"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/fdbased"
	"gvisor.dev/gvisor/pkg/tcpip/link/rawfile"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	block      = 256 * 1024 // bytes handed to one write, as in common.h
	backlog    = 1024
	bufferMost = 6 << 20 // bytes: tcp_rmem and about what tcp_wmem has
	mtu        = 1500
	mac        = tcpip.LinkAddress("\x02\x00\x00\x00\x00\x02")
)

// -- the device with offloads

const (
	virtioSize    = 10 // struct virtio_net_hdr
	needsChecksum = 1  // VIRTIO_NET_HDR_F_NEEDS_CSUM
	gsoTCP4       = 1  // VIRTIO_NET_HDR_GSO_TCPV4
	superframe    = 65535 - header.IPv4MaximumHeaderSize - header.TCPHeaderMaximumSize
	tunSetOffload = 0x400454d0 // TUNSETOFFLOAD
	tunChecksum   = 1          // TUN_F_CSUM
	tunTSO4       = 2          // TUN_F_TSO4
)

// offloadLink is an fdbased link whose reading and writing is replaced.
type offloadLink struct {
	stack.LinkEndpoint
	fd         int
	dispatcher stack.NetworkDispatcher
}

func (*offloadLink) GSOMaxSize() uint32               { return superframe }
func (*offloadLink) SupportedGSO() stack.SupportedGSO { return stack.HostGSOSupported }
func (l *offloadLink) IsAttached() bool               { return l.dispatcher != nil }
func (*offloadLink) Wait()                            {}

func (l *offloadLink) Attach(dispatcher stack.NetworkDispatcher) {
	l.dispatcher = dispatcher
	if dispatcher != nil {
		go l.read()
	}
}

func (l *offloadLink) read() {
	var virtio [virtioSize]byte
	views := make([]*bufferv2.View, len(fdbased.BufConfig))
	iovecs := make([]unix.Iovec, len(views)+1)
	iovecs[0] = rawfile.IovecFromBytes(virtio[:])
	for {
		for i := range views {
			if views[i] == nil { // what the last frame did not take stays
				views[i] = bufferv2.NewViewSize(fdbased.BufConfig[i])
				iovecs[i+1] = rawfile.IovecFromBytes(views[i].AsSlice())
			}
		}
		n, err := rawfile.BlockingReadvUntilStopped(-1, l.fd, iovecs)
		if err != nil {
			die("read from the TAP: %s", err)
		}
		n -= virtioSize
		var frame bufferv2.Buffer
		for i := 0; n > 0 && i < len(views); i++ {
			if views[i].Size() > n {
				views[i].CapLength(n)
			}
			n -= views[i].Size()
			frame.Append(views[i])
			views[i] = nil
		}
		pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: frame})
		if ether, ok := pkt.LinkHeader().Consume(header.EthernetMinimumSize); ok {
			l.dispatcher.DeliverNetworkPacket(header.Ethernet(ether).Type(), pkt)
		}
		pkt.DecRef()
	}
}

func (l *offloadLink) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	for i, pkt := range pkts.AsSlice() {
		var virtio [virtioSize]byte
		if gso := &pkt.GSOOptions; gso.Type != stack.GSONone {
			binary.LittleEndian.PutUint16(virtio[2:], uint16(pkt.HeaderSize()))
			if gso.NeedsCsum {
				virtio[0] = needsChecksum
				binary.LittleEndian.PutUint16(virtio[6:], header.EthernetMinimumSize+gso.L3HdrLen)
				binary.LittleEndian.PutUint16(virtio[8:], gso.CsumOffset)
			}
			if pkt.Data().Size() > int(gso.MSS) {
				virtio[1] = gsoTCP4
				binary.LittleEndian.PutUint16(virtio[4:], gso.MSS)
			}
		}
		slices := pkt.AsSlices()
		var some [16]unix.Iovec
		iovecs := rawfile.AppendIovecFromBytes(some[:0], virtio[:], len(slices)+1)
		for _, slice := range slices {
			iovecs = rawfile.AppendIovecFromBytes(iovecs, slice, len(slices)+1)
		}
		if err := rawfile.NonBlockingWriteIovec(l.fd, iovecs); err != nil {
			return i, err
		}
	}
	return pkts.Len(), nil
}

// -- the stack

func link(fd int, offload bool) stack.LinkEndpoint {
	made, err := fdbased.New(&fdbased.Options{
		FDs: []int{fd}, MTU: mtu, EthernetHeader: true, Address: mac,
		PacketDispatchMode: fdbased.RecvMMsg, RXChecksumOffload: offload,
	})
	if err != nil {
		die("fdbased: %v", err)
	}
	if !offload {
		return made
	}
	if err := unix.IoctlSetInt(fd, tunSetOffload, tunChecksum|tunTSO4); err != nil {
		die("offloads of the TAP: %v", err)
	}
	return &offloadLink{LinkEndpoint: made, fd: fd}
}

func newStack(link stack.LinkEndpoint, address tcpip.Address) *stack.Stack {
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol},
	})
	sack, moderate := tcpip.TCPSACKEnabled(true), tcpip.TCPModerateReceiveBufferOption(true)
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: 4096, Default: tcp.DefaultReceiveBufferSize, Max: bufferMost}
	send := tcpip.TCPSendBufferSizeRangeOption{Min: 4096, Default: tcp.DefaultSendBufferSize, Max: bufferMost}
	for _, option := range []tcpip.SettableTransportProtocolOption{&sack, &moderate, &receive, &send} {
		must(s.SetTransportProtocolOption(tcp.ProtocolNumber, option))
	}
	must(s.CreateNIC(1, link))
	network := tcpip.AddressWithPrefix{Address: address, PrefixLen: 24}
	must(s.AddProtocolAddress(1, tcpip.ProtocolAddress{Protocol: ipv4.ProtocolNumber, AddressWithPrefix: network},
		stack.AddressProperties{}))
	s.SetRouteTable([]tcpip.Route{{Destination: network.Subnet(), NIC: 1}})
	return s
}

// -- the services

type connection struct {
	tcpip.Endpoint
	readable, writable chan struct{}
}

// read waits for data and takes at most as much as `into` has room for; 0 at the end.
func (c connection) read(into []byte) int {
	for {
		writer := tcpip.SliceWriter(into)
		got, err := c.Read(&writer, tcpip.ReadOptions{})
		if _, wait := err.(*tcpip.ErrWouldBlock); !wait {
			if err != nil {
				return 0
			}
			return got.Count
		}
		<-c.readable
	}
}

// write returns whether all of it was taken.
func (c connection) write(data []byte) bool {
	for reader := bytes.NewReader(data); reader.Len() > 0; {
		_, err := c.Write(reader, tcpip.WriteOptions{})
		if _, wait := err.(*tcpip.ErrWouldBlock); wait {
			<-c.writable
		} else if err != nil {
			return false
		}
	}
	return true
}

func sink(c connection) {
	data := make([]byte, block)
	total := uint64(0)
	for got := c.read(data); got > 0; got = c.read(data) {
		total += uint64(got)
	}
	var count [8]byte
	binary.BigEndian.PutUint64(count[:], total)
	c.write(count[:])
}

func source(c connection) {
	for data := make([]byte, block); c.write(data); {
	}
}

func echo(c connection) {
	data := make([]byte, 65536)
	for got := c.read(data); got > 0 && c.write(data[:got]); got = c.read(data) {
	}
}

func short(c connection) {
	var request [1]byte
	c.read(request[:])
	c.write([]byte("!"))
}

func serve(s *stack.Stack, address tcpip.Address, port uint16, service func(connection)) {
	var queue waiter.Queue
	listener, err := s.NewEndpoint(tcp.ProtocolNumber, ipv4.ProtocolNumber, &queue)
	must(err)
	ready, incoming := waiter.NewChannelEntry(waiter.ReadableEvents)
	queue.EventRegister(&ready)
	must(listener.Bind(tcpip.FullAddress{NIC: 1, Addr: address, Port: port}))
	must(listener.Listen(backlog))
	fmt.Println("ready")
	for {
		accepted, wq, err := listener.Accept(nil)
		if _, wait := err.(*tcpip.ErrWouldBlock); wait {
			<-incoming
			continue
		}
		must(err)
		go func() {
			in, readable := waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventHUp | waiter.EventErr)
			out, writable := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventHUp | waiter.EventErr)
			wq.EventRegister(&in)
			wq.EventRegister(&out)
			accepted.SocketOptions().SetDelayOption(false)
			service(connection{accepted, readable, writable})
			accepted.Close()
		}()
	}
}

func must(err tcpip.Error) {
	if err != nil {
		die("%s", err)
	}
}

func die(format string, what ...interface{}) {
	fmt.Fprintf(os.Stderr, format+"\n", what...)
	os.Exit(1)
}

func main() {
	services := map[string]func(connection){"sink": sink, "source": source, "echo": echo, "short": short, "reply": echo}
	if len(os.Args) != 6 || services[os.Args[1]] == nil {
		die("usage: %s sink|source|echo|short|reply FD ADDRESS PORT plain|offload", os.Args[0])
	}
	fd, _ := strconv.Atoi(os.Args[2])
	address := tcpip.Address(net.ParseIP(os.Args[3]).To4())
	port, _ := strconv.Atoi(os.Args[4])
	serve(newStack(link(fd, os.Args[5] == "offload"), address), address, uint16(port), services[os.Args[1]])
}
