"""`ustack run`: unmodified programs on a device, as clients of real servers, and as a server of the kernel's curl."""

from __future__ import annotations

import getpass
import hashlib
import importlib.util
import os
import signal
import socket
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tap_harness.ends import Ends
from tap_harness.need import missing_program
from tests.certificate import PEM


def wanted(*, library: str = "", program: str = "") -> None:
    if library and importlib.util.find_spec(library) is None:
        pytest.skip(f"optional: {library} is not installed (pip install -e '.[interop]')")
    if program and missing_program(program):
        pytest.skip(f"optional: the program {program} is not installed")


def run(ns: Any, tmp_path: Path, ends: Ends, program: str) -> str:
    """What a program prints that `ustack run` runs."""
    path = tmp_path / "program.py"
    path.write_text(program)
    child = ns.python("ustack", "run", *ends.options[:2], "--host", f"server.test={ends.kernel}", str(path))
    code = child.wait(60)
    assert code == 0, child.output()
    return str(child.output())


REDIS = """\
import redis
options = dict(host="server.test", port=6379, socket_timeout=20, **{tls})
client = redis.Redis(**options)
with client.pipeline() as pipe:
    for i in range(500):
        pipe.set(f"key{i}", bytes(1000))
    pipe.execute()
client.set("big", b"x" * 3_000_000)
print(client.dbsize(), len(client.get("big")), sum(client.strlen(f"key{i}") for i in range(100)))

import asyncio, redis.asyncio
async def main():
    async with redis.asyncio.Redis(**options) as client:
        print(sorted(await asyncio.gather(*(client.incr("counter") for _ in range(50)))) == list(range(1, 51)))
asyncio.run(main())
"""


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_redis(ns: Any, tmp_path: Path, ends: Ends, tls: bool) -> None:
    wanted(library="redis", program="redis-server")
    ends.device(ns)
    settings = {"bind": ends.kernel, "port": "6379", "save": "", "protected-mode": "no", "dir": str(tmp_path)}
    if tls:
        settings |= {"port": "0", "tls-port": "6379", "tls-cert-file": str(PEM), "tls-key-file": str(PEM)}
        settings |= {"tls-ca-cert-file": str(PEM), "tls-auth-clients": "no"}
    server = ns.popen(["redis-server", *(word for name, value in settings.items() for word in (f"--{name}", value))])
    ns.wait_accepting((ends.kernel, 6379), child=server)
    options = {"ssl": True, "ssl_ca_certs": str(PEM)} if tls else {}
    lines = run(ns, tmp_path, ends, REDIS.replace("{tls}", repr(options))).splitlines()
    assert lines == ["501 3000000 100000", "True"]
    server.stop()


FTP = """\
import ftplib, hashlib, ssl
context = ssl.create_default_context(cafile={pem!r})
client = ftplib.FTP_TLS(context=context) if {tls} else ftplib.FTP()
with client:
    client.connect("server.test", 21, timeout=20)
    client.login()
    if {tls}:
        client.prot_p()
    digest = hashlib.sha256()
    client.retrbinary("RETR file", digest.update)
    print(sorted(client.nlst()), client.size("file"), digest.hexdigest())
"""


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_vsftpd(ns: Any, tmp_path: Path, ends: Ends, tls: bool) -> None:
    """Passive mode: a connection for each list and file; with TLS all of them are encrypted."""
    wanted(program="vsftpd")
    ends.device(ns)
    body = os.urandom(1 << 20)
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)  # pytest's own are for their owner alone
        root.chmod(0o755)
        (root / "file").write_bytes(body)
        settings = {"listen": "NO", "listen_ipv6": "YES", "background": "NO", "anonymous_enable": "YES"}
        settings |= {"anon_root": directory, "secure_chroot_dir": directory, "seccomp_sandbox": "NO"}
        settings |= {"isolate": "NO", "isolate_network": "NO"}
        if tls:
            settings |= {"ssl_enable": "YES", "allow_anon_ssl": "YES", "force_anon_data_ssl": "YES"}
            settings |= {"rsa_cert_file": str(PEM), "rsa_private_key_file": str(PEM), "require_ssl_reuse": "NO"}
        configuration = tmp_path / "vsftpd.conf"
        configuration.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        server = ns.popen(["vsftpd", str(configuration)])
        ns.wait_accepting((ends.kernel, 21), child=server)
        printed = run(ns, tmp_path, ends, FTP.format(pem=str(PEM), tls=tls))
        server.stop()
    assert printed.strip() == f"['file'] {1 << 20} {hashlib.sha256(body).hexdigest()}"


SSH = """\
import asyncio, asyncssh
async def main():
    options = dict(known_hosts=None, client_keys=[{key!r}], username={user!r})
    async with asyncssh.connect("server.test", 2222, **options) as connection:
        print((await connection.run("echo over $SSH_CONNECTION", check=True)).stdout, end="")
        result = await connection.run("head -c 3000000 /dev/zero | tr '\\\\0' x", check=True)
        print(len(result.stdout))
asyncio.run(main())
"""


def test_sshd(ns: Any, tmp_path: Path, ends: Ends) -> None:
    wanted(library="asyncssh", program="sshd")
    wanted(program="ssh-keygen")
    if os.geteuid() != 0:
        pytest.skip("optional: sshd needs root")
    ends.device(ns)
    for name in ("host", "user"):
        ns.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)])
    (tmp_path / "authorized").write_text((tmp_path / "user.pub").read_text())
    settings = {
        "Port": "2222",
        "ListenAddress": ends.kernel,
        "HostKey": str(tmp_path / "host"),
        "AuthorizedKeysFile": str(tmp_path / "authorized"),
        "PidFile": "none",
        "StrictModes": "no",
        "UsePAM": "no",
        "PermitRootLogin": "yes",
    }
    (tmp_path / "config").write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    ns.sh("mkdir -p /run/sshd")
    server = ns.popen(["/usr/sbin/sshd", "-D", "-e", "-f", str(tmp_path / "config")])
    ns.wait_accepting((ends.kernel, 2222), child=server)
    lines = run(ns, tmp_path, ends, SSH.format(key=str(tmp_path / "user"), user=getpass.getuser())).splitlines()
    assert lines[0].startswith(f"over {ends.stack} ")
    assert lines[1] == "3000000"
    server.stop()


POSTGRES = """\
import asyncio, asyncpg, ssl
async def main():
    secure = ssl.create_default_context(cafile={cafile!r}) if {tls} else False
    where = dict(host="server.test", user="tester", database="postgres", timeout=20)
    connection = await asyncpg.connect(**where, ssl=secure)
    print(await connection.fetchval("select ssl from pg_stat_ssl where pid = pg_backend_pid()"))
    await connection.execute("create temporary table pairs (number int, words text)")
    await connection.copy_records_to_table("pairs", records=[(i, "x" * 1000) for i in range(3000)])
    print(await connection.fetchval("select sum(number * length(words)) from pairs"))
    await connection.close()
asyncio.run(main())
"""


def test_postgresql(ns: Any, tmp_path: Path, ends: Ends) -> None:
    wanted(library="asyncpg")
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not programs or os.geteuid() != 0:
        pytest.skip("optional: there is no PostgreSQL, or nobody to run it as")
    ends.device(ns)
    place = tmp_path / "database"
    place.mkdir()
    for path in (place, *tmp_path.parents):
        if path.is_relative_to("/tmp") and path != Path("/tmp"):
            path.chmod(0o755)
    tmp_path.chmod(0o755)
    as_user = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"]
    ns.run(["chown", "postgres", str(place)])
    made = ns.run(
        [*as_user, str(programs[-1]), "-D", str(place), "-U", "tester", "-A", "trust", "--no-sync"], timeout=60
    )
    assert made.returncode == 0, made.stderr
    with (place / "pg_hba.conf").open("a") as file:
        file.write(f"host all all {ends.stack}/{128 if ends.six else 32} trust\n")
    for name in ("server.crt", "server.key"):  # PostgreSQL wants a key that nobody else may read
        (place / name).write_text(PEM.read_text())
        (place / name).chmod(0o600)
        ns.run(["chown", "postgres", str(place / name)])
    options = ["-h", ends.kernel, "-k", "", "-F", "-c", "ssl=on"]
    server = ns.popen([*as_user, str(programs[-1].with_name("postgres")), "-D", str(place), *options])
    ns.wait_accepting((ends.kernel, 5432), child=server)
    for tls in (False, True):
        program = POSTGRES.format(cafile=str(PEM), tls=tls)
        assert run(ns, tmp_path, ends, program).split() == [str(tls), str(sum(range(3000)) * 1000)]
    server.stop()


def test_http_server_for_curl(ns: Any, tmp_path: Path, ends: Ends) -> None:
    """`ustack run -m http.server`."""
    wanted(program="curl")
    (tmp_path / "page").write_text("from an unmodified server\n")
    ends.device(ns)
    words = ["-m", "http.server", "80", "--bind", ends.any, "--directory", str(tmp_path)]
    server = ns.python("ustack", "run", *ends.options[:2], *words)
    server.wait_line("Serving HTTP", timeout=20)
    assert ns.sh(f"curl -gsS --max-time 20 {ends.url(ends.stack)}/page") == "from an unmodified server\n"
    server.stop()


ENDED = """\
import asyncio
async def serve(reader, writer):
    try:
        print("connected", flush=True)
        await reader.read()
    except asyncio.CancelledError:
        print("client cancelled", flush=True)
        raise
async def main():
    server = await asyncio.start_server(serve, {host!r}, 80)
    try:
        print("ready", flush=True)
        await asyncio.sleep(3600)
    finally:
        print("main cancelled", flush=True)
asyncio.run(main())
"""


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_program_that_is_ended(ns: Any, tmp_path: Path, ends: Ends, name: str, code: int) -> None:
    """What runs in its event loop is cancelled, and the exit code is the signal's."""
    path = tmp_path / "program.py"
    path.write_text(ENDED.format(host=ends.any))
    ends.device(ns)
    child = ns.python("ustack", "run", *ends.options[:2], str(path))
    child.wait_line("ready", timeout=20)
    with ns.call(lambda: socket.create_connection((ends.stack, 80), 20)):
        child.wait_line("connected", timeout=20)
        child.signal(getattr(signal, name))
        assert child.wait(20) == code
    assert {"main cancelled", "client cancelled"} <= set(child.output().splitlines())


UVICORN = """\
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": f"{scope['scheme']} {len(body)} bytes\\n".encode()})
"""


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_uvicorn_for_curl(ns: Any, tmp_path: Path, ends: Ends, tls: bool) -> None:
    """`ustack run -m uvicorn`, as it is installed: where there is uvloop it asks for that."""
    wanted(library="uvicorn", program="curl")
    wanted(library="h11")
    (tmp_path / "served.py").write_text(UVICORN)
    (tmp_path / "upload").write_bytes(bytes(3_000_000))
    ends.device(ns)
    words = ["-m", "uvicorn", "served:app", "--app-dir", str(tmp_path), "--host", ends.any, "--port", "443"]
    words += ["--http", "h11", *(["--ssl-keyfile", str(PEM), "--ssl-certfile", str(PEM)] if tls else [])]
    server = ns.python("ustack", "run", *ends.options[:2], *words)
    server.wait_line("Uvicorn running on", timeout=20)
    scheme = "https" if tls else "http"
    where = f"--cacert {PEM} --resolve server.test:443:{ends.quoted(ends.stack)} {scheme}://server.test:443/"
    said = ns.sh(f"curl -gsS --max-time 20 --data-binary @{tmp_path}/upload {where}")
    assert said == f"{scheme} 3000000 bytes\n"
    server.stop()


def test_curl_through_the_proxy(nginx: Any) -> None:
    """The kernel's curl, through `ustack proxy`, over the stack, back to the kernel's nginx."""
    wanted(program="curl")
    nginx.ns.sh("ip link set lo up")
    ports = ["--socks5", "127.0.0.1:1080", "--http-connect", "127.0.0.1:3128"]
    proxy = nginx.ns.python("ustack", "proxy", *nginx.options, *ports)
    proxy.wait_line("HTTP CONNECT proxy on", timeout=20)
    for options in ("-x socks5h://127.0.0.1:1080", "-p -x http://127.0.0.1:3128"):
        command = f"curl -sS --max-time 60 {options} {nginx.url}/big | sha256sum"
        assert nginx.ns.sh(command, timeout=90).split()[0] == nginx.big_sha256
    proxy.stop()
