"""A stack's knobs as a mapping, `stack.sysctl["net.ipv4.tcp_rmem"] = (4096, 131072, 6291456)`.

Responsible for: what may be written how, and helpful errors. Not for: where a knob lives (ustack_ext.sockets.sysctl).
"""

from __future__ import annotations

import difflib
import operator
from collections.abc import Iterator, Mapping
from typing import Any

from ustack_ext.sockets.options import algorithms
from ustack_ext.sockets.sysctl import Knobs

Value = int | tuple[int, ...] | str

_CONGESTION = "net.ipv4.tcp_congestion_control"
_AVAILABLE = "net.ipv4.tcp_available_congestion_control"
_ALLOWED = "net.ipv4.tcp_allowed_congestion_control"


class Sysctl(Mapping[str, Value]):
    """Linux's sysctl names for this stack: reading gives an int, or a tuple for a knob of several numbers.

    Writing takes an int, a sequence of ints, or text as sysctl(8) takes it ("4096 131072 6291456"). Raises KeyError
    (with names that are close), ValueError (out of range), TypeError; PermissionError for what can only be read.
    """

    def __init__(self, stack: Any) -> None:
        self._knobs = Knobs(stack)

    def __getitem__(self, name: str) -> Value:
        if name == _AVAILABLE:
            return " ".join(algorithms())
        values = self._knobs.read(self._known(name))
        if name == _CONGESTION:
            return algorithms()[values[0]]
        if name == _ALLOWED:
            return " ".join(one for number, one in enumerate(algorithms()) if values[0] >> number & 1)
        return values[0] if len(values) == 1 else values

    def __setitem__(self, name: str, value: Value | list[int]) -> None:
        if name == _CONGESTION:
            self._set_congestion(value)
        elif name == _ALLOWED:
            self._knobs.write(name, (sum({1 << _algorithm(name, one) for one in str(value).split()}),))
        elif name == _AVAILABLE:
            raise PermissionError(f"{name} can only be read")
        else:
            self._knobs.write(self._known(name), _numbers(name, value))

    def __iter__(self) -> Iterator[str]:
        return iter(sorted([*self._knobs.names(), _AVAILABLE]))

    def __len__(self) -> int:
        return len(self._knobs.names()) + 1

    def _set_congestion(self, value: Any) -> None:
        """As Linux: what is made the default is allowed from then on."""
        number = _algorithm(_CONGESTION, value)
        self._knobs.write(_CONGESTION, (number,))
        self._knobs.write(_ALLOWED, (self._knobs.read(_ALLOWED)[0] | 1 << number,))

    def _known(self, name: str) -> str:
        names = self._knobs.names()
        if name in names:
            return name
        close = difflib.get_close_matches(str(name), names, n=3)
        raise KeyError(f"{name!r} is no knob of this stack" + (f"; close: {', '.join(close)}" if close else ""))


def _algorithm(name: str, value: Any) -> int:
    if value not in algorithms():
        raise ValueError(f"{name}: {value!r} is none of {', '.join(algorithms())}")
    return algorithms().index(value)


def _numbers(name: str, value: Value | list[int]) -> tuple[int, ...]:
    if isinstance(value, str):
        try:
            return tuple(int(word) for word in value.split())
        except ValueError:
            raise ValueError(f"{name}: {value!r} is not made of numbers") from None
    if isinstance(value, (tuple, list)):
        return tuple(operator.index(one) for one in value)
    return (operator.index(value),)
