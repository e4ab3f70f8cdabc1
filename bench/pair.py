"""Two engines in one thread, no device, no socket, no Python per packet: how long the stack itself takes (engines.pyx).

    python -m bench.pair segments|superframes|ping|connect SECONDS

Prints one JSON object: what was counted, how many, and the CPU seconds they took in both engines together.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from typing import Any

from bench import build


@dataclass(frozen=True)
class Load:
    """counted: the key of what a call did. step: so many at a time, a small part of a second. pair: for Pair()."""

    call: str
    counted: str
    step: int
    pair: dict[str, Any]

    def run(self, pair: Any, amount: int) -> dict[str, int]:
        done: dict[str, int] = getattr(pair, self.call)(amount)
        return done


# Superframes are handed over with a segment size and without checksums, as a TAP with offloads does. A block is a whole
# number of segments and of superframes, and so small that what is under way stays in the cache of one core.
LOADS = {
    "segments": Load("bulk", "sent", 50_000_000, {"offload": False, "block": 45 * 1448}),
    "superframes": Load("bulk", "sent", 200_000_000, {"offload": True, "block": 4 * 45 * 1448}),
    "ping": Load("ping", "trips", 20_000, {"offload": False}),
    "connect": Load("connect", "connections", 5_000, {"offload": False}),
}


def measure(name: str, seconds: float) -> dict[str, float]:
    """Repeats the load for about so long, after a first round that warms up."""
    load = LOADS[name]
    pair = build.engines().Pair(**load.pair)
    load.run(pair, load.step)
    total: dict[str, float] = {"each": 0, "bytes": 0}
    start = cpu = time.thread_time()
    while cpu - start < seconds:
        done = load.run(pair, load.step)
        cpu = time.thread_time()
        total["each"] += done[load.counted]
        total["bytes"] += done.get("bytes", 0)
    return {**total, "cpu_seconds": cpu - start}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], float(sys.argv[2]))))
