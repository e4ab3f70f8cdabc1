"""The time as a stack sees it, for code in Python that has deadlines of its own."""

from __future__ import annotations

import random
import time
from typing import Any


def now(stack: Any) -> float:
    """Seconds of the stack's clock: virtual time in a simulated network, else the monotonic clock's."""
    world = getattr(stack._driver, "world", None)
    return time.monotonic() if world is None else world.now / 1e9


def is_virtual(stack: Any) -> bool:
    """Whether the stack lives in virtual time."""
    return bool(stack._driver.kind == "virtual")


def random_source(stack: Any, purpose: str) -> random.Random:
    """Random numbers: the operating system's; in virtual time the same ones in every run."""
    return random.Random(purpose) if is_virtual(stack) else random.SystemRandom()
