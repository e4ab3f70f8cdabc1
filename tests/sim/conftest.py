"""Fixtures for scripted tests in virtual time: see tap_harness.fixtures."""

from tap_harness.fixtures import lab

__all__ = ["lab"]
