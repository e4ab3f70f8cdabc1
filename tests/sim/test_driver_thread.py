"""The background thread: it stops when told, is not there after fork(), leaves signals alone, and shares its lock."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, UDP

import ustack
from ustack_ext.driver import thread as driver_module


@pytest.fixture
def pair() -> Iterator[tuple[ustack.Stack, ustack.Stack]]:
    a, b = ustack.pipe()
    with ustack.Stack() as left, ustack.Stack() as right:
        left.attach(a, addresses=["10.0.0.1/24"])
        right.attach(b, addresses=["10.0.0.2/24"])
        yield left, right


def connect(left: ustack.Stack, right: ustack.Stack) -> tuple[Any, Any]:
    with right.create_server(("", 80)) as server:
        client = left.create_connection(("10.0.0.2", 80), timeout=10)
        conn, _ = server.accept()
    return client, conn


def datagram(data: bytes, port: int = 7) -> bytes:
    return bytes(IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=9, dport=port) / data)


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "ustack"]


def run(program: str) -> subprocess.CompletedProcess[str]:
    """A program in a process of its own."""
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)


def test_a_stack_has_a_thread_until_it_is_closed() -> None:
    before = len(threads())
    with ustack.Stack():
        assert len(threads()) == before + 1
    assert len(threads()) == before


def test_close_twice_and_from_several_threads() -> None:
    stack = ustack.Stack()
    closers = [threading.Thread(target=stack.close) for _ in range(4)]
    for closer in closers:
        closer.start()
    for closer in closers:
        closer.join(10)
        assert not closer.is_alive()
    stack.close()


def test_echo(pair: tuple[ustack.Stack, ustack.Stack]) -> None:
    client, conn = connect(*pair)
    for number in range(1000):
        data = b"%d" % number
        client.sendall(data)
        assert conn.recv(100) == data
        conn.sendall(data)
        assert client.recv(100) == data


def test_bulk_with_many_threads(pair: tuple[ustack.Stack, ustack.Stack]) -> None:
    """Eight connections at a time, each with a sender and a receiver thread, and one that asks for tables meanwhile."""
    pairs = [connect(*pair) for _ in range(8)]
    data = bytes(range(256)) * 4096
    got: dict[int, bytes] = {}
    over = threading.Event()

    def receive(index: int) -> None:
        got[index] = pairs[index][1].recv(len(data), ustack.MSG_WAITALL)

    def look() -> None:
        while not over.is_set():
            pair[0].connections()
            pair[1].counters()

    looker = threading.Thread(target=look)
    looker.start()
    workers = [threading.Thread(target=receive, args=(index,)) for index in range(8)]
    workers += [threading.Thread(target=pairs[index][0].sendall, args=(data,)) for index in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    over.set()
    looker.join(10)
    assert all(got.get(index) == data for index in range(8))


def test_links_come_and_go_under_traffic(pair: tuple[ustack.Stack, ustack.Stack]) -> None:
    client, conn = connect(*pair)
    over = threading.Event()

    def chatter() -> None:
        while not over.is_set():
            client.sendall(b"x" * 1000)
            conn.recv(1000, ustack.MSG_WAITALL)

    thread = threading.Thread(target=chatter, daemon=True)
    thread.start()
    try:
        for _ in range(200):
            a, b = ustack.pipe()
            for stack, end in zip(pair, (a, b), strict=True):
                stack.attach(end, addresses=["192.168.7.1/24"])
            a.close()
            b.close()
    finally:
        over.set()
        thread.join(30)
    assert not thread.is_alive()
    assert all(len(stack.interfaces()) == 2 for stack in pair)


def test_timers_run_without_anybody_asking(pair: tuple[ustack.Stack, ustack.Stack]) -> None:
    """The thread sleeps with no deadline; a socket call that arms a timer must wake it."""
    left, _ = pair
    client = left.socket(ustack.AF_INET, ustack.SOCK_STREAM)
    client.setblocking(False)
    with pytest.raises(BlockingIOError):
        client.connect(("10.0.0.99", 80))
    # Nobody answers ARP: the engine's own timers turn that into EHOSTUNREACH.
    assert select.select([], [client], [], 30)[1]
    assert client.getsockopt(ustack.SOL_SOCKET, ustack.SO_ERROR) != 0


# -- who polls


def waiting(*calls: Any) -> list[threading.Thread]:
    """A thread for each blocking call, each asleep in it."""
    started = [threading.Thread(target=call, daemon=True) for call in calls]
    for thread in started:
        thread.start()
    return started


def test_a_caller_that_waits_alone_polls_the_links() -> None:
    """Round trips over one connection are the caller's own work; the thread is not in between."""
    raw, end = ustack.pipe("ip")
    with ustack.Stack() as stack:
        stack.attach(end, addresses=["10.0.0.2/24"])
        sock = stack.socket(ustack.AF_INET, ustack.SOCK_DGRAM)
        sock.bind(("10.0.0.2", 7))
        for number in range(100):
            timer = threading.Timer(0.001, raw.send, [datagram(b"%d" % number)])
            timer.start()
            assert sock.recv(100) == b"%d" % number
            timer.join()
        assert stack._driver.turns >= 10  # a datagram that is there before the call finds the thread


def test_the_thread_takes_over_when_callers_go_away() -> None:
    """Nobody is in a call any more: a ping is answered all the same, and timers run."""
    raw, end = ustack.pipe("ip")
    with ustack.Stack() as stack:
        stack.attach(end, addresses=["10.0.0.2/24"])
        sock = stack.socket(ustack.AF_INET, ustack.SOCK_DGRAM)
        sock.bind(("10.0.0.2", 7))
        for number in range(50):
            raw.send(datagram(b"x"))
            assert sock.recv(100) == b"x"
            raw.send(bytes(IP(src="10.0.0.1", dst="10.0.0.2") / ICMP(seq=number)))
            assert select.select([raw], [], [], 30)[0]
            assert IP(raw.recv())[ICMP].seq == number


def test_several_callers_wait_while_one_or_the_thread_polls() -> None:
    raw, end = ustack.pipe("ip")
    with ustack.Stack() as stack:
        stack.attach(end, addresses=["10.0.0.2/24"])
        socks = [stack.socket(ustack.AF_INET, ustack.SOCK_DGRAM) for _ in range(8)]
        got: list[bytes] = []
        for port, sock in enumerate(socks, 7):
            sock.bind(("10.0.0.2", port))
        for _ in range(50):
            got.clear()
            threads = waiting(*(lambda sock=sock: got.append(sock.recv(100)) for sock in socks))
            for port in range(7, 15):
                raw.send(datagram(b"%d" % port, port))
            for thread in threads:
                thread.join(30)
            assert sorted(got) == sorted(b"%d" % port for port in range(7, 15))


def test_no_frame_is_lost_where_a_caller_takes_over_from_the_thread() -> None:
    """A thread that was woken for two frames reads one, finds that a caller polls now, and steps aside: the other one
    must not wait for a retransmission.
    """
    for _ in range(200):
        a, b = ustack.pipe()
        with ustack.Stack() as left, ustack.Stack() as right:
            left.attach(a, addresses=["10.0.0.1/24"])
            right.attach(b, addresses=["10.0.0.2/24"])
            connect(left, right)
            assert left.counters()["TcpRetransSegs"] == right.counters()["TcpRetransSegs"] == 0


def test_frames_do_not_overtake_one_another() -> None:
    """A caller that begins to poll while the thread reads: what the thread has read goes in first."""
    sent = [b"%d" % number for number in range(4)]
    for _ in range(300):
        a, b = ustack.pipe()
        with ustack.Stack() as left, ustack.Stack() as right:
            left.attach(a, addresses=["10.0.0.1/24"])
            right.attach(b, addresses=["10.0.0.2/24"])
            sender, receiver = (stack.socket(ustack.AF_INET, ustack.SOCK_DGRAM) for stack in (left, right))
            receiver.bind(("10.0.0.2", 7))
            receiver.settimeout(30)
            for data in sent:
                sender.sendto(data, ("10.0.0.2", 7))
            assert [receiver.recv(100) for _ in sent] == sent


def test_busy_polling(pair: tuple[ustack.Stack, ustack.Stack]) -> None:
    """SO_BUSY_POLL and its default change nothing but how a call waits, time-outs and Ctrl-C included."""
    so_busy_poll = getattr(socket, "SO_BUSY_POLL", 46)
    for stack in pair:
        assert stack.sysctl["net.core.busy_poll"] == stack.sysctl["net.core.busy_read"] == 0
        stack.sysctl["net.core.busy_read"] = 50
        stack.sysctl["net.core.busy_poll"] = 50
    client, conn = connect(*pair)
    assert conn.getsockopt(ustack.SOL_SOCKET, so_busy_poll) == 0
    conn.setsockopt(ustack.SOL_SOCKET, so_busy_poll, 20_000)
    assert conn.getsockopt(ustack.SOL_SOCKET, so_busy_poll) == 20_000
    with pytest.raises(OSError, match="Invalid argument"):
        conn.setsockopt(ustack.SOL_SOCKET, so_busy_poll, -1)
    for number in range(200):
        client.sendall(b"%d" % number)
        assert conn.recv(100) == b"%d" % number
        conn.sendall(b"%d" % number)
        assert client.recv(100) == b"%d" % number
    conn.settimeout(0.05)
    with pytest.raises(TimeoutError):
        conn.recv(1)


def test_a_busy_poller_that_was_called_sleeps_again() -> None:
    """It looks for 20 ms, then sleeps, also after a frame came while it was looking."""
    raw, end = ustack.pipe("ip")
    with ustack.Stack() as stack:
        stack.attach(end, addresses=["10.0.0.2/24"])
        sock = stack.socket(ustack.AF_INET, ustack.SOCK_DGRAM)
        sock.setsockopt(ustack.SOL_SOCKET, getattr(socket, "SO_BUSY_POLL", 46), 20_000)
        sock.settimeout(0.5)
        frame = threading.Timer(0.005, raw.send, [datagram(b"x", 9)])
        frame.start()
        before = time.thread_time()
        with pytest.raises(TimeoutError):
            sock.recv(1)
        assert time.thread_time() - before < 0.2
        frame.join()


def test_a_listeners_busy_polling_is_inherited(pair: tuple[ustack.Stack, ustack.Stack]) -> None:
    so_busy_poll = getattr(socket, "SO_BUSY_POLL", 46)
    with pair[1].create_server(("", 80)) as server:
        server.setsockopt(ustack.SOL_SOCKET, so_busy_poll, 33)
        client = pair[0].create_connection(("10.0.0.2", 80), timeout=10)
        conn, _ = server.accept()
    assert conn.getsockopt(ustack.SOL_SOCKET, so_busy_poll) == 33
    client.close()
    conn.close()


# -- signals


def test_ctrl_c_comes_through_a_blocked_call() -> None:
    done = run("""
import os, signal, threading, ustack
stack = ustack.Stack()
server = stack.create_server(("", 80))
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    server.accept()
except KeyboardInterrupt:
    print("interrupted")
stack.close()
""")
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\n", "")


def test_a_handler_that_returns_does_not_end_the_wait(pair: tuple[ustack.Stack, ustack.Stack]) -> None:
    client, conn = connect(*pair)
    seen: list[int] = []

    def handler(number: int, frame: object) -> None:
        seen.append(number)
        client.sendall(b"from the handler")

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        assert conn.recv(100) == b"from the handler"
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == [signal.SIGUSR1]


def test_the_thread_blocks_every_signal() -> None:
    with ustack.Stack():
        native = [thread.native_id for thread in threading.enumerate() if thread.name == "ustack"][-1]
        with open(f"/proc/self/task/{native}/status", encoding="ascii") as status:
            blocked = next(int(line.split()[1], 16) for line in status if line.startswith("SigBlk"))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD):
        assert blocked >> (number - 1) & 1


# -- fork and exit


def test_fork_leaves_the_parent_alone_and_closes_the_child() -> None:
    done = run("""
import os, threading, warnings, ustack
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 and later: fork() with threads
a, b = ustack.pipe()
left, right = ustack.Stack(), ustack.Stack()
left.attach(a, addresses=["10.0.0.1/24"])
right.attach(b, addresses=["10.0.0.2/24"])
server = right.create_server(("", 80))
client = left.create_connection(("10.0.0.2", 80), timeout=10)
conn, _ = server.accept()
over = threading.Event()
def chatter():
    while not over.is_set():
        client.sendall(b"x" * 100)
        conn.recv(100)
thread = threading.Thread(target=chatter, daemon=True)
thread.start()
for _ in range(20):
    child = os.fork()
    if child == 0:
        status = 1
        conn.settimeout(30)
        try:
            try:
                while conn.recv(65536):
                    pass
            except OSError as error:
                assert error.errno == 9, error
                left.close()
                right.close()
                status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
over.set()
thread.join()
client.sendall(b"still there")
assert conn.recv(100) == b"still there"
left.close()
right.close()
print("done")
""")
    assert (done.stdout, done.stderr, done.returncode) == ("done\n", "", 0)


@pytest.mark.parametrize("ending", ["", "raise SystemExit(0)", "import os; os.kill(os.getpid(), 15)"])
def test_a_program_that_closes_nothing_ends(ending: str) -> None:
    done = run(f"""
import threading, ustack
a, b = ustack.pipe()
left, right = ustack.Stack(), ustack.Stack()
left.attach(a, addresses=["10.0.0.1/24"])
right.attach(b, addresses=["10.0.0.2/24"])
server = right.create_server(("", 80))
client = left.create_connection(("10.0.0.2", 80), timeout=10)
conn, _ = server.accept()
threading.Thread(target=conn.recv, args=(1,), daemon=True).start()
client.send(b"")
{ending}
""")
    assert (done.stderr, done.returncode) == ("", -15 if "kill" in ending else 0)


def test_no_driver_is_left() -> None:
    import gc

    gc.collect()
    assert [driver for driver in driver_module.drivers if not driver.closed] == []
