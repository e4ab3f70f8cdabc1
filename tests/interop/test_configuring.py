"""`ustack up --config`: the example file, between a kernel's programs."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.ipv4("its stacks have addresses of both families at once")
ROOT = Path(__file__).resolve().parents[2]


def test_up_as_the_example_says(ns: Any, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("a file\n")
    config = tmp_path / "lab.toml"
    serve = f'[[serve]]\ndirectory = "{tmp_path}"\nport = 8000\n'
    config.write_text((ROOT / "examples" / "lab.toml").read_text() + serve)
    up = ns.python("ustack", "up", "--config", str(config))
    up.wait_line(r"ust0 is up: the stack has 10\.9\.0\.2/24, fd09::2/64, 10\.9\.1\.2/24, gateway 10\.9\.0\.1")
    for address in ("10.9.0.2", "fd09::2", "10.9.1.2"):
        assert ns.run(["ping", "-c", "1", "-W", "2", address]).returncode == 0
    curl = ["curl", "-sS", "--max-time", "5"]
    assert ns.run([*curl, "http://10.9.1.2/"]).stdout == "Hello from the lab\n"
    for host in ("10.9.0.2", "[fd09::2]"):
        assert ns.run([*curl, "-g", f"http://{host}:8000/"]).stdout == "a file\n"
    assert ns.python("ustack", "sysctl", "net.ipv4.ip_forward").finish(10) == "net.ipv4.ip_forward = 1\n"
    up.signal(signal.SIGINT)
    assert up.wait(10) == 130


def test_an_option_is_about_the_first_interface(ns: Any) -> None:
    up = ns.python("ustack", "up", "other0", "--config", str(ROOT / "examples/lab.toml"), "--address", "10.9.0.7/24")
    up.wait_line(r"other0 is up: the stack has 10\.9\.0\.7/24, 10\.9\.1\.2/24")
    assert ns.run(["ping", "-c", "1", "-W", "2", "10.9.0.7"]).returncode == 0
    assert "other0" in ns.run(["ip", "-br", "link"]).stdout
