"""Fixtures for tests against the kernel: see tap_harness.fixtures and tap_harness.net."""

from tap_harness.fixtures import full, impaired, net, ns, privileged

__all__ = ["full", "impaired", "net", "ns", "privileged"]
