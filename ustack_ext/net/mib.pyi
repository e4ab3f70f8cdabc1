def names() -> list[str]:
    """The names of all counters, in the order of their index."""
