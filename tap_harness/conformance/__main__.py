"""`python -m tap_harness.conformance`: the command line; exit code 0 no failed MUST, 1 some, 2 cannot be run."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tap_harness.conformance.docs import page
from tap_harness.conformance.registry import MUST, Check, checks, load
from tap_harness.conformance.remote_target import RemoteTarget, interface_exists
from tap_harness.conformance.report import as_html, as_json, line, summary
from tap_harness.conformance.run import AT_ONCE, FAIL, Result, run_all
from tap_harness.conformance.target import StackTarget, Target
from tap_harness.need import missing_privilege
from ustack import pcapng
from ustack.cli.conformance import add_arguments
from ustack.pcapng import INBOUND, OUTBOUND

OK, FAILED, CANNOT = 0, 1, 2


class Cannot(Exception):
    """It cannot be run as asked; the message says why."""


def arguments(prog: str) -> argparse.ArgumentParser:
    """The parser."""
    parser = argparse.ArgumentParser(prog=prog, description="Check a TCP/IP stack, requirement by requirement.")
    add_arguments(parser)
    return parser


def maker(args: argparse.Namespace) -> tuple[Callable[[], Target], int]:
    """What makes a target, and how many may live at once. Raises Cannot."""
    if args.target == "stack":
        return StackTarget, 1
    if args.target == "kernel":
        if reason := missing_privilege():
            raise Cannot(reason)
        from tap_harness.conformance.kernel_target import KernelTarget

        return KernelTarget, AT_ONCE
    interface, colon, address = args.target.partition(":")
    if not colon or not interface_exists(interface):
        raise Cannot(f"--target {args.target}: stack, kernel, or an interface of this machine, a colon, an address")
    if args.source is None:
        raise Cannot("--source ADDRESS is needed: an address on that network that no host has, to speak from")
    ports = {"sink": args.discard_port, "echo": args.echo_port}
    return lambda: RemoteTarget(interface, address, args.source, **ports), 1


def run(args: argparse.Namespace, chosen: Sequence[Check], tell: Callable[[Result], None]) -> list[Result]:
    """Run the chosen checks on the target that the arguments name."""
    make, at_once = maker(args)
    return run_all(chosen, make, at_once=at_once, patience=args.patience, tell=tell)


def write_docs(args: argparse.Namespace, chosen: Sequence[Check], tell: Callable[[Result], None]) -> list[Result]:
    """Run both targets, write the page -> the stack's results."""
    args.target = "stack"
    ours = run(args, chosen, tell)
    args.target = "kernel"
    theirs = run(args, chosen, lambda result: None)
    args.docs.write_text(page(ours, theirs), encoding="utf-8")
    print(f"Linux:\n{summary(theirs)}\nustack:")
    return ours


def main(argv: Sequence[str] | None = None, prog: str = "python -m tap_harness.conformance") -> int:
    """The command line."""
    args = arguments(prog).parse_args(argv)
    known = {document.number for document in load()}
    if unknown := [number for number in args.rfc if number not in known]:
        print(f"RFC {', '.join(unknown)}: there are checks of {', '.join(sorted(known, key=int))}", file=sys.stderr)
        return CANNOT
    chosen = checks(args.rfc, args.only)
    if args.list:
        for check in chosen:
            print(f"RFC {check.rfc} {check.ident} ({check.level}): {check.text}")
        return OK

    def tell(result: Result) -> None:
        if not args.json and (result.outcome == FAIL or not args.quiet):
            print(line(result), flush=True)

    try:
        results = write_docs(args, chosen, tell) if args.docs else run(args, chosen, tell)
    except (Cannot, OSError) as error:
        print(error, file=sys.stderr)
        return CANNOT
    _write(args, results)
    print(as_json(args.target, results) if args.json else summary(results))
    return FAILED if any(one.outcome == FAIL and one.check.level == MUST for one in results) else OK


def _write(args: argparse.Namespace, results: Sequence[Result]) -> None:
    folder = args.traces or (args.html.with_suffix("") if args.html else None)
    traces: dict[str, Path] = {}
    for result in results:
        if folder is not None and result.outcome == FAIL:
            path = folder / f"{result.check.name}.pcapng"
            frames = [(at, OUTBOUND if from_target else INBOUND, frame) for at, from_target, frame in result.frames]
            pcapng.write(path, frames, "target", f"{result.check.text}: {result.reason}")
            traces[result.check.name] = Path(os.path.relpath(path, args.html.parent)) if args.html else path
    if args.html:
        args.html.write_text(as_html(args.target, results, traces), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
