"""The `ustack` command: verbs over the public API of the package, one file a verb.

`main` is what the console script runs. app: the parser and what every verb shares about errors and signals; session:
making a stack from options; the rest: verbs, and what several of them use.
"""

from .app import main

__all__ = ["main"]
