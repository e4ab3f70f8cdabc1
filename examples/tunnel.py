"""IP packets that the program carries itself, inside UDP datagrams of the kernel, as a VPN would. Needs no privilege.

Both ends of the tunnel are in this process; in life each would be on a machine of its own.
"""

import contextlib
import socket
import threading

import ustack


class Tunnel:
    """One end: what the stack sends goes out in datagrams, what arrives in datagrams goes into the stack."""

    def __init__(self, stack: ustack.Stack, address: str) -> None:
        # Not connected: nobody at the other end any more (ICMP port unreachable) is then no error of this socket.
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        self.link = ustack.Callback(send=self.send, medium="ip", mtu=1400)
        stack.attach(self.link, addresses=[address])

    def connect(self, other: "Tunnel") -> None:
        self.peer = other.udp.getsockname()
        self.thread = threading.Thread(target=self.carry)
        self.thread.start()

    def send(self, packet: bytes) -> None:
        with contextlib.suppress(OSError):  # what cannot be sent is lost, as on any wire
            self.udp.sendto(packet, self.peer)

    def carry(self) -> None:
        while packet := self.udp.recv(2000):  # an empty datagram is the end
            self.link.receive(packet)

    def close(self) -> None:
        self.udp.sendto(b"", self.udp.getsockname())
        self.thread.join()
        self.link.close()
        self.udp.close()


def main() -> None:
    with ustack.Stack() as left, ustack.Stack() as right:
        a, b = Tunnel(left, "10.9.0.1/30"), Tunnel(right, "10.9.0.2/30")
        a.connect(b)
        b.connect(a)
        with right.create_server(("", 80)) as listener, left.create_connection(("10.9.0.2", 80), timeout=5) as s:
            conn, _ = listener.accept()
            with conn:
                conn.sendall(b"through the tunnel")
            print(s.recv(100).decode())
        a.close()
        b.close()


if __name__ == "__main__":
    main()
