"""Packetdrill's language: scripts of segments, system calls and times, run against a stack in virtual time.

    python -m tap_harness.packetdrill FILE...       (also: ustack packetdrill FILE...)

    script = packetdrill.parse(text, "name.pkt")    # SyntaxFault: file:line:column
    packetdrill.run(script)                         # Mismatch: the first thing that is not as the script says

Responsible for: reading the language (docs/packetdrill.md says how much of it), running scripts, saying what differs.
Not for: the scripts (tests/scripts).
"""

from tap_harness.packetdrill.parser import parse
from tap_harness.packetdrill.report import Mismatch
from tap_harness.packetdrill.runner import run
from tap_harness.packetdrill.script import Script, SyntaxFault, Unsupported

__all__ = ["Mismatch", "Script", "SyntaxFault", "Unsupported", "parse", "run"]
