"""HTTPS as its users meet it: clients that are not ours, certificates that change, wrong settings."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect

from tests.apps.tls_app import LARGE
from tests.helpers.certificates import Authority, Files
from tests.helpers.curl import curl, needs_curl
from tests.helpers.master_process import PATIENCE_S, until
from tests.helpers.server import APPS, Ended, Serve, ServerProcess, clean_environment

APP = "tls_app:app"


@pytest.fixture(scope="module")
def server(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One that nothing is changed of."""
    with ServerProcess(tmp_path_factory.mktemp("tls"), APP, "--workers", "2", *files.flags) as server:
        yield server


def url_of(server: ServerProcess) -> str:
    (url,) = server.urls
    assert re.fullmatch(r"https://127\.0\.0\.1:\d+", url)
    return url


def port_of(server: ServerProcess) -> int:
    return int(url_of(server).rpartition(":")[2])


def client_of(server: ServerProcess, authority: Authority, files: Files | None = None) -> httpx.Client:
    context = authority.client_context(files)
    return httpx.Client(base_url=url_of(server), verify=context, trust_env=False, timeout=PATIENCE_S)


def shown(server: ServerProcess, authority: Authority, name: str = "localhost") -> str:
    """The certificate that a new connection gets, in PEM."""
    with shaken(port_of(server), authority.client_context(), name) as connection:
        der = connection.getpeercert(True)
        assert der is not None
        return ssl.DER_cert_to_PEM_cert(der)


def shaken(port: int, context: ssl.SSLContext, name: str = "localhost", **how: Any) -> ssl.SSLSocket:
    """A connection whose handshake is over."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
    try:
        return context.wrap_socket(sock, server_hostname=name, suppress_ragged_eofs=False, **how)
    except OSError:
        sock.close()
        raise


def asked(connection: ssl.SSLSocket, path: str) -> bytes:
    """All that comes for a last request, up to a proper end."""
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    said = b""
    while data := connection.recv(65536):
        said += data
    return said


# Clients


def test_httpx(server: ServerProcess, authority: Authority, files: Files) -> None:
    with client_of(server, authority) as client:
        found = client.get("/").json()
        assert found["scheme"] == "https"
        assert found["tls"]["server_cert"] == files.pem
        assert found["tls"]["tls_version"] == 0x0304
        assert client.post("/", content=b"x" * 1_000_000).json()["size"] == 1_000_000
        assert client.get("/large").content == LARGE
        for _ in range(20):
            assert client.get("/").status_code == 200


@needs_curl
@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_curl(server: ServerProcess, authority: Authority, version: str) -> None:
    flags = ("--cacert", str(authority.path), f"--tlsv{version}", "--tls-max", version)
    answer = curl(*flags, f"{url_of(server)}/")
    assert json.loads(answer.text)["tls"]["tls_version"] == {"1.2": 0x0303, "1.3": 0x0304}[version]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_s_client(server: ServerProcess, authority: Authority) -> None:
    said = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{port_of(server)}", "-servername", "localhost",
         "-CAfile", str(authority.path), "-verify_return_error", "-alpn", "h2,http/1.1", "-ign_eof"],
        input=b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        capture_output=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    text = said.stdout.decode()
    assert said.returncode == 0, said.stderr
    assert "ALPN protocol: http/1.1" in text
    assert "Verify return code: 0 (ok)" in text
    assert "HTTP/1.1 200 OK" in text
    assert text.rstrip().endswith("closed")


async def test_a_websocket(server: ServerProcess, authority: Authority) -> None:
    url = url_of(server).replace("https", "wss")
    async with asyncio.timeout(PATIENCE_S), connect(url, ssl=authority.client_context()) as client:
        assert await client.recv() == "wss"
        for message in ("hello", b"x" * 100_000):
            await client.send(message)
            assert await client.recv() == message


def test_sessions_are_resumed(files: Files, authority: Authority, serve: Serve) -> None:
    server = serve(APP, "--workers", "1", *files.flags)
    context = authority.client_context()

    def ask(session: ssl.SSLSession | None) -> tuple[bool | None, ssl.SSLSession | None]:
        with shaken(port_of(server), context, session=session) as connection:
            assert asked(connection, "/").startswith(b"HTTP/1.1 200 OK")
            return connection.session_reused, connection.session

    reused, session = ask(None)
    assert reused is False
    assert ask(session)[0] is True


def test_ctl_status_has_the_url_as_clients_write_it(server: ServerProcess) -> None:
    assert server.ctl("status")["urls"] == [url_of(server)]


def test_over_a_unix_socket(files: Files, authority: Authority, serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "s"
    serve(APP, "--workers", "1", "--uds", str(path), *files.flags)
    transport = httpx.HTTPTransport(uds=str(path), verify=authority.client_context())
    with httpx.Client(transport=transport) as client:
        assert client.get("https://localhost/").json()["client"] is None


# Certificates of clients, and by name


def test_mutual_tls(files: Files, authority: Authority, serve: Serve) -> None:
    flags = ("--ssl-cert-reqs", "2", "--ssl-ca-certs", str(authority.path))
    server = serve(APP, "--workers", "1", *files.flags, *flags)
    mine = authority.issue("client", file="alice", subject="alice")
    with client_of(server, authority, mine) as client:
        found = client.get("/").json()["tls"]
        assert found["client_cert_chain"][0] == mine.pem
        assert found["client_cert_name"] == "CN=alice"
    with client_of(server, authority) as client, pytest.raises(httpx.TransportError):
        client.get("/")
    server.saw(r"^WARNING: .*TLS handshake: peer did not return a certificate$")


def test_certificates_by_name(files: Files, authority: Authority, serve: Serve) -> None:
    one, other = authority.issue("one.example"), authority.issue("*.two.example", file="two")
    flags = ["--ssl-sni", f"one.example={one.cert}:{one.key}"]
    flags += ["--ssl-sni", f"*.two.example={other.cert}:{other.key}"]
    server = serve(APP, "--workers", "1", *files.flags, *flags)
    assert shown(server, authority, "one.example") == one.pem
    assert shown(server, authority, "www.two.example") == other.pem
    assert shown(server, authority) == files.pem


# Certificates that change


def test_new_files_are_served_without_a_signal_and_cost_nobody_a_connection(
    authority: Authority, serve: Serve
) -> None:
    files = authority.issue("localhost", "127.0.0.1", file="changing")
    server = serve(APP, "--workers", "2", *files.flags)
    with client_of(server, authority) as client:
        before = client.get("/").json()
        files.replace_by(authority.issue("localhost", "127.0.0.1", file="next"))
        until(lambda: shown(server, authority) == files.pem, "the new certificate")
        after = client.get("/").json()
        assert (after["pid"], after["client"]) == (before["pid"], before["client"])  # the same connection
    server.saw(r"New connections get the certificate that is in ", times=2)


def test_half_a_file_changes_nothing_and_is_told_once(authority: Authority, serve: Serve) -> None:
    files = authority.issue("localhost", "127.0.0.1", file="halved")
    server = serve(APP, "--workers", "1", *files.flags, quiet=False)
    old = files.pem
    files.cert.write_text(old[: len(old) // 2])
    server.saw(r"^ERROR: .*the old ones stay in use: ssl-certfile: ")
    assert shown(server, authority) == old
    new = authority.issue("localhost", "127.0.0.1", file="after")
    files.replace_by(new)
    until(lambda: shown(server, authority) == new.pem, "the new certificate")
    assert server.log().count("stay in use") == 1


def test_hup_reads_them_at_once(authority: Authority, serve: Serve) -> None:
    files = authority.issue("localhost", "127.0.0.1", file="at-hup")
    server = serve(APP, "--workers", "2", *files.flags)
    files.replace_by(authority.issue("localhost", "127.0.0.1", file="fresh"))
    server.send(signal.SIGHUP)
    server.saw(r"^INFO:     reloaded$")
    assert {shown(server, authority) for _ in range(6)} == {files.pem}


# Settings that are wrong


def wrong(folder: Path, *flags: str) -> str:
    """What the server says; it starts no worker."""
    ended = Ended(folder, APP, "--workers", "2", *flags)
    assert ended.code == 2, ended.text
    assert "worker 0" not in ended.text
    assert ended.tracebacks == 0
    return ended.text


def test_a_file_that_is_not_there(files: Files, tmp_path: Path) -> None:
    text = wrong(tmp_path, "--ssl-certfile", "/nowhere.pem", "--ssl-keyfile", str(files.key))
    assert "ssl-certfile: cannot read /nowhere.pem: No such file or directory" in text


def test_a_key_that_does_not_fit(authority: Authority, files: Files, tmp_path: Path) -> None:
    other = authority.issue("other")
    text = wrong(tmp_path, "--ssl-certfile", str(files.cert), "--ssl-keyfile", str(other.key))
    assert f"the private key in {other.key} does not belong to the certificate in {files.cert}" in text


def test_a_wrong_password_and_none(authority: Authority, tmp_path: Path) -> None:
    files = authority.issue("locked", password="open sesame")
    text = wrong(tmp_path, *files.flags, "--ssl-keyfile-password", "something else")
    assert "ssl-keyfile-password: it does not open the private key" in text
    assert "something else" not in text
    assert "is encrypted; set ssl-keyfile-password" in wrong(tmp_path, *files.flags)


def test_nobody_is_asked_for_a_password_on_a_terminal(authority: Authority, tmp_path: Path) -> None:
    files = authority.issue("locked", password="open sesame")
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "shardserve", APP, "--app-dir", str(APPS), "--port", "0", *files.flags]
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=clean_environment(), start_new_session=True
    )
    os.close(theirs)
    said = b""
    try:
        while True:
            try:
                said += os.read(ours, 4096)
            except OSError:  # EIO: nobody has the other end any more
                break
        assert process.wait(PATIENCE_S) == 2
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert b"is encrypted; set ssl-keyfile-password" in said
    assert b"pass phrase" not in said.lower()


def test_the_password_works(authority: Authority, serve: Serve) -> None:
    files = authority.issue("localhost", "127.0.0.1", file="opened", password="open sesame")
    server = serve(
        APP, "--workers", "1", *files.flags, env={"SHARDSERVE_SSL_KEYFILE_PASSWORD": "open sesame"}
    )
    assert shown(server, authority) == files.pem
    assert "sesame" not in server.log()


def test_ciphers_that_do_not_exist(files: Files, tmp_path: Path) -> None:
    assert "ssl-ciphers: no cipher can be selected: 'NONSENSE'" in wrong(
        tmp_path, *files.flags, "--ssl-ciphers", "NONSENSE"
    )


def test_a_reload_with_files_that_do_not_work_is_refused(authority: Authority, serve: Serve) -> None:
    files = authority.issue("localhost", "127.0.0.1", file="spoilt")
    server = serve(APP, "--workers", "1", *files.flags, quiet=False)
    old, before = files.pem, server.pids()
    files.key.write_text("no key")
    server.send(signal.SIGHUP)
    server.saw(r"^ERROR:    not reloading, the old configuration stays: ssl-keyfile: ")
    assert shown(server, authority) == old
    assert server.pids() == before


# Not TLS


def test_plain_http_on_the_tls_port(files: Files, serve: Serve) -> None:
    server = serve(APP, "--workers", "1", *files.flags)
    for _ in range(3):
        plain = http.client.HTTPConnection("127.0.0.1", port_of(server), timeout=PATIENCE_S)
        plain.request("GET", "/")
        with pytest.raises(http.client.RemoteDisconnected):
            plain.getresponse()
        plain.close()
    log = server.saw(r"plain HTTP was spoken to a TLS port")
    assert len(re.findall(r"plain HTTP was spoken", log)) == 1  # one line a second


# Beside Uvicorn

UVICORN = Path(__file__).parents[2] / ".venv-peers/bin/python"


@pytest.mark.skipif(not UVICORN.exists(), reason="no .venv-peers (python -m perf peers install)")
def test_the_same_flags_do_the_same_as_uvicorn(
    authority: Authority, files: Files, server: ServerProcess
) -> None:
    """What a client sees of the connection: version, cipher, certificate, chain; and the answer."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(UVICORN), "-m", "uvicorn", APP, "--app-dir", str(APPS), "--port", str(port), *files.flags]
    peer = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=clean_environment()
    )
    try:
        theirs = until(lambda: seen(port, authority), "Uvicorn's answer")
    finally:
        peer.terminate()
        peer.wait(PATIENCE_S)
    assert seen(port_of(server), authority) == theirs


def seen(port: int, authority: Authority) -> dict[str, Any] | None:
    context = authority.client_context()
    try:
        with shaken(port, context) as connection:
            return {
                "version": connection.version(),
                "cipher": connection.cipher(),
                "certificate": connection.getpeercert(True),
                "compression": connection.compression(),
                "body": asked(connection, "/large").partition(b"\r\n\r\n")[2],
            }
    except ConnectionRefusedError:
        return None
