"""What every verb shares: wrong arguments, refused devices, signals, and the documentation of it all."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ustack import namespace, osutil
from ustack.cli import app, main, reference, session
from ustack.cli.demo import byte_count
from ustack.cli.errors import CommandError, Terminated
from ustack.cli.terminal import Progress, rate, size

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "the following arguments are required: VERB"),
        (["fly"], "invalid choice: 'fly'"),
        (["up"], "DEVICE"),
        (["up", "a name"], "is not a device name"),
        (["up", "sixteen-letters!"], "is not a device name (1 to 15 characters"),
        (["up", "ust0", "--address", "10.9.0.2"], "has no prefix length: write 10.9.0.2/24"),
        (["up", "ust0", "--address", "10.9.0.300/24"], "is not an address with a prefix length"),
        (["up", "ust0", "--gateway", "router"], "is neither an address, such as 10.9.0.1, nor 'none'"),
        (["up", "ust0", "--mtu", "67"], "is not an MTU (68 to 65535 bytes)"),
        (["up", "ust0", "--service", "gopher:70"], "'gopher' is no service (echo, discard, chargen, answer, http)"),
        (["up", "ust0", "--service", "echo:7=x"], "echo sends no text of yours"),
        (["up", "ust0", "--service", "echo"], "is not a port (1 to 65535)"),
        (["serve", "--port", "65536"], "is not a port (1 to 65535)"),
        (["serve", "--tap", "a", "--tun", "b"], "not allowed with argument --tap"),
        (["curl"], "URL"),
        (["curl", "-m", "-1", "http://h/"], "is not a time in seconds"),
        (["curl", "-m", "nan", "http://h/"], "is not a time in seconds"),
        (["curl", "-o", "f", "-O", "http://h/"], "not allowed with argument"),
        (["ping", "-c", "0", "10.9.0.1"], "is not a count"),
        (["ping", "-s", "65508", "10.9.0.1"], "is not a payload size (0 to 65507)"),
        (["ping", "-t", "256", "10.9.0.1"], "is not a time to live"),
        (["demo", "--size", "many"], "is not a size, such as 256M"),
        (["demo", "--link", "wire"], "invalid choice"),
    ],
)
def test_wrong_arguments_are_2_with_a_sentence(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    assert sentence in capsys.readouterr().err


def all_verbs() -> list[str]:
    """The names of all verbs: a module's last part, or what the verb says."""
    return [getattr(verb, "name", None) or getattr(verb, "__name__", "").rpartition(".")[2] for verb in app.VERBS]


@pytest.mark.parametrize("verb", ["", *all_verbs()])
def test_help_of_every_verb(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([verb, "--help"] if verb else ["--help"])
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: ustack {verb}".rstrip())
    assert "None" not in out


def test_the_reference_in_docs_is_that_of_the_parser() -> None:
    path = ROOT / "docs/cli.md"
    assert path.read_text() == reference.updated(path.read_text()), "run: python -m ustack.cli.reference docs/cli.md"


# -- errors become sentences and exit codes


def ends_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> int:
    def run(args: argparse.Namespace) -> int:
        raise error

    parser = argparse.ArgumentParser()
    parser.set_defaults(run=run, verb="test")
    monkeypatch.setattr(app, "build_parser", lambda: parser)
    return main([])


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (CommandError("no such thing"), 1, "ustack test: no such thing\n"),
        (CommandError("wrong", code=2), 2, "ustack test: wrong\n"),
        (KeyboardInterrupt(), 130, ""),
        (Terminated(signal.SIGTERM), 143, ""),
        (Terminated(signal.SIGHUP), 129, ""),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "x"), 1, "No such file or directory: 'x'\n"),
        (ImportError("ustack_ext.engine"), 1, "pip install"),
    ],
)
def test_how_a_verb_ends(
    error: BaseException, code: int, sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert ends_with(error, monkeypatch) == code
    err = capsys.readouterr().err
    assert sentence in err
    assert "Traceback" not in err
    assert err.count("\n") == bool(sentence)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_fault_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError):
        ends_with(ZeroDivisionError(), monkeypatch)


def run_with_signal(number: int) -> tuple[int, bytes]:
    """`ustack up` on the stand-in, and a signal when it says that it runs."""
    command = [sys.executable, "-m", "tests.unit.cli_fakes", "up", "fake0", "--json"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert b"fake0" in process.stdout.readline()
        process.send_signal(number)
        return process.wait(30), process.stderr.read()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_it_quietly(number: int) -> None:
    assert run_with_signal(number) == (128 + number, b"")


def test_stdout_that_is_closed_is_quiet() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "ustack", "doctor", "--json"]
    done = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, timeout=60)
    os.close(writer)
    assert done.stderr == b""
    assert done.returncode in (1, 128 + signal.SIGPIPE)


# -- devices that cannot be had


def explain(error: OSError, name: str = "ust0", kind: str = "tap") -> str:
    return session.explain_device(error, name, kind, "10.9.0.1/24")


def test_refused_devices_name_the_command_that_mends_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tun = tmp_path / "tun"
    monkeypatch.setattr(namespace, "TUN_DEVICE", str(tun))
    assert "sudo modprobe tun" in explain(FileNotFoundError(errno.ENOENT, "No such file"))
    tun.touch()
    denied = explain(PermissionError(errno.EPERM, "Operation not permitted"))
    assert "needs CAP_NET_ADMIN" in denied
    assert "`sudo ip tuntap add dev ust0 mode tap user " in denied
    assert "sudo ip address add 10.9.0.1/24 dev ust0" in denied
    assert "in use by another process" in explain(OSError(errno.EBUSY, "busy"))
    assert "exists and is not a TUN" in explain(OSError(errno.EINVAL, "Invalid argument"), "lo", "tun")
    assert explain(OSError(errno.ENOMEM, "Cannot allocate memory")).endswith("Cannot allocate memory")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert f"sudo chmod 666 {tun}" in explain(PermissionError(errno.EACCES, "Permission denied"))


def test_unknown_namespaces_are_sentences() -> None:
    for where in ("no-such-name", "/no/such/path", "4194304"):
        args = argparse.Namespace(netns=where, device="ust0", tun=None)
        with pytest.raises(CommandError, match="there is no network namespace"):
            session.enter_network(args, alone_is_useful=False)


def parsed(*words: str) -> argparse.Namespace:
    return app.build_parser().parse_args(["up", "ust0", *words])


def test_default_addresses_are_for_devices_made_here(monkeypatch: pytest.MonkeyPatch) -> None:
    assert session._host_addresses(parsed(), "no-such-device") == ["10.9.0.1/24"]
    for capable, addresses in ((True, []), (False, None)):
        monkeypatch.setattr(osutil, "has_capability", lambda number, capable=capable: capable)
        assert session._host_addresses(parsed(), "lo") == addresses
    assert session._host_addresses(parsed("--host-address", "192.0.2.1/30"), "lo") == ["192.0.2.1/30"]


@pytest.mark.parametrize(
    ("words", "gateway"),
    [
        ([], "10.9.0.1"),
        (["--gateway", "none"], None),
        (["--gateway", "10.9.0.7"], "10.9.0.7"),
        (["--address", "192.0.2.2/24"], None),
        (["--address", "192.0.2.2/24", "--host-address", "192.0.2.1/24"], "192.0.2.1"),
    ],
)
def test_the_default_gateway_is_a_host_address_in_reach(words: list[str], gateway: str | None) -> None:
    assert session._gateway(parsed(*words)) == gateway


# -- figures


def test_sizes_and_rates() -> None:
    assert [size(n) for n in (0, 1023, 1024, 256 << 20)] == ["0 B", "1023 B", "1.0 KiB", "256.0 MiB"]
    assert size(3 << 40) == "3072.0 GiB"
    assert rate(125, 1) == "1.00 kbit/s"
    assert rate(1 << 30, 1) == "8.59 Gbit/s"
    assert rate(0, 0) == "0 bit/s"


@pytest.mark.parametrize(("text", "count"), [("1", 1), ("64k", 65536), ("256M", 256 << 20), ("1GiB", 1 << 30)])
def test_byte_counts(text: str, count: int) -> None:
    assert byte_count(text) == count


def test_progress_draws_on_terminals_only() -> None:
    drawn: list[str] = []

    class Stream:
        def __init__(self, tty: bool) -> None:
            self.tty = tty

        def isatty(self) -> bool:
            return self.tty

        def write(self, text: str) -> None:
            drawn.append(text)

        def flush(self) -> None:
            pass

    for tty, wanted in ((False, True), (True, False)):
        progress = Progress(Stream(tty), 100, wanted)  # type: ignore[arg-type]
        progress.advance(100)
        progress.finish()
        assert drawn == []
    progress = Progress(Stream(True), 200)  # type: ignore[arg-type]
    progress.advance(100)
    progress.finish()
    assert "[####################....................]  50%  100 B" in drawn[0]
    assert drawn[-1] == "\n"


def test_kernel_facts() -> None:
    assert osutil.kernel_version() > (2, 6)
    assert osutil.device_kind("no-such-device") is None
    assert osutil.device_kind("lo") == "other"
