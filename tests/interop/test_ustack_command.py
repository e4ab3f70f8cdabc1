"""The command line on a real device: `ustack curl` from nginx, `serve`, `up`, `ping`, and a clean Ctrl-C."""

from __future__ import annotations

import re
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from tap_harness import payload
from tap_harness.ends import Ends


def ustack(nginx: Any, verb: str, *args: str, timeout: float = 60.0) -> tuple[int, str]:
    """Run `ustack VERB ARGS` beside a site to its end: exit code, output and errors together."""
    child = nginx.ns.python("ustack", verb, *nginx.options, *args)
    code = child.wait(timeout)
    return code, child.output()


@pytest.mark.timeout(300)
def test_curl_from_nginx(nginx: Any, tmp_path: Path) -> None:
    target = tmp_path / "fetched"
    code, output = ustack(nginx, "curl", "-s", "-S", "-o", str(target), f"{nginx.url}/big", timeout=250)
    assert code == 0, output
    assert target.read_bytes() == (nginx.root / "big").read_bytes()


@pytest.mark.timeout(300)
def test_put_to_nginx(nginx: Any, tmp_path: Path) -> None:
    source = tmp_path / "source"
    with source.open("wb") as file:
        for block in payload.blocks(4, nginx.big_size):
            file.write(block)
    code, output = ustack(nginx, "curl", "-sS", "-T", str(source), f"{nginx.url}/uploaded", timeout=250)
    assert code == 0, output
    assert (nginx.root / "uploaded").read_bytes() == source.read_bytes()


def test_curl_prints_and_fails_as_curl(nginx: Any) -> None:
    assert ustack(nginx, "curl", "-s", f"{nginx.url}/small") == (0, "hello from the site\n")
    code, output = ustack(nginx, "curl", "-sI", f"{nginx.url}/small")
    assert code == 0
    assert "200 OK" in output
    assert "Server: nginx" in output
    assert ustack(nginx, "curl", "-sf", f"{nginx.url}/missing")[0] == 22
    assert ustack(nginx, "curl", "-s", nginx.url.replace(":8000", ":9/"))[0] == 7


def test_ping_the_kernel(nginx: Any) -> None:
    code, output = ustack(nginx, "ping", "-c", "3", "-i", "0.01", nginx.host)
    assert code == 0, output
    assert "3 packets transmitted, 3 received, 0% packet loss" in output


def test_up_answers_ping_and_ends_by_ctrl_c(ns: Any, ends: Ends) -> None:
    theirs, ours = ("fd07::1", "fd07::2") if ends.six else ("10.7.0.1", "10.7.0.2")
    options = ["--address", f"{ours}/{ends.length}", "--host-address", f"{theirs}/{ends.length}"]
    child = ns.python("ustack", "up", "tap7", *options)
    child.wait_line(re.escape(ours), timeout=20)
    ns.sh(f"ping -c 1 -W 5 {ours}")
    assert "tap7" in ns.sh("ip link")
    child.signal(signal.SIGINT)
    assert child.wait(10) == 130, child.output()
    assert "Traceback" not in child.output()
    assert "tap7" not in ns.sh("ip link")


def test_serve_ends_by_ctrl_c_in_the_middle(site: Any) -> None:
    with site.ns.socket(socket.AF_INET6 if ":" in site.host else socket.AF_INET) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect((site.host, 80))
        sock.sendall(b"GET /big HTTP/1.0\r\n\r\n")
        assert sock.recv(10) == b"HTTP/1.1 2"
        site.server.signal(signal.SIGINT)
        assert site.server.wait(10) == 130, site.server.output()
    assert "Traceback" not in site.server.output()
    assert "ust0" not in site.ns.sh("ip link")


def test_serve_on_tun(ns: Any, tmp_path: Path, ends: Ends) -> None:
    (tmp_path / "file").write_text("over tun")
    child = ns.python("ustack", "serve", str(tmp_path), "--port", "80", "--tun", "tun3", "--quiet", *ends.options)
    child.wait_line("^Serving ", timeout=20)
    assert ns.sh(f"curl -gsS --max-time 20 {ends.url(ends.stack)}/file") == "over tun"


def test_device_in_use_is_one_sentence(site: Any) -> None:
    code, output = ustack(site, "up", "ust0")
    assert code == 1
    assert "Traceback" not in output
    assert len(output.strip().splitlines()) == 1
