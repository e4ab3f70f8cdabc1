"""`ustack addr|link|route|neigh|stats|sysctl` against a stack in this process, over its control socket."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.controlled import controlled
from ustack import control
from ustack.cli import main


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with controlled(tmp_path / "run", monkeypatch) as made:
        yield made


def out(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(list(words)) == 0
    return capsys.readouterr().out


def test_addresses(stack: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert "    inet 10.9.0.2/24\n" in out(capsys, "addr")
    out(capsys, "addr", "add", "10.9.0.3/24", "dev", "net0")
    assert "inet 10.9.0.3/24" in out(capsys, "addr", "show")
    assert any(str(a) == "10.9.0.3/24" for i in stack.interfaces() for a in i.addresses)
    out(capsys, "addr", "del", "10.9.0.3/24", "dev", "net0")
    assert "10.9.0.3" not in out(capsys, "addr")
    rows = [json.loads(line) for line in out(capsys, "addr", "--json").splitlines()]
    assert {row["name"] for row in rows} == {"lo", "net0"}


def test_links(stack: Any, capsys: pytest.CaptureFixture[str]) -> None:
    shown = out(capsys, "link")
    assert "2: net0: <ETHERNET,UP> mtu 1500\n    link/ether " in shown
    assert "    TX: 1 packets, 42 bytes, 0 dropped\n" in shown  # the ARP announcement
    out(capsys, "link", "add", "link", "net0", "name", "net0.5", "type", "vlan", "id", "5", "priority", "3")
    out(capsys, "link", "add", "link", "net0", "six", "type", "vlan", "id", "6")
    out(capsys, "link", "add", "link", "net0", "type", "vlan", "id", "7", "mtu", "1400")
    out(capsys, "link", "add", "br0", "type", "bridge", "net0.5", "six")
    out(capsys, "addr", "add", "10.7.0.1/24", "dev", "net0.7")
    shown = out(capsys, "link", "show")
    assert "3: net0.5@net0: <ETHERNET,UP> mtu 1500 master br0\n" in shown
    assert "    vlan id 5\n" in shown
    assert "    bridge of net0.5 six\n" in shown
    assert "5: net0.7@net0: <ETHERNET,UP> mtu 1400\n" in out(capsys, "addr")
    assert "10.7.0.0/24 dev net0.7 src 10.7.0.1" in out(capsys, "route")
    rows = {row["name"]: row for row in map(json.loads, out(capsys, "link", "--json").splitlines())}
    assert (rows["six"]["parent"], rows["six"]["vlan"], rows["br0"]["ports"]) == ("net0", 6, ["net0.5", "six"])
    out(capsys, "link", "del", "br0")
    out(capsys, "link", "del", "dev", "six")
    assert "br0" not in (shown := out(capsys, "link"))
    assert "six" not in shown


def test_routes(stack: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert "default via 10.9.0.1 dev net0" in out(capsys, "route")
    out(capsys, "route", "add", "192.0.2.0/24", "via", "10.9.0.7", "metric", "5")
    assert "192.0.2.0/24 via 10.9.0.7 dev net0 metric 5" in out(capsys, "route")
    out(capsys, "route", "del", "192.0.2.0/24")
    assert "192.0.2.0" not in out(capsys, "route")


def test_neighbours_and_counters(stack: Any, capsys: pytest.CaptureFixture[str]) -> None:
    out(capsys, "neigh", "add", "10.9.0.9", "lladdr", "02:00:00:00:00:09", "dev", "net0")
    assert "10.9.0.9 dev net0 lladdr 02:00:00:00:00:09 PERMANENT" in out(capsys, "neigh")
    out(capsys, "neigh", "del", "10.9.0.9", "dev", "net0")
    with stack.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"x", ("127.0.0.1", 9))
    assert "UdpOutDatagrams" in out(capsys, "stats")


def test_knobs(stack: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert out(capsys, "sysctl", "net.ipv4.tcp_sack") == "net.ipv4.tcp_sack = 1\n"
    assert out(capsys, "sysctl", "net.ipv4.tcp_sack=0", "--json") == '{"net.ipv4.tcp_sack": 0}\n'
    assert stack.sysctl["net.ipv4.tcp_sack"] == 0
    out(capsys, "sysctl", "net.ipv4.tcp_rmem=4096 8192 16384")
    assert stack.sysctl["net.ipv4.tcp_rmem"] == (4096, 8192, 16384)
    assert "net.ipv4.tcp_rmem = 4096 8192 16384\n" in out(capsys, "sysctl")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["addr", "add", "10.9.0.3/24"], 2, "dev"),
        (["addr", "add", "10.9.0.3/24", "dev", "nothing"], 1, "nothing"),
        (["addr", "add", "10.9.0.300/24", "dev", "net0"], 1, "10.9.0.300"),
        (["addr", "flush"], 2, "flush"),
        (["link", "add", "link", "net0", "name", "x", "type", "vxlan", "id", "5"], 2, "type vlan id"),
        (["link", "add", "name", "x", "type", "vlan", "id", "5"], 2, "type vlan id"),
        (["link", "add", "link", "net0", "type", "vlan"], 2, "id … is missing"),
        (["link", "add", "link", "net0", "type", "vlan", "id", "4095"], 1, "4095"),
        (["link", "add", "br0", "type", "bridge"], 1, "ports"),
        (["link", "add", "type", "bridge", "net0"], 2, "name … is missing"),
        (["link", "del", "net0"], 1, "Invalid"),
        (["link", "del"], 2, "a name is missing"),
        (["route", "del", "198.51.100.0/24"], 1, "no route"),
        (["sysctl", "net.ipv4.nothing"], 1, "nothing"),
        (["sysctl", "net.ipv4.tcp_sack=x"], 1, "numbers"),
        (["addr", "--stack", "other"], 1, "no running stack"),
    ],
)
def test_what_cannot_be_done(
    stack: Any, capsys: pytest.CaptureFixture[str], words: list[str], code: int, said: str
) -> None:
    assert main(words) == code
    assert said in capsys.readouterr().err


def test_nonsense_is_answered(stack: Any) -> None:
    path = control.sockets()[0]
    assert path.stat().st_mode & 0o777 == 0o600
    for question in (
        {"ask": "everything"}, {"change": "close", "arguments": {}}, {"change": "add_address", "arguments": {"x": 1}},
        {"change": "add_address", "arguments": []}, {"change": "sysctl", "arguments": {}}, {"change": {}},
    ):  # fmt: skip
        assert "error" in control.ask(path, question)[0], question
    assert not stack.closed


def test_rules_and_tables(stack: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert out(capsys, "rule").splitlines()[-1] == "32767:\tfrom all lookup default"
    out(capsys, "rule", "add", "from", "10.9.0.0/24", "iif", "lo", "lookup", "100", "pref", "7")
    assert "7:\tfrom 10.9.0.0/24 iif lo lookup 100" in out(capsys, "rule", "show")
    out(capsys, "route", "add", "default", "via", "10.9.0.8", "table", "100")
    assert "10.9.0.8" not in out(capsys, "route")
    assert out(capsys, "route", "show", "table", "100") == "default via 10.9.0.8 dev net0 table 100\n"
    assert "10.9.0.8" in out(capsys, "route", "show", "table", "all")
    rows = [json.loads(line) for line in out(capsys, "rule", "--json").splitlines()]
    wanted = {"priority": 7, "family": 4, "source": "10.9.0.0/24", "destination": None, "iif": "lo", "oif": None}
    assert {**wanted, "table": 100} in rows
    out(capsys, "route", "del", "default", "table", "100")
    out(capsys, "rule", "del", "from", "10.9.0.0/24", "iif", "lo")
    assert [one.table for one in stack.rules() if one.family == 4] == [255, 254, 253]
    assert main(["rule", "add", "from", "10.9.0.0/24"]) == 2
    assert main(["route", "show", "table", "x"]) == 2
