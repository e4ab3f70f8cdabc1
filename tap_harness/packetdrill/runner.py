"""Runs a script: event after event, at its time, until something is not as the script says.

Responsible for: time, sequence numbers (a script counts from its own initial ones), comparison. Not for: the network
(target), system calls (calls).
"""

from __future__ import annotations

import dataclasses
import errno
import ipaddress
from dataclasses import dataclass
from typing import Any, NoReturn

from tap_harness.packetdrill import tcpinfo, wire
from tap_harness.packetdrill.calls import Calls, Wrong
from tap_harness.packetdrill.compare import differences, relative
from tap_harness.packetdrill.kernel_target import KernelTarget
from tap_harness.packetdrill.packetparser import ECN
from tap_harness.packetdrill.report import Mismatch, seconds, segment_text
from tap_harness.packetdrill.script import ANY, Call, Code, Command, Event, Icmp, Script, Tcp, Udp, Unsupported, When
from tap_harness.packetdrill.target import Pending, SimTarget
from tap_harness.packetdrill.wire import Addresses, Got

# Options that say nothing about a stack in virtual time.
_IGNORED = {"gateway_ip", "non_fatal", "speed", "verbose", "v", "send_omit_free", "dry_run", "so_filename", "tun_dev"}
_KNOWN = {"ip_version", "local_ip", "remote_ip", "netmask_ip", "mtu", "tolerance_usecs", "bind_port", "connect_port"}
_TOLERANCE = "4000"  # µs, the public tool's
_KERNEL_TOLERANCE = "50000"  # µs: this process has to be woken for each packet, on a machine that does other things
_HERE4 = ("192.168.0.1", "192.0.2.1")
_HERE6 = ("fd3d:a0b:17d6::1", "2001:db8::1")
STACK, KERNEL = "stack", "kernel"
_PEER_PORT = 40000
_LARGEST = 65000  # payload of a packet in, bytes
_REMOTE_SHIFT = 0xFFFF0000  # the peer's numbers on the wire are the script's plus this: they wrap soon


@dataclass
class Conversation:
    """A TCP connection of the script. shift: a number on the wire is the script's plus this."""

    remote_port: int
    local_port: int
    remote_shift: int = _REMOTE_SHIFT
    local_shift: int = 0
    ts_shift: int | None = None
    stack_seen: bool = False
    cookie: bytes = b""  # of fast open: the last that the stack gave


class Run:
    """One run of one script on one target."""

    def __init__(self, script: Script, target: str = STACK) -> None:
        self._script = script
        self._target_name = target
        options = script.options
        for name in options:
            if name not in _KNOWN | _IGNORED:
                raise Unsupported(f"--{name} is not known here")
        if options.get("ip_version", "ipv4") not in ("ipv4", "ipv6"):
            raise Unsupported(f"--ip_version={options['ip_version']}: ipv4 or ipv6")
        try:
            self._read_options(options)
        except ValueError as error:
            raise Unsupported(f"an option of the script: {error}") from None
        self._calls = Calls(self._target, (self._ends.local, self._bind_port), (self._ends.remote, self._connect_port))
        self._main = Conversation(_PEER_PORT, self._bind_port)
        self._others: dict[int, Conversation] = {}
        self._pending: list[tuple[Event, Call, Pending, int]] = []
        self._before = 0  # the moment that relative times count from
        self._history: list[str] = []

    def _read_options(self, options: dict[str, str]) -> None:
        v6 = options.get("ip_version") == "ipv6"
        local, remote = _HERE6 if v6 else _HERE4
        self._ends = Addresses(options.get("local_ip", local), options.get("remote_ip", remote))
        if any(ipaddress.ip_address(one).version != (6 if v6 else 4) for one in (self._ends.local, self._ends.remote)):
            raise ValueError("local_ip and remote_ip are of --ip_version")
        prefix = 64
        if not v6:
            prefix = ipaddress.IPv4Network("0.0.0.0/" + options.get("netmask_ip", "255.255.0.0")).prefixlen
        on_kernel = self._target_name == KERNEL
        self._tolerance = int(options.get("tolerance_usecs", _KERNEL_TOLERANCE if on_kernel else _TOLERANCE)) * 1000
        self._bind_port = int(options.get("bind_port", "8080"))
        self._connect_port = int(options.get("connect_port", "8080"))
        make = KernelTarget if on_kernel else SimTarget
        self._target: Any = make(self._ends, prefix, int(options.get("mtu", "1500")))

    def run(self) -> None:
        """Run it. Raises Mismatch, Unsupported."""
        try:
            for event in self._script.events:
                try:
                    self._step(event)
                except Unsupported as error:
                    raise Unsupported(f"{self._script.name}:{event.line}: {error}") from None
            for event, call, pending, end in self._pending:
                self._target.run_until(end + self._tolerance)
                self._judge_blocked(event, call, pending, end)
            if self._script.events and (got := self._target.leftover(self._before)):
                event = self._script.events[-1]
                rows = [("got", f"{seconds(got.time)} > {self._describe(got)}")]
                self._fail(event, "before the script's last line the stack sent a packet that no line expects", rows)
        finally:
            self._calls.close_all()
            self._target.close()

    # -- time

    def _step(self, event: Event) -> None:
        start, end = self._moment(event.when)
        action = event.action
        if isinstance(action, (Tcp, Udp)) and not action.inbound:
            self._expect(event, action, start, end)
            return
        self._target.run_until(self._target.now if start is None else start)
        self._collect_blocked()
        if isinstance(action, Call):
            self._call(event, action, self._before)
        elif isinstance(action, Command):
            self._target.command(action.text)
        elif isinstance(action, Code):
            self._code(event, action)
        else:
            self._inject(event, action)
        late = start is None or isinstance(action, Command) or self._target.real_time
        self._before = self._target.now if late else start or 0

    def _moment(self, when: When) -> tuple[int | None, int]:
        """The event's time and the end of its range in ns; None: any time."""
        if when.start is None:
            return None, 0
        base = self._before if when.relative else 0
        return base + when.start, base + (when.start if when.end is None else when.end)

    def _fail(self, event: Event, sentence: str, rows: list[tuple[str, str]]) -> NoReturn:
        raise Mismatch(self._script.name, event, sentence, rows, self._history)

    # -- packets in

    def _conversation(self, port: int | None) -> Conversation:
        if port is None or port == self._main.remote_port:
            return self._main
        return self._others.setdefault(port, Conversation(port, self._bind_port, cookie=self._main.cookie))

    def _inject(self, event: Event, action: Tcp | Udp | Icmp) -> None:
        one = self._conversation(action.port)
        if isinstance(action, Tcp | Udp) and action.length > _LARGEST:
            raise Unsupported(f"a packet has at most {_LARGEST} bytes here")
        if isinstance(action, Tcp):
            packet = self._inbound(one, action)
        elif isinstance(action, Udp):
            data = wire.pattern(0, action.length)
            packet = wire.udp_packet(self._ends, one.remote_port, one.local_port, data, ECN[action.ecn or "noecn"])
        elif action.seq is None:
            quoted = wire.quoted_udp(one.local_port, one.remote_port)
            packet = wire.icmp_packet(self._ends, action.kind, action.code, action.mtu, 17, quoted)
        else:
            seq = (action.seq + one.local_shift) % (1 << 32)
            quoted = wire.quoted_tcp(one.local_port, one.remote_port, seq)
            packet = wire.icmp_packet(self._ends, action.kind, action.code, action.mtu, 6, quoted)
        self._history.append(f"{seconds(self._target.now)} <{event.text.partition('<')[2]}")
        self._target.send(packet)

    def _inbound(self, one: Conversation, segment: Tcp) -> bytes:
        if "S" in segment.flags and "." not in segment.flags and segment.seq:
            one.stack_seen = False  # a connection after the first: its SYN-ACK has a new first number
        live = dataclasses.replace(
            segment,
            seq=(segment.seq + one.remote_shift) % (1 << 32),
            ack=None if segment.ack is None else (segment.ack + one.local_shift) % (1 << 32),
            options=tuple(self._live_option(one, option) for option in segment.options or ()),
        )
        data = wire.pattern(segment.seq - ("S" not in segment.flags), segment.length)
        return wire.tcp_packet(
            self._ends, one.remote_port, one.local_port, live, data, ECN[(segment.ecn or "noecn").replace("01", "0")]
        )

    @staticmethod
    def _live_option(one: Conversation, option: tuple[Any, ...]) -> tuple[Any, ...]:
        name, *values = option
        if name == "sack":
            return (name, *(tuple((edge + one.local_shift) % (1 << 32) for edge in block) for block in values))
        if name == "TS" and one.ts_shift is not None:
            return (name, values[0], (values[1] + one.ts_shift) % (1 << 32))
        if name in ("FO", "FOEXP") and values[0] is None:
            return (name, one.cookie)
        return option

    # -- packets out

    def _expect(self, event: Event, wanted: Tcp | Udp, start: int | None, end: int) -> None:
        limit = self._target.now + 3600 * 10**9 if start is None else end + self._tolerance
        got = self._target.next_packet(limit)
        earliest = 0 if start is None else start - self._tolerance
        when = "at any time" if start is None else seconds(start) + ("" if end == start else f"..{seconds(end)}")
        if got is None:
            self._fail(event, "the stack sent nothing", [("expected", f"{when} {self._wanted_text(wanted)}")])
        one = self._meet(wanted, got)
        rows = differences(wanted, got, one, self._tolerance)
        if isinstance(wanted, Tcp) and not rows:
            rows += self._wrong_data(wanted, got)
        if got.time < earliest:
            rows.insert(0, ("time", f"{when} expected, {seconds(got.time)} got"))
        if rows:
            shown = [("expected", f"{when} {self._wanted_text(wanted)}")]
            shown.append(("got", f"{seconds(got.time)} > {self._describe(got, one)}"))
            shown += [("differs", f"{field}: {text}") for field, text in rows]
            self._fail(event, "a packet is not as the script says", shown)
        self._history.append(f"{seconds(got.time)} > {self._describe(got, one)}")
        exact = start is not None and start == end and not self._target.real_time
        self._before = start if exact and start is not None else max(got.time, self._before)

    def _meet(self, wanted: Tcp | Udp, got: Got) -> Conversation:
        """The conversation the line is about; an own SYN fixes its ports and the stack's first number."""
        one = self._conversation(wanted.port)
        if got.flags == "S" and got.sport != one.local_port:  # another connection to the same place
            one.stack_seen, one.ts_shift = False, None
        if isinstance(wanted, Tcp) and "S" in wanted.flags and "S" in got.flags and not one.stack_seen:
            if "." not in got.flags:
                one.remote_port, one.local_port = got.dport, got.sport
            one.local_shift = (got.seq - wanted.seq) % (1 << 32)
            one.stack_seen = True
        elif isinstance(wanted, Udp):
            one.remote_port, one.local_port = got.dport, got.sport
        if cookie := next((option[1] for option in got.options if option[0] in ("FO", "FOEXP")), b""):
            one.cookie = self._main.cookie = cookie
        if isinstance(wanted, Tcp) and one.ts_shift is None:
            mine = next((option for option in wanted.options or () if option[0] == "TS"), None)
            theirs = next((option for option in got.options if option[0] == "TS"), None)
            if mine and theirs:
                one.ts_shift = (theirs[1] - mine[1]) % (1 << 32)
        return one

    def _wrong_data(self, wanted: Tcp, got: Got) -> list[tuple[str, str]]:
        stream = self._calls.stream(got.dport)
        if stream is None or not got.data:
            return []
        at = wanted.seq - ("S" not in wanted.flags)
        if 0 <= at <= len(stream.written) and bytes(stream.written[at : at + len(got.data)]) == got.data:
            return []
        return [("data", f"the {len(got.data)} bytes are not those that were written at {at}")]

    def _wanted_text(self, wanted: Tcp | Udp) -> str:
        return "> " + (segment_text(wanted) if isinstance(wanted, Tcp) else f"udp ({wanted.length})")

    def _describe(self, got: Got, one: Conversation | None = None) -> str:
        if not got.is_tcp:
            return f"udp ({len(got.data)})" if got.protocol == 17 else f"IP protocol {got.protocol}"
        one = one or self._conversation(got.dport if got.dport in self._others else None)
        port = f":{got.dport} " if got.dport != self._main.remote_port else ""
        return port + segment_text(relative(got, one))

    # -- calls

    def _call(self, event: Event, call: Call, base: int) -> None:
        self._history.append(f"{seconds(self._target.now)} {call.name}(...)")
        if not self._calls.may_block(call):
            try:
                self._judge(event, call, self._calls.make(call), None)
            except OSError as error:
                self._judge(event, call, -1, error)
            except Wrong as wrong:
                self._fail(event, str(wrong), [])
            return
        pending = self._target.start(lambda: self._calls.make(call))
        if call.end is not None:
            self._pending.append((event, call, pending, call.end + (base if event.when.relative else 0)))
            return
        if not pending.returns():
            self._fail(event, f"{call.name}() blocks", [("expected", self._result_text(call))])
        self._finish(event, call, pending)

    def _collect_blocked(self) -> None:
        still = []
        for event, call, pending, end in self._pending:
            if self._target.real_time and self._target.now >= end:
                pending.returns()  # it is over; its thread may not have run yet, and must not see what follows
            if pending.done or self._target.now > end + self._tolerance:
                self._judge_blocked(event, call, pending, end)
            else:
                still.append((event, call, pending, end))
        self._pending = still

    def _judge_blocked(self, event: Event, call: Call, pending: Pending, end: int) -> None:
        when = seconds(end)
        if not pending.done:
            self._fail(event, f"{call.name}() still blocks", [("expected", f"to return at {when}")])
        if abs(pending.time - end) > self._tolerance:
            rows = [("expected", f"to return at {when}"), ("got", f"it returned at {seconds(pending.time)}")]
            self._fail(event, f"{call.name}() returned at another time", rows)
        self._finish(event, call, pending)

    def _finish(self, event: Event, call: Call, pending: Pending) -> None:
        try:
            self._judge(event, call, pending.result(), None)
        except OSError as error:
            self._judge(event, call, -1, error)
        except Wrong as wrong:
            self._fail(event, str(wrong), [])

    def _judge(self, event: Event, call: Call, result: int, error: OSError | None) -> None:
        name = None if error is None else errno.errorcode.get(error.errno or 0, str(error))
        if call.result is not ANY and (result, name) != (call.result, call.error):
            got = f"{result}" if name is None else f"-1 {name} ({error.strerror if error else ''})"
            self._fail(
                event, f"{call.name}() gave another result", [("expected", self._result_text(call)), ("got", got)]
            )

    @staticmethod
    def _result_text(call: Call) -> str:
        return "..." if call.result is ANY else f"{call.result}" + (f" {call.error}" if call.error else "")

    def _code(self, event: Event, code: Code) -> None:
        names: dict[str, Any] = dict(tcpinfo.CONSTANTS)
        if self._calls.main is not None:
            try:
                names.update(tcpinfo.fields(self._calls.main.sock))
            except OSError as error:
                names["tcpi_error"] = error.errno
        names.update(self._target.facts())
        text = "\n" * (code.line - 1) + code.text
        try:
            exec(compile(text, self._script.name, "exec"), names)
        except Exception as error:
            line = error.__traceback__.tb_next.tb_lineno if error.__traceback__ and error.__traceback__.tb_next else 0
            written = code.text.splitlines()[max(0, line - code.line)].strip() if line else ""
            used = {name: names[name] for name in sorted(names) if name.startswith("tcpi_") and name in written}
            rows = [("Python", written), ("got", ", ".join(f"{name} = {value}" for name, value in used.items()) or "-")]
            sentence = f"{type(error).__name__}: {error}" if str(error) else "an assertion does not hold"
            self._fail(event, sentence, rows)


def run(script: Script, target: str = STACK) -> None:
    """Run a script against a fresh stack in virtual time, or against the kernel in real time ("kernel": needs root).

    Raises Mismatch; Unsupported.
    """
    Run(script, target).run()
