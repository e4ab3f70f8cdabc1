"""python -m tests.hostile.fuzz: coverage-guided fuzzing of engine.input, see docs/fuzzing.md."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.hostile.fuzz import build, corpus

REGRESSIONS = build.HERE / "regressions"
ASAN = "detect_leaks=1:leak_check_at_exit=0:quarantine_size_mb=16:allocator_may_return_null=1"
# At exit CPython leaves much behind; what an input leaves, the fuzzer sees by its own count of mallocs and frees.
MAX_LEN = 6144


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="how long, for each medium (default 60)")
    parser.add_argument(
        "--medium", choices=[*corpus.MEDIA, "both"], default="both", help="what the frames are (default both)"
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes that share one corpus (default 1)")
    parser.add_argument("--nice", type=int, default=10, help="niceness of the fuzzer (default 10)")
    parser.add_argument("--input", type=Path, help="run this one file instead, with the medium its name begins with")
    return parser.parse_args()


def environment(lib: Path, medium: str) -> dict[str, str]:
    packages = os.pathsep.join(path for path in sys.path if path)
    return os.environ | {
        "USTACK_FUZZ_LIB": str(lib),
        "USTACK_FUZZ_MEDIUM": str(corpus.MEDIA.index(medium)),
        "PYTHONPATH": packages,
        "ASAN_OPTIONS": ASAN,
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }


def fuzz(program: Path, lib: Path, medium: str, options: argparse.Namespace) -> list[Path]:
    """One medium for so many seconds. Prints figures; returns the files of what was found."""
    work = build.ROOT / "build" / "fuzz" / medium
    seeds, found = work / "seeds", work / "found"
    grown = work / "corpus"
    for folder in (seeds, found):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    grown.mkdir(exist_ok=True)
    made = corpus.write(seeds, medium)
    log = work / "log"
    command = [
        str(program),
        f"-max_total_time={options.seconds}",
        f"-max_len={MAX_LEN}",
        "-print_final_stats=1",
        "-timeout=60",
        "-rss_limit_mb=4096",
        f"-artifact_prefix={found}/",
        *([f"-fork={options.jobs}"] if options.jobs > 1 else []),
        str(grown),
        str(seeds),
        str(REGRESSIONS),
    ]
    print(f"{medium}: {made} seeds, {options.seconds} s, log in {log.relative_to(build.ROOT)}", flush=True)
    with log.open("w", encoding="utf-8") as out:
        done = subprocess.run(
            ["nice", "-n", str(options.nice), *command],
            cwd=work,
            env=environment(lib, medium),
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    report(medium, log.read_text(encoding="utf-8", errors="replace"))
    kept = keep(found, medium)
    if done.returncode and not kept:
        print(f"{medium}: the fuzzer ended with {done.returncode}: see the log")
    return kept or ([log] if done.returncode else [])


def report(medium: str, log: str) -> None:
    state = re.findall(r"^#(\d+)\s.*?cov: (\d+) ft: (\d+) corp: (\d+)", log, re.M)
    if state:
        runs, edges, features, inputs = state[-1]
        average = re.findall(r"stat::average_exec_per_sec:\s*(\d+)", log)
        print(
            f"{medium}: {runs} runs{f', {average[-1]} a second' if average else ''}, "
            f"{edges} edges, {features} features, {inputs} inputs kept"
        )
    for line in re.findall(r"^.*(?:INVARIANT|ERROR: |SUMMARY: |runtime error).*$", log, re.M)[:6]:
        print(f"{medium}: {line}")


def keep(found: Path, medium: str) -> list[Path]:
    """Crashing inputs become regression files, which tests/hostile/test_fuzz_regressions.py replays."""
    kept = []
    for path in sorted(found.glob("*-*")):
        if path.name.startswith(("crash", "leak", "timeout", "oom")):
            target = REGRESSIONS / f"{medium}-{path.name}"
            shutil.copy(path, target)
            kept.append(target)
            print(f"{medium}: FOUND, kept as {target.relative_to(build.ROOT)}")
    return kept


def main() -> int:
    options = arguments()
    try:
        program, lib = build.build_fuzzer()
    except build.Missing as missing:
        print(missing, file=sys.stderr)
        return 1
    if options.input:
        medium = "ip" if options.input.name.startswith("ip") else "ethernet"
        return subprocess.run([str(program), str(options.input)], env=environment(lib, medium)).returncode
    media = corpus.MEDIA if options.medium == "both" else (options.medium,)
    found = [path for medium in media for path in fuzz(program, lib, medium, options)]
    print(f"{len(found)} findings" if found else "nothing found")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
