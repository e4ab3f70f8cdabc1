"""The programs on the other side in the demo: the kernel's curl and nginx, or what stands in for them.

Responsible for: random files and their checksums, running curl and showing what it says, a kernel-side HTTP server.
Not for: what is done with them (demo).
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.client
import os
import shlex
import socket
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from .. import osutil
from . import curl as curl_verb
from .demo_report import Report
from .errors import CommandError
from .http_client import Request, TransferError
from .httpd import PIECE

_READY_WITHIN = 10.0  # seconds a server on the kernel's side may take to listen
_TRANSFER_WITHIN = 900  # seconds one transfer may take before something is clearly wrong


class Client(Protocol):
    """Something that moves files over HTTP; what goes wrong is told to the report and the file is missing or short."""

    name: str

    def fetch(self, url: str, target: Path) -> None:
        """GET into a file."""

    def upload(self, source: Path, url: str) -> None:
        """PUT a file."""


def make_random_file(path: Path, length: int) -> str:
    """Write so many random bytes; returns their SHA-256 in hex."""
    digest = hashlib.sha256()
    with open(path, "wb", buffering=0) as stream:
        while length:
            piece = os.urandom(min(length, 1 << 20))
            digest.update(piece)
            stream.write(piece)
            length -= len(piece)
    path.chmod(0o644)
    return digest.hexdigest()


def hash_file(path: Path) -> str:
    """A file's SHA-256 in hex."""
    digest = hashlib.sha256()
    piece = memoryview(bytearray(PIECE))
    with open(path, "rb", buffering=0) as stream:
        while count := stream.readinto(piece):
            digest.update(piece[:count])
    return digest.hexdigest()


def kernel_curl(path: str | None, report: Report) -> Client:
    """curl on the kernel's sockets, or where it is not installed, Python's http.client on them."""
    if path is not None:
        return _Curl(path, report)
    report.warn("curl is not installed (sudo apt-get install -y curl).")
    report.warn("Python's http.client on the kernel's sockets stands in for it.")
    return _PythonClient(report)


def ustack_curl(stack: Any, report: Report) -> Client:
    """`ustack curl` in this process, on a stack that runs already."""
    return _UstackCurl(stack, report)


class _Curl:
    name = "curl"

    def __init__(self, path: str, report: Report) -> None:
        self._path = path
        self._report = report

    def fetch(self, url: str, target: Path) -> None:
        self._run(["-v", "-s", "-S", "-f", "-o", str(target), url])

    def upload(self, source: Path, url: str) -> None:
        self._run(["-v", "-s", "-S", "-f", "-T", str(source), url])

    def _run(self, arguments: list[str]) -> None:
        self._report.command(shlex.join(["curl", *arguments]))
        # Nothing of the environment's proxies: the way to the stack is the device.
        with subprocess.Popen(
            [self._path, "-q", "--noproxy", "*", "-m", str(_TRANSFER_WITHIN), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        ) as process:
            try:
                assert process.stderr is not None
                for raw in process.stderr:
                    self._show(raw.decode("utf-8", "replace").rstrip())
            except BaseException:
                process.terminate()
                raise
        if process.returncode:
            self._report.failed(f"curl ended with exit code {process.returncode}")

    def _show(self, line: str) -> None:
        """The transcript without what says nothing: sizes of single writes, empty header lines."""
        if line.strip() not in ("", "<", ">") and not line.startswith(("{ [", "} [")):
            self._report.output(line)


class _PythonClient:
    name = "http.client (Python)"

    def __init__(self, report: Report) -> None:
        self._report = report

    def fetch(self, url: str, target: Path) -> None:
        self._report.command(f"python3: http.client GET {url}")
        with self._open("GET", url, None) as response, open(target, "wb", buffering=0) as stream:
            while piece := response.read1(PIECE):
                stream.write(piece)

    def upload(self, source: Path, url: str) -> None:
        self._report.command(f"python3: http.client PUT {url}")
        with open(source, "rb") as stream, self._open("PUT", url, stream):
            pass

    @contextlib.contextmanager
    def _open(self, method: str, url: str, body: Any) -> Iterator[http.client.HTTPResponse]:
        parts = urllib.parse.urlsplit(url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=60, blocksize=PIECE)
        length = {"Content-Length": str(os.fstat(body.fileno()).st_size)} if body else {}
        with contextlib.closing(connection):
            connection.request(method, parts.path, body=body, headers=length)
            response = connection.getresponse()
            self._report.output(f"< HTTP/1.1 {response.status} {response.reason}")
            yield response


class _UstackCurl:
    name = "ustack curl"

    def __init__(self, stack: Any, report: Report) -> None:
        self._stack = stack
        self._report = report

    def fetch(self, url: str, target: Path) -> None:
        self._run(["-v", "-s", "-S", "-f", "-o", str(target), url])

    def upload(self, source: Path, url: str) -> None:
        self._run(["-v", "-s", "-S", "-f", "-T", str(source), url])

    def _run(self, arguments: list[str]) -> None:
        self._report.command(shlex.join(["ustack", "curl", *arguments]))
        parser = argparse.ArgumentParser()
        curl_verb.register(parser.add_subparsers())
        args = parser.parse_args(["curl", "-m", str(_TRANSFER_WITHIN), *arguments])
        request: Request = curl_verb.build_request(args)
        try:
            curl_verb.transfer(self._stack, request, args, log=self._show)
        except TransferError as error:
            self._report.failed(f"ustack curl: ({error.code}) {error}")

    def _show(self, line: str) -> None:
        if len(line) > 2:
            self._report.output(line)


def in_url(host: str) -> str:
    """An address as it is written before a port."""
    return f"[{host}]" if ":" in host else host


class KernelServer:
    """An HTTP server process on the kernel's side; `name` says which."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], address: tuple[str, int], log: Path) -> None:
        self.name = name
        self._process = process
        self._address = address
        self._log = log

    def wait_until_ready(self) -> None:
        """Return when it accepts connections. Raises CommandError when it ended or does not within ten seconds."""
        deadline = time.monotonic() + _READY_WITHIN
        while True:
            try:
                socket.create_connection(self._address, timeout=1).close()
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    said = self._log.read_text(errors="replace").strip().rpartition("\n")[2]
                    raise CommandError(
                        f"{self.name} on the kernel's side does not listen on {self._address[0]}: {said}"
                    ) from None
                time.sleep(0.02)


# `user root`: root of a user namespace has no other user to become.
_NGINX = """\
user root root; daemon off; master_process off; pid {work}/nginx.pid; error_log stderr;
events {{ worker_connections 64; }}
http {{
    access_log off; sendfile on;
    client_body_temp_path {work}/body; proxy_temp_path {work}/proxy; fastcgi_temp_path {work}/fastcgi;
    uwsgi_temp_path {work}/uwsgi; scgi_temp_path {work}/scgi;
    server {{ listen {host}:{port}; root {root}; }}
}}
"""


@contextlib.contextmanager
def kernel_server(directory: Path, host: str, port: int, nginx: str | None) -> Iterator[KernelServer]:
    """A context manager: serve a directory over HTTP on the kernel's sockets.

    nginx: its path; None: Python's http.server instead.
    """
    work = directory.parent / "kernel-side"
    work.mkdir()
    log = work / "log"
    if nginx is not None:
        name = "nginx"
        (work / "nginx.conf").write_text(_NGINX.format(work=work, host=in_url(host), port=port, root=directory))
        command = [nginx, "-p", str(work), "-e", "stderr", "-c", str(work / "nginx.conf")]
    else:
        name = "Python's http.server (nginx is not installed: sudo apt-get install -y nginx-light)"
        command = [sys.executable, "-m", "http.server", "-b", host, "-d", str(directory), str(port)]
    with (
        open(log, "wb") as output,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, preexec_fn=osutil.death_with_parent()
        ) as process,
    ):
        try:
            yield KernelServer(name, process, (host, port), log)
        finally:
            process.terminate()
