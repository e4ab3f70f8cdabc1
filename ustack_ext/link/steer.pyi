from collections.abc import Sequence
from struct import Struct

KEY: Struct

def program(header: int, secret: bytes, targets: Sequence[int], otherwise: int) -> bytes: ...
def load(code: bytes) -> int: ...
