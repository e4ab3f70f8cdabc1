"""The standard library's HTTP server on a stack's sockets: static files, and uploads where they are wanted.

Responsible for: binding http.server to a stack, moving large files in large pieces, PUT. Not for: what a path may name
(SimpleHTTPRequestHandler.translate_path keeps requests inside the directory), TLS. HTTP/1.1 (RFC 9110, 9112).
"""

from __future__ import annotations

import contextlib
import http.server
import os
import shutil
import socket
import socketserver
import sys
import tempfile
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, BinaryIO

PIECE = 256 * 1024  # bytes moved at once between a file and a connection
_IDLE_LIMIT = 120  # seconds a client may say nothing
_CHUNK_LINE_LIMIT = 4096  # bytes in the line before a chunk, with its extensions


class StackHTTPServer(http.server.ThreadingHTTPServer):
    """A threading HTTP server whose listening socket belongs to a stack.

    stack: anything with `socket(family, type)` as ustack.Stack has it. address: (host, port) as for bind; "::" is both
    families. Raises OSError when the address cannot be bound.
    """

    request_queue_size = 1024
    allow_reuse_port = False
    _closing = False

    def __init__(self, stack: Any, address: tuple[str, int], handler: type[http.server.BaseHTTPRequestHandler]) -> None:
        # Not TCPServer.__init__: that one makes its socket from the kernel's.
        socketserver.BaseServer.__init__(self, address, handler)
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.socket = stack.socket(self.address_family, socket.SOCK_STREAM)
        try:
            self.server_bind()
            self.server_activate()
        except BaseException:
            self.server_close()
            raise

    def server_bind(self) -> None:
        """Bind without HTTPServer's reverse look-up of the own name: the stack has no names."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def get_request(self) -> tuple[Any, Any]:
        """A connection and its peer, who is of IPv4 where that was spoken."""
        connection, peer = super().get_request()
        return connection, (str(peer[0]).removeprefix("::ffff:"), *peer[1:])

    def server_close(self) -> None:
        """Stop listening; what still runs ends without a word."""
        self._closing = True
        super().server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is worth a line, not a traceback; a fault of ours is worth both."""
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            # when we close, it is we who go away
            if not self._closing and not getattr(self.RequestHandlerClass, "quiet", False):
                print(f"{client_address[0]}:{client_address[1]} went away: {error}", file=sys.stderr)
        else:
            super().handle_error(request, client_address)


class FileHandler(http.server.SimpleHTTPRequestHandler):
    """GET and HEAD of files and directory listings; PUT into the directory where `uploads` is set on a subclass."""

    protocol_version = "HTTP/1.1"
    server_version = "ustack"
    timeout = _IDLE_LIMIT
    # Headers and body go out in separate writes: Nagle's algorithm would hold the second one back.
    disable_nagle_algorithm = True
    rbufsize = PIECE
    uploads = False
    quiet = False
    _connection_unsaid = False

    def send_response(self, code: int, message: str | None = None) -> None:
        """Begin the response; an interim one (100) does not come this way."""
        self._connection_unsaid = True
        super().send_response(code, message)

    def send_header(self, keyword: str, value: str) -> None:
        """Add a header, and remember whether it was the one about the connection."""
        if keyword.lower() == "connection":
            self._connection_unsaid = False
        super().send_header(keyword, value)

    def end_headers(self) -> None:
        """Say whether the connection stays, where the client cannot tell by the version (RFC 9112 §9.3)."""
        if self._connection_unsaid and self.close_connection:
            self.send_header("Connection", "close")
        elif self._connection_unsaid and self.request_version == "HTTP/1.0":
            self.send_header("Connection", "keep-alive")
        super().end_headers()

    def copyfile(self, source: BinaryIO, outputfile: Any) -> None:  # type: ignore[override]
        """Send a file in pieces large enough that the loop does not matter."""
        piece = memoryview(bytearray(PIECE))
        while count := source.readinto(piece):  # type: ignore[attr-defined]
            self.connection.sendall(piece[:count])

    def parse_request(self) -> bool:
        """As the standard library does; a body that nobody will read must not be taken for the next request."""
        if not super().parse_request():
            return False
        if self.command != "PUT" and ("Content-Length" in self.headers or "Transfer-Encoding" in self.headers):
            self.close_connection = True
        return True

    def handle_expect_100(self) -> bool:
        """Refuse an upload before its body is sent, where the client waits for that (RFC 9110 §10.1.1)."""
        return (self.command != "PUT" or self._may_upload()) and super().handle_expect_100()

    def do_PUT(self) -> None:
        """Take an upload: written beside its place and moved there when it is whole."""
        if self._may_upload():
            self._take_upload(self.translate_path(self.path))

    def _may_upload(self) -> bool:
        """Whether the request's path can be written; if not, the refusal was sent."""
        path = self.translate_path(self.path)
        if not self.uploads:
            self._refuse(HTTPStatus.METHOD_NOT_ALLOWED, "This server takes no uploads (ustack serve --upload)")
        elif self.path.split("?")[0].endswith("/") or os.path.isdir(path):
            self._refuse(HTTPStatus.CONFLICT, "The path names a directory")
        elif not os.path.isdir(os.path.dirname(path)):
            self._refuse(HTTPStatus.NOT_FOUND, "There is no such directory")
        else:
            return True
        return False

    def _take_upload(self, path: str) -> None:
        existed = os.path.exists(path)
        try:
            pieces = self._body_pieces()
            with tempfile.NamedTemporaryFile(dir=os.path.dirname(path), prefix=".upload-", delete=False) as part:
                try:
                    for piece in pieces:
                        part.write(piece)
                    os.chmod(part.name, 0o644)
                    os.replace(part.name, path)
                except BaseException:
                    os.unlink(part.name)
                    raise
        except ValueError as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error))
        except (PermissionError, IsADirectoryError, FileNotFoundError):
            self._refuse(HTTPStatus.FORBIDDEN, "The file cannot be written")
        else:
            self.send_response(HTTPStatus.NO_CONTENT if existed else HTTPStatus.CREATED)
            if not existed:
                self.send_header("Content-Length", "0")
            self.end_headers()

    def _refuse(self, status: HTTPStatus, text: str) -> None:
        """Answer an error and close: the body that may be on its way is not read."""
        self.close_connection = True
        self.send_error(status, text)

    def _body_pieces(self) -> Iterator[memoryview]:
        """The request's body (RFC 9112 §6).

        Raises ValueError when its length is nonsense, ConnectionError when it ends early.
        """
        coding = self.headers.get("Transfer-Encoding")
        if coding is not None:
            if coding.lower() != "chunked" or "Content-Length" in self.headers:
                # Both at once is how requests are smuggled (RFC 9112 §6.1).
                raise ValueError("Transfer-Encoding is not plain 'chunked'")
            return self._chunks()
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            raise ValueError("A PUT needs a Content-Length")
        return self._exactly(int(length))

    def _exactly(self, length: int) -> Iterator[memoryview]:
        piece = memoryview(bytearray(PIECE))
        while length:
            count = self.rfile.readinto1(piece[: min(length, PIECE)])
            if not count:
                raise ConnectionError("the body ended early")
            length -= count
            yield piece[:count]

    def _chunks(self) -> Iterator[memoryview]:
        """The chunked coding (RFC 9112 §7.1); trailers are read and dropped."""
        while True:
            line = self.rfile.readline(_CHUNK_LINE_LIMIT)
            digits = line.split(b";")[0].strip()
            if not line.endswith(b"\n") or not digits or not all(c in b"0123456789abcdefABCDEF" for c in digits):
                raise ValueError("A chunk's size is not a number")
            length = int(digits, 16)
            if length == 0:
                break
            yield from self._exactly(length)
            if self.rfile.readline(3) not in (b"\r\n", b"\n"):
                raise ValueError("A chunk is longer than it says")
        while self.rfile.readline(_CHUNK_LINE_LIMIT).strip():
            pass

    def log_message(self, format: str, *args: Any) -> None:
        """Lines in the common log's manner on stderr, unless silent."""
        if not self.quiet:
            super().log_message(format, *args)


def file_handler(directory: str, uploads: bool = False, quiet: bool = False) -> type[FileHandler]:
    """A handler class for one directory.

    SimpleHTTPRequestHandler takes the directory as an argument that the server does not know of.
    """

    class Handler(FileHandler):
        def __init__(self, *args: Any, **keywords: Any) -> None:
            super().__init__(*args, directory=directory, **keywords)

    Handler.uploads = uploads
    Handler.quiet = quiet
    return Handler


def free_space(directory: str) -> int:
    """Bytes free where a directory lives; 0 when nobody can say."""
    with contextlib.suppress(OSError):
        return shutil.disk_usage(directory).free
    return 0
