"""Every close order against the kernel's TCP, the stack as client and as server (RFC 9293 §3.6, §3.10.4)."""

from __future__ import annotations

import errno
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tap_harness.process import wait_for
from tap_harness.wire import Impairment

ROLES = pytest.mark.parametrize("role", ["client", "server"])
LINGER_ZERO = struct.pack("ii", 1, 0)
LARGE = 300_000  # bytes: more than one window at the start of a connection


def read_all(sock: Any) -> bytes:
    """Everything until the other side's FIN."""
    return b"".join(iter(lambda: sock.recv(1 << 16), b""))


def wait_states(net: Any, port: int, *wanted: str) -> None:
    """Wait until the kernel's connections on `port` have exactly these states."""
    wait_for(lambda: sorted(net.kernel_states(port)) == sorted(wanted), f"the kernel's states to be {wanted}", 5)


def stack_tcp(net: Any) -> list[str]:
    """The states of the stack's TCP connections, listeners left out."""
    return [str(state_of(c)) for c in net.stack.connections() if "LISTEN" not in str(state_of(c)).upper()]


def state_of(connection: Any) -> Any:
    return connection["state"] if isinstance(connection, dict) else connection.state


def wait_stack(net: Any, *wanted: str) -> None:
    """Wait until the stack's connections have exactly these states (RFC names, case and dash as one likes)."""

    def plain(names: Any) -> list[str]:
        return sorted(name.upper().replace("_", "-") for name in names)

    wait_for(
        lambda: plain(stack_tcp(net)) == plain(wanted), f"the stack's states to be {wanted}, last: {stack_tcp(net)}", 5
    )


@ROLES
@pytest.mark.rfc("9293", "MUST-13")
def test_active_close(net: Any, role: str) -> None:
    ours, theirs = net.pair(role)
    port = theirs.getsockname()[1]
    ours.close()
    assert theirs.recv(10) == b""
    wait_states(net, port, "CLOSE-WAIT")
    theirs.close()
    wait_states(net, port)
    wait_stack(net, "TIME-WAIT")


@ROLES
def test_passive_close(net: Any, role: str) -> None:
    ours, theirs = net.pair(role)
    port = theirs.getsockname()[1]
    theirs.close()
    assert ours.recv(10) == b""
    assert ours.recv(10) == b""
    wait_stack(net, "CLOSE-WAIT")
    ours.close()
    wait_states(net, port, "TIME-WAIT")
    wait_stack(net)


@ROLES
def test_simultaneous_close(impaired: Callable[[Impairment], Any], role: str) -> None:
    """Both FINs are under way at once (the wire takes 100 ms): TIME-WAIT on both sides (RFC 9293 fig. 13)."""
    net = impaired(Impairment(delay=0.1))
    ours, theirs = net.pair(role)
    ours.shutdown(socket.SHUT_WR)
    theirs.shutdown(socket.SHUT_WR)
    assert (ours.recv(1), theirs.recv(1)) == (b"", b"")
    port = theirs.getsockname()[1]
    ours.close()
    theirs.close()
    wait_states(net, port, "TIME-WAIT")
    wait_stack(net, "TIME-WAIT")


@ROLES
def test_half_close_by_the_stack(net: Any, role: str) -> None:
    ours, theirs = net.pair(role)
    ours.sendall(b"question")
    ours.shutdown(socket.SHUT_WR)
    assert read_all(theirs) == b"question"
    with pytest.raises(BrokenPipeError):
        ours.send(b"more")
    answer = bytes(range(256)) * (LARGE // 256)
    sender = threading.Thread(target=lambda: (theirs.sendall(answer), theirs.close()))
    sender.start()
    assert read_all(ours) == answer
    sender.join()
    ours.close()


@ROLES
def test_half_close_by_the_kernel(net: Any, role: str) -> None:
    ours, theirs = net.pair(role)
    theirs.sendall(b"question")
    theirs.shutdown(socket.SHUT_WR)
    assert read_all(ours) == b"question"
    answer = bytes(range(256)) * (LARGE // 256)
    sender = threading.Thread(target=lambda: (ours.sendall(answer), ours.close()))
    sender.start()
    assert read_all(theirs) == answer
    sender.join()
    port = theirs.getsockname()[1]
    theirs.close()
    wait_states(net, port, "TIME-WAIT")
    wait_stack(net)


@ROLES
def test_close_sends_what_is_queued_first(net: Any, role: str) -> None:
    """close() after send(): every byte arrives, then the FIN (RFC 9293 §3.10.4)."""
    ours, theirs = net.pair(role)
    data = bytes(range(256)) * (LARGE // 256)
    sender = threading.Thread(target=lambda: (ours.sendall(data), ours.close()))
    sender.start()
    assert read_all(theirs) == data
    sender.join()


@ROLES
def test_data_with_the_kernels_fin(net: Any, role: str) -> None:
    ours, theirs = net.pair(role)
    theirs.sendall(b"x" * 100_000)
    theirs.close()
    assert len(read_all(ours)) == 100_000
    ours.close()


@ROLES
@pytest.mark.rfc("9293", "MUST-12")
def test_reset_by_the_stack(net: Any, role: str) -> None:
    """SO_LINGER with zero seconds: close is an abort."""
    ours, theirs = net.pair(role)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)
    ours.close()
    with pytest.raises(ConnectionResetError):
        theirs.recv(10)
    wait_stack(net)


@ROLES
@pytest.mark.rfc("9293", "MUST-12")
def test_reset_by_the_kernel(net: Any, role: str) -> None:
    ours, theirs = net.pair(role)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)
    theirs.close()
    with pytest.raises(ConnectionResetError):
        ours.recv(10)
    with pytest.raises(BrokenPipeError):
        ours.send(b"x")
    assert ours.recv(10) == b""  # the error is reported once, then the stream has ended, as on Linux
    wait_stack(net)


@ROLES
def test_reset_wakes_a_blocked_reader(net: Any, role: str) -> None:
    ours, theirs = net.pair(role)
    errors: list[BaseException] = []

    def read() -> None:
        try:
            ours.recv(10)
        except OSError as error:
            errors.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)
    theirs.close()
    reader.join(10)
    assert [type(error) for error in errors] == [ConnectionResetError]


@ROLES
def test_close_with_unread_data_by_the_stack(net: Any, role: str) -> None:
    """Unread data at close: the peer is told by a RST (RFC 2525 §2.17, RFC 9293 §3.6.1)."""
    ours, theirs = net.pair(role)
    theirs.sendall(b"never read")
    assert ours.recv(1, socket.MSG_PEEK) == b"n"
    ours.close()
    with pytest.raises(ConnectionResetError):
        theirs.recv(10)
    wait_stack(net)


@ROLES
def test_close_with_unread_data_by_the_kernel(net: Any, role: str) -> None:
    ours, theirs = net.pair(role)
    ours.sendall(b"never read")
    assert theirs.recv(1, socket.MSG_PEEK) == b"n"
    theirs.close()
    with pytest.raises(ConnectionResetError):
        ours.recv(10)


@ROLES
@pytest.mark.rfc("9293", "SHLD-3")
def test_data_after_the_stacks_full_close_is_reset(net: Any, role: str) -> None:
    ours, theirs = net.pair(role)
    ours.close()
    assert theirs.recv(10) == b""
    theirs.send(b"nobody is there any more")

    def broken() -> bool:
        try:
            theirs.send(b"x")
        except OSError as error:
            return error.errno in (errno.EPIPE, errno.ECONNRESET)
        return False

    wait_for(broken, "the kernel to learn of it", 5)


@ROLES
def test_close_wakes_a_blocked_reader(net: Any, role: str) -> None:
    """Another thread's close() ends a recv() that blocks, one way or the other; it never hangs."""
    ours, _ = net.pair(role)
    ended = threading.Event()

    def read() -> None:
        try:
            ours.recv(10)
        except OSError:
            pass
        ended.set()

    thread = threading.Thread(target=read)
    thread.start()
    ours.close()
    assert ended.wait(10)
    thread.join()


def test_listener_close_resets_those_who_wait(net: Any) -> None:
    listener, port = net.stack_listen()
    theirs = net.kernel_connect(port)
    wait_for(lambda: len(stack_tcp(net)) == 1, "the connection in the accept queue", 5)
    listener.close()
    with pytest.raises(ConnectionResetError):
        theirs.recv(1)
    with net.kernel_socket() as late, pytest.raises(ConnectionRefusedError):
        late.connect((net.stack_ip, port))


def test_port_can_be_listened_on_again(net: Any) -> None:
    """A port is free for a new listener while old connections are in TIME-WAIT (create_server: SO_REUSEADDR)."""
    listener, port = net.stack_listen()
    theirs = net.kernel_connect(port)
    ours, _ = listener.accept()
    ours.close()
    assert theirs.recv(1) == b""
    theirs.close()
    listener.close()
    wait_stack(net, "TIME-WAIT")
    again, _ = net.stack_listen(port)
    theirs = net.kernel_connect(port)
    ours, _ = again.accept()
    ours.sendall(b"again")
    assert theirs.recv(10) == b"again"


def test_time_wait_is_reused_by_the_kernels_new_syn(net: Any) -> None:
    """RFC 6191 / RFC 9293 MAY-2: the same four-tuple comes back with a later timestamp while we are in TIME-WAIT."""
    listener, port = net.stack_listen()
    for _ in range(3):
        theirs = net.kernel_socket()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        theirs.bind((net.kernel_ip, 45678))
        theirs.connect((net.stack_ip, port))
        ours, name = listener.accept()
        assert name == net.name(net.kernel_ip, 45678)
        ours.close()
        assert theirs.recv(1) == b""
        theirs.close()
        wait_stack(net, "TIME-WAIT")
