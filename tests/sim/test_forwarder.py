"""Forwarders: flows to any destination, decided by a handler before they begin, in virtual time."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import ustack
from ustack import sim

FAR4, FAR6 = "198.51.100.7", "2001:db8:7::7"
GOOD_DATA = bytes(range(251)) * 4000


class Gate:
    """A client whose default routes lead to a gateway, and the gateway."""

    def __init__(self, **wire: Any) -> None:
        self.net = sim.Network(seed=7)
        self.client, self.gate = self.net.stack("client"), self.net.stack("gate")
        addresses = (["10.0.0.1/24", "fd00::1/64"], ["10.0.0.2/24", "fd00::2/64"])
        self.wire = self.net.wire(self.client, self.gate, addresses=addresses, delay=0.001, **wire)
        self.client.add_route("default", "10.0.0.2")
        self.client.add_route("default", "fd00::2")
        self.requests: list[ustack.ForwardRequest] = []
        self.net.run(3)

    def counters(self) -> dict[str, int]:
        return self.gate.counters()

    def accept(self, work: Callable[[Any], Any]) -> None:
        """Take every connection, and let `work` have its socket in a task of its own."""
        self.gate.forward_tcp(lambda request: self.net.spawn(work, request.accept()))

    def connect(self, host: str = FAR4, port: int = 80, timeout: float = 20) -> Any:
        return self.client.create_connection((host, port), timeout=timeout)


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    with made.net:
        yield made


def echo(sock: Any) -> None:
    with sock:
        while data := sock.recv(65536):
            sock.sendall(data)


@pytest.mark.parametrize("far", [FAR4, FAR6])
def test_an_accepted_socket_has_the_original_addresses(gate: Gate, far: str) -> None:
    names = []

    def work(sock: Any) -> None:
        names.append((sock.getsockname()[:2], sock.getpeername()[:2]))
        echo(sock)

    gate.accept(work)
    with gate.connect(far, 8443) as sock:
        sock.sendall(b"x" * 100)
        assert sock.recv(100) == b"x" * 100
        assert names == [((far, 8443), sock.getsockname()[:2])]
        assert sock.getpeername()[:2] == (far, 8443)


def test_half_close_and_a_lot_of_data_over_a_lossy_wire() -> None:
    made = Gate(loss=0.02)
    with made.net:
        got = []

        def work(sock: Any) -> None:
            data = bytearray()
            while part := sock.recv(65536):
                data += part
            got.append(bytes(data))
            sock.sendall(data[::-1])
            sock.close()

        made.accept(work)
        with made.connect(timeout=300) as sock:
            sock.sendall(GOOD_DATA)
            sock.shutdown(socket.SHUT_WR)
            back = b"".join(iter(lambda: sock.recv(65536), b""))
        assert got == [GOOD_DATA]
        assert back == GOOD_DATA[::-1]


def test_nothing_is_answered_before_the_decision(gate: Gate) -> None:
    gate.gate.forward_tcp(gate.requests.append)
    task = gate.net.spawn(gate.connect)
    before = gate.counters()["TcpOutSegs"]
    gate.net.run(4.5)  # the SYN again and again
    assert [(r.protocol, r.destination) for r in gate.requests] == [("tcp", (FAR4, 80))]
    assert gate.counters()["TcpOutSegs"] == before
    assert gate.counters()["FlowTcpRequests"] == 1
    served = gate.requests[0].accept()
    with task.result() as sock:
        assert sock.getsockname() == gate.requests[0].source
        sock.sendall(b"late")
        assert served.recv(10) == b"late"
    with pytest.raises(RuntimeError):
        gate.requests[0].reset()


def test_reset_is_refusal_in_one_segment(gate: Gate) -> None:
    gate.gate.forward_tcp(lambda request: request.reset())
    before = gate.counters()["TcpOutSegs"]
    with pytest.raises(ConnectionRefusedError):
        gate.connect()
    assert gate.counters()["TcpOutSegs"] == before + 1
    assert gate.counters()["TcpOutRsts"] == 1
    assert gate.counters()["FlowRefusals"] == 1


@pytest.mark.parametrize(
    ("far", "reason", "code"),
    [
        (FAR4, "host", errno.EHOSTUNREACH),
        (FAR4, "port", errno.ECONNREFUSED),
        (FAR4, 1, errno.EHOSTUNREACH),
        (FAR6, "port", errno.ECONNREFUSED),
        (FAR6, "admin", errno.EACCES),
        (FAR6, "host", errno.EHOSTUNREACH),
    ],
)
def test_unreachable(gate: Gate, far: str, reason: str | int, code: int) -> None:
    gate.gate.forward_tcp(lambda request: request.unreachable(reason))
    with pytest.raises(OSError) as failure:
        gate.connect(far)
    assert failure.value.errno == code


def test_reasons_that_do_not_exist(gate: Gate) -> None:
    gate.gate.forward_tcp(gate.requests.append)
    task = gate.net.spawn(gate.connect, FAR6)
    gate.net.run(0.1)
    for reason in ("protocol", "nonsense", 8, -1):
        with pytest.raises(ValueError, match="reason"):
            gate.requests[0].unreachable(reason)
    gate.requests[0].reset()
    with pytest.raises(ConnectionRefusedError):
        task.result()


def test_dropped_and_undecided_requests(gate: Gate) -> None:
    forwarder = gate.gate.forward_tcp(gate.requests.append, timeout=5)
    with pytest.raises(TimeoutError):
        gate.connect(timeout=6)
    gate.net.run(5)
    assert gate.counters()["DropFlowTimeout"] >= 1
    with pytest.raises(OSError) as failure:
        gate.requests[0].accept()
    assert failure.value.errno == errno.ENOENT
    forwarder.close()
    assert forwarder.undecided == 0

    gate.gate.forward_tcp(lambda request: request.drop())
    with pytest.raises(TimeoutError):
        gate.connect(timeout=6)
    assert gate.counters().get("TcpOutSegs", 0) == 0


def test_a_client_that_gives_up_takes_its_request_back(gate: Gate) -> None:
    forwarder = gate.gate.forward_tcp(gate.requests.append)
    sock = gate.client.socket()
    sock.setblocking(False)
    sock.connect_ex((FAR4, 80))
    gate.net.run(0.1)
    assert forwarder.undecided == 1
    served = gate.requests[0].accept()
    sock.close()
    gate.net.run(200)
    with pytest.raises(OSError):
        served.send(b"x")
    assert gate.gate.live()["tcbs"] == 1  # what `served` holds


def test_listeners_come_first_and_take_only_what_is_ours(gate: Gate) -> None:
    gate.gate.forward_tcp(lambda request: request.reset())
    with gate.gate.create_server(("", 80)), gate.connect("10.0.0.2"):
        with pytest.raises(ConnectionRefusedError):
            gate.connect(FAR4)
    with pytest.raises(ConnectionRefusedError):  # our own address, and nobody listens: the forwarder's
        gate.connect("10.0.0.2", 81)
    assert gate.counters()["FlowTcpRequests"] == 2


def test_without_a_forwarder_nothing_is_taken(gate: Gate) -> None:
    gate.gate.forward_udp(lambda request: request.reset())
    with pytest.raises(TimeoutError):
        gate.connect(timeout=3)
    assert gate.counters()["DropIpNotOurs"] > 0
    with gate.gate.forward_tcp(lambda request: request.reset()):
        with pytest.raises(ConnectionRefusedError):
            gate.connect()
        with pytest.raises(OSError) as failure:
            gate.gate.forward_tcp(print)
        assert failure.value.errno == errno.EBUSY
    with pytest.raises(TimeoutError):
        gate.connect(timeout=3)


def test_a_foreign_address_answers_no_ping(gate: Gate) -> None:
    gate.gate.forward_tcp(print)
    ping = gate.client.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
    ping.settimeout(2)
    ping.sendto(b"\x08\0\0\0\0\0\0\x01", (FAR4, 0))
    with pytest.raises(TimeoutError):
        ping.recv(100)


def test_two_thousand_at_once(gate: Gate) -> None:
    gate.accept(echo)
    socks = []
    for k in range(2000):
        sock = gate.client.socket()
        sock.settimeout(60)
        sock.setblocking(False)
        sock.connect_ex((f"198.51.{k % 100}.{k // 100}", 1 + k))
        socks.append(sock)
    gate.net.run(20)
    for k, sock in enumerate(socks):
        sock.send(b"%d" % k)
    gate.net.run(20)
    for k, sock in enumerate(socks):
        assert sock.recv(100) == b"%d" % k
        sock.close()
    gate.net.run(200)
    assert gate.counters()["FlowAccepts"] == 2000
    assert gate.gate.live()["tcbs"] == 0


def test_a_handler_that_fails_drops_its_request(gate: Gate, capsys: pytest.CaptureFixture[str]) -> None:
    def handler(request: Any) -> None:
        raise LookupError("the handler's own")

    forwarder = gate.gate.forward_tcp(handler)
    with pytest.raises(TimeoutError):
        gate.connect(timeout=1)
    assert "the handler's own" in capsys.readouterr().err
    assert forwarder.undecided == 0


def test_handshakes_that_nobody_ends_are_as_many_as_the_backlog(gate: Gate) -> None:
    errors = []

    def handler(request: Any) -> None:
        try:
            gate.requests.append(request.accept())
        except OSError as error:
            errors.append(error.errno)

    with gate.gate.create_server(("", 7)):
        gate.connect("10.0.0.2", 7).close()  # so the neighbours know each other
    gate.gate.forward_tcp(handler, backlog=10)
    gate.wire.b_to_a.loss = 1.0
    for k in range(30):
        sock = gate.client.socket()
        sock.setblocking(False)
        sock.connect_ex((FAR4, 1000 + k))
    gate.net.run(0.5)
    assert len(gate.requests) == 10
    assert set(errors) == {errno.ENOBUFS}


# -- datagrams


def datagram(stack: ustack.Stack, far: str) -> Any:
    sock = stack.socket(socket.AF_INET6 if ":" in far else socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(5)
    return sock


@pytest.mark.parametrize("far", [FAR4, FAR6])
def test_a_flow_of_datagrams(gate: Gate, far: str) -> None:
    gate.gate.forward_udp(gate.requests.append)
    sock = datagram(gate.client, far)
    for word in (b"one", b"two", b"three"):
        sock.sendto(word, (far, 53))
    gate.net.run(1)
    assert len(gate.requests) == 1
    served = gate.requests[0].accept()
    assert served.getsockname()[:2] == (far, 53)
    assert [served.recv(100) for _ in range(3)] == [b"one", b"two", b"three"]
    served.send(b"answer")
    data, sender = sock.recvfrom(100)
    assert (data, sender[:2]) == (b"answer", (far, 53))
    with pytest.raises(OSError) as failure:
        served.connect((far, 54))
    assert failure.value.errno == errno.EISCONN
    served.close()
    sock.sendto(b"again", (far, 53))
    gate.net.run(1)
    assert len(gate.requests) == 2


@pytest.mark.parametrize("far", [FAR4, FAR6])
def test_refused_datagrams(gate: Gate, far: str) -> None:
    gate.gate.forward_udp(lambda request: request.reset())
    sock = datagram(gate.client, far)
    sock.connect((far, 9))
    sock.send(b"x")
    with pytest.raises(ConnectionRefusedError):
        sock.recv(10)


def test_an_idle_flow_ends(gate: Gate) -> None:
    gate.gate.forward_udp(gate.requests.append)
    sock = datagram(gate.client, FAR4)
    sock.sendto(b"x", (FAR4, 9))
    gate.net.run(1)
    served = gate.requests[0].accept(idle_timeout=10)
    served.settimeout(100)
    assert served.recv(10) == b"x"
    gate.net.call_later(8, lambda: sock.sendto(b"y", (FAR4, 9)))
    begin = gate.net.now
    assert served.recv(10) == b"y"
    with pytest.raises(TimeoutError) as failure:
        served.recv(10)
    assert failure.value.errno == errno.ETIMEDOUT
    assert gate.net.now - begin == pytest.approx(18e9, rel=0.01)


def test_undecided_flows_are_bounded_in_number_memory_and_time(gate: Gate) -> None:
    forwarder = gate.gate.forward_udp(gate.requests.append, backlog=50, timeout=20)
    sock = datagram(gate.client, FAR4)
    for _ in range(100):
        sock.sendto(bytes(1000), (FAR4, 1))
    gate.net.run(0.1)
    assert gate.gate.live()["buffers"] < 20
    for port in range(2, 202):
        sock.sendto(b"x", (FAR4, port))
    gate.net.run(0.1)
    assert forwarder.undecided == 50
    assert gate.counters()["DropFlowBacklog"] == 151
    gate.net.run(30)
    assert forwarder.undecided == 0
    assert gate.counters()["DropFlowTimeout"] == 50
    assert gate.gate.live()["buffers"] == 0


def test_many_flows_to_one_port(gate: Gate) -> None:
    def handler(request: Any) -> None:
        served = request.accept()
        served.send(served.recv(100) + b" from " + request.destination[0].encode())
        gate.requests.append(served)

    gate.gate.forward_udp(handler)
    sock = datagram(gate.client, FAR4)
    answers = set()
    for k in range(1000):
        sock.sendto(b"%d" % k, (f"198.51.{k // 200}.{k % 200 + 1}", 53))
        answers.add(sock.recv(100))
    assert answers == {b"%d from 198.51.%d.%d" % (k, k // 200, k % 200 + 1) for k in range(1000)}
    for served in gate.requests:
        served.close()  # type: ignore[attr-defined]
    assert gate.gate.live()["sockets"] == 0


# -- pings


def ping_socket(stack: ustack.Stack, far: str) -> Any:
    six = ":" in far
    family, proto = (socket.AF_INET6, socket.IPPROTO_ICMPV6) if six else (socket.AF_INET, socket.IPPROTO_ICMP)
    sock = stack.socket(family, socket.SOCK_DGRAM, proto)
    sock.settimeout(5)
    return sock


@pytest.mark.parametrize("far", [FAR4, FAR6])
def test_a_flow_of_pings(gate: Gate, far: str) -> None:
    ask, reply = (128, 129) if ":" in far else (8, 0)
    forwarder = gate.gate.forward_udp(gate.requests.append, pings=True)
    sock = ping_socket(gate.client, far)
    for number in range(3):
        sock.sendto(bytes([ask, 0, 0, 0, 0, 0, 0, number]) + b"data", (far, 0))
    gate.net.run(1)
    [request] = gate.requests
    assert request.protocol == "ping"
    assert request.destination[:2] == (far, 0)
    served = request.accept(idle_timeout=10)
    assert served.getsockname()[0] == far
    with pytest.raises(OSError) as failure:
        served.send(bytes([ask, 0, 0, 0, 0, 0, 0, 0]))  # the flow's side answers
    assert failure.value.errno == errno.EINVAL
    for number in range(3):
        message = served.recv(100)
        assert (message[0], message[7], message[8:]) == (ask, number, b"data")
        assert served.send(bytes([reply]) + message[1:]) == 12
        answer, sender = sock.recvfrom(100)
        assert (answer[0], answer[7], answer[8:], sender[0]) == (reply, number, b"data", far)
    served.settimeout(60)
    with pytest.raises(TimeoutError):
        served.recv(100)
    served.close()
    sock.sendto(bytes([ask, 0, 0, 0, 0, 0, 0, 9]), (far, 0))
    gate.net.run(1)
    assert len(gate.requests) == 2
    gate.requests[1].reset()
    gate.net.run(1)
    with pytest.raises(OSError) as failure:
        sock.recv(100)
    assert failure.value.errno == errno.EHOSTUNREACH
    forwarder.close()
    sock.sendto(bytes([ask, 0, 0, 0, 0, 0, 0, 9]), (far, 0))
    gate.net.run(1)
    assert len(gate.requests) == 2
    assert gate.gate.live()["sockets"] == 0


def test_flows_of_pings_are_bounded_as_datagrams_are(gate: Gate) -> None:
    forwarder = gate.gate.forward_udp(gate.requests.append, backlog=20, pings=True)
    for k in range(100):
        with ping_socket(gate.client, FAR4) as sock:
            sock.sendto(bytes([8, 0, 0, 0, 0, 0, 0, 1]), (f"198.51.100.{k + 1}", 0))
    gate.net.run(0.1)
    assert forwarder.undecided == 20
    assert gate.counters()["DropFlowBacklog"] == 80
    gate.gate.create_server(("", 1)).close()
    gate.net.run(60)
    assert forwarder.undecided == 0
    assert gate.gate.live()["buffers"] == 0


def test_our_own_addresses_answer_pings_themselves(gate: Gate) -> None:
    gate.gate.forward_udp(gate.requests.append, pings=True)
    with ping_socket(gate.client, FAR4) as sock:
        sock.sendto(bytes([8, 0, 0, 0, 0, 0, 0, 1]), ("10.0.0.2", 0))
        assert sock.recv(100)[0] == 0
    assert not gate.requests


# -- ECN


@pytest.mark.parametrize(("ours", "theirs", "agreed"), [(2, 1, True), (1, 1, True), (0, 1, False), (2, 2, False)])
def test_ecn_is_agreed_on_as_the_knob_says(gate: Gate, ours: int, theirs: int, agreed: bool) -> None:
    gate.gate.sysctl["net.ipv4.tcp_ecn"] = ours
    gate.client.sysctl["net.ipv4.tcp_ecn"] = theirs
    frames: list[bytes] = []
    gate.wire.a_to_b.filter = lambda frame, n: frames.append(bytes(frame)) or frame
    gate.accept(echo)
    with gate.connect() as sock:
        sock.sendall(b"hello")
        assert sock.recv(10) == b"hello"
    data = [frame for frame in frames if frame.endswith(b"hello")]
    assert [frame[15] & 3 == 2 for frame in data] == [agreed] * len(data)


# -- asyncio


def test_coroutines_as_handlers() -> None:
    with sim.Network(seed=2) as net:

        async def handler(request: ustack.ForwardRequest) -> None:
            await asyncio.sleep(1)
            if request.destination[1] == 81:
                request.reset()
                return
            reader, writer = await gate.open_connection(sock=request.accept())
            writer.write((await reader.read())[::-1])
            await writer.drain()
            writer.close()

        async def main() -> None:
            net.wire(client, gate, addresses=("10.0.0.1/24", "10.0.0.2/24"), delay=0.001)
            client.add_route("default", "10.0.0.2")
            gate.forward_tcp(handler)
            reader, writer = await client.open_connection(FAR4, 80)
            writer.write(GOOD_DATA)
            writer.write_eof()
            assert await reader.read() == GOOD_DATA[::-1]
            writer.close()
            with pytest.raises(ConnectionRefusedError):
                await client.open_connection(FAR4, 81)

        client, gate = net.stack("client"), net.stack("gate")
        net.run_async(main())


def test_coroutines_that_are_cancelled() -> None:
    """A request whose handler is cancelled is dropped: the client hears nothing; closing cancels what runs."""
    held: list[asyncio.Task[Any]] = []

    async def handler(request: ustack.ForwardRequest) -> None:
        task = asyncio.current_task()
        assert task is not None
        held.append(task)
        await asyncio.sleep(3600)

    async def main() -> None:
        forwarder = gate.forward_tcp(handler)
        connecting = [asyncio.ensure_future(client.open_connection(FAR4, port)) for port in (80, 81, 82)]
        await asyncio.sleep(0.3)
        assert len(held) == forwarder.undecided == 3
        held[0].cancel()
        connecting[1].cancel()
        await asyncio.sleep(0.3)
        assert held[0].cancelled()
        assert forwarder.undecided == 2
        forwarder.close()
        await asyncio.sleep(0.01)
        assert all(task.cancelled() for task in held)
        assert forwarder._tasks == set()
        for task in connecting:
            task.cancel()
        await asyncio.gather(*connecting, return_exceptions=True)

    with sim.Network(seed=2) as net:
        client, gate = net.stack("client"), net.stack("gate")
        net.wire(client, gate, addresses=("10.0.0.1/24", "10.0.0.2/24"), delay=0.001)
        client.add_route("default", "10.0.0.2")
        net.run_async(main())
        assert client.live()["sockets"] == gate.live()["sockets"] == 0


def test_a_loop_that_is_gone_decides_nothing(gate: Gate) -> None:
    """Requests for a handler whose event loop is closed are dropped, not kept."""
    asked: list[Any] = []

    async def handler(request: ustack.ForwardRequest) -> None:
        asked.append(request)

    async def main() -> ustack.Forwarder:
        return gate.gate.forward_tcp(handler)

    forwarder = asyncio.run(main())
    with pytest.raises(TimeoutError):
        gate.connect(timeout=2)
    assert asked == []
    assert forwarder.undecided == 0
    forwarder.close()


def test_a_coroutine_needs_a_loop(gate: Gate) -> None:
    async def handler(request: Any) -> None:
        request.drop()

    with pytest.raises(RuntimeError, match="event loop"):
        gate.gate.forward_tcp(handler)
