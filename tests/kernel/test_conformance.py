"""`ustack conformance --target kernel`: a quick part of it; and a remote host, the stack behind a TAP."""

from __future__ import annotations

import ustack
from tap_harness.conformance.kernel_target import KernelTarget
from tap_harness.conformance.registry import checks
from tap_harness.conformance.remote_target import RemoteTarget
from tap_harness.conformance.run import FAIL, NOT_APPLICABLE, PASS, run_all, run_one
from tap_harness.ends import Ends
from tap_harness.netns import Namespace
from tap_harness.tap import KernelTap

QUICK = ["MUST-4", "MUST-6", "MUST-14", "MUST-15", "MUST-17", "MUST-49", "SHLD-7", "MUST-13"]


def test_the_kernel_passes_what_it_is_known_for(privileged: None, ends: Ends) -> None:
    results = run_all(checks(["9293"], QUICK), lambda: KernelTarget(ends), at_once=4, patience=2)
    assert {one.check.name: one.reason for one in results if one.outcome == FAIL} == {}
    assert sum(one.outcome == PASS for one in results) >= 6
    assert any(one.outcome == NOT_APPLICABLE for one in results)  # TIME-WAIT is longer than this patience


def test_a_known_deviation_of_the_kernel_is_seen(privileged: None, ends: Ends) -> None:
    check = next(one for one in checks(["9293"], ["MUST-11"]))
    result = run_one(check, lambda: KernelTarget(ends))
    assert result.outcome == FAIL
    assert result.because


def test_a_remote_host(ns: Namespace, ends: Ends) -> None:
    """ustack behind a TAP, as any host on an interface of this machine."""
    with KernelTap(ns) as tap, ustack.Stack() as stack:
        stack.attach(ustack.Tap(fd=tap.dup()), addresses=[ends.stack_net])
        stack.start_service((ends.any, 7), "echo")
        stack.start_service((ends.any, 9), "discard")

        def here() -> object:
            return RemoteTarget(tap.name, ends.stack, ends.kernel)

        wanted = ["MUST-4", "MUST-14", "MUST-15", "MUST-43"]
        with ns.entered():
            results = run_all(checks(["9293"], wanted), here)  # type: ignore[arg-type]
        assert {one.check.name: one.reason for one in results if one.outcome == FAIL} == {}
        outcomes = {one.check.ident: one.outcome for one in results}
        assert outcomes["MUST-15"] == PASS
        assert outcomes["MUST-43"] == NOT_APPLICABLE
