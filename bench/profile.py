"""Where the stack's process spends its time, by perf: what the kernel did for it and what each part of it did itself.

    python -m bench.profile in|out|ping|wake|short|select|http [SECONDS] [CONTENDER]

Wants perf and the modules built with USTACK_BUILD=profile (stacks are followed by frame pointers). Prints two Markdown
tables: by what was done, and by function of the data plane. Samples are of CPU time: waiting is not seen. ping is on
one core, wake the same on two; CONTENDER is a name of rigs.CONTENDERS.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from bench import build, real, rigs
from bench.cases import AT_A_TIME, PING_SIZE

# name: (service, load, its number, cores as rigs.cores() has them)
LOADS = {
    "in": ("sink", "send", 0, None),
    "out": ("source", "receive", 0, None),
    "ping": ("echo", "ping", PING_SIZE, "one"),
    "wake": ("echo", "ping", PING_SIZE, "two"),
    "short": ("short", "connect", AT_A_TIME, None),
    "select": ("select", "connect", AT_A_TIME, None),
    "http": ("http", "wrk", 0, None),
}
FREQUENCY = "4999"  # Hz; no divisor of the scheduler's
MOST_FUNCTIONS = 20

Frame = tuple[str, str]  # symbol, file
Sample = list[Frame]  # innermost first

FRAME = re.compile(r"^\s+[0-9a-f]+ (.*) \((.*)\)$")
KERNEL = "[kernel.kallsyms]"

WRITE = "write a frame to the device"
# What a system call was made for, by a function of the kernel's, for calls that go through syscall().
SERVES = (
    ("exit_to_user_mode_loop", "another process gets the core"),
    ("tun_chr_write", WRITE),
    ("tun_chr_read", "read a frame from the device"),
    ("ep_poll", "wait for sockets: epoll"),
    ("sys_poll", "wait for the device: poll"),
    ("futex", "wake and wait for threads: futex"),
    ("writev", WRITE),
    ("ksys_write", WRITE),
    ("ksys_read", "read a frame from the device"),
)
# Else by the name libc has for it. The first that matches.
CALLS = (
    ("writev", WRITE),
    ("read", "read a frame from the device"),
    ("epoll", "wait for sockets: epoll"),
    ("poll", "wait for the device: poll"),
    ("pthread", "wake and wait for threads: futex"),
    ("lll_lock", "wake and wait for threads: futex"),
    ("futex", "wake and wait for threads: futex"),
    ("yield", "wake and wait for threads: sched_yield"),
    ("munmap", "give memory back"),
    ("madvise", "give memory back"),
    ("brk", "give memory back"),
    ("mmap", "ask for memory"),
)


def record(load: str, seconds: float, contender: str, data: Path) -> None:
    """Put the load on the contender and write perf's data. Raises AssertionError with what perf said."""
    service, kind, number, where = LOADS[load]
    client_cpu, server_cpu = rigs.cores(where) if where else (None, None)
    if kind == "wrk":
        client = real.wrk_command(seconds)
    else:
        client = [build.program("load.c"), kind, rigs.SERVER, str(rigs.PORT), str(seconds), str(number), *rigs.CLIENTS]
    with rigs.running(contender, service, server_cpu) as (rig, server):
        command = ["perf", "record", "-q", "-F", FREQUENCY, "-e", "cpu-clock", "-g", "-o", str(data)]
        command += ["-p", str(server.pid), "--", "sleep", str(seconds)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as perf:
            done = rig.client.run(rigs.pinned(client, client_cpu), timeout=seconds + 60)
            _, said = perf.communicate()
    if done.returncode or perf.returncode:
        raise AssertionError(f"{done.stderr}{said}")


def samples(script: str) -> Iterator[Sample]:
    """The stacks in the output of `perf script -F comm,ip,sym,dso`."""
    for block in script.split("\n\n"):
        frames = [match.groups() for line in block.splitlines() if (match := FRAME.match(line))]
        if frames:
            yield [(symbol, file) for symbol, file in frames]


def purpose(sample: Sample) -> str:
    """What a sample's time was for."""
    symbol, file = sample[0]
    if file == KERNEL:
        return _kernel_purpose(sample)
    if "ustack_csum" in symbol or "csum_partial" in symbol:
        return "ustack: checksums"
    if package := _package(file):
        return f"ustack: {package}"
    if "memmove" in symbol or "memcpy" in symbol:
        return "ustack: copying"
    if "libpython" in file or "/python" in file:
        return "Python"
    if any(word in symbol for word in ("malloc", "free", "calloc")):
        return "malloc and free"
    return "the rest of libc"


def _kernel_purpose(sample: Sample) -> str:
    symbols = [symbol for symbol, file in sample if file == KERNEL]
    caller = next((symbol for symbol, file in sample if file != KERNEL), "")
    if any("exc_page_fault" in symbol for symbol in symbols):
        return "kernel: page faults"
    told = next((told for word, told in SERVES if any(word in symbol for symbol in symbols)), None)
    told = told or next((told for word, told in CALLS if word in caller), "the rest")
    if told == WRITE and any("netif_receive" in symbol or "napi" in symbol for symbol in symbols):
        told = f"{told}; its TCP receives there and then"
    return f"kernel: {told}"


def _package(file: str) -> str | None:
    parts = Path(file).parts
    return parts[parts.index("ustack_ext") + 1] if "ustack_ext" in parts else None


def function(sample: Sample) -> str | None:
    """The function of the data plane that a sample was in itself or for whose copy it was; None if in none."""
    for number, (symbol, file) in enumerate(sample):
        if _package(file):
            name = _readable(symbol, file)
            return name if number == 0 else f"{name} → {_reason(sample, number)}"
    return None


def _reason(sample: Sample, number: int) -> str:
    """What the function called; a page fault says more than in what it happened."""
    symbol, _ = sample[number - 1]
    if symbol == "syscall":
        inside = [inner for inner, where in sample[:number] if where == KERNEL]
        return next((told for word, told in SERVES if any(word in inner for inner in inside)), symbol)
    if any("exc_page_fault" in inner for inner, where in sample[:number] if where == KERNEL):
        return "page fault"
    return re.sub(r"^_*(?:GI_+)?|_(?:avx|sse|erms|evex|unaligned).*$", "", symbol)


def _readable(symbol: str, file: str) -> str:
    """ "tcp/output segment" of "__pyx_f_10ustack_ext_3tcp_6output_segment": each name has its length in front."""
    words = []
    rest = re.sub(r"^__pyx_[a-z]+_", "", symbol)
    while rest != symbol and (match := re.match(r"(\d+)(.*)", rest)):
        length, rest = int(match[1]), match[2]
        if rest[length : length + 1] != "_":
            break  # a method's number, not a name's length
        words.append(rest[:length])
        rest = rest[length + 1 :]
    module = f"{_package(file)}/{Path(file).name.split('.')[0]}"
    return f"{module} {'.'.join([*words[3:], rest])}"


def table(title: str, counts: Counter[str], total: int, most: int = 100) -> str:
    """A Markdown table of shares; what is below 0.5 % goes together."""
    lines = [f"| {title} | % |", "| --- | ---: |"]
    shown = [(name, count) for name, count in counts.most_common(most) if count / total >= 0.005]
    lines += [f"| {name} | {100 * count / total:.1f} |" for name, count in shown]
    rest = sum(counts.values()) - sum(count for _, count in shown)
    return "\n".join([*lines, f"| everything else | {100 * rest / total:.1f} |"])


def main(load: str, seconds: str = "3", contender: str = "ustack") -> None:
    with tempfile.TemporaryDirectory(prefix="bench.") as directory:
        data = Path(directory, "perf.data")
        record(load, float(seconds), contender, data)
        script = subprocess.run(
            ["perf", "script", "-i", str(data), "-F", "comm,ip,sym,dso"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=True,
        ).stdout
    found = list(samples(script))
    print(f"{load}: {len(found)} samples\n")
    print(table("what for", Counter(map(purpose, found)), len(found)))
    named = Counter(name for name in map(function, found) if name)
    print("\n" + table("function of the data plane, and what it called", named, len(found), MOST_FUNCTIONS))


if __name__ == "__main__":
    main(*sys.argv[1:])
