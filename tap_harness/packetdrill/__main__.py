"""`python -m tap_harness.packetdrill FILE...`: run scripts; exit code 0 pass, 1 mismatch, 2 no script."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tap_harness import packetdrill

PASS, MISMATCH, FAULT = 0, 1, 2


def run_file(path: Path, quiet: bool = False, target: str = "stack") -> int:
    """Run one script, say how it went -> the exit code."""
    try:
        packetdrill.run(packetdrill.parse(path.read_text(encoding="utf-8"), str(path)), target)
    except packetdrill.Mismatch as error:
        print(error)
        return MISMATCH
    except (packetdrill.SyntaxFault, packetdrill.Unsupported) as error:
        print(error, file=sys.stderr)
        return FAULT
    except (OSError, UnicodeDecodeError) as error:
        print(f"{path}: {getattr(error, 'strerror', None) or error}", file=sys.stderr)
        return FAULT
    if not quiet:
        print(f"{path}: pass")
    return PASS


def main(argv: Sequence[str] | None = None, prog: str = "python -m tap_harness.packetdrill") -> int:
    """The command line; the highest of the files' exit codes."""
    parser = argparse.ArgumentParser(prog=prog, description="Run packetdrill scripts on a stack, or on the kernel.")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a script, or a directory of *.pkt")
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing of scripts that pass")
    parser.add_argument(
        "--target",
        choices=("stack", "kernel"),
        default="stack",
        help="stack: a stack in virtual time; kernel: Linux in real time, in a namespace of its own (needs root)",
    )
    args = parser.parse_args(argv)
    files = [one for path in args.files for one in (sorted(path.rglob("*.pkt")) if path.is_dir() else [path])]
    if not files:
        print("no *.pkt there", file=sys.stderr)
        return FAULT
    codes = [run_file(path, args.quiet, args.target) for path in files]
    if len(codes) > 1:
        print(f"{codes.count(PASS)} of {len(codes)} scripts pass")
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
