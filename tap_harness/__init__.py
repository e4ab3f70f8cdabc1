"""What a test needs around a TCP/IP stack: namespaces, TAPs with the kernel behind them, peers, a bad wire.

Responsible for the surroundings of a stack under test. Not for the stack itself: what is here uses ustack's public API
only where it must (`carrier.MemoryCarrier`), as any user would, and works with any other stack behind a TAP as well.
"""
