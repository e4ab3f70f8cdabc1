"""The bench's two engines in one thread: what they are counted by is what they really did."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from bench import build, callgrind
from bench.pair import LOADS, measure

MSS = 1448


@pytest.fixture(scope="module")
def engines() -> Any:
    return build.engines()


def test_bulk_without_offloads(engines: Any) -> None:
    pair = engines.Pair(mtu=1500, block=MSS * 40)
    pair.bulk(MSS * 4000)  # until the windows are open
    done = pair.bulk(MSS * 4000)
    assert done["sent"] == 4000
    assert done["bytes"] == MSS * 4000
    assert done["answered"] < done["sent"] / 8  # one ACK a batch


def test_bulk_with_offloads(engines: Any) -> None:
    pair = engines.Pair(offload=True, block=256 * 1024)
    pair.bulk(10_000_000)
    done = pair.bulk(10_000_000)
    assert done["bytes"] / done["sent"] > 32 * MSS


def test_ping(engines: Any) -> None:
    pair = engines.Pair()
    pair.ping(10)
    assert pair.ping(1000) == {"trips": 1000, "sent": 1000, "answered": 1000}  # every ACK rides on an answer


def test_connections(engines: Any) -> None:
    done = engines.Pair().connect(30_000)  # more than there are ephemeral ports: TIME-WAITs go
    assert done["connections"] == 30_000
    assert (done["sent"], done["answered"]) == (4 * 30_000, 3 * 30_000)


def test_what_runs_twice_does_the_same_twice(engines: Any) -> None:
    assert engines.Pair().bulk(1_000_000) == engines.Pair().bulk(1_000_000)


def test_a_pair_carries_one_load_after_another(engines: Any) -> None:
    pair = engines.Pair()
    assert pair.bulk(100_000)["bytes"] == 100_000
    assert pair.ping(10)["trips"] == 10


@pytest.mark.parametrize("name", LOADS)
def test_every_load_is_measured(name: str) -> None:
    found = measure(name, 0.001)
    assert found["each"] > 0
    assert found["cpu_seconds"] > 0
    assert (found["bytes"] > 0) == (LOADS[name].call == "bulk")


PROFILE = """
ob=(1) /x/ustack_ext/net/input.cpython-311-x86_64-linux-gnu.so
fl=(1) input.c
fn=(1) __pyx_f_10ustack_ext_3net_5input_frame_input
10 7
fi=(2) addr.c
+2 5
cob=(2) /lib/libc.so.6
cfi=(3) memmove.S
cfn=(2) __memcpy_avx_unaligned_erms
calls=3 20
* 90
fe=(1)
-1 8

ob=(2)
fl=(3)
fn=(2)
30 90
"""


def test_callgrind_output() -> None:
    net, payload = callgrind.Function("net", "net/input frame_input"), callgrind.Function("payload", "memcpy")
    found = callgrind.parse(PROFILE)
    assert found[net] == 20
    assert callgrind.layers(found) == {"net": 20, payload.layer: 90}
    assert callgrind.total(found) == 20


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="optional: valgrind")
def test_instructions_are_counted_by_layer() -> None:
    costs = callgrind.layers(callgrind.run("ping", "measured_ping"))
    # What wire/ has is inline: on a load without large sums it is a part of those that use it.
    assert min(costs[layer] for layer in callgrind.LAYERS if layer != "wire") > 0
