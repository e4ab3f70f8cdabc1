"""Choosing congestion control for a stack: the three knobs and what they let a socket have."""

from __future__ import annotations

import socket

import pytest

import ustack


def test_congestion_control_knobs() -> None:
    with ustack.Stack() as stack:
        knobs, name = stack.sysctl, "net.ipv4.tcp_{}congestion_control"
        assert knobs[name.format("available_")] == "reno cubic bbr"
        with pytest.raises(PermissionError):
            knobs[name.format("available_")] = "reno"
        knobs[name.format("allowed_")] = "cubic"
        with stack.socket() as sock:
            with pytest.raises(PermissionError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
            knobs[name.format("")] = "reno"  # a default is allowed
            assert knobs[name.format("allowed_")] == "reno cubic"
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
        with pytest.raises(ValueError):
            knobs[name.format("allowed_")] = "reno magic"
