"""Fixtures for tests against the kernel: see tap_harness.fixtures and tap_harness.net."""

from tap_harness.fixtures import by_family as pytest_generate_tests
from tap_harness.fixtures import ends, full, impaired, net, ns, privileged, six

__all__ = ["ends", "full", "impaired", "net", "ns", "privileged", "pytest_generate_tests", "six"]
