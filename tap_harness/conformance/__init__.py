"""Conformance: one scenario a requirement, run against this stack, the kernel, or any TCP on a wire.

    python -m tap_harness.conformance --target kernel --rfc 9293      (also: ustack conformance)

Responsible for: the requirements and their scenarios (rfc*.py), the targets they run against, results and reports.
A scenario is written once, against probe.Probe; what a target cannot do makes its result "not applicable", with the
reason.
"""

from tap_harness.conformance.registry import NotApplicable, checks, load

__all__ = ["NotApplicable", "checks", "load"]
