"""The README's example does what the README says: run as it stands, between the kernel's curl and a web server."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from tap_harness.kernel_peer import start_http_server
from tap_harness.netns import Namespace
from tap_harness.process import wait_for

ROOT = Path(__file__).resolve().parents[2]


def example() -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return str(block)


@pytest.mark.ipv4("the example is run as it stands")
@pytest.mark.usefixtures("curl")
def test_readme_example(ns: Namespace, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("from the kernel's side", encoding="utf-8")
    start_http_server(ns, tmp_path, "0.0.0.0", 8000)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with ns.popen([sys.executable, "-c", example()], env=environment) as program:
        curl = ["curl", "-sS", "--max-time", "5", "http://10.9.0.2/"]
        fetched = wait_for(lambda: ns.run(curl).stdout, "an answer to curl", 30, program)
        assert fetched == "Hello from inside a process.\n"
        assert "from the kernel's side" in program.finish(30)
