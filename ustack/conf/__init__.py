"""A stack's configuration as a TOML file: `ustack up --config FILE`, and the same for programs.

    config = ustack.conf.load("lab.toml")          # ConfigError: every mistake, with its line
    with ustack.conf.open_stack(config) as stack:
        ...

docs/configuring.md lists what there may be in it.
"""

from __future__ import annotations

from typing import Any

from .checks import ConfigError
from .schema import Config, load, parse

__all__ = ["Config", "ConfigError", "apply", "load", "open_stack", "parse"]


def apply(config: Config, stack: Any) -> Any:
    """Configure a stack as the file says -> .ends, the far ends of pipes without a peer, by interface; .waiting, the
    DHCP clients that were not told `wait = false`. Raises ConfigError."""
    from . import applying  # needs the extension modules, which reading a file does without

    return applying.apply(config, stack)


def open_stack(config: Config, driver: Any = "thread") -> Any:
    """A new ustack.Stack as the file says. driver: as Stack's. Raises ConfigError."""
    from . import applying

    return applying.open_stack(config, driver)
