"""Programs on the kernel's side of a TAP: TCP echo, sink, source and their clients, nginx, python's http.server.

Each runs as a process of its own in the namespace (`python -m tap_harness.kernel_peer VERB …`) and is ready when it
says so. For a few bytes and odd close orders use Namespace.socket() instead: a kernel socket in the test's own process.
"""

import argparse
import hashlib
import json
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from tap_harness.netns import Namespace
from tap_harness.payload import blocks
from tap_harness.process import Child

CHUNK = 1 << 18
MODULE = "tap_harness.kernel_peer"

NGINX = """
daemon off; master_process off; pid {home}/nginx.pid; error_log stderr warn;
events {{ worker_connections 2048; }}
http {{
  access_log off; sendfile on; client_max_body_size 0; client_body_temp_path {home}/body; proxy_temp_path {home}/proxy;
  fastcgi_temp_path {home}/fastcgi; uwsgi_temp_path {home}/uwsgi; scgi_temp_path {home}/scgi;
  server {{ listen {address}:{port} backlog=2048; root {root}; dav_methods PUT DELETE; autoindex on; }}
}}
"""


def start_server(namespace: Namespace, verb: str, address: str, port: int = 0, *options: str) -> tuple[Child, int]:
    """Start `verb` (echo, sink, source) listening in the namespace; returns the process and its port once ready."""
    child = namespace.python(MODULE, verb, address, str(port), *options)
    return child, int(child.wait_line(r"^listening (\d+)$").group(1))


def start_client(namespace: Namespace, verb: str, address: str, port: int, *options: str) -> Child:
    """Start a client (send, fetch) towards address:port; its result is result(child)."""
    return namespace.python(MODULE, verb, address, str(port), *options)


def result(child: Child, timeout: float = 60.0) -> dict[str, object]:
    """Wait for a client to end well; what it found out: bytes, sha256, reply."""
    return dict(json.loads(child.finish(timeout).strip().splitlines()[-1]))


def start_nginx(namespace: Namespace, root: Path, address: str, port: int = 8000) -> Child:
    """nginx that serves `root` and takes PUT, in the namespace; returns when it accepts."""
    home = Path(tempfile.mkdtemp(prefix="nginx.", dir=root.parent))
    config = home / "nginx.conf"
    host = f"[{address}]" if ":" in address else address
    config.write_text(NGINX.format(home=home, root=root, address=host, port=port))
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin") or "nginx"
    child = namespace.popen([program, "-p", str(home), "-c", str(config)])
    namespace.wait_accepting((address, port), child=child)
    return child


def start_http_server(namespace: Namespace, root: Path, address: str, port: int = 8000) -> Child:
    """The standard library's http.server in the namespace; returns when it accepts."""
    child = namespace.python("http.server", str(port), "--bind", address, "--directory", str(root))
    namespace.wait_accepting((address, port), child=child)
    return child


def receive_all(sock: socket.socket) -> dict[str, object]:
    """Read to the end; how many bytes and their SHA-256."""
    state, total = hashlib.sha256(), 0
    while data := sock.recv(CHUNK):
        state.update(data)
        total += len(data)
    return {"bytes": total, "sha256": state.hexdigest()}


def _echo(sock: socket.socket, _: argparse.Namespace) -> None:
    while data := sock.recv(CHUNK):
        sock.sendall(data)


def _sink(sock: socket.socket, _: argparse.Namespace) -> None:
    sock.sendall(str(receive_all(sock)["sha256"]).encode())


def _source(sock: socket.socket, options: argparse.Namespace) -> None:
    for block in blocks(options.seed, options.bytes):
        sock.sendall(block)


def _send(sock: socket.socket, options: argparse.Namespace) -> dict[str, object]:
    for block in blocks(options.seed, options.bytes):
        sock.sendall(block)
    sock.shutdown(socket.SHUT_WR)
    reply = b"".join(iter(lambda: sock.recv(CHUNK), b""))
    return {"reply": reply.decode(errors="replace")}


def _fetch(sock: socket.socket, _: argparse.Namespace) -> dict[str, object]:
    return receive_all(sock)


SERVERS: dict[str, Callable[[socket.socket, argparse.Namespace], None]] = {
    "echo": _echo,
    "sink": _sink,
    "source": _source,
}
CLIENTS: dict[str, Callable[[socket.socket, argparse.Namespace], dict[str, object]]] = {"send": _send, "fetch": _fetch}


def _serve(listener: socket.socket, options: argparse.Namespace) -> None:
    def handle(sock: socket.socket) -> None:
        with sock:
            SERVERS[options.verb](sock, options)

    print("listening", listener.getsockname()[1], flush=True)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=handle, args=(connection,), daemon=True).start()


def main(argv: Sequence[str]) -> None:
    """The process: VERB ADDRESS PORT [--bytes N] [--seed N]."""
    parser = argparse.ArgumentParser(prog=MODULE, description=__doc__)
    parser.add_argument("verb", choices=[*SERVERS, *CLIENTS])
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("--bytes", type=int, default=1 << 20, help="how many bytes a source or send sends")
    parser.add_argument("--seed", type=int, default=1, help="which bytes")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds a client waits for progress")
    options = parser.parse_args(argv)
    if options.verb in SERVERS:
        family = socket.AF_INET6 if ":" in options.address else socket.AF_INET
        _serve(socket.create_server((options.address, options.port), family=family, backlog=4096), options)
    with socket.create_connection((options.address, options.port), timeout=options.timeout) as sock:
        print(json.dumps(CLIENTS[options.verb](sock, options)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
