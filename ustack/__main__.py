"""`python -m ustack`: the same as the `ustack` command."""

import sys

from .cli import main

sys.exit(main())
