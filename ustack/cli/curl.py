"""`ustack curl`: fetch and send over HTTP through a stack of this process, with curl's options, output and exit codes.

Responsible for: options, the body to send, the file to write, the verbose log and the progress bar. Not for: the
exchange (http_client).
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
import urllib.parse
from collections.abc import Callable
from typing import Any, BinaryIO

from . import http_client
from .errors import CommandError
from .http_client import Hooks, Limits, Outcome, Request, TransferError
from .session import add_stack_options, open_session, positive_seconds
from .terminal import Progress

_DESCRIPTION = "Transfer a URL over HTTP through a ustack stack. Options, output and exit codes are curl's."
_EPILOG = """\
examples (a server on the kernel's side of the device: `python3 -m http.server 8000`):
  sudo ustack curl http://10.9.0.1:8000/
  sudo ustack curl -v -o file http://10.9.0.1:8000/file
  sudo ustack curl -T file http://10.9.0.1:8080/upload/

exit codes, as curl has them: 1 unsupported protocol, 3 malformed URL, 6 name not found, 7 connection refused or not
possible, 18 transfer cut short, 22 HTTP error with -f, 23 output not written, 26 upload not read, 28 time is up, 47
too many redirects, 52 empty reply, 55 sending failed, 56 receiving failed; a device that cannot be had is 1, with a
sentence.
"""


def register(verbs: Any) -> None:
    """Add the verb to the parser."""
    parser = verbs.add_parser(
        "curl",
        help="transfer a URL through a stack",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("url", metavar="URL", help="an http URL")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("-o", "--output", metavar="FILE", help="write to a file instead of stdout ('-': stdout)")
    output.add_argument("-O", "--remote-name", action="store_true", help="write to a file named as the URL's last part")
    body = parser.add_mutually_exclusive_group()
    body.add_argument(
        "-d", "--data", metavar="DATA", action="append", help="POST this; '@FILE' takes a file's lines, '@-' stdin's"
    )
    body.add_argument("--data-binary", metavar="DATA", action="append", help="POST this; '@FILE' takes a file as it is")
    body.add_argument(
        "-T", "--upload-file", metavar="FILE", help="PUT a file ('-': stdin); a URL that ends in / gets its name"
    )
    body.add_argument("-I", "--head", action="store_true", help="ask for the headers alone (HEAD)")
    add("-X", "--request", metavar="METHOD", help="the request's method")
    add(
        "-H",
        "--header",
        metavar="LINE",
        action="append",
        default=[],
        help="a header ('Name: value'; 'Name:' removes it)",
    )
    add("-A", "--user-agent", metavar="NAME", help="the User-Agent header")
    add("-L", "--location", action="store_true", help="follow redirects")
    add("--max-redirs", metavar="NUMBER", type=int, default=50, help="follow at most so many (default: 50)")
    add("-i", "--include", action="store_true", help="write the response's headers before its body")
    add("-f", "--fail", action="store_true", help="on an HTTP error write nothing and exit with 22")
    add("-s", "--silent", action="store_true", help="no progress bar and no error message")
    add("-S", "--show-error", action="store_true", help="with -s, error messages all the same")
    add("-v", "--verbose", action="store_true", help="show the headers and what happens on stderr")
    add("-m", "--max-time", metavar="SECONDS", type=positive_seconds, help="give up after so long")
    add("--connect-timeout", metavar="SECONDS", type=positive_seconds, help="give up connecting after so long")
    add(
        "-w",
        "--write-out",
        metavar="FORMAT",
        help="after the transfer print this; %%{http_code}, %%{size_download}, %%{size_upload}, %%{speed_download}, "
        "%%{speed_upload}, %%{time_total}, %%{num_redirects} and %%{url_effective} are filled in",
    )
    add_stack_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Transfer one URL; returns curl's exit code."""
    try:
        request = build_request(args)
        http_client.split_url(request.url)
        with open_session(args) as session:
            return transfer(session.stack, request, args)
    except TransferError as error:
        return report(error, args)


def build_request(args: argparse.Namespace) -> Request:
    """The request that the options describe. Raises TransferError when its body cannot be read."""
    request = Request("GET", args.url)
    request.headers = [("User-Agent", args.user_agent or "ustack-curl"), ("Accept", "*/*")]
    if args.head:
        request.method = "HEAD"
    elif args.upload_file is not None:
        _put(request, args.upload_file)
    elif args.data or args.data_binary:
        request.method = "POST"
        request.body = b"&".join(_data(text, strip=bool(args.data)) for text in args.data or args.data_binary)
        request.length = len(request.body)
        request.headers.append(("Content-Type", "application/x-www-form-urlencoded"))
    if args.request:
        request.method = args.request
    for line in args.header:
        request.headers = _with_header(request.headers, line)
    return request


def _put(request: Request, name: str) -> None:
    request.method = "PUT"
    if name == "-":
        request.body = sys.stdin.buffer
        return
    request.body = _open(name)
    request.length = os.fstat(request.body.fileno()).st_size
    if urllib.parse.urlsplit(request.url).path.endswith("/"):
        request.url += urllib.parse.quote(os.path.basename(name))


def _open(name: str) -> BinaryIO:
    try:
        return open(name, "rb")
    except OSError as error:
        raise TransferError(http_client.READ_ERROR, f"Can't open '{name}': {error.strerror}") from None


def _data(text: str, strip: bool) -> bytes:
    if not text.startswith("@"):
        return text.encode()
    if text == "@-":
        content = sys.stdin.buffer.read()
    else:
        with _open(text[1:]) as stream:
            content = stream.read()
    return content.replace(b"\r", b"").replace(b"\n", b"") if strip else content


def _with_header(headers: list[tuple[str, str]], line: str) -> list[tuple[str, str]]:
    """The headers with a line of -H applied: it replaces one of its name, and with no value removes it."""
    name, colon, value = line.partition(":")
    if not colon and name.endswith(";"):
        name, colon = name[:-1], ";"  # curl: 'Name;' sends the header with no value
    if not colon or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
        raise CommandError(f"-H {line!r} is not a header: write 'Name: value'", code=2)
    kept = [(known, old) for known, old in headers if known.lower() != name.lower()]
    return kept if colon == ":" and not value.strip() else [*kept, (name, value.strip())]


class Sink:
    """Where a response goes: a file that is opened when the first response is accepted, or stdout.

    With the progress bar's count.
    """

    def __init__(self, args: argparse.Namespace, upload: bool) -> None:
        self._args = args
        self._name = _output_name(args)
        self._stream: BinaryIO | None = None
        self._progress: Progress | None = None
        self._upload = upload

    def uploading(self, length: int | None) -> None:
        """A body of this length is about to go out."""
        self._progress = Progress(sys.stderr, length, wanted=self._wants_progress())

    def sent(self, count: int) -> None:
        """Bytes of the body went out."""
        if self._progress:
            self._progress.advance(count)

    def started(self, status: int, head: bytes, total: int | None) -> None:
        """A response begins; open the output, unless -f refuses the response."""
        if self._progress:
            self._progress.finish()
        if self._args.fail and status >= 400:
            raise TransferError(http_client.HTTP_RETURNED_ERROR, f"The requested URL returned error: {status}")
        self._stream = self._open()
        if self._args.include or self._args.head:
            self._write(head)
        self._progress = Progress(sys.stderr, total, wanted=self._wants_progress() and not self._upload)

    def _wants_progress(self) -> bool:
        return not (self._args.silent or self._args.verbose) and (self._name is not None or not sys.stdout.isatty())

    def _open(self) -> BinaryIO:
        if self._name is None:
            return sys.stdout.buffer
        try:
            return open(self._name, "wb", buffering=0)
        except OSError as error:
            raise TransferError(
                http_client.WRITE_ERROR, f"Failed to open the file {self._name}: {error.strerror}"
            ) from None

    def received(self, piece: memoryview | bytes) -> None:
        """Write a piece of the body. Raises TransferError."""
        if self._name is None and self._args.output is None and sys.stdout.isatty() and b"\0" in bytes(piece[:2048]):
            raise TransferError(
                http_client.WRITE_ERROR,
                'Binary output can mess up your terminal. Use "--output -" to write it '
                'all the same, or "--output FILE" to save it to a file.',
            )
        self._write(piece)
        if self._progress:
            self._progress.advance(len(piece))

    def _write(self, piece: memoryview | bytes) -> None:
        if self._stream is None:
            return
        view = memoryview(piece)
        try:
            while view:
                view = view[self._stream.write(view) :]
        except OSError as error:
            raise _write_failure(error) from None

    def close(self) -> None:
        """Flush and close what was opened."""
        if self._progress:
            self._progress.finish()
        if self._stream is None:
            return
        try:
            self._stream.flush()
        except OSError as error:
            raise _write_failure(error) from None
        finally:
            if self._name is not None:
                self._stream.close()


def _write_failure(error: OSError) -> TransferError:
    """The output cannot be written. Its reader having gone (`| head`) is no news: that one has no words."""
    words = "" if isinstance(error, BrokenPipeError) else f"Failure writing output to destination: {error.strerror}"
    return TransferError(http_client.WRITE_ERROR, words)


def _output_name(args: argparse.Namespace) -> str | None:
    """The file to write, None for stdout. Raises TransferError when -O finds no name in the URL."""
    if args.remote_name:
        url = args.url if "://" in args.url else f"http://{args.url}"
        name = os.path.basename(urllib.parse.urlsplit(url).path)
        if not name:
            raise TransferError(http_client.WRITE_ERROR, "Remote file name has no length")
        return name
    return None if args.output in (None, "-") else str(args.output)


def transfer(stack: Any, request: Request, args: argparse.Namespace, log: Callable[[str], None] | None = None) -> int:
    """Do the transfer on a stack and write what came; returns 0. Raises TransferError.

    log: takes -v's lines (default: they go to stderr).
    """
    started = time.monotonic()
    limits = Limits(args.connect_timeout, started + args.max_time if args.max_time else None)
    sink = Sink(args, upload=request.body is not None)
    hooks = Hooks(
        verbose=(log or _to_stderr) if args.verbose else _to_nobody,
        sent=sink.sent,
        started=sink.started,
        received=sink.received,
    )
    try:
        if request.body is not None:
            sink.uploading(request.length)
        if args.location:
            outcome = http_client.follow(stack, request, limits, hooks, args.max_redirs)
        else:
            outcome, _ = http_client.exchange(stack, request, limits, hooks)
    finally:
        sink.close()
    if args.write_out:
        sys.stdout.write(write_out(args.write_out, outcome, time.monotonic() - started))
    return 0


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _to_nobody(line: str) -> None:
    pass


def write_out(template: str, outcome: Outcome, seconds: float) -> str:
    """Fill in curl's --write-out variables; an unknown one stays empty, and \\n, \\t, \\r are what they are in C."""
    values = {
        "http_code": f"{outcome.status:03}",
        "response_code": f"{outcome.status:03}",
        "url_effective": outcome.url,
        "size_download": str(outcome.downloaded),
        "size_upload": str(outcome.uploaded),
        "time_total": f"{seconds:.6f}",
        "speed_download": str(int(outcome.downloaded / seconds)),
        "speed_upload": str(int(outcome.uploaded / seconds)),
        "num_redirects": str(outcome.redirects),
    }
    filled = re.sub(r"%\{(\w+)\}", lambda found: values.get(found[1], ""), template)
    for escape, character in (("\\n", "\n"), ("\\t", "\t"), ("\\r", "\r")):
        filled = filled.replace(escape, character)
    return filled


def report(error: TransferError, args: argparse.Namespace) -> int:
    """Say what failed, unless silent; returns the exit code."""
    if str(error) and (not args.silent or args.show_error):
        print(f"curl: ({error.code}) {error}", file=sys.stderr)
    return error.code
