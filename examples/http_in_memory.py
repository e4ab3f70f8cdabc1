"""An HTTP server and a client of it, both the standard library's own, that never touch the kernel's TCP."""

import http.server
import threading
import urllib.request

import ustack


class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = f"hello {self.client_address[0]}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


a, b = ustack.pipe()
with ustack.Stack() as left, ustack.Stack() as right:
    left.attach(a, addresses=["10.9.0.1/24"])
    right.attach(b, addresses=["10.9.0.2/24"])
    left.hosts["server.test"] = "10.9.0.2"

    with right.patched():  # a socket stays its stack's; only making one looks at who is patched in
        server = http.server.ThreadingHTTPServer(("10.9.0.2", 80), Hello)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    with left.patched(), urllib.request.urlopen("http://server.test/") as answer:
        print(answer.read().decode(), end="")
    print(f"{right.counters()['TcpPassiveOpens']} connection, none of it the kernel's")
    server.shutdown()
    server.server_close()
    thread.join()
