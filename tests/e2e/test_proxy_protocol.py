"""The PROXY protocol on the wire of a real server; headers made here, by curl, and by a real HAProxy."""

from __future__ import annotations

import json
import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from tests.helpers.certificates import Authority
from tests.helpers.curl import curl, needs_curl
from tests.helpers.front import haproxy, needs_haproxy
from tests.helpers.master_process import PATIENCE_S
from tests.helpers.server import Serve, ServerProcess

SIGNATURE = bytes.fromhex("0D0A0D0A000D0A515549540A")
LINE = b"PROXY TCP4 203.0.113.9 198.51.100.1 56324 443\r\n"
ADDRESSES = bytes([203, 0, 113, 9, 198, 51, 100, 1]) + struct.pack("!HH", 56324, 443)
OVER_TLS = b"\x20\x00\x05\x01" + bytes(4)
BINARY = SIGNATURE + struct.pack("!BBH", 0x21, 0x11, 12) + ADDRESSES
BINARY_TLS = SIGNATURE + struct.pack("!BBH", 0x21, 0x11, 20) + ADDRESSES + OVER_TLS
LOCAL = SIGNATURE + struct.pack("!BBH", 0x20, 0, 0)
GET = b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n"

CLIENT, SERVER = ["203.0.113.9", 56324], ["198.51.100.1", 443]


@contextmanager
def connection(server: ServerProcess) -> Iterator[socket.socket]:
    with closing(socket.create_connection(("127.0.0.1", server.port), PATIENCE_S)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield sock


def answer(sock: socket.socket) -> Any:
    """The scope that a response tells of."""
    data = b""
    while b"\r\n\r\n" not in data:
        got = sock.recv(65536)
        assert got, data
        data += got
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1])
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"content-length:")
    )
    while len(body) < length:
        body += sock.recv(65536)
    assert len(body) == length, "pipelined answers are for another test"
    return json.loads(body)


def asked(server: ServerProcess, header: bytes, rest: bytes = GET) -> Any:
    with connection(server) as sock:
        sock.sendall(header + rest)
        return answer(sock)


def is_cut(server: ServerProcess, data: bytes) -> bool:
    """Whether the server closes without a word."""
    with connection(server) as sock:
        try:
            sock.sendall(data)
            return sock.recv(65536) == b""
        except ConnectionError:
            return True


def started(serve: Serve, versions: str, *flags: str, **how: Any) -> ServerProcess:
    return serve("behind:app", "--workers", "1", "--proxy-protocol", versions, *flags, **how)


@pytest.mark.parametrize(
    ("versions", "header", "scheme"),
    [("v1", LINE, "http"), ("v2", BINARY, "http"), ("auto", LINE, "http"), ("auto", BINARY_TLS, "https")],
)
def test_client_and_server_are_those_of_the_header(
    serve: Serve, versions: str, header: bytes, scheme: str
) -> None:
    server = started(serve, versions)
    told = asked(server, header)
    assert (told["client"], told["server"], told["scheme"]) == (CLIENT, SERVER, scheme)
    server.saw_access(r'203\.0\.113\.9:56324 - "GET /x HTTP/1\.1" 200')


def test_for_every_request_of_the_connection(serve: Serve) -> None:
    server = started(serve, "auto")
    with connection(server) as sock:
        sock.sendall(LINE)
        for _ in range(3):
            sock.sendall(GET)
            assert answer(sock)["client"] == CLIENT
    assert asked(server, LINE.replace(b".9 ", b".7 "))["client"] == ["203.0.113.7", 56324]


def test_byte_by_byte(serve: Serve) -> None:
    server = started(serve, "auto")
    for header in (LINE, BINARY_TLS):
        with connection(server) as sock:
            for byte in header + GET:
                sock.send(bytes([byte]))
            assert answer(sock)["client"] == CLIENT


@pytest.mark.parametrize("header", [LOCAL, b"PROXY UNKNOWN\r\n"])
def test_a_proxy_that_speaks_for_itself_keeps_its_address(serve: Serve, header: bytes) -> None:
    told = asked(started(serve, "auto"), header)
    assert told["client"][0] == "127.0.0.1"
    assert told["server"][0] == "127.0.0.1"


@pytest.mark.parametrize(
    ("versions", "data", "reason"),
    [
        ("auto", GET, "no PROXY header of either version"),
        ("v1", BINARY + GET, "no PROXY header of version 1"),
        ("v2", LINE + GET, "no PROXY header of version 2"),
        ("v1", LINE.replace(b"443", b"99999") + GET, "an invalid port in the PROXY line"),
        ("v2", BINARY.replace(b"\x21\x11", b"\x21\x41") + GET, "family and transport 0x41"),
    ],
)
def test_without_a_proper_header_the_connection_ends(
    serve: Serve, versions: str, data: bytes, reason: str
) -> None:
    server = started(serve, versions)
    assert is_cut(server, data)
    server.saw(reason)
    assert asked(server, BINARY if versions == "v2" else LINE)["client"] == CLIENT


def test_who_is_not_trusted_may_not_connect(serve: Serve) -> None:
    """With a header it would be believed; without one the server would be reached past the proxy."""
    server = started(serve, "auto", "--forwarded-allow-ips", "192.0.2.1")
    assert is_cut(server, LINE + GET)
    assert is_cut(server, GET)
    server.saw("the peer is not trusted")


def test_who_only_looks_whether_the_port_is_open_is_no_news(serve: Serve) -> None:
    server = started(serve, "auto")
    for _ in range(3):
        with connection(server):
            pass
    assert asked(server, LINE)["client"] == CLIENT
    server.stop()
    assert "PROXY" not in server.log()


def test_who_says_nothing_is_cut(serve: Serve) -> None:
    server = started(serve, "auto", "--timeout-ssl-handshake", "0.3")
    assert is_cut(server, b"")
    assert is_cut(server, LINE[:10])
    assert is_cut(server, BINARY[:14])
    assert asked(server, LINE)["client"] == CLIENT


def test_a_clients_own_fields_are_not_believed_behind_it(serve: Serve) -> None:
    """It is the client of the header who says them, not the proxy."""
    server = started(serve, "auto")
    spoofed = GET.replace(b"\r\n\r\n", b"\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\n\r\n")
    told = asked(server, LINE, spoofed)
    assert (told["client"], told["scheme"]) == (CLIENT, "http")
    assert asked(server, LOCAL, spoofed)["client"] == ["6.6.6.6", 0]


def test_a_proxy_behind_a_load_balancer_is_believed(serve: Serve) -> None:
    server = started(serve, "auto", "--forwarded-allow-ips", "127.0.0.1,203.0.113.9")
    told = asked(server, LINE, GET.replace(b"\r\n\r\n", b"\r\nX-Forwarded-For: 198.51.100.200\r\n\r\n"))
    assert told["client"] == ["198.51.100.200", 0]


def test_on_a_unix_socket(serve: Serve, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    started(serve, "v2", "--uds", path, "--forwarded-allow-ips", "unix")
    with closing(socket.socket(socket.AF_UNIX)) as sock:
        sock.settimeout(PATIENCE_S)
        sock.connect(path)
        sock.sendall(BINARY + GET)
        assert answer(sock)["client"] == CLIENT


def test_before_a_tls_handshake(serve: Serve, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server = started(serve, "auto", *authority.issue("localhost").flags)
    context = ssl.create_default_context(cafile=str(authority.path))
    port = int(server.urls[0].rpartition(":")[2])
    for header in (LINE, BINARY):
        with closing(socket.create_connection(("127.0.0.1", port), PATIENCE_S)) as sock:
            sock.sendall(header)
            with context.wrap_socket(sock, server_hostname="localhost") as secure:
                secure.sendall(GET)
                told = answer(secure)
        assert (told["client"], told["server"], told["scheme"]) == (CLIENT, SERVER, "https")


def test_a_websocket(serve: Serve) -> None:
    server = started(serve, "auto")
    with connection(server) as sock:
        sock.sendall(BINARY_TLS)
        with connect(f"ws://127.0.0.1:{server.port}/x", sock=sock, open_timeout=PATIENCE_S) as client:
            told = json.loads(client.recv(PATIENCE_S))
    assert (told["client"], told["scheme"]) == (CLIENT, "wss")


@needs_curl
def test_curls_header(serve: Serve) -> None:
    server = started(serve, "v1")
    told = json.loads(curl("--haproxy-protocol", f"{server.url}/x").text)
    assert told["client"][0] == "127.0.0.1"
    assert told["server"] == ["127.0.0.1", server.port]


@needs_haproxy
@pytest.mark.parametrize(
    ("versions", "send"),
    [
        ("v1", "send-proxy"),
        ("v2", "send-proxy-v2"),
        ("auto", "send-proxy-v2 proxy-v2-options crc32c,unique-id"),
    ],
)
def test_haproxy(serve: Serve, tmp_path: Path, versions: str, send: str) -> None:
    server = started(serve, versions)
    backend = f"server app 127.0.0.1:{server.port} {send}"
    with haproxy(tmp_path / "haproxy", backend) as port, httpx.Client(trust_env=False) as client:
        told = client.get(f"http://127.0.0.1:{port}/x", timeout=PATIENCE_S).json()
    assert told["client"][0] == "127.0.0.1"
    assert told["server"] == ["127.0.0.1", port]


@needs_haproxy
def test_haproxy_says_that_its_client_came_over_tls(serve: Serve, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    files = authority.issue("localhost")
    both = tmp_path / "both.pem"
    both.write_bytes(files.cert.read_bytes() + files.key.read_bytes())
    server = started(serve, "v2")
    backend = f"server app 127.0.0.1:{server.port} send-proxy-v2-ssl-cn proxy-v2-options crc32c,authority"
    with haproxy(tmp_path / "haproxy", backend, bind=f"ssl crt {both}") as port:
        context = ssl.create_default_context(cafile=str(authority.path))
        with httpx.Client(trust_env=False, verify=context, timeout=PATIENCE_S) as client:
            told = client.get(f"https://localhost:{port}/x").json()
    assert (told["scheme"], told["server"]) == ("https", ["127.0.0.1", port])


@needs_haproxy
def test_haproxys_health_checks_are_local(serve: Serve, tmp_path: Path) -> None:
    """With send-proxy-v2 a check has the command LOCAL, so it has the proxy's own address."""
    server = started(serve, "v2")
    backend = (
        "option httpchk GET /health\n"
        f"  server app 127.0.0.1:{server.port} send-proxy-v2 check check-send-proxy inter 100"
    )
    with haproxy(tmp_path / "haproxy", backend):
        server.saw_access(r'127\.0\.0\.1:\d+ - "GET /health HTTP/1\.[01]" 200', times=2)


@needs_haproxy
def test_haproxy_adds_a_line_to_what_a_client_sent(serve: Serve, tmp_path: Path) -> None:
    """As a proxy of HTTP: ``option forwardfor`` adds a second X-Forwarded-For behind the client's."""
    server = serve("behind:app", "--workers", "1", "--forwarded-allow-ips", "127.0.0.1")
    backend = f"server app 127.0.0.1:{server.port}\n  http-request add-header X-Forwarded-Proto https\n"
    front = haproxy(tmp_path / "haproxy", backend, mode="http", defaults="option forwardfor")
    transport = httpx.HTTPTransport(local_address="127.0.0.2")
    with front as port, httpx.Client(transport=transport, timeout=PATIENCE_S) as client:
        headers = {"X-Forwarded-For": "6.6.6.6", "X-Forwarded-Proto": "http"}
        told = client.get(f"http://127.0.0.1:{port}/x", headers=headers).json()
    assert [name for name, _ in told["headers"]].count("x-forwarded-for") == 2
    assert (told["client"], told["scheme"]) == (["127.0.0.2", 0], "https")
