"""Neighbours that are told rather than asked for."""

from __future__ import annotations

import errno

import pytest

from ustack import sim


def test_a_permanent_neighbour_is_not_asked_for_and_can_be_deleted() -> None:
    with sim.Network(seed=1) as net:
        a, b = net.stack("a"), net.stack("b")
        net.wire(a, b, addresses=("10.0.0.1/24", "10.0.0.2/24"))
        net.run(1)
        name = next(one.name for one in b.interfaces() if one.name != "lo")
        mac = next(one.mac for one in a.interfaces() if one.name != "lo")
        asked = b.counters()["ArpOutRequests"]
        b.add_neighbor(name, "10.0.0.1", mac)
        server = a.create_server(("", 80))
        b.create_connection(("10.0.0.1", 80)).close()
        net.run(3600)
        server.close()
        assert b.counters()["ArpOutRequests"] == asked
        assert [(one.address, one.state) for one in b.neighbors()] == [("10.0.0.1", "PERMANENT")]
        b.del_neighbor(name, "10.0.0.1")
        assert b.neighbors() == []
        with pytest.raises(OSError) as caught:
            b.del_neighbor(name, "10.0.0.1")
        assert caught.value.errno == errno.ENOENT


def test_a_group_address_is_no_neighbour() -> None:
    with sim.Network(seed=1) as net:
        a, b = net.stack("a"), net.stack("b")
        net.wire(a, b, addresses=("10.0.0.1/24", "10.0.0.2/24"))
        with pytest.raises(ValueError, match="mac"):
            a.add_neighbor("lo", "10.0.0.2", "ff:ff:ff:ff:ff:ff")
