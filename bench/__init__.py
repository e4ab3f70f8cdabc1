"""Measures the stack against the kernel's TCP, on this machine, in one run.

Responsible for how fast things are. Not for whether they are right: that is tests/.
"""
