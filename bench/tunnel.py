"""python -m bench.tunnel: a device tunnel by ustack and by pmd-pytcp, in one run.

A device's end, and a host's, each a process: length-framed IPv6 packets in a TLS stream of the kernel's, over the
loopback. The device is ustack's always (examples/device_tunnel.py), the host either; so what is compared is the host.
One after the other, several rounds, the median of each. No privilege is needed, nothing leaves the loopback.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import build
from bench.gateway import put

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"
MARK = "tunnel"
MTUS = (1500, 16000)
WANTED = {1500: 20, 16000: 10}  # times pmd-pytcp
DIRECTIONS = {"out": "host → device", "in": "device → host"}
ROUNDS, SECONDS, REQUESTS, TUNNELS = 3, 2.0, 300, 100
OWN, PEER = "ustack", "pmd-pytcp"


@dataclass
class Found:
    """The values of each round."""

    rates: dict[tuple[str, int, str], list[float]] = field(default_factory=dict)  # MB/s, by (who, MTU, direction)
    many: dict[tuple[int, str], list[float]] = field(default_factory=dict)  # ... of TUNNELS at once
    least: dict[tuple[int, str], list[float]] = field(default_factory=dict)  # ... of the slowest of them
    took: dict[tuple[str, int, str], list[float]] = field(default_factory=dict)  # µs, by (who, MTU, rpc or echo)
    missing: str = ""


@contextlib.contextmanager
def device(mtu: int, certificate: str) -> Iterator[int]:
    """The device's end -> its port."""
    command = [sys.executable, "-m", "bench.tunnel_ends", "device", str(mtu), certificate]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.terminate()


def host(who: str, port: int, mtu: int, work: str, amount: float, tunnels: int = 1) -> dict[str, Any]:
    """What the host's end printed. Raises CannotBuild where there is no pmd-pytcp."""
    if who == OWN:
        command = [sys.executable, "-m", "bench.tunnel_ends", "host"]
    else:
        command = [build.pytcp(), str(ROOT / "bench" / "peers" / "pytcp_tunnel.py")]
    arguments = [str(port), str(mtu), work, str(amount), *([str(tunnels)] if tunnels > 1 else [])]
    done = subprocess.run(
        [*command, *arguments], stdout=subprocess.PIPE, text=True, check=True, timeout=300, cwd=ROOT
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def make_certificate(directory: str) -> str:
    """A file with a key and a certificate that it signed itself."""
    path = Path(directory) / "device.pem"
    new = ["openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    files = ["-subj", "/CN=device", "-days", "2", "-keyout", str(path), "-out", str(path.with_suffix(".crt"))]
    subprocess.run([*new, *files], check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + path.with_suffix(".crt").read_bytes())
    return str(path)


def measure(
    rounds: int, seconds: float, requests: int, tunnels: int, progress: Callable[[str], None], peer: bool = True
) -> Found:
    """Everything, `rounds` times. peer: pmd-pytcp, too."""
    found = Found()
    whom = [OWN]
    if peer:
        try:
            build.pytcp()
            whom.append(PEER)
        except build.CannotBuild as error:
            found.missing = str(error)
    with tempfile.TemporaryDirectory() as directory:
        certificate = make_certificate(directory)
        for number in range(rounds):
            for mtu in MTUS:
                for who in whom:
                    progress(f"round {number + 1}, {who}, MTU {mtu}:")
                    _one(found, certificate, who, mtu, seconds, requests, progress)
                if tunnels:
                    _many(found, certificate, mtu, seconds, tunnels, progress)
    return found


def _one(
    found: Found, certificate: str, who: str, mtu: int, seconds: float, requests: int, progress: Callable[[str], None]
) -> None:
    for direction in DIRECTIONS:
        with device(mtu, certificate) as port:
            got = host(who, port, mtu, direction, seconds)
        rate = got["bytes"] / got["seconds"] / 1e6
        found.rates.setdefault((who, mtu, direction), []).append(rate)
        progress(f"{direction}: {rate:.1f} MB/s, CPU {got['cpu'] / got['seconds']:.2f}")
    for kind in ("echo", "rpc"):
        with device(mtu, certificate) as port:
            took = [one * 1e6 for one in host(who, port, mtu, kind, requests)["took"]]
        found.took.setdefault((who, mtu, kind), []).extend(took)
        progress(f"{kind}: median {statistics.median(took):.0f} µs, longest {max(took):.0f} µs")


def _many(
    found: Found, certificate: str, mtu: int, seconds: float, tunnels: int, progress: Callable[[str], None]
) -> None:
    for direction in DIRECTIONS:
        with device(mtu, certificate) as port:
            got = host(OWN, port, mtu, direction, seconds, tunnels)
        for where, size in ((found.many, got["bytes"]), (found.least, got["least"])):
            where.setdefault((mtu, direction), []).append(size / got["seconds"] / 1e6)
        progress(f"{tunnels} tunnels, MTU {mtu}, {direction}: {found.many[mtu, direction][-1]:.1f} MB/s")


# -- the tables


def table(found: Found, tunnels: int = TUNNELS) -> str:
    """Markdown."""
    lines = [
        "| bulk, MB/s | ustack | pmd-pytcp | ratio | wanted |  | 100 tunnels at once, together | the slowest |".replace(
            "100", str(tunnels)
        ),
        "|---|---:|---:|---:|---:|---|---:|---:|",
    ]
    for mtu in MTUS:
        for direction, words in DIRECTIONS.items():
            own = statistics.median(found.rates[OWN, mtu, direction])
            lines.append(f"| MTU {mtu:,}, {words} | {own:.0f} | {_against(found, mtu, direction, own)} |")
            more = [found.many.get((mtu, direction)), found.least.get((mtu, direction))]
            lines[-1] += "".join(f" {statistics.median(one):.1f} |" if one else " – |" for one in more)
    lines += [
        "",
        "| a request of 200 bytes, its answer of 4,000 | whose | median, µs | 99 % | longest | an echo of the tunnel |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for (who, mtu, kind), took in found.took.items():
        if kind == "rpc":
            ordered = sorted(took)
            values = [statistics.median(took), ordered[int(len(took) * 0.99)], ordered[-1]]
            echo = statistics.median(found.took[who, mtu, "echo"])
            lines.append(f"| MTU {mtu:,} | {who} | {' | '.join(f'{one:,.0f}' for one in (*values, echo))} |")
    text = "\n".join(lines) + "\n"
    return text + (f"\n{PEER} was not measured: {found.missing}.\n" if found.missing else "")


def _against(found: Found, mtu: int, direction: str, own: float) -> str:
    wanted = f"≥ {WANTED[mtu]} ×"
    if (PEER, mtu, direction) not in found.rates:
        return f"– | – | {wanted} | –"
    peer = statistics.median(found.rates[PEER, mtu, direction])
    ratio = own / peer
    return f"{peer:.2f} | {ratio:.1f} × | {wanted} | {'met' if ratio >= WANTED[mtu] else 'missed'}"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m bench.tunnel", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"default: {ROUNDS}")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"of each run (default: {SECONDS})")
    parser.add_argument("--requests", type=int, default=REQUESTS, help=f"one after the other (default: {REQUESTS})")
    parser.add_argument("--tunnels", type=int, default=TUNNELS, help=f"at once; 0: none (default: {TUNNELS})")
    parser.add_argument("--own", action="store_true", help="without pmd-pytcp")
    parser.add_argument("--docs", action="store_true", help=f"put the tables into {PAGE.name}")
    args = parser.parse_args(argv)
    found = measure(
        args.rounds,
        args.seconds,
        args.requests,
        args.tunnels,
        lambda text: print(text, file=sys.stderr, flush=True),
        not args.own,
    )
    text = table(found, args.tunnels)
    print(text, end="")
    if args.docs:
        put(PAGE, text, MARK)
    return 0


if __name__ == "__main__":
    sys.exit(main())
