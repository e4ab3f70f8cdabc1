"""Instructions per segment and where they go: the loads of bench.pair under valgrind's callgrind.

    python -m bench.callgrind [--docs] [--functions LOAD PHASE]

Counts are exact and the same in every run, so they can be compared where times cannot. Prints Markdown tables; --docs
puts them into docs/performance.md; --functions prints one phase of one load by function instead.

What is done to payload is left out, for it goes by the byte: the C library's memcpy, and the sums over more than 160
bytes (wire/checksum's ustack_csum_*). They are told in a row of their own. The wire between the engines (its buffer,
its copy) is not counted at all.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import build
from bench.pair import LOADS
from tap_harness.netns import ROOT

PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- callgrind:begin -->", "<!-- callgrind:end -->"
MSS, SUPERFRAME = 1448, 45 * 1448  # bytes

# phase (the function of engines.pyx): what it is called
RECEIVING = {"b_input": "taken in", "b_poll": "ACKs made", "b_read": "read by the application"}
SENDING = {"a_write": "written by the application", "a_poll": "sent", "a_input": "ACKs taken"}
# load: (how much warms up, how much is counted, its phases)
COUNTED = {
    "segments": (3000 * MSS, 3000 * MSS, (*RECEIVING, *SENDING)),
    "superframes": (400 * SUPERFRAME, 400 * SUPERFRAME, (*RECEIVING, *SENDING)),
    "ping": (2000, 2000, ("measured_ping",)),
    "connect": (1000, 1000, ("measured_connect",)),
}
# phase: the functions of the wire that it calls. Entering one turns the counting off, or on in another phase.
WIRE = {
    "a_poll": ("a_transmit",),
    "b_poll": ("b_transmit",),
    "measured_ping": ("a_transmit", "b_transmit"),
    "measured_connect": ("a_transmit", "b_transmit"),
}
LAYERS = ("wire", "base", "net", "tcp", "engine")
PAYLOAD = re.compile(r"ustack_csum|mem(?:cpy|move|set)")
MOST_FUNCTIONS = 16


@dataclass(frozen=True)
class Function:
    """layer: of LAYERS, or "payload" or "other"."""

    layer: str
    name: str


Costs = Counter[Function]  # instructions of each, for one segment


def run(load: str, phase: str) -> Costs:
    """Counts one phase of one load. Raises CannotBuild without valgrind, AssertionError with what broke."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise build.CannotBuild("no valgrind: apt-get install valgrind")
    warm, amount, _ = COUNTED[load]
    with tempfile.TemporaryDirectory(prefix="bench.") as directory:
        out = Path(directory, "callgrind.out")
        command = [valgrind, "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={out}"]
        command += [f"--toggle-collect=*bench_engines_{name}*" for name in (phase, *WIRE.get(phase, ()))]
        command += [sys.executable, "-m", "bench.callgrind", "--child", load, str(warm), str(amount)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
        if done.returncode != 0:
            raise AssertionError(f"exit code {done.returncode} from {' '.join(command)}: {done.stderr}")
        each = json.loads(done.stdout)[LOADS[load].counted]
        return Counter({what: cost / each for what, cost in parse(out.read_text(encoding="utf-8")).items()})


def child(load: str, warm: int, amount: int) -> None:
    """What runs under callgrind."""
    engines = build.engines()
    pair = engines.Pair(**LOADS[load].pair)
    LOADS[load].run(pair, warm)
    engines.instrument(True)
    done = LOADS[load].run(pair, amount)
    engines.instrument(False)
    print(json.dumps(done))


def parse(profile: str) -> Counter[Function]:
    """Self cost by function from callgrind's output (its manual, "Callgrind Format Specification")."""
    names: dict[tuple[str, str], str] = {}
    now = {"ob": "", "fn": ""}
    found: Counter[Function] = Counter()
    inclusive = False
    for line in profile.splitlines():
        if match := re.match(r"(c?)(ob|fn)=(\(\d+\))(?: (.*))?$", line):
            called, kind, number, name = match.groups()
            if name:
                names[kind, number] = name
            if not called:
                now[kind] = names[kind, number]
        elif line.startswith("calls="):
            inclusive = True  # the next line's cost is of what was called
        elif match := re.match(r"(?:\+|-)?(?:\d+|\*) (\d+)$", line):
            if not inclusive:
                found[function(now["fn"], now["ob"])] += int(match[1])
            inclusive = False
    return found


def function(symbol: str, file: str) -> Function:
    """ "net/input frame_input" of "__pyx_f_10ustack_ext_3net_5input_frame_input" in .../ustack_ext/net/input.*.so."""
    symbol = re.sub(r"'\d+$|\.(?:constprop|isra|part|cold).*$", "", symbol)
    if PAYLOAD.search(symbol):
        return Function("payload", symbol)
    parts = Path(file).parts
    module = parts[-1].split(".")[0] if parts else ""
    if module == "bench_engines":
        return Function("other", symbol)
    if "ustack_ext" not in parts:
        return Function("other", symbol)
    layer = parts[parts.index("ustack_ext") + 1]
    return Function(layer, f"{layer}/{module} {symbol.split(f'{len(module)}{module}_')[-1]}")


# -- tables


def layers(costs: Costs) -> Counter[str]:
    found: Counter[str] = Counter()
    for what, cost in costs.items():
        found[what.layer] += cost
    return found


def total(costs: Costs) -> float:
    """Without payload."""
    return sum(cost for what, cost in costs.items() if what.layer not in ("payload", "other"))


def row(title: str, numbers: Sequence[float]) -> str:
    return f"| {title} | {' | '.join(f'{number:,.0f}' for number in numbers)} |"


def head(title: str, columns: Sequence[str]) -> list[str]:
    return [f"| {title} | {' | '.join(columns)} |", f"| --- |{' ---: |' * len(columns)}"]


def tables(costs: dict[tuple[str, str], Costs]) -> str:
    """costs: of every load and phase."""

    def together(load: str, phases: Sequence[str]) -> Costs:
        return sum((costs[load, phase] for phase in phases), Counter())

    columns = {
        "segment received": together("segments", tuple(RECEIVING)),
        "segment sent": together("segments", tuple(SENDING)),
        "superframe received": together("superframes", tuple(RECEIVING)),
        "superframe sent": together("superframes", tuple(SENDING)),
        "round trip, both ends": costs["ping", "measured_ping"],
        "connection, both ends": costs["connect", "measured_connect"],
    }
    by_layer = {name: layers(cost) for name, cost in columns.items()}
    lines = head("instructions, by layer", tuple(columns))
    lines += [row(layer, [by_layer[name][layer] for name in columns]) for layer in LAYERS]
    lines.append(row("**all**", [total(cost) for cost in columns.values()]))
    lines.append(row("payload: copies and sums", [by_layer[name]["payload"] for name in columns]))
    lines += ["", *head("instructions, by what is done", ("segment", "superframe"))]
    for phase, title in {**SENDING, **RECEIVING}.items():
        lines.append(row(title, [total(costs[load, phase]) for load in ("segments", "superframes")]))
    for name in ("segment received", "segment sent"):
        lines += ["", by_function(name, columns[name])]
    return "\n".join(lines)


def by_function(title: str, costs: Costs, most: int = MOST_FUNCTIONS) -> str:
    shown = [(what, cost) for what, cost in costs.most_common() if what.layer not in ("payload", "other")]
    lines = head(f"{title}, by function", ("instructions",))
    lines += [row(what.name, [cost]) for what, cost in shown[:most]]
    lines.append(row("everything else", [sum(cost for _, cost in shown[most:])]))
    return "\n".join(lines)


def write_page(path: Path, text: str) -> None:
    """Raises ValueError where the page has no place for the tables."""
    page = path.read_text(encoding="utf-8")
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{path} has no place for the tables: write {BEGIN} and {END} into it")
    path.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.callgrind", description="Instructions per segment.")
    parser.add_argument("--docs", action="store_true", help=f"put the tables into {PAGE.relative_to(ROOT)}")
    parser.add_argument("--functions", nargs=2, metavar=("LOAD", "PHASE"), help="one phase of one load by function")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        child(chosen.child[0], int(chosen.child[1]), int(chosen.child[2]))
    elif chosen.functions:
        costs = run(*chosen.functions)
        print(by_function(" ".join(chosen.functions), costs, 100))
        print(f"\nall: {total(costs):.0f}, payload: {layers(costs)['payload']:.0f}")
    else:
        build.engines()
        text = tables({(load, phase): run(load, phase) for load, (*_, phases) in COUNTED.items() for phase in phases})
        print(text)
        if chosen.docs:
            write_page(PAGE, text)


if __name__ == "__main__":
    main()
