"""What a script runs against: a fresh stack in virtual time, whose only neighbour is the script."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from tap_harness.packetdrill.script import Unsupported
from tap_harness.packetdrill.wire import Addresses, Got, read_packet
from ustack import sim

_INSTANT = 1e-9  # s: all that is due now has happened when the clock has moved on
_IGNORED_COMMANDS = ("ip tcp_metrics", "ip route flush", "ethtool ", "true", "echo ", "sync")


class Pending:
    """A call that runs beside the script. time: when it ended (ns)."""

    def __init__(self, network: sim.Network, function: Callable[[], Any]) -> None:
        self._network = network
        self.time = 0
        self._task = network.spawn(self._run, function)

    def _run(self, function: Callable[[], Any]) -> Any:
        try:
            return function()
        finally:
            self.time = self._network.now

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return bool(self._task.done)

    def returns(self) -> bool:
        """Whether it ends without anything else that happens."""
        return self.done

    def result(self) -> Any:
        """What it returned; raises what it raised."""
        return self._task.result()


class SimTarget:
    """A stack on one side of a wire without delay. Its times are ns of virtual time since the target was made."""

    real_time = False

    def __init__(self, ends: Addresses, prefix: int, mtu: int, seed: int = 0) -> None:
        self.network = sim.Network(seed=seed)
        self.stack = self.network.stack("target")
        try:
            self._wire = self.network.wire(
                self.stack, None, addresses=(f"{ends.local}/{prefix}", None), medium="ip", mtu=mtu, name="script"
            )
            device = next(one.name for one in self.stack.interfaces() if one.medium != "loopback")
            self.stack.add_route("::/0" if ends.is_v6 else "default", interface=device)
        except (OSError, ValueError) as error:
            self.network.close()
            raise Unsupported(f"an address of the script: {error}") from None
        self._sent: deque[Got] = deque()
        self._wire.a_to_b.filter = self._note

    def _note(self, frame: bytes, number: int) -> None:
        self._sent.append(read_packet(self.network.now, bytes(frame)))

    @property
    def now(self) -> int:
        """The time in ns."""
        return self.network.now

    def run_until(self, time: int) -> None:
        """Let time pass, and all happen that is due then."""
        self.network.run(until=max(time, self.now) / 1e9)
        self.settle()

    def settle(self) -> None:
        """Let all happen that is due now."""
        self.network.run(duration=_INSTANT)

    def send(self, packet: bytes) -> None:
        """Hand the stack a packet."""
        self._wire.b.send(packet)
        self.settle()

    def next_packet(self, deadline: int) -> Got | None:
        """The stack's next packet, sent until the deadline."""
        if not self._sent and deadline >= self.now:
            self.network.run(duration=(deadline - self.now) / 1e9, until=lambda: self._sent)
        return self._sent.popleft() if self._sent and self._sent[0].time <= deadline else None

    def leftover(self, before: int) -> Got | None:
        """A packet that the stack sent before that time and nobody took."""
        return self._sent[0] if self._sent and self._sent[0].time < before else None

    def start(self, function: Callable[[], Any]) -> Pending:
        """Begin a call that may block."""
        made = Pending(self.network, function)
        self.settle()
        return made

    def wait(self, ready: Callable[[], Any], seconds: float | None) -> Any:
        """What `ready` returns when it is true, after at most so many seconds (None: whenever)."""
        found = ready()
        if not found and seconds != 0:
            self.network.run(duration=1e6 if seconds is None else seconds, until=ready)
            found = ready()
        return found

    def socket(self, family: int, kind: int, proto: int) -> Any:
        """A socket of the stack."""
        return self.stack.socket(family, kind, proto)

    def facts(self) -> dict[str, Any]:
        """What %{ }% sees beside tcp_info."""
        return {"counters": self.stack.counters(), "live": self.stack.live(), "target": "stack"}

    def command(self, text: str) -> None:
        """A set-up command: sysctl on this stack, sleep in virtual time. Raises Unsupported."""
        for part in text.replace("&&", ";").split(";"):
            words = part.split()
            if not words or part.strip().startswith(_IGNORED_COMMANDS):
                continue
            if words[0] == "sleep" and len(words) == 2:
                self.run_until(self.now + _sleep(words[1]))
            elif words[0] == "sysctl":
                self._sysctl(" ".join(word for word in words[1:] if not word.startswith("-")))
            else:
                raise Unsupported(f"`{part.strip()}`: only sysctl and sleep can be run here")

    def _sysctl(self, text: str) -> None:
        # Several "name=value"; a value may have blanks ("net.ipv4.tcp_rmem=4096 131072 6291456").
        settings: list[list[str]] = []
        for word in text.replace('"', "").replace("'", "").replace(" = ", "=").split():
            name, equals, value = word.partition("=")
            if equals:
                settings.append([name, value])
            elif settings:
                settings[-1][1] += " " + word
            else:
                raise Unsupported(f"`sysctl {text}`: name=value is needed")
        for name, value in settings:
            try:
                self.stack.sysctl[name] = value
            except (KeyError, ValueError, PermissionError) as error:
                raise Unsupported(f"sysctl {name}: {error.args[0]}") from None

    def close(self) -> None:
        """End the stack."""
        self.network.close()


def _sleep(text: str) -> int:
    try:
        return round(min(max(float(text), 0), 1e6) * 1e9)
    except ValueError:
        raise Unsupported(f"`sleep {text}`: seconds are needed") from None
