"""The configuration file: what is wrong with one is said with its line; what is right becomes a stack."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ustack
from ustack import conf, service
from ustack.cli import main
from ustack.conf import schema
from ustack.conf.lines import lines_of

tomllib = pytest.importorskip("tomllib", reason="optional: tomllib came with Python 3.11")

TRICKY = r'''# [no]
[stack]
memory = "64M" # = 1
"a \u0062.c" . 'd"e' = """
[[interface]]
x = 1 \""" "" """
[[interface]]
name = 'a'
[interface.dhcp]
hostname = '''  + "'''\n[x]\n'''" + r'''
[[interface]]
addresses = [ # ]
  "10.0.0.1/24", # "
  "]", { via = "}", "to" = [1,
  2] },
]
[sysctl]
net.ipv4.tcp_rmem = [1, 2,
 3]
net.ipv4.x=0x_'''  # fmt: skip


def test_lines_of_keys() -> None:
    text = TRICKY.replace("0x_", "1979-05-27T07:32:00Z")
    tomllib.loads(text)
    assert lines_of(text) == {
        ("stack",): 2, ("stack", "memory"): 3, ("stack", "a b.c"): 4, ("stack", "a b.c", 'd"e'): 4,
        ("interface",): 7, ("interface", 0): 7, ("interface", 0, "name"): 8, ("interface", 0, "dhcp"): 9,
        ("interface", 0, "dhcp", "hostname"): 10, ("interface", 1): 13, ("interface", 1, "addresses"): 14,
        ("interface", 1, "addresses", 0): 15, ("interface", 1, "addresses", 1): 16,
        ("interface", 1, "addresses", 2): 16, ("interface", 1, "addresses", 2, "via"): 16,
        ("interface", 1, "addresses", 2, "to"): 16, ("interface", 1, "addresses", 2, "to", 0): 16,
        ("interface", 1, "addresses", 2, "to", 1): 17, ("sysctl",): 19, ("sysctl", "net"): 20,
        ("sysctl", "net", "ipv4"): 20, ("sysctl", "net", "ipv4", "tcp_rmem"): 20,
        ("sysctl", "net", "ipv4", "tcp_rmem", 0): 20, ("sysctl", "net", "ipv4", "tcp_rmem", 1): 20,
        ("sysctl", "net", "ipv4", "tcp_rmem", 2): 21, ("sysctl", "net", "ipv4", "x"): 22,
    }  # fmt: skip


@given(st.lists(st.sampled_from(
    ["a = 1", "[t]", "[[u]]", "b.c = 1", 'd = """\n\n"""', "e = [\n1,\n{ f = 2 } ]", "# g = 1", "", "[t.v]", "h = -1e3"]
)))  # fmt: skip
def test_every_key_has_its_line(pieces: list[str]) -> None:
    text = "\n".join(pieces)
    try:
        settings = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    lines, rows = lines_of(text), text.split("\n")

    def look(value: object, path: tuple[str | int, ...]) -> None:
        if path and isinstance(path[-1], str):
            assert path[-1] in rows[lines[path] - 1]
        for key, below in (
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        ):
            look(below, (*path, key))

    look(settings, ())


VLAN = "[[vlan]]\ninterface='a'\nid=5\n"
BRIDGE = "[[bridge]]\nname='b'\nports=['a']\n"
NAT = "[nat]\nmasquerade = 'a'\n[[nat.forward]]\ninterface='a'\n"
GOOD = '[[interface]]\nname = "a"\nkind = "pipe"\n'


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("x = ", "Invalid value (at end of document)"),
        ("[stak]", ":1: no key 'stak': did you mean 'stack'?"),
        ('\n[[interface]]\nname = "a"\nadresses = []', ":4: no key 'adresses' in interface[0]: did you mean 'addr"),
        ('\n[[interface]]\nname = "a"\nhost_addresses = []', "did you mean 'host-addresses'?"),
        ("[dns]\nservers = 1\nqq = 2", ":3: no key 'qq' in dns: there are "),
        ("[dns]", ":1: dns: 'servers' is missing"),
        ("[[interface]]\nkind = 'tpa'\nname='a'", ":2: interface[0].kind: 'tpa': did you mean 'tap'?"),
        (GOOD + "addresses = [\n'10.0.0.1/24',\n'10.0.0.300/24']", ":6: interface[0].addresses[1]: '10.0.0.300/24' is"),
        (GOOD + "addresses = '10.0.0.1'", ":4: interface[0].addresses: '10.0.0.1' is not an address with a prefix"),
        (GOOD + "mtu = 60", ":4: interface[0].mtu: 60 is not a whole number from 68 to 65535"),
        (GOOD + "mtu = true", ":4: interface[0].mtu: True is not"),
        (GOOD + "autoconf = 1", ":4: interface[0].autoconf: 1 is not true or false"),
        (GOOD + "peer = 'b'", ":4: 'b' is no other interface of kind pipe"),
        (GOOD + "device = 'b'", ":4: device has no place in a pipe"),
        (GOOD + GOOD, ":5: interface 'a' is there already"),
        (GOOD + "dhcp = 3", ":4: interface[0].dhcp: a table is wanted, not a number"),
        (GOOD + "[interface.dhcp]\nhostnam = 'x'", ":5: no key 'hostnam' in interface[0].dhcp: did you mean 'host"),
        ("[[interface]]\nname='a'\nkind='tun'\ndhcp=true", ":4: this needs Ethernet"),
        (GOOD + "[[route]]\nto = 'default'", ":4: a route needs via, interface, or both"),
        (GOOD + "[[route]]\nto = '10.0.0.1/24'\nvia = '10.0.0.2'", ":5: route[0].to: '10.0.0.1/24' is not a network"),
        (GOOD + "[[route]]\nto = 'default'\ninterface = 'z'", ":6: there is no interface 'z' in this file (but a)"),
        (GOOD + "[[route]]\nto = 'default'\ninterface = 'a'\ntable = 'mian'", ":7: route[0].table: 'mian' is not"),
        (GOOD + "[[rule]]\nfrom = '10.0.0.0/24'", ":4: rule[0]: 'table' is missing"),
        (GOOD + "[[neighbor]]\naddress = '10.0.0.2'\ninterface='a'\nmac='01:00:00:00:00:00'", ":7: neighbor[0].mac"),
        (GOOD + "dhcp6 = { mode = 'statefull' }", ":4: interface[0].dhcp6.mode: 'statefull': did you mean 'stateful'?"),
        (GOOD + "[interface.dhcp6]\nassign.lan0 = 1", ":5: there is no interface 'lan0' in this file"),
        ("[[publish]]\nname='a'\ntype='_http._tcp'\nport=80", ":1: nothing is published without"),
        ("[[service]]\nport = 7\nkind = 'echo'\ntext = 'a'", ":4: echo sends no text of yours"),
        ("interface = 3", ":1: interface: a list is wanted, not a number"),
        (GOOD + "[[vlan]]\ninterface='b'\nid=5", ":5: there is no interface 'b' in this file (but a, b.5)"),
        (GOOD + "[[vlan]]\ninterface='a'\nid=4095", ":6: vlan[0].id: 4095 is not a whole number from 1 to 4094"),
        (GOOD + "[[vlan]]\nid=5", ":4: vlan[0]: 'interface' is missing"),
        (GOOD + VLAN + VLAN, ":9: VLAN 5 of a is there already"),
        (GOOD + VLAN + "[[vlan]]\ninterface='a.5'\nid=6", ":8: 'a.5' carries no VLANs: it is a VLAN itself"),
        (GOOD + "[[vlan]]\ninterface='a'\nid=5\nname='a'", ":7: interface 'a' is there already"),
        ("[[interface]]\nname='t'\nkind='tun'\n[[vlan]]\ninterface='t'\nid=5", ":5: 't' carries no VLANs: it is a tun"),
        ("[[interface]]\nname='a-long-name-15'\n[[vlan]]\ninterface='a-long-name-15'\nid=5", ":3: 'a-long-name-15.5'"),
        (GOOD + "[[bridge]]\nname='b'\nports=['a','z']", ":6: there is no interface 'z' in this file (but a, b)"),
        (GOOD + "[[bridge]]\nname='b'\nports=[]", ":6: a bridge needs ports"),
        (GOOD + "[[bridge]]\nname='b'\nports=['a','a']", ":6: 'a' is a port already"),
        (GOOD + "addresses='10.0.0.1/24'\n" + BRIDGE, ":7: 'a' is a port: its addresses belong to 'b'"),
        (GOOD + BRIDGE + "[[bridge]]\nname='c'\nports=['b']", ":9: 'b' cannot be a port: it is of a bridge"),
        (GOOD + "[nat]\nmasquerade = ['z']", ":5: there is no interface 'z' in this file (but a)"),
        (GOOD + "[nat]\nmasquerad = ['a']", ":5: no key 'masquerad' in nat: did you mean 'masquerade'?"),
        (GOOD + NAT.replace("'a'", "'b'", 1) + "protocol='tcp'\nport=80\nto='10.0.0.2'", ":7: 'a' is not one that ma"),
        (GOOD + NAT + "protocol='tpc'\nport=80\nto='10.0.0.2'", ":8: nat.forward[0].protocol: 'tpc': did you mean"),
        (GOOD + NAT + "protocol='tcp'\nport=80\nto='fd00::1'", ":10: 'fd00::1': addresses are translated in IPv4 only"),
        ("hosts = 3", ":1: hosts: a table is wanted, not a number"),
        ("[sysctl]\nnet.ipv4.tcp_sack = 1.5", ":2: tcp_sack: a number"),
        ("[stack]\nmemory = '1k'", ":2: stack.memory: '1k' is not an amount of memory"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_line(text: str, complaint: str) -> None:
    with pytest.raises(conf.ConfigError) as caught:
        conf.parse(text, "lab.toml")
    assert complaint in str(caught.value)
    assert str(caught.value).startswith("lab.toml:")


def test_everything_wrong_is_said_at_once() -> None:
    with pytest.raises(conf.ConfigError) as caught:
        conf.parse("[dns]\nport = 0\n[stack]\nx = 1\n[[interface]]\nname = ''\n")
    assert [line for line, _ in caught.value.errors] == [1, 2, 4, 6]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[sysctl]\nnet.ipv4.tcp_sac = 1", ":2: 'net.ipv4.tcp_sac' is no knob of this stack; close: net.ipv4.tcp_sack"),
        (GOOD + "gateway = '10.7.7.7'", ":1: "),
        (GOOD + "[[route]]\nto = '192.0.2.0/24'\nvia = '10.9.0.1'", ":4: "),
        ("[[service]]\nkind = 'echo'\nport = 7\n[[service]]\nkind = 'http'\nport = 7", ":4: "),
        ("[dns]\nservers = '10.0.0.1'\nsearch = 'a..b'", ":1: "),
        (GOOD + "[nat]\nmasquerade = 'a'\n[[nat.forward]]\ninterface='a'\nprotocol='tcp'\nport=80\nto='10.0.0.2'\n"
         "[[nat.forward]]\ninterface='a'\nprotocol='tcp'\nport=80\nto='10.0.0.3'", ":11: [Errno 17] File exists"),
        (GOOD + "[[vlan]]\ninterface='a'\nid=5\nmtu=9000", ":4: mtu: 9000 is more than the 1500 bytes"),
        (GOOD + "[[bridge]]\nname='b'\nports=['a']\nmtu=9000", ":4: mtu: 9000 is more than the 1500 bytes"),
    ],
)  # fmt: skip
def test_what_the_stack_refuses_has_its_line_too(text: str, complaint: str) -> None:
    config = conf.parse(text)
    with pytest.raises(conf.ConfigError) as caught:
        conf.open_stack(config, "manual")
    assert f"configuration{complaint}" in str(caught.value)


WHOLE = """
[stack]
memory = "32M"
forwarding = true
[[interface]]
name = "left"
kind = "pipe"
peer = "right"
addresses = ["10.9.0.1/24", "fd09::1/64"]
mac = "02:00:00:00:00:01"
mdns = { hostname = "box" }
llmnr = { hostname = "box" }
link-local = true
mtu = 1400
[[interface]]
name = "right"
kind = "pipe"
addresses = ["10.9.1.1/24", "fd0a::1/64"]
gateway = ["10.9.1.9", "fd0a::9"]
[[interface]]
name = "alone"
kind = "pipe"
addresses = "10.9.2.1/24"
[[route]]
to = "192.0.2.0/24"
via = "10.9.0.7"
metric = 5
mtu = 1300
source = "10.9.0.1"
[[route]]
to = "192.0.2.0/24"
interface = "right"
metric = 9
[[route]]
to = "198.51.100.0/24"
interface = "right"
table = 100
[[rule]]
from = "10.9.2.0/24"
iif = "alone"
priority = 50
table = 100
[[neighbor]]
interface = "alone"
address = "10.9.2.9"
mac = "02:00:00:00:00:09"
[dns]
servers = ["10.9.0.53"]
search = "lab.test"
[hosts]
"Box.Test" = "10.9.2.1"
[sysctl]
"net.ipv4.tcp_sack" = 0
net.ipv4.tcp_rmem = [4096, 65536, 131072]
net.ipv4.tcp_timestamps = false
[[publish]]
name = "a page"
type = "_http._tcp"
port = 80
txt = { path = "/" }
[[service]]
kind = "answer"
port = 17
text = "hello"
"""


def test_a_whole_configuration() -> None:
    with conf.open_stack(conf.parse(WHOLE)) as stack:
        interfaces = {one.name: one for one in stack.interfaces()}
        assert (interfaces["left"].mac, interfaces["left"].mtu) == ("02:00:00:00:00:01", 1400)
        assert "fd09::1/64" in [str(a) for a in interfaces["left"].addresses]
        routes = {(r.destination, r.gateway, r.interface, r.metric, r.mtu, r.source) for r in stack.routes()}
        assert ("192.0.2.0/24", "10.9.0.7", "left", 5, 1300, "10.9.0.1") in routes
        assert ("192.0.2.0/24", None, "right", 9, 0, None) in routes
        assert {r.gateway for r in stack.routes() if r.destination in ("0.0.0.0/0", "::/0")} == {"10.9.1.9", "fd0a::9"}
        assert [r.table for r in stack.routes() if r.destination == "198.51.100.0/24"] == [100]
        assert (50, "10.9.2.0/24", "alone", 100) in [(r.priority, r.source, r.iif, r.table) for r in stack.rules()]
        assert {n.address: n.mac for n in stack.neighbors()}["10.9.2.9"] == "02:00:00:00:00:09"
        assert (stack.resolver.servers, stack.resolver.search) == (["10.9.0.53"], ["lab.test"])
        assert stack.sysctl["net.ipv4.ip_forward"] == 1
        assert stack.sysctl["net.ipv4.tcp_sack"] == stack.sysctl["net.ipv4.tcp_timestamps"] == 0
        assert stack.sysctl["net.ipv4.tcp_rmem"] == (4096, 65536, 131072)
        assert {type(one).__name__ for one in stack._clients} == {"Mdns", "Llmnr", "LinkLocal"}
        with stack.create_connection(("box.test", 17), timeout=10) as sock:
            sock.sendall(b"?")
            assert sock.recv(10) == b"hello\n"


LAYERS = """
[stack]
forwarding = true
[[interface]]
name = "wan"
kind = "pipe"
addresses = "192.0.2.1/24"
[[interface]]
name = "trunk"
kind = "pipe"
[[interface]]
name = "lan"
kind = "pipe"
[[vlan]]
interface = "lab"
id = 9
name = "upper"
addresses = "10.9.0.1/24"
[[vlan]]
interface = "trunk"
id = 5
priority = 3
[[vlan]]
interface = "trunk"
id = 6
name = "guests"
mtu = 1400
addresses = ["10.6.0.1/24", "fd06::1/64"]
gateway = "10.6.0.9"
mdns = true
[[bridge]]
name = "lab"
ports = ["lan", "trunk.5"]
mac = "02:00:00:00:00:bb"
ageing-time = 60
addresses = "10.5.0.1/24"
[nat]
masquerade = "wan"
[[nat.forward]]
interface = "wan"
protocol = "tcp"
port = 8080
to = "10.5.0.7"
to-port = 80
[[route]]
to = "10.66.0.0/16"
via = "10.6.0.7"
interface = "guests"
[[neighbor]]
interface = "lab"
address = "10.5.0.7"
mac = "02:00:00:00:00:07"
"""


def test_vlans_bridges_and_translation() -> None:
    """The VLAN of a bridge may stand before it in the file; a port that is forwarded is found at the outer address."""
    config = conf.parse(LAYERS)
    with ustack.Stack() as stack:
        ends = conf.apply(config, stack).ends
        shown = {one.name: one for one in stack.interfaces()}
        assert list(shown) == ["lo", "wan", "trunk", "lan", "trunk.5", "guests", "lab", "upper"]
        assert (shown["lab"].ports, shown["lab"].mac) == (("lan", "trunk.5"), "02:00:00:00:00:bb")
        assert (shown["guests"].parent, shown["guests"].vlan, shown["guests"].mtu) == ("trunk", 6, 1400)
        assert shown["upper"].parent == "lab"
        assert {"10.66.0.0/16", "0.0.0.0/0"} <= {r.destination for r in stack.routes() if r.interface == "guests"}
        assert [type(one).__name__ for one in stack._clients] == ["Mdns"]
        with pytest.raises(FileExistsError):
            stack.nat.forward("wan", "tcp", 8080, ("10.5.0.7", 80))
        stack.del_neighbor("lab", "10.5.0.7")
        with ustack.Stack() as outside, ustack.Stack() as inside:
            outside.attach(ends["wan"], addresses=["192.0.2.2/24"])
            name = inside.attach(ends["trunk"])
            inside.add_vlan(name, 5, addresses=["10.5.0.7/24"], gateway="10.5.0.1")
            listener = inside.create_server(("10.5.0.7", 80))
            with outside.create_connection(("192.0.2.1", 8080), timeout=10):
                conn, peer = listener.accept()
                assert peer[0] == "192.0.2.2"
                conn.close()


def test_the_far_end_of_a_pipe() -> None:
    with ustack.Stack() as stack, ustack.Stack() as other:
        applied = conf.apply(conf.parse(GOOD + "addresses = '10.9.0.2/24'"), stack)
        other.attach(applied.ends["a"], addresses=["10.9.0.1/24"])
        listener = stack.create_server(("", 80))
        with other.create_connection(("10.9.0.2", 80), timeout=10) as client:
            assert listener.accept()[0].getpeername() == client.getsockname()


def test_the_examples_are_good_ones() -> None:
    config = conf.load(Path(__file__).resolve().parents[2] / "examples" / "lab.toml")
    assert [one["name"] for one in config.list("interface")] == ["ust0", "ust1"]
    router = (Path(__file__).resolve().parents[2] / "examples" / "router.toml").read_text()
    # The same over wires in memory, which need no privilege.
    pipes = "\n".join(line for line in router.splitlines() if not line.startswith("host-"))
    pipes = pipes.replace("[[interface]]\n", '[[interface]]\nkind = "pipe"\n')
    with conf.open_stack(conf.parse(pipes)) as stack:
        shown = {one.name: one for one in stack.interfaces()}
        assert (shown["office"].ports, shown["guests"].parent) == (("ust1.5", "ust2"), "ust1")


def test_kinds_of_services() -> None:
    assert schema.SERVICES == service.KINDS


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "lab.toml"
    config.write_text("[stack]\nmemori = 1\n")
    assert main(["up", "--config", str(config)]) == 1
    assert capsys.readouterr().err == f"ustack up: {config}:2: no key 'memori' in stack: did you mean 'memory'?\n"
    assert main(["up", "--config", str(tmp_path / "nowhere")]) == 1
    assert "cannot be read" in capsys.readouterr().err


def test_options_count_for_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A program on the stack of a file, of which the command line changes an address."""
    config = tmp_path / "lab.toml"
    program = tmp_path / "program.py"
    program.write_text(
        "import socket\ns = socket.create_server(('10.9.0.3', 80))\nprint(socket.gethostbyname('box.test'))\n"
    )
    config.write_text(WHOLE.replace('source = "10.9.0.1"\n', ""))
    assert main(["run", "--config", str(config), "--address", "10.9.0.3/24", str(program)]) == 0
    assert capsys.readouterr().out == "10.9.2.1\n"
    assert socket.socket.__module__ == "socket"
