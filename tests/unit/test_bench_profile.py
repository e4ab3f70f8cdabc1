"""What the bench reads from perf's stacks."""

from __future__ import annotations

from collections import Counter

import pytest

from bench import profile

SO = "/there/ustack_ext/{}.cpython-311-x86_64-linux-gnu.so"
SCRIPT = f"""\
python 26815
\tffffffff821ebc23 csum_partial ([kernel.kallsyms])
\tffffffff81e6889f netif_receive_skb ([kernel.kallsyms])
\tffffffff81db80b7 tun_chr_write_iter ([kernel.kallsyms])
\t          fde9d __GI___writev (/usr/lib/libc.so.6)
\t           31fb __pyx_f_10ustack_ext_3net_5frame_frame_transmit ({SO.format("net/frame")})
\t           40fa __pyx_f_10ustack_ext_3net_6output_output_packet ({SO.format("net/output")})

python 26815
\tffffffff821f51c6 exc_page_fault ([kernel.kallsyms])
\t          16db75 __memmove_avx512_unaligned_erms (/usr/lib/libc.so.6)
\t          16db75 __pyx_f_10ustack_ext_3tcp_4user_tcp_send ({SO.format("tcp/user")})

python 26815
\tffffffff81db80b7 tun_chr_read_iter ([kernel.kallsyms])
\tffffffff816bb9d6 ksys_read ([kernel.kallsyms])
\t          101829 syscall (/usr/lib/libc.so.6)
\t            33da __pyx_f_10ustack_ext_4link_3tap_tap_receive ({SO.format("link/tap")})

python 26815
\t            404a ustack_csum_avx2 ({SO.format("wire/checksum")})

python 26815
\t          16db75 __memmove_avx512_unaligned_erms (/usr/lib/libc.so.6)
\t            e875 __pyx_pw_10ustack_ext_7sockets_4core_10SocketCore_15sendall ({SO.format("sockets/core")})

python 26815
\t          158ba3 PyObject_Vectorcall (/usr/lib/libpython3.11.so.1.0)
\t    7f46d6376ef8 [unknown] ([unknown])
"""


def test_purposes() -> None:
    assert [profile.purpose(sample) for sample in profile.samples(SCRIPT)] == [
        "kernel: write a frame to the device; its TCP receives there and then",
        "kernel: page faults",
        "kernel: read a frame from the device",
        "ustack: checksums",
        "ustack: copying",
        "Python",
    ]


def test_functions() -> None:
    assert [profile.function(sample) for sample in profile.samples(SCRIPT)] == [
        "net/frame frame_transmit → writev",
        "tcp/user tcp_send → page fault",
        "link/tap tap_receive → read a frame from the device",
        "wire/checksum ustack_csum_avx2",
        "sockets/core SocketCore.sendall → memmove",
        None,
    ]


@pytest.mark.parametrize(
    ("caller", "told"),
    [
        ("read", "kernel: read a frame from the device"),
        ("ppoll", "kernel: wait for the device: poll"),
        ("epoll_wait", "kernel: wait for sockets: epoll"),
        ("__GI___lll_lock_wait", "kernel: wake and wait for threads: futex"),
        ("unheard_of", "kernel: the rest"),
    ],
)
def test_system_calls(caller: str, told: str) -> None:
    assert profile.purpose([("do_syscall_64", profile.KERNEL), (caller, "/usr/lib/libc.so.6")]) == told


@pytest.mark.parametrize(
    ("symbol", "name"),
    [
        ("__pyx_f_10ustack_ext_7sockets_6handle_send", "sockets/handle send"),
        ("__pyx_pw_10ustack_ext_7sockets_6handle_12SocketHandle_7_close_now", "sockets/handle SocketHandle._close_now"),
        ("plain_c", "sockets/handle plain_c"),
    ],
)
def test_names_are_readable(symbol: str, name: str) -> None:
    assert profile.function([(symbol, SO.format("sockets/handle"))]) == name


def test_table_adds_up() -> None:
    lines = profile.table("what", Counter({"much": 900, "some": 99, "little": 1}), 1000).splitlines()
    assert lines[2:] == ["| much | 90.0 |", "| some | 9.9 |", "| everything else | 0.1 |"]
