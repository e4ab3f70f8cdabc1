"""Random bytes by a seed, and their SHA-256: both ends can make the same stream without sending it beforehand."""

import hashlib
import random
from collections.abc import Iterator

BLOCK = 1 << 20


def blocks(seed: int, total: int) -> Iterator[bytes]:
    """`total` random bytes in blocks of at most 1 MiB; the same for the same seed."""
    source = random.Random(seed)
    while total > 0:
        block = source.randbytes(BLOCK)[:total]
        total -= len(block)
        yield block


def digest(seed: int, total: int) -> str:
    """The SHA-256 of blocks(seed, total), in hexadecimal."""
    state = hashlib.sha256()
    for block in blocks(seed, total):
        state.update(block)
    return state.hexdigest()
