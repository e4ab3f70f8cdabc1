"""A user's program that is typed, and says something of everything that ustack has: mypy --strict passes over it
(tests/unit/test_whole_api.py, which also sees to it that nothing is left out). It is not run."""

import asyncio
import io
import selectors
import socket
import ssl

import ustack
from ustack import conf, sim


def stacks() -> dict[str, int]:
    with ustack.Stack(driver="manual", seed=bytes(32), memory=1 << 20) as stack:
        deadline: int | None = stack.next_deadline()
        stack.poll(deadline)
        left, right = ustack.pipe(medium="ethernet", mtu=9000, queue=64)
        name: str = stack.attach(left, addresses=["10.9.0.2/24"], gateway="10.9.0.1", mtu=1500, name="net0")
        stack.add_address(name, "10.9.0.3/24")
        stack.remove_address(name, "10.9.0.3")
        stack.add_route("198.51.100.0/24", "10.9.0.1", metric=5)
        stack.del_route("198.51.100.0/24")
        stack.add_neighbor(name, "10.9.0.9", "02:00:00:00:00:09")
        stack.del_neighbor(name, "10.9.0.9")
        stack.rmem_max, stack.wmem_max = 1 << 22, 1 << 22
        stack.sysctl["net.ipv4.tcp_sack"] = 1
        reaches: bool = stack.reaches("10.9.0.1")
        stack.detach(left)
        right.close()
        assert not stack.closed, reaches
        return {**stack.counters(), **stack.live()}


def what_it_knows(stack: ustack.Stack) -> list[str]:
    lines = [ustack.__version__, str(stack.gethostbyname("box.test")), str(stack.getaddrinfo("box.test", 80))]
    one: ustack.Connection
    for one in stack.connections():
        lines.append(f"{one.protocol} {one.state} {one.local} {one.peer} {one.recv_q} {one.send_q} {one.details}")
        lines.append(f"{one.mss} {one.cwnd} {one.ssthresh} {one.rtt} {one.rttvar} {one.rto} {one.retrans}")
    interface: ustack.Interface
    for interface in stack.interfaces():
        address: ustack.Address
        for address in interface.addresses:
            lines.append(f"{address.address} {address.prefix_length} {address.state}")
        lines.append(f"{interface.index} {interface.name} {interface.medium} {interface.up} {interface.mac}")
        lines.append(f"{interface.mtu} {interface.managed} {interface.other_config} {interface.rx_packets}")
        lines.append(f"{interface.rx_bytes} {interface.rx_dropped} {interface.tx_packets}")
        lines.append(f"{interface.tx_bytes} {interface.tx_dropped}")
        lines.append(f"{interface.parent} {interface.vlan} {interface.bridge} {interface.ports}")
    route: ustack.Route
    for route in stack.routes():
        lines.append(f"{route.destination} {route.gateway} {route.interface} {route.metric} {route.mtu} {route.source}")
        lines.append(f"{route.table}")
    rule: ustack.Rule
    for rule in stack.rules():
        lines.append(f"{rule.priority} {rule.family} {rule.source} {rule.destination}")
        lines.append(f"{rule.iif} {rule.oif} {rule.table}")
    neighbor: ustack.Neighbor
    for neighbor in stack.neighbors():
        lines.append(f"{neighbor.address} {neighbor.interface} {neighbor.mac} {neighbor.state} {neighbor.age_ms}")
    return lines


def links() -> tuple[ustack.Link, ...]:
    tap = ustack.Tap("ust0", host_addresses=["10.9.0.1/24"], queues=2, offload=True)
    tun = ustack.Tun("ust1", mtu=1400)
    queue: int = tap.queue_of(("10.9.0.2", 80), ("10.9.0.1", 40000))
    print(tap.persistent, tap.superframe, tap.refused, tap.queues, tun.fileno(), queue)
    packets = ustack.Callback(lambda packet: None, medium="ip", mtu=16000, verify_checksums=False)
    taken: bool = packets.receive(b"packet")
    many = ustack.Callback(send_many=len, medium="ip")
    count: int = many.receive_many([b"packet", bytearray(b"packet")])
    stream = ustack.Callback(send_stream=lambda data: None, length_bytes=2, medium="ip")
    count += stream.receive_stream(memoryview(b"\0\6packet"))
    stream.resume()
    print(packets.stats["sent"], packets.name, packets.mtu, packets.medium, packets.mac, taken, count)
    print(packets.attached, packets.offloads, packets.closed)
    end: ustack.PipeEnd
    end, _ = ustack.pipe()
    end.send(end.recv(timeout=1.0))
    print(end.fileno(), end.stats)
    packets.close()
    return tap, tun, packets, end


def sockets(stack: ustack.Stack) -> bytes:
    server: ustack.Socket = stack.create_server(("", 80), backlog=5)
    client = stack.create_connection(("10.9.0.1", 80), timeout=5)
    connection, peer = server.accept()
    sock = stack.socket(ustack.AF_INET, ustack.SOCK_STREAM)
    print(sock.family, sock.type, sock.proto, sock.stack, sock.timeout, sock.fileno(), peer[0])
    sock.setsockopt(ustack.SOL_SOCKET, ustack.SO_REUSEADDR, 1)
    sock.setsockopt(ustack.SOL_TCP, ustack.TCP_UTO, 300)
    print(sock.getsockopt(ustack.SOL_SOCKET, ustack.SO_ERROR))
    sock.settimeout(2.5)
    sock.setblocking(True)
    print(sock.gettimeout(), sock.getblocking(), sock.get_inheritable())
    sock.set_inheritable(False)
    sock.bind(("", 0))
    sock.listen(1)
    sock.connect(("10.9.0.1", 7))
    print(sock.connect_ex(("10.9.0.1", 7)), sock.getsockname(), sock.getpeername(), sock.ioctl(0x541B))
    sent: int = client.send(b"x")
    client.sendall(b"hello")
    client.sendto(b"x", ("10.9.0.1", 7))
    client.sendmsg([b"a", b"b"])
    client.send_many([(b"x", ("10.9.0.1", 7))])
    with open(__file__, "rb") as file:
        client.sendfile(file)
        print(file.name, sent)
    done: ustack.Completion = client.send_zerocopy(b"large", callback=lambda completion: None)
    print(done.wait(1.0), done.done(), done.acknowledged, done.nbytes)
    data: bytes = connection.recv(65536)
    buffer = bytearray(100)
    print(connection.recv_into(buffer), connection.recvfrom(10), connection.recvfrom_into(buffer))
    print(connection.recvmsg(10, 100), connection.recvmsg_into([buffer]), connection.recv_many(8))
    view: ustack.View
    with connection.recv_view(1000) as view:
        print(view.nbytes, view.tobytes())
        view.release()
    with connection.makefile("rwb") as stream:
        stream.write(b"line\n")
    print(connection.sockatmark())
    again = stack.socket(fileno=connection.dup().detach())
    again.shutdown(ustack.SHUT_RDWR)
    again.close()
    try:
        client.sendmsg_afalg([b"x"])
    except (OSError, ustack.gaierror, ustack.herror, ustack.timeout):
        print(ustack.SOMAXCONN)
    return data


def waiting(stack: ustack.Stack, sock: ustack.Socket) -> None:
    selector: ustack.Selector
    with stack.selector() as selector:
        selector.register(sock, selectors.EVENT_READ | ustack.EVENT_URGENT, "mine")
        selector.modify(sock, selectors.EVENT_WRITE)
        print(selector.get_key(sock), selector.get_map(), selector.select(timeout=1))
        selector.unregister(sock)
        selector.close()


def programs_that_know_nothing(stack: ustack.Stack) -> None:
    with stack.patched(scope="thread", outside="kernel"):
        socket.create_connection(("10.9.0.1", 80)).close()
    print(stack.socket_module.gethostname())
    asyncio.set_event_loop_policy(ustack.EventLoopPolicy(stack, "kernel"))
    loop: ustack.EventLoop = stack.loop_factory()
    print(loop.stack is stack)
    loop.close()


async def event_loops() -> None:
    async with ustack.Stack(driver="asyncio") as stack:
        reader, writer = await stack.open_connection("10.9.0.1", 7)
        writer.write(await reader.read(10))
        server = await stack.start_server(lambda reader, writer: None, "", 80)
        server.close()
        await stack.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("", 53))
        transport, protocol = await stack.aio.create_connection(asyncio.Protocol, "10.9.0.1", 7)
        await stack.aio.start_tls(transport, protocol, ssl.create_default_context(), server_hostname="server.test")
        await sockets_in_event_loops(stack)
        await stack.aclose(1.0)


async def sockets_in_event_loops(stack: ustack.Stack) -> None:
    listener, client, udp = stack.create_server(("", 7)), stack.socket(), stack.socket(type=ustack.SOCK_DGRAM)
    await stack.aio.sock_connect(client, ("10.9.0.1", 7))
    conn, address = await stack.aio.sock_accept(listener)
    await stack.aio.sock_sendall(client, b"data")
    data: bytes = await stack.aio.sock_recv(conn, 100)
    count: int = await stack.aio.sock_recv_into(conn, bytearray(100))
    count += await stack.aio.sock_sendto(udp, data, address)
    data, address = await stack.aio.sock_recvfrom(udp, 100)
    count, address = await stack.aio.sock_recvfrom_into(udp, bytearray(100))
    with open("file", "rb") as file:
        count += await stack.aio.sock_sendfile(client, file, 0, 100)
        transport, _ = await stack.aio.connect_accepted_socket(asyncio.Protocol, conn)
        count += await stack.aio.sendfile(transport, file)


def services(stack: ustack.Stack) -> dict[str, int]:
    service: ustack.Service
    with stack.start_service(("", 7), "echo", backlog=10) as service:
        print(service.kind, service.address, service.closed)
    service.close()
    return dict(service.counters())


def forwarders(stack: ustack.Stack) -> None:
    def handler(request: ustack.ForwardRequest) -> None:
        print(request.protocol, request.source, request.destination, request.decided)
        if request.destination[1] == 80:
            sock: ustack.Socket = request.accept(idle_timeout=60.0)
            sock.close()
        elif request.destination[1] == 81:
            request.reset()
        elif request.destination[1] == 82:
            request.unreachable("admin")
        else:
            request.drop()

    forwarder: ustack.Forwarder
    with stack.forward_tcp(handler, backlog=100, timeout=5.0) as forwarder:
        print(forwarder.undecided, forwarder.closed)
    stack.forward_udp(handler, pings=True).close()


def translation(stack: ustack.Stack) -> list[ustack.NatFlow]:
    nat: ustack.Nat = stack.nat
    nat.masquerade("wan0")
    nat.forward("wan0", "tcp", 8080, ("10.1.0.2", 80))
    nat.unforward("wan0", "tcp", 8080)
    for flow in nat.flows():
        print(flow.protocol, flow.inner, flow.outer, flow.remote, flow.interface, flow.idle_ms)
    return nat.flows()


def interfaces_on_others(stack: ustack.Stack) -> None:
    name: str = stack.add_vlan("ust0", 5, addresses=["10.5.0.2/24"])
    stack.add_bridge("br0", [name, "ust1"], ageing_time=60.0)
    station: ustack.Station
    for station in stack.stations("br0"):
        print(station.mac, station.interface, station.age_ms)
    stack.remove_interface("br0")
    stack.add_rule("10.5.0.0/24", table=100, priority=1000)
    stack.add_route("default", "10.5.0.1", table=100)
    stack.del_rule("10.5.0.0/24")


def captured(stack: ustack.Stack) -> bytes:
    file = io.BytesIO()
    with stack.capture(file, interface="ust0", snaplen=128) as capture:
        typed: ustack.Capture = capture
        typed.flush()
    print(typed.frames, typed.dropped, typed.closed, typed.error)
    return file.getvalue()


def configuration(stack: ustack.Stack) -> None:
    dhcp: ustack.Dhcp = stack.dhcp("ust0", hostname="box")
    lease: ustack.Lease = dhcp.wait(10.0)
    print(lease.address, lease.prefix_length, lease.server, lease.routes, lease.dns_servers, lease.search, lease.domain)
    print(lease.hostname, lease.mtu, lease.broadcast, lease.renew_at, lease.rebind_at, lease.expires_at)
    print(dhcp.interface, dhcp.state, dhcp.lease, dhcp.next_deadline())
    dhcp.poll()
    dhcp.renew()
    dhcp.release()
    dhcp.close()
    dhcp6: ustack.Dhcp6 = stack.dhcp6("ust0", mode="stateful", prefix=56)
    lease6: ustack.Lease6 = dhcp6.wait(10.0)
    print(lease6.server, lease6.addresses, lease6.prefixes, lease6.grants, lease6.dns_servers, lease6.search)
    print(lease6.renew_at, lease6.rebind_at, lease6.expires_at, dhcp6.interface, dhcp6.state, dhcp6.lease)
    chosen: ustack.LinkLocal = stack.link_local("ust0")
    print(chosen.wait(10.0), chosen.address, chosen.interface, chosen.state, chosen.next_deadline())
    chosen.poll()
    chosen.release()
    mdns: ustack.Mdns = stack.mdns("ust0", hostname="box")
    mdns.publish("box", "_http._tcp", 80).close()
    print(mdns.browse("_http._tcp"), mdns.resolve("box.local"), mdns.hostname, mdns.interface, mdns.state)
    mdns.release()
    llmnr: ustack.Llmnr = stack.llmnr("ust0", hostname="box")
    print(llmnr.wait(10.0), llmnr.conflict, llmnr.hostname, llmnr.resolve("printer"))
    resolver: ustack.Resolver = stack.use_dns(["10.9.0.1"], timeout=2.0)
    print(resolver.addresses("box.test", [ustack.AF_INET]), resolver.cached)
    resolver.clear()
    try:
        config: conf.Config = conf.load("lab.toml")
        conf.apply(config, stack)
        conf.open_stack(conf.parse('[[interface]]\nname = "ust0"\n')).close()
    except conf.ConfigError as error:
        print(error)


def several_cores() -> None:
    group: ustack.StackGroup
    with ustack.StackGroup(ustack.Tap("ust0", queues=2), addresses=["10.9.0.2/24"]) as group:
        group.create_server(("", 80)).close()
        group.create_connection(("10.9.0.1", 80)).close()
        print(group.connections(), group.counters(), group.closed)
        group.close()


async def fetch(stack: ustack.Stack) -> bytes:
    reader, _ = await stack.open_connection("10.0.0.2", 80)
    data: bytes = await reader.read()
    return data


def virtual_time() -> bytes:
    with sim.Network(seed=1) as net:
        a, b = net.stack("a"), net.stack("b")
        wire: sim.Wire = net.wire(a, b, addresses=("10.0.0.1/24", "10.0.0.2/24"), delay=0.025, loss=0.01)
        wire.set(loss=0.0)
        direction: sim.Direction = wire.a_to_b
        end: sim.WireEnd = wire.a
        task: sim.Task = net.spawn(b.create_server, ("", 80))
        net.call_later(1.0, print, direction, wire.b_to_a, end, wire.b, wire.stats)
        net.run(until=lambda: task.done)
        print(net.now, net.events, wire.capture("trace.pcap"))
        return net.run_async(fetch(a))
