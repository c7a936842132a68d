"""From an accepted socket to HTTP: TLS, certificates by name, the deadline, and what clients do in it."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import ssl
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from shardserve.net import tls
from shardserve.worker import opening as module
from tests.helpers.certificates import Authority, Files
from tests.helpers.http1 import get, post, until
from tests.helpers.opened import Handshake, OpenedServer, tls_settings

BODY = bytes(range(256)) * 40_000
START = {"type": "http.response.start", "status": 200}


async def tell(scope: Any, receive: Any, send: Any) -> None:
    """What the app sees of the connection."""
    seen = {name: scope[name] for name in ("scheme", "client", "server")}
    body = json.dumps({**seen, "tls": scope["extensions"].get("tls")}).encode()
    await send({**START, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


async def large(scope: Any, receive: Any, send: Any) -> None:
    await send({**START, "headers": [(b"content-length", b"%d" % len(BODY))]})
    await send({"type": "http.response.body", "body": BODY})


@pytest.fixture
def client(authority: Authority) -> ssl.SSLContext:
    return authority.client_context()


Start = Callable[..., OpenedServer]


@pytest.fixture
def start(files: Files) -> Iterator[Start]:
    with ExitStack() as stack:

        def begin(app: Any = tell, *, ssl: dict[str, Any] | None = None, **how: Any) -> OpenedServer:
            certificates = tls.Certificates(tls_settings(files, **(ssl or {})))
            server = OpenedServer(app, **{"certificates": certificates, **how})
            stack.callback(server.stop)
            return server

        yield begin


def told(
    server: OpenedServer, context: ssl.SSLContext, name: str = "localhost", **how: Any
) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(server.connect_tls(context, name, **how).ask(get()).body)
    return found


# TLS


def test_a_request_over_tls(start: Start, client: ssl.SSLContext, files: Files) -> None:
    server = start()
    one = server.connect_tls(client)
    for _ in range(3):
        answer = json.loads(one.ask(get()).body)
        assert answer["scheme"] == "https"
        assert answer["client"] == list(one.sock.getsockname())
        assert answer["tls"]["server_cert"] == files.pem
        assert answer["tls"]["tls_version"] == 0x0304
    until(lambda: server.opening.count == 0)


def test_http_1_1_is_what_alpn_chooses(start: Start, client: ssl.SSLContext) -> None:
    client.set_alpn_protocols(["h2", "http/1.1"])
    connection = start().connect_tls(client)
    assert isinstance(connection.sock, ssl.SSLSocket)
    assert connection.sock.selected_alpn_protocol() == "http/1.1"


def test_a_close_is_told_and_the_response_is_whole(start: Start, client: ssl.SSLContext) -> None:
    one = start(large).connect_tls(client)
    one.send(get(b"/", b"Connection: close"))
    assert one.response().body == BODY
    assert one.receive() == b""  # close_notify: the ssl module would raise SSLEOFError without it


def test_a_slow_reader_gets_all_of_a_last_response(
    start: Start, client: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A TLS transport has so much time from its close() on, whatever it still has to send."""
    monkeypatch.setattr(module, "SHUTDOWN_S", 0.2)
    server = start(large)
    one = server.connect_tls(client, receive_buffer=4096)
    one.send(get(b"/", b"Connection: close"))
    until(lambda: server.factory.in_flight == 0)
    closed = threading.Event()
    server.call(server.loop.call_later, 1.0, closed.set)
    closed.wait(10)
    assert one.response().body == BODY


def test_a_client_that_does_not_answer_our_close_is_not_waited_for(
    start: Start, client: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHUTDOWN_S", 0.2)
    server = start()
    one = server.connect_tls(client)
    assert one.ask(get(b"/", b"Connection: close")).status == 200
    until(lambda: server.factory.connections == 0)


def test_a_client_that_ends_its_side(
    start: Start, client: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    """TLS transports have no half-closed state. The app hears of it, and the log has no word."""
    heard: list[Any] = []

    async def wait(scope: Any, receive: Any, send: Any) -> None:
        heard.append(await receive())
        heard.append(await receive())

    server = start(wait)
    one = server.connect_tls(client)
    one.send(get())
    until(lambda: server.factory.in_flight == 1)
    one.sock.unwrap()  # type: ignore[union-attr]
    until(lambda: len(heard) == 2)
    assert heard[1] == {"type": "http.disconnect"}
    until(lambda: server.factory.connections == 0)
    assert caplog.records == []


def test_a_reset_together_with_a_request_is_heard_of(start: Start, client: ssl.SSLContext) -> None:
    """To a loop that was busy they are one event, of which the transport reads the request."""
    heard: list[str] = []

    async def wait(scope: Any, receive: Any, send: Any) -> None:
        heard.append((await receive())["type"])
        heard.append((await receive())["type"])

    server = start(wait)
    one = server.connect_tls(client)
    until(lambda: server.factory.connections == 1)
    busy, go_on = threading.Event(), threading.Event()

    def be_busy() -> None:
        busy.set()
        go_on.wait(10)

    server.loop.call_soon_threadsafe(be_busy)
    assert busy.wait(10)
    one.send(get())
    one.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.close()
    go_on.set()
    until(lambda: heard)
    until(lambda: len(heard) == 2)
    assert heard[1] == "http.disconnect"
    until(lambda: server.factory.connections == 0)


def test_connections_beyond_the_limit_get_their_503_over_tls(start: Start, client: ssl.SSLContext) -> None:
    server = start(limit_connections=1)
    first = server.connect_tls(client)
    assert first.ask(get()).status == 200
    assert server.connect_tls(client).response().status == 503
    server.take_rejects()
    assert first.ask(get()).status == 200


@pytest.mark.parametrize("first", [1, 100, 1000, 10_000])
def test_an_upload_to_an_app_that_lags_comes_to_its_end(
    start: Start, client: ssl.SSLContext, first: int
) -> None:
    """While nothing is read the transport must hold nothing back: no event would make it go on."""

    async def lag(scope: Any, receive: Any, send: Any) -> None:
        size, more = 0, True
        while more:
            await asyncio.sleep(0.005)
            message = await receive()
            size, more = size + len(message.get("body", b"")), message.get("more_body", False)
        await send({**START, "headers": []})
        await send({"type": "http.response.body", "body": b"%d" % size})

    one = start(lag).connect_tls(client)
    for size in range(200_000, 206_000, 1000):
        request = post(b"x" * size)
        one.send(request[:first])
        one.send(request[first:])
        assert one.response().body == b"%d" % size


# Certificates of clients


def test_a_client_s_certificate_is_required_and_told(
    start: Start, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError("a read-only system has no place for temporary files")

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", refuse)
    server = start(ssl={"ssl_cert_reqs": 2, "ssl_ca_certs": str(authority.path)})
    between = Authority(authority.folder, "Between", issuer=authority)
    mine = between.issue("client", file="client")
    found = told(server, authority.client_context(mine))["tls"]
    assert found["client_cert_name"] == "CN=client"
    assert "".join(found["client_cert_chain"]).startswith(mine.cert.read_text())  # and perhaps the root
    assert found["client_cert_error"] is None
    # A session that were resumed would have no chain.
    session = server.connect_tls(authority.client_context(mine)).sock.session  # type: ignore[union-attr]
    assert session is None or not session.has_ticket


def test_a_client_without_a_certificate_is_told_apart(start: Start, authority: Authority) -> None:
    server = start(ssl={"ssl_cert_reqs": 1, "ssl_ca_certs": str(authority.path)})
    found = told(server, authority.client_context())["tls"]
    assert (found["client_cert_chain"], found["client_cert_name"]) == ([], None)


def test_a_client_without_a_required_certificate(
    start: Start, authority: Authority, client: ssl.SSLContext
) -> None:
    server = start(ssl={"ssl_cert_reqs": 2, "ssl_ca_certs": str(authority.path)})
    with pytest.raises(OSError):
        server.connect_tls(client).ask(get())
    (reject,) = server.take_rejects()
    assert reject.status == 0
    assert reject.reason == "TLS handshake: peer did not return a certificate"


# Certificates by name


@pytest.fixture
def named(start: Start, authority: Authority) -> OpenedServer:
    entries = [
        (host, str(one.cert), str(one.key))
        for host in ("www.example.org", "*.example.org")
        for one in [authority.issue(host)]
    ]
    return start(ssl={"ssl_sni": entries})


@pytest.mark.parametrize(
    ("asked", "got"),
    [
        ("www.example.org", "www.example.org"),
        ("api.example.org", "*.example.org"),
        ("localhost", "localhost"),
        (None, "localhost"),
    ],
)
def test_the_certificate_for_a_name(
    named: OpenedServer, client: ssl.SSLContext, asked: str | None, got: str
) -> None:
    client.check_hostname = False
    connection = named.connect_tls(client, asked)
    shown = connection.sock.getpeercert()  # type: ignore[union-attr]
    assert shown["subject"] == ((("commonName", got),),)
    assert json.loads(connection.ask(get()).body)["scheme"] == "https"


@pytest.mark.parametrize("pieces", [1, 2, 7])
def test_a_client_hello_in_pieces(named: OpenedServer, client: ssl.SSLContext, pieces: int) -> None:
    sock = named.connect().sock
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    handshake = Handshake(sock, client, "www.example.org")
    hello = handshake.owed
    size = len(hello) // pieces + 1
    for begin in range(0, len(hello), size):
        sock.sendall(hello[begin : begin + size])
        # The piece is looked at, and the connection still being opened.
        until(lambda: named.call(lambda: named.opening.count) == 1)
    handshake.finish()
    assert b"200 OK" in handshake.ask(get(b"/", b"Connection: close"))


def test_a_client_hello_that_ends_early(named: OpenedServer, client: ssl.SSLContext) -> None:
    sock = named.connect().sock
    sock.sendall(Handshake(sock, client).owed[:-1])
    sock.shutdown(socket.SHUT_WR)
    assert sock.recv(100) == b""
    until(lambda: named.opening.count == 0)


def test_pieces_over_a_unix_socket(
    files: Files, authority: Authority, client: ssl.SSLContext, tmp_path: Path
) -> None:
    other = authority.issue("www.example.org")
    entry = ("www.example.org", str(other.cert), str(other.key))
    certificates = tls.Certificates(tls_settings(files, ssl_sni=[entry]))
    server = OpenedServer(tell, certificates=certificates, where="unix", path=tmp_path / "s")
    try:
        sock = server.connect().sock
        handshake = Handshake(sock, client, "www.example.org")
        hello = handshake.owed
        sock.sendall(hello[:50])
        until(lambda: server.opening.count == 1)
        sock.sendall(hello[50:])
        handshake.finish()
        assert b'"client": null' in handshake.ask(get(b"/", b"Connection: close"))
    finally:
        server.stop()


# What is not TLS, and who does not finish


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "plain HTTP was spoken to a TLS port"),
        (b"\x80\x2e\x01\x00\x02", "what came was not TLS"),
        (b"\x00" * 100, "what came was not TLS"),
        (b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", "TLS handshake: unexpected message"),
        (b"\x16" + b"\xff" * 600, "TLS handshake: "),
    ],
)
def test_what_is_not_tls_is_closed_and_told(start: Start, said: bytes, reason: str) -> None:
    server = start()
    one = server.connect()
    one.send(said)
    if not reason.startswith("TLS handshake"):
        assert one.rest() == b""
    (reject,) = server.take_rejects()
    assert (reject.status, reject.client) == (0, one.sock.getsockname())
    assert reject.reason.startswith(reason)


def test_who_never_says_anything_is_closed_at_the_deadline_and_not_told(start: Start) -> None:
    server = start(timeout_s=0.2)
    one = server.connect()
    assert one.receive() == b""
    until(lambda: server.opening.count == 0)
    assert server.rejects == []


@pytest.mark.parametrize("bytes_said", [1, 5, 200])
def test_who_does_not_finish_is_closed_at_the_deadline(
    start: Start, client: ssl.SSLContext, bytes_said: int
) -> None:
    server = start(timeout_s=0.3)
    one = server.connect()
    one.send(Handshake(one.sock, client).owed[:bytes_said])
    assert one.rest() == b""
    (reject,) = server.take_rejects()
    assert reject.reason == "the TLS handshake was not over within timeout-ssl-handshake"


def test_the_deadline_is_counted_from_the_accept(start: Start, client: ssl.SSLContext) -> None:
    """A byte now and then does not put it off."""
    server = start(timeout_s=0.5)
    one = server.connect()
    hello = Handshake(one.sock, client).owed
    ended = threading.Event()

    def drip() -> None:
        for byte in hello:
            if ended.wait(0.02):
                return
            try:
                one.sock.sendall(bytes([byte]))
            except OSError:
                return

    dripping = threading.Thread(target=drip)
    dripping.start()
    server.take_rejects()
    ended.set()
    dripping.join()


def test_no_deadline(start: Start, client: ssl.SSLContext) -> None:
    server = start(timeout_s=0)
    assert told(server, client)["scheme"] == "https"


@pytest.mark.parametrize("how", ["closes", "resets"])
@pytest.mark.parametrize("said", [0, 100])
def test_clients_that_go(start: Start, client: ssl.SSLContext, how: str, said: int) -> None:
    server = start(timeout_s=2)
    one = server.connect()
    one.send(Handshake(one.sock, client).owed[:said])
    until(lambda: server.opening.count == 1)
    if how == "resets":
        one.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.close()
    until(lambda: server.opening.count == 0)
    reasons = [reject.reason for reject in server.rejects]
    server.rejects.clear()
    if said and how == "resets":
        # The kernel may tell of the bytes and the reset at once, and the transport of the bytes alone.
        assert all(reason.startswith(("TLS handshake: the client closed", "the TLS")) for reason in reasons)
    else:
        assert reasons == (["TLS handshake: the client closed the connection"] if said else [])


def test_a_client_that_refuses_our_certificate(start: Start) -> None:
    server = start()
    stranger = ssl.create_default_context()
    with pytest.raises(ssl.SSLCertVerificationError):
        server.connect_tls(stranger)
    (reject,) = server.take_rejects()
    assert reject.reason == "TLS handshake: the client refused it: unknown ca"


def test_a_client_without_a_common_version(start: Start, client: ssl.SSLContext) -> None:
    server = start(ssl={"ssl_minimum_version": "TLSv1.3"})
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(OSError):
        server.connect_tls(client)
    (reject,) = server.take_rejects()
    assert reject.reason == "TLS handshake: unsupported protocol"


def test_http2_with_a_cipher_that_it_must_not_use(start: Start, client: ssl.SSLContext) -> None:
    """RFC 9113 Appendix A. A client that obeys it has another one, which is then chosen."""
    server = start(ssl={"http2": True})
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers("ECDHE-ECDSA-AES128-SHA256")
    assert server.connect_tls(client).ask(get(b"/", b"Connection: close")).status == 200
    client.set_alpn_protocols(["h2", "http/1.1"])
    with suppress(OSError):
        assert server.connect_tls(client).sock.recv(1) == b""
    until(lambda: server.rejects != [])
    (reject,) = server.take_rejects()
    assert (reject.status, reject.reason) == (
        0,
        "TLS handshake: HTTP/2 with ECDHE-ECDSA-AES128-SHA256 is not allowed (RFC 9113 Appendix A)",
    )
    until(lambda: server.factory.connections == 0)


# How many


def test_beyond_a_number_they_wait_in_the_queue(
    start: Start, client: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    server = start(most=4)
    silent = [server.connect() for _ in range(4)]
    until(lambda: server.opening.count == 4)
    waiting = server.connect()
    handshake = Handshake(waiting.sock, client)
    waiting.send(handshake.owed)
    for _ in range(20):
        assert server.call(lambda: server.opening.count) == 4
    assert [one.name for one in caplog.records if "accepting no more" in one.msg] == ["shardserve.worker"]
    for one in silent[:2]:
        one.close()
    handshake.finish()
    assert b"200 OK" in handshake.ask(get(b"/", b"Connection: close"))


def test_a_pause_holds_them_back(start: Start, client: ssl.SSLContext) -> None:
    server = start()
    server.call(server.listening.pause)
    one = server.connect()
    handshake = Handshake(one.sock, client)
    one.send(handshake.owed)
    for _ in range(20):
        assert server.call(lambda: server.opening.count) == 0
    server.call(lambda: server.listening.resume(careful=True))
    handshake.finish()
    assert b"200 OK" in handshake.ask(get(b"/", b"Connection: close"))
    server.call(server.listening.resume)
    assert told(server, client)["scheme"] == "https"


# The end of the worker


def test_who_is_in_a_handshake_when_a_drain_begins_is_served(start: Start, client: ssl.SSLContext) -> None:
    server = start()
    one = server.connect()
    handshake = Handshake(one.sock, client)
    until(lambda: server.opening.count == 1)
    emptied: list[bool] = []
    server.call(server.listening.close_all)
    server.call(server.factory.drain, lambda: emptied.append(True))
    until(lambda: emptied)  # the factory knows nothing of a connection in its handshake
    one.send(handshake.owed)
    handshake.finish()
    server.run(server.opening.settled())
    said = handshake.ask(get())
    assert said.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nconnection: close\r\n" in said.lower()


def test_an_abort_closes_them(start: Start) -> None:
    server = start()
    one = server.connect()
    until(lambda: server.opening.count == 1)
    server.call(server.opening.abort)
    assert one.receive() == b""
    server.run(server.opening.settled())


# The PROXY protocol

LINE = b"PROXY TCP4 192.0.2.7 192.0.2.1 50000 443\r\n"


def test_a_proxy_header_before_the_handshake(start: Start, client: ssl.SSLContext) -> None:
    server = start(proxied_by="v1")
    found = told(server, client, before=LINE)
    assert found["client"] == ["192.0.2.7", 50000]
    assert found["server"] == ["192.0.2.1", 443]
    assert found["scheme"] == "https"


def test_a_proxy_header_before_plain_http(start: Start) -> None:
    server = start(proxied_by="v1", certificates=None)
    one = server.connect()
    one.send(LINE)
    found = json.loads(one.ask(get()).body)
    assert (found["client"], found["scheme"], found["tls"]) == (["192.0.2.7", 50000], "http", None)


def test_no_proxy_header_where_there_must_be_one(start: Start) -> None:
    server = start(proxied_by="v1", certificates=None)
    one = server.connect()
    one.send(get())
    assert one.rest() == b""
    (reject,) = server.take_rejects()
    assert reject.reason.startswith("PROXY protocol: ")


def test_a_proxy_header_that_does_not_come(start: Start) -> None:
    server = start(proxied_by="v1", certificates=None, timeout_s=0.2)
    one = server.connect()
    assert one.receive() == b""
    until(lambda: server.opening.count == 0)
    assert server.rejects == []


def test_the_transport_s_logger_is_left_alone_if_the_app_has_set_it(start: Start) -> None:
    logger = logging.getLogger("aiofastnet")
    before = logger.level
    try:
        logger.setLevel(logging.DEBUG)
        start()
        assert logger.level == logging.DEBUG
        logger.setLevel(logging.NOTSET)
        start()
        assert logger.level == logging.ERROR
    finally:
        logger.setLevel(before)
