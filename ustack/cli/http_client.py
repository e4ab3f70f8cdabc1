"""One HTTP exchange over a stack: http.client on ustack sockets, with curl's names for what can go wrong.

Responsible for: connecting, sending a request with its body, streaming the response to a sink, redirects, the time
limit. Not for: options and output files (curl), TLS. HTTP/1.1 (RFC 9110, 9112).
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from .httpd import PIECE
from .session import asks_itself, resolve

# curl's exit codes, with the names libcurl-errors(3) gives them.
UNSUPPORTED_PROTOCOL = 1
URL_MALFORMAT = 3
COULDNT_RESOLVE_HOST = 6
COULDNT_CONNECT = 7
WEIRD_SERVER_REPLY = 8
PARTIAL_FILE = 18
HTTP_RETURNED_ERROR = 22
WRITE_ERROR = 23
READ_ERROR = 26
OPERATION_TIMEDOUT = 28
TOO_MANY_REDIRECTS = 47
GOT_NOTHING = 52
SEND_ERROR = 55
RECV_ERROR = 56
SEND_FAIL_REWIND = 65

_REDIRECTS = (301, 302, 303, 307, 308)


class TransferError(Exception):
    """A transfer failed; `code` is the exit code curl has for it."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass
class Request:
    """What to send: body is bytes or an open file.

    Length its size in bytes, None for a file whose size is unknown (sent chunked).
    """

    method: str
    url: str
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes | BinaryIO | None = None
    length: int | None = None


@dataclass
class Limits:
    """Times in seconds, None without limit: for connecting, and (as a moment of time.monotonic) for everything."""

    connect: float | None = None
    deadline: float | None = None

    def left(self) -> float | None:
        """Seconds until the deadline. Raises TransferError when it has passed."""
        if self.deadline is None:
            return None
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TransferError(OPERATION_TIMEDOUT, "Operation timed out")
        return left


@dataclass
class Hooks:
    """What a caller wants to be told.

    verbose: a line for the log, its first character as curl's. sent: bytes of body that went out. started: status,
    head and expected length of a response whose body comes next; it may raise TransferError to refuse it. received: a
    piece of that body.
    """

    verbose: Callable[[str], None] = lambda line: None
    sent: Callable[[int], None] = lambda count: None
    started: Callable[[int, bytes, int | None], None] = lambda status, head, total: None
    received: Callable[[memoryview | bytes], None] = lambda piece: None


@dataclass
class Outcome:
    """What came of a transfer: the response's head, and how many bytes of body went each way."""

    status: int
    head: bytes
    url: str
    uploaded: int = 0
    downloaded: int = 0
    redirects: int = 0


def split_url(url: str) -> tuple[str, int, str, str]:
    """(host, port, authority for the Host header, path with query) of an http URL.

    "http://" may be missing, as curl allows. Raises TransferError.
    """
    if "://" not in url:
        url = "http://" + url
    if any(c <= " " or c == "\x7f" for c in url):
        raise TransferError(URL_MALFORMAT, "URL using bad/illegal format or missing URL")
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise TransferError(URL_MALFORMAT, f"URL using bad/illegal format: {error}") from None
    if parts.scheme != "http":
        raise TransferError(
            UNSUPPORTED_PROTOCOL, f'Protocol "{parts.scheme}" not supported; this curl speaks only http'
        )
    if not parts.hostname:
        raise TransferError(URL_MALFORMAT, "No host part in the URL")
    host = parts.hostname
    authority = f"[{host}]" if ":" in host else host
    if port is not None and port != 80:
        authority += f":{port}"
    path = urllib.parse.quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    return host, port if port is not None else 80, authority, path + (f"?{parts.query}" if parts.query else "")


def follow(stack: Any, request: Request, limits: Limits, hooks: Hooks, most: int) -> Outcome:
    """Do a request and follow its redirects, at most so many. `hooks.received` sees only the last body.

    Raises TransferError.
    """
    for count in range(most + 1):
        outcome, location = exchange(stack, request, limits, hooks, drop_redirect_body=True)
        outcome.redirects = count
        if location is None:
            return outcome
        target = urllib.parse.urljoin(request.url if "://" in request.url else f"http://{request.url}", location)
        hooks.verbose(f"* Issue another request to this URL: '{target}'")
        request = _redirected(request, outcome.status, target)
    raise TransferError(TOO_MANY_REDIRECTS, f"Maximum ({most}) redirects followed")


def _redirected(request: Request, status: int, target: str) -> Request:
    """The request that a redirect asks for (RFC 9110 §15.4).

    After 303, and for a POST after 301 or 302, that is a GET without the body.
    """
    headers = request.headers
    if split_url(target)[:2] != split_url(request.url)[:2]:
        headers = [(name, value) for name, value in headers if name.lower() not in ("authorization", "cookie", "host")]
    if (status == 303 and request.method != "HEAD") or (status in (301, 302) and request.method == "POST"):
        kept = [(name, value) for name, value in headers if name.lower() not in ("content-type", "content-length")]
        return Request("GET", target, kept)
    if request.body is not None and not isinstance(request.body, bytes):
        try:
            request.body.seek(0)
        except OSError:
            raise TransferError(SEND_FAIL_REWIND, "necessary data rewind wasn't possible") from None
    return Request(request.method, target, headers, request.body, request.length)


def exchange(
    stack: Any, request: Request, limits: Limits, hooks: Hooks, drop_redirect_body: bool = False
) -> tuple[Outcome, str | None]:
    """One request and its response.

    stack: anything with `create_connection(address, timeout=)` as ustack.Stack has it. Returns the outcome, and the
    Location of a redirect whose body was dropped (None otherwise). Raises TransferError.
    """
    host, port, authority, path = split_url(request.url)
    connection = http.client.HTTPConnection(host, port)
    connection.sock = _connect(stack, host, port, limits, hooks)
    with contextlib.closing(connection):
        uploaded, failure = _send(connection, request, authority, path, limits, hooks)
        response = _head(connection, request.method, failure, limits)
        head = _head_text(response)
        for line in head.decode("latin-1").split("\r\n")[:-1]:
            hooks.verbose(f"< {line}")
        outcome = Outcome(response.status, head, request.url, uploaded)
        location = response.getheader("Location")
        if drop_redirect_body and response.status in _REDIRECTS and location is not None:
            return outcome, location
        hooks.started(response.status, head, None if request.method == "HEAD" else response.length)
        outcome.downloaded = _receive(connection, response, limits, hooks)
        if failure is not None and response.status < 400:
            raise failure
        return outcome, None


def _connect(stack: Any, host: str, port: int, limits: Limits, hooks: Hooks) -> Any:
    try:
        # A stack that looks names up by itself tries all addresses of both families (RFC 8305).
        address = host.strip("[]") if asks_itself(stack) else resolve(host, stack)
    except (socket.gaierror, UnicodeError):
        raise TransferError(COULDNT_RESOLVE_HOST, f"Could not resolve host: {host}") from None
    hooks.verbose(f"*   Trying {address}:{port}...")
    left = limits.left()
    patience = left if limits.connect is None else limits.connect if left is None else min(left, limits.connect)
    started = time.monotonic()
    try:
        connected = stack.create_connection((address, port), timeout=patience)
    except (socket.gaierror, UnicodeError):
        raise TransferError(COULDNT_RESOLVE_HOST, f"Could not resolve host: {host}") from None
    except OSError as error:
        spent = (time.monotonic() - started) * 1000
        if isinstance(error, TimeoutError) and patience is not None and spent >= patience * 999:
            raise TransferError(OPERATION_TIMEDOUT, f"Connection timed out after {spent:.0f} milliseconds") from None
        hooks.verbose(f"* connect to {address} port {port} failed: {error.strerror or error}")
        raise TransferError(
            COULDNT_CONNECT, f"Failed to connect to {host} port {port} after {spent:.0f} ms: {error.strerror or error}"
        ) from None
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    hooks.verbose(f"* Connected to {host} ({address}) port {port}")
    return connected


def _send(
    connection: http.client.HTTPConnection, request: Request, authority: str, path: str, limits: Limits, hooks: Hooks
) -> tuple[int, TransferError | None]:
    """Send the request. A failure while its body goes out is returned, not raised: the server may have answered why."""
    chunked = request.body is not None and request.length is None
    headers = list(request.headers)
    named = {name.lower() for name, _ in headers}
    if "host" not in named:
        headers.insert(0, ("Host", authority))
    if request.body is not None and not named & {"content-length", "transfer-encoding"}:
        headers.append(("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(request.length)))
    hooks.verbose(f"> {request.method} {path} HTTP/1.1")
    for name, value in headers:
        hooks.verbose(f"> {name}: {value}")
    hooks.verbose("> ")
    done = 0
    try:
        connection.sock.settimeout(limits.left())
        connection.putrequest(request.method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in headers:
            connection.putheader(name, value)
        connection.endheaders()
        for piece in _pieces(request.body):
            connection.sock.settimeout(limits.left())
            if chunked:
                connection.sock.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
            else:
                connection.sock.sendall(piece)
            done += len(piece)
            hooks.sent(len(piece))
        if chunked:
            connection.sock.sendall(b"0\r\n\r\n")
    except TimeoutError:
        raise TransferError(OPERATION_TIMEDOUT, f"Operation timed out with {done} bytes sent") from None
    except (OSError, http.client.HTTPException) as error:
        return done, TransferError(SEND_ERROR, f"Send failure: {error}")
    except (ValueError, UnicodeError) as error:
        raise TransferError(URL_MALFORMAT, f"a header or the path cannot be sent: {error}") from None
    return done, None


def _pieces(body: bytes | BinaryIO | None) -> Any:
    """A body in pieces; an error of the file that is read is READ_ERROR, and not one of the connection."""
    if isinstance(body, bytes):
        view = memoryview(body)
        for start in range(0, len(view), PIECE):
            yield view[start : start + PIECE]
    elif body is not None:
        try:
            while piece := body.read(PIECE):
                yield piece
        except OSError as error:
            raise TransferError(READ_ERROR, f"the upload cannot be read: {error.strerror}") from None


def _head(
    connection: http.client.HTTPConnection, method: str, failure: TransferError | None, limits: Limits
) -> http.client.HTTPResponse:
    """Read the response's head. `failure`: what went wrong while sending, raised when there is no response either."""
    # Not connection.getresponse(): that one closes the socket, whose time limit is still to be set, where the response
    # ends with it.
    response = http.client.HTTPResponse(connection.sock, method=method)
    try:
        connection.sock.settimeout(limits.left())
        response.begin()
    except TimeoutError:
        raise TransferError(OPERATION_TIMEDOUT, "Operation timed out with 0 bytes received") from None
    except http.client.RemoteDisconnected:
        raise failure or TransferError(GOT_NOTHING, "Empty reply from server") from None
    except http.client.BadStatusLine:
        raise failure or TransferError(UNSUPPORTED_PROTOCOL, "Received HTTP/0.9 when not allowed") from None
    except http.client.HTTPException as error:
        raise failure or TransferError(WEIRD_SERVER_REPLY, f"Weird server reply: {error}") from None
    except OSError as error:
        raise failure or TransferError(RECV_ERROR, f"Recv failure: {error.strerror or error}") from None
    return response


def _head_text(response: http.client.HTTPResponse) -> bytes:
    version = "HTTP/1.0" if response.version == 10 else "HTTP/1.1"
    lines = [
        f"{version} {response.status} {response.reason}",
        *(f"{name}: {value}" for name, value in response.headers.items()),
        "",
        "",
    ]
    return "\r\n".join(lines).encode("latin-1", "replace")


def _receive(
    connection: http.client.HTTPConnection, response: http.client.HTTPResponse, limits: Limits, hooks: Hooks
) -> int:
    """Stream the body to `hooks.received`; returns its length."""
    expected, done = response.length, 0
    while True:
        try:
            connection.sock.settimeout(limits.left())
            piece = response.read1(PIECE)
        except TimeoutError:
            raise TransferError(OPERATION_TIMEDOUT, f"Operation timed out with {done} bytes received") from None
        except http.client.HTTPException as error:
            if response.chunked and not isinstance(error, http.client.IncompleteRead):
                raise TransferError(RECV_ERROR, f"Malformed encoding found in chunked-encoding: {error}") from None
            raise TransferError(PARTIAL_FILE, "transfer closed with outstanding read data remaining") from None
        except OSError as error:
            raise TransferError(RECV_ERROR, f"Recv failure: {error.strerror or error}") from None
        if not piece:
            break
        done += len(piece)
        hooks.received(piece)
    if expected is not None and done < expected:
        raise TransferError(PARTIAL_FILE, f"transfer closed with {expected - done} bytes remaining to read")
    return done
