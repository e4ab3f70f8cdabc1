from collections.abc import Sequence

def transmit(
    pieces: Sequence[bytes],
    *,
    medium: str = "ethernet",
    can_checksum: bool = False,
    can_segment: bool = False,
    wants_checksum: bool = True,
    gso_size: int = 0,
    hdr_len: int = 0,
    csum_start: int = 0,
    room: int = ...,
    six: bool = False,
    udp: bool = False,
) -> tuple[int, list[tuple[bytes, int, int, int, int, int]], dict[str, int]]: ...
