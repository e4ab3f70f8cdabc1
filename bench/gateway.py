"""python -m bench.gateway: iperf3 through `ustack run`, slirp4netns and passt (pasta), each in its own namespaces.

The server is on the host's loopback; the client is the program in the namespace, with the MTU of 65,520 that all three
have for it. One run after another, several rounds, the median of each; both directions. What is not installed is left
out, and said. Needs root, or a kernel that lets users make user namespaces.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "performance.md"
MARK = "gateway"
MTU = 65520
HOST = "10.0.2.2"  # the host's loopback, for all three
DIRECTIONS = {"out": (), "in": ("-R",)}
ROUNDS, SECONDS = 3, 3


def by_ustack(command: list[str]) -> str:
    """The command's output, run by `ustack run`."""
    return _output([sys.executable, "-m", "ustack", "run", "--", *command])


def by_pasta(command: list[str]) -> str:
    """... by pasta, with forwarding of ports off; its gateway's address is the host's loopback."""
    options = ["--config-net", "-f", "-q", "-m", str(MTU), "-t", "none", "-u", "none", "-T", "none", "-U", "none"]
    addresses = ["-a", "10.0.2.100", "-n", "24", "-g", HOST, "-4"]
    who = ["--runas", "0"] if os.geteuid() == 0 else []  # else it becomes nobody, and may do nothing
    return _output(["pasta", *who, *options, *addresses, "--", *command])


def by_slirp(command: list[str]) -> str:
    """... in namespaces that slirp4netns attaches itself to."""
    unshare = ["unshare", "--net", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]
    reader, writer = os.pipe()
    waits = ["sh", "-c", 'read go; exec "$@"', "sh", *command]
    with subprocess.Popen([*unshare, *waits], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as inner:
        time.sleep(0.3)  # unshare says nothing when it is through
        slirp = subprocess.Popen(
            ["slirp4netns", "--configure", f"--mtu={MTU}", f"--ready-fd={writer}", str(inner.pid), "tap0"],
            pass_fds=[writer],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(writer)
        try:
            os.read(reader, 1)
            return inner.communicate("go\n", timeout=60)[0]
        finally:
            os.close(reader)
            slirp.send_signal(signal.SIGTERM)
            slirp.wait()


WAYS: dict[str, tuple[str, Callable[[list[str]], str]]] = {
    "ustack run": ("", by_ustack),
    "slirp4netns": ("slirp4netns", by_slirp),
    "passt (pasta)": ("pasta", by_pasta),
}


def _output(command: list[str]) -> str:
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=60).stdout


def rate(run: Callable[[list[str]], str], port: int, direction: str, seconds: float) -> float:
    """bit/s that the receiver saw; 0: it failed."""
    command = ["iperf3", "-J", "-c", HOST, "-p", str(port), "-t", str(seconds), *DIRECTIONS[direction]]
    try:
        return float(json.loads(run(command))["end"]["sum_received"]["bits_per_second"])
    except (KeyError, ValueError, subprocess.TimeoutExpired):
        return 0.0


def measure(rounds: int, seconds: float, progress: Callable[[str], None]) -> dict[str, dict[str, list[float]]]:
    """{way: {direction: [bit/s of each round]}}, the ways by turns."""
    there = {name: run for name, (program, run) in WAYS.items() if not program or shutil.which(program)}
    found: dict[str, dict[str, list[float]]] = {name: {one: [] for one in DIRECTIONS} for name in there}
    with tempfile.TemporaryFile() as log, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        server = subprocess.Popen(["iperf3", "-s", "-p", str(port)], stdout=log, stderr=log)
        try:
            time.sleep(0.3)
            for number in range(rounds):
                for direction in DIRECTIONS:
                    for name, run in there.items():
                        got = rate(run, port, direction, seconds)
                        found[name][direction].append(got)
                        progress(f"round {number + 1}: {name} {direction}: {got / 1e9:.2f} Gbit/s")
        finally:
            server.terminate()
            server.wait()
    return found


def table(found: dict[str, dict[str, list[float]]]) -> str:
    """Markdown: the medians, and the ratios that done-when 4 of issue 6 asks for."""
    middle = {name: {one: statistics.median(got[one]) for one in DIRECTIONS} for name, got in found.items()}
    lines = ["| through | out, Gbit/s | in, Gbit/s | `ustack run` is, out | in |", "|---|---|---|---|---|"]
    own = middle["ustack run"]
    for name, rates in middle.items():
        ratios = [f"{own[one] / rates[one]:.2f} ×" if rates[one] else "—" for one in DIRECTIONS]
        lines.append(f"| {name} | {rates['out'] / 1e9:.2f} | {rates['in'] / 1e9:.2f} | {ratios[0]} | {ratios[1]} |")
    missing = [name for name in WAYS if name not in found]
    text = "\n".join(lines) + "\n"
    return text + (f"\nNot installed here: {', '.join(missing)}.\n" if missing else "")


def put(page: Path, text: str, mark: str) -> None:
    """Put the table between the page's markers of that name. Raises ValueError where it has none."""
    document = page.read_text()
    before, after = f"<!-- {mark}:begin -->\n", f"<!-- {mark}:end -->\n"
    head, begin, rest = document.partition(before)
    _, end, tail = rest.partition(after)
    if not begin or not end:
        raise ValueError(f"{page} has no {before.strip()} … {after.strip()}")
    page.write_text(f"{head}{begin}\n{text}\n{end}{tail}")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.gateway", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"default: {ROUNDS}")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"of each run (default: {SECONDS})")
    parser.add_argument("--docs", action="store_true", help=f"put the table into {PAGE.name}")
    args = parser.parse_args(argv)
    if shutil.which("iperf3") is None:
        print("iperf3 is not installed", file=sys.stderr)
        return 1
    found = measure(args.rounds, args.seconds, lambda text: print(text, file=sys.stderr, flush=True))
    text = table(found)
    print(text, end="")
    if args.docs:
        put(PAGE, text, MARK)
    return 0


if __name__ == "__main__":
    sys.exit(main())
