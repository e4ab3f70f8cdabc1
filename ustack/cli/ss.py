"""`ustack ss`: the sockets of running stacks, printed as iproute2's ss does.

Responsible for: finding the control sockets, choosing and printing. Not for: the control protocol (ustack.control).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from .. import control
from .errors import CommandError, reason
from .session import note

_DESCRIPTION = "Show the sockets of the stacks that run on this machine, as iproute2's ss does for the kernel's."
_EPILOG = """\
A stack that another `ustack` verb runs is found by its control socket in /run/ustack (root) or $XDG_RUNTIME_DIR/ustack.
Addresses and ports are always numeric.
"""
_STATES = {
    "ESTABLISHED": "ESTAB",
    "SYN-SENT": "SYN-SENT",
    "SYN-RECEIVED": "SYN-RECV",
    "FIN-WAIT-1": "FIN-WAIT-1",
    "FIN-WAIT-2": "FIN-WAIT-2",
    "TIME-WAIT": "TIME-WAIT",
    "CLOSED": "UNCONN",
    "CLOSE": "UNCONN",
    "CLOSE-WAIT": "CLOSE-WAIT",
    "LAST-ACK": "LAST-ACK",
    "LISTEN": "LISTEN",
    "CLOSING": "CLOSING",
    "SYN-RECV": "SYN-RECV",
    "ESTAB": "ESTAB",
}
_PLAIN_INFO = {"mss": "mss", "pmtu": "pmtu", "rcv_mss": "rcvmss", "advmss": "advmss"}
_COUNTS = ("unacked", "sacked", "lost", "retrans", "backoff")
_NO_SSTHRESH = 0x7FFFFFFF  # slow start has no threshold yet


def register(verbs: Any) -> None:
    """Add the verb to the parser."""
    parser = verbs.add_parser(
        "ss",
        help="show the sockets of running stacks",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("-t", "--tcp", action="store_true", help="TCP sockets")
    add("-u", "--udp", action="store_true", help="UDP sockets")
    add("-a", "--all", action="store_true", help="listening sockets too")
    add("-l", "--listening", action="store_true", help="listening sockets only")
    add("-n", "--numeric", action="store_true", help="numbers instead of names (always so)")
    add("-i", "--info", action="store_true", help="what TCP knows of each connection")
    add("-s", "--summary", action="store_true", help="how many sockets of each kind, and no list")
    add("-H", "--no-header", action="store_true", help="no header line")
    add("--stack", metavar="WHICH", help="only the stack of this process id or device name")
    add("--json", action="store_true", help="one line of JSON for each socket")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Ask every stack and print what is wanted."""
    found = [(about, records) for about, records in _ask_all() if _is_wanted_stack(about, args.stack)]
    if not found:
        which = f" {args.stack}" if args.stack else ""
        raise CommandError(
            f"no running stack{which} has a control socket in {control.directory()}: start one with `ustack up ust0`"
        )
    rows = [row for about, records in found for row in _rows(about, records, args)]
    if args.json:
        for row in rows:
            print(json.dumps(row))
    elif args.summary:
        print(_summary([row for about, records in found for row in map(_normal, records)]))
    else:
        _print_table(rows, args)
    return 0


def _ask_all() -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """(about, connections) of each stack that answers; the socket of a process that is gone is removed."""
    answers = []
    for path in control.sockets():
        try:
            about, *records = control.ask(path, "connections")
        except ConnectionRefusedError:
            _remove_stale(path)
        except (OSError, ValueError) as error:
            note(f"{path.name}: {reason(error) if isinstance(error, OSError) else error}")
        else:
            answers.append((about, records))
    return answers


def _remove_stale(path: Path) -> None:
    pid = path.stem.rpartition("-")[2]
    if pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
        path.unlink(missing_ok=True)


def _is_wanted_stack(about: dict[str, Any], which: str | None) -> bool:
    return which is None or which in (str(about.get("pid")), about.get("device"))


def _normal(record: dict[str, Any]) -> dict[str, Any]:
    """A connection with the names and states that ss prints."""
    state = str(record.get("state", "UNCONN")).upper().replace("_", "-")
    return {
        **record,
        "netid": str(record.get("protocol", "tcp")).lower(),
        "state": _STATES.get(state, state),
        "local": (local := _endpoint(record.get("local"))),
        "peer": _endpoint(record.get("peer"), "[::]" if local[0].startswith("[") else "0.0.0.0"),
        "recv_q": int(record.get("recv_q") or 0),
        "send_q": int(record.get("send_q") or 0),
    }


def _endpoint(address: Any, unbound: str = "0.0.0.0") -> tuple[str, str]:
    """(address, port) as text; what is not bound is `unbound` and *."""
    if not address:
        return unbound, "*"
    host, port = str(address[0]) or unbound, address[1]
    return (f"[{host}]" if ":" in host else host), str(port) if port else "*"


def _rows(about: dict[str, Any], records: list[dict[str, Any]], args: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for row in map(_normal, records):
        is_listening = row["state"] in ("LISTEN", "UNCONN")
        wanted = args.all or is_listening == args.listening
        if wanted and (
            row["netid"] == "tcp"
            if args.tcp and not args.udp
            else row["netid"] == "udp"
            if args.udp and not args.tcp
            else True
        ):
            rows.append({**row, "stack": about.get("device"), "pid": about.get("pid")})
    return rows


def _print_table(rows: list[dict[str, Any]], args: argparse.Namespace) -> None:
    """Columns as ss lays them out: the address to the right, the port to the left of its colon.

    Netid only where kinds are mixed.
    """
    mixed = args.tcp == args.udp
    cells = (
        []
        if args.no_header
        else [("Netid", "State", "Recv-Q", "Send-Q", ("Local Address", "Port"), ("Peer Address", "Port"), "Process")]
    )
    cells += [
        (
            row["netid"],
            row["state"],
            str(row["recv_q"]),
            str(row["send_q"]),
            row["local"],
            row["peer"],
            f'users:(("{row["stack"]}",pid={row["pid"]}))',
        )
        for row in rows
    ]
    if not cells:
        return
    width = [max(len(cell[column]) for cell in cells) for column in range(4)]
    sides = [[max(len(cell[column][side]) for cell in cells) for side in (0, 1)] for column in (4, 5)]
    details = [None] * (not args.no_header) + (rows if args.info else [None] * len(rows))
    for cell, row in zip(cells, details, strict=True):
        start = f"{cell[0]:<{width[0]}} " if mixed else ""
        ends = " ".join(f"{cell[4 + i][0]:>{sides[i][0]}}:{cell[4 + i][1]:<{sides[i][1]}}" for i in (0, 1))
        print(f"{start}{cell[1]:<{width[1]}} {cell[2]:<{width[2]}} {cell[3]:<{width[3]}} {ends} {cell[6]}".rstrip())
        if row is not None and (text := _information(row)):
            print(f"\t {text}")
    sys.stdout.flush()


def _information(row: dict[str, Any]) -> str:
    """What `ss -i` prints of a connection: times in milliseconds, windows in segments (the record has µs and bytes)."""
    known = {**(row.get("details") or {}), **row}
    if not known.get("mss"):
        return ""
    text = [known["congestion"]] if "congestion" in known else []
    text += [f"wscale:{known['snd_wscale']},{known['rcv_wscale']}"] if "snd_wscale" in known else []
    text.append(f"rto:{_milliseconds(known.get('rto'))}")
    text.append(f"rtt:{_milliseconds(known.get('rtt'))}/{_milliseconds(known.get('rttvar'))}")
    text += [f"{shown}:{known[name]}" for name, shown in _PLAIN_INFO.items() if known.get(name) is not None]
    text.append(f"cwnd:{(known.get('cwnd') or 0) // known['mss']}")
    if (known.get("ssthresh") or _NO_SSTHRESH) < _NO_SSTHRESH:
        text.append(f"ssthresh:{known['ssthresh'] // known['mss']}")
    text += [f"{name}:{known[name]}" for name in _COUNTS if known.get(name)]
    return " ".join(text + _rates(known))


def _rates(known: dict[str, Any]) -> list[str]:
    text = []
    if bbr := known.get("bbr"):
        text.append(
            f"bbr:(bw:{_bits(bbr['bw'])},mrtt:{_milliseconds(bbr['mrtt'])},"
            f"pacing_gain:{bbr['pacing_gain']:g},cwnd_gain:{bbr['cwnd_gain']:g})"
        )
    text += [f"{name} {_bits(known[name])}" for name in ("pacing_rate", "delivery_rate") if known.get(name)]
    return text + ["app_limited"] * bool(known.get("app_limited"))


def _bits(rate: int) -> str:
    """Bytes a second as ss prints rates: in bits."""
    return f"{rate * 8}bps"


def _milliseconds(microseconds: int | None) -> str:
    return f"{(microseconds or 0) / 1000:g}"


def _summary(rows: list[dict[str, Any]]) -> str:
    tcp = [row["state"] for row in rows if row["netid"] == "tcp"]
    established, waiting = tcp.count("ESTAB"), tcp.count("TIME-WAIT")
    listening = tcp.count("LISTEN")
    return (
        f"Total: {len(rows)}\nTCP:   {len(tcp)} (estab {established}, listen {listening}, timewait {waiting})\n"
        f"UDP:   {len(rows) - len(tcp)}"
    )
