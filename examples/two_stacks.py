"""Two stacks in one process, joined by a pipe in memory: a server on one, a client on the other. Needs no privilege."""

import threading

import ustack


def greet(listener: ustack.Socket) -> None:
    conn, peer = listener.accept()
    with conn:
        name = conn.recv(100).decode()
        conn.sendall(f"Hello {name} at {peer[0]}".encode())


def main() -> None:
    a, b = ustack.pipe()
    with ustack.Stack() as server, ustack.Stack() as client:
        server.attach(a, addresses=["10.9.0.1/24"])
        client.attach(b, addresses=["10.9.0.2/24"])
        with server.create_server(("", 7)) as listener:
            threading.Thread(target=greet, args=(listener,)).start()
            with client.create_connection(("10.9.0.1", 7), timeout=5) as s:
                s.sendall(b"neighbour")
                print(s.recv(100).decode())


if __name__ == "__main__":
    main()
