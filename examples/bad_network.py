"""A transfer over a bad network in virtual time: 10 Mbit/s, 100 ms of round trip, 1 % loss. Twice the very same."""

import ustack.sim

SIZE = 5_000_000


def transfer(seed: int) -> tuple[int, int]:
    """Send SIZE bytes; returns the virtual nanoseconds it took and the segments that were sent again."""
    with ustack.sim.Network(seed=seed) as net:
        a, b = net.stack("a"), net.stack("b")
        net.wire(a, b, addresses=("10.0.0.1/24", "10.0.0.2/24"), rate=10e6, delay=0.05, loss=0.01)
        with b.create_server(("", 80)) as listener:
            client = a.create_connection(("10.0.0.2", 80))
            server, _ = listener.accept()
        begin = net.now

        def send() -> None:
            with client:
                client.sendall(bytes(SIZE))

        net.spawn(send)
        left = SIZE
        with server:
            while data := server.recv(1 << 20):
                left -= len(data)
        assert left == 0
        return net.now - begin, a.counters()["TcpRetransSegs"]


def main() -> None:
    first, second = transfer(seed=1), transfer(seed=1)
    assert first == second
    took, again = first
    print(f"{SIZE:,} bytes in {took / 1e9:.3f} s of virtual time, {again} segments sent again; twice exactly so")


if __name__ == "__main__":
    main()
