"""The examples run, and end by themselves without a word on stderr."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

EXAMPLES = {
    "two_stacks.py": "Hello neighbour at 10.9.0.2\n",
    "own_loop.py": "no thread was needed (from 10.9.0.1)\n",
    "tunnel.py": "through the tunnel\n",
    "bad_network.py": "twice exactly so\n",
    "async_under_loss.py": "twice exactly so\n",
    "http_in_memory.py": "hello 10.9.0.1\n1 connection, none of it the kernel's\n",
    "device_tunnel.py": "10000000 bytes through the tunnel\n",
    "recording_proxy.py": "198.51.100.7:80 < HELLO, WHOEVER YOU ARE\n",
}


# Those that need a device and never end by themselves: tests/unit/test_socket_examples.py tries their parts.
ON_A_DEVICE = {"echo_server.py", "http_get.py"}


def test_every_example_is_tried() -> None:
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(EXAMPLES) | ON_A_DEVICE


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name: str) -> None:
    command = [sys.executable, "-W", "always", str(ROOT / "examples" / name)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.endswith(EXAMPLES[name])
