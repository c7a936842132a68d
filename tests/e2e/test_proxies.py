"""Fields by which a proxy says on whose behalf it comes, sent to a real server: who is believed, and what."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect, unix_connect

from tests.helpers.master_process import PATIENCE_S
from tests.helpers.server import Ended, Serve, ServerProcess, client_of

FIELDS = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}
OTHERS = {
    "X-Forwarded-Host": "shop.example", "X-Forwarded-Port": "8443", "X-Forwarded-Prefix": "/shop",
    "Forwarded": "for=6.6.6.6;host=evil.example;proto=https",
}  # fmt: skip


def ask(server: ServerProcess, path: str = "/x", **headers: str) -> Any:
    with client_of(server) as client:
        return client.get(path, headers=headers).json()


def talk(server: ServerProcess, headers: dict[str, str]) -> Any:
    """What a WebSocket app is told."""
    with connect(f"ws{server.url[4:]}/x", additional_headers=headers, open_timeout=PATIENCE_S) as client:
        return json.loads(client.recv(PATIENCE_S))


def test_a_proxy_on_this_host_is_believed(serve: Serve) -> None:
    server = serve("behind:app", "--workers", "1")
    told = ask(server, **FIELDS)
    assert (told["client"], told["scheme"], told["path"]) == (["203.0.113.9", 0], "https", "/x")
    server.saw_access(r'203\.0\.113\.9:0 - "GET /x HTTP/1\.1" 200')


def test_also_of_a_websocket(serve: Serve) -> None:
    told = talk(serve("behind:app", "--workers", "1"), FIELDS)
    assert (told["client"], told["scheme"]) == (["203.0.113.9", 0], "wss")


def test_each_request_of_a_connection_has_its_own_client(serve: Serve) -> None:
    server = serve("behind:app", "--workers", "1")
    with client_of(server) as client:
        seen = [
            client.get("/x", headers=headers).json()
            for headers in (FIELDS, {}, {"X-Forwarded-For": "198.51.100.7"}, {})
        ]
        assert server.connections() == 1
    assert [one["client"][0] for one in seen] == ["203.0.113.9", "127.0.0.1", "198.51.100.7", "127.0.0.1"]
    assert [one["scheme"] for one in seen] == ["https", "http", "http", "http"]


def test_only_two_fields_are_read_unless_told_otherwise(serve: Serve) -> None:
    """The others pass an ordinary nginx as the client sent them."""
    server = serve("behind:app", "--workers", "1")
    told = ask(server, **OTHERS)
    assert told["client"][0] == "127.0.0.1"
    assert (told["scheme"], told["root_path"], told["path"]) == ("http", "", "/x")
    assert ["host", f"127.0.0.1:{server.port}"] in told["headers"]
    assert "127.0.0.1 sends forwarded" in server.log() or "127.0.0.1 sends x-forwarded-" in server.log()


def test_host_port_and_prefix(serve: Serve) -> None:
    names = ",".join(f"x-forwarded-{name}" for name in ("for", "proto", "host", "port", "prefix"))
    server = serve("behind:app", "--workers", "1", "--forwarded-fields", names)
    told = ask(server, **FIELDS, **OTHERS)
    assert (told["client"][0], told["server"]) == ("203.0.113.9", ["shop.example", 8443])
    assert (told["root_path"], told["path"], told["raw_path"]) == ("/shop", "/shop/x", "/shop/x")
    assert [value for name, value in told["headers"] if name == "host"] == ["shop.example:8443"]
    with client_of(server) as client:
        link = client.get("/link?a=b", headers=FIELDS | OTHERS).text
    assert link == "https://shop.example:8443/shop/link?a=b"


def test_a_prefix_goes_before_the_root_path(serve: Serve) -> None:
    flags = ("--root-path", "/app", "--forwarded-fields", "x-forwarded-prefix")
    told = ask(serve("behind:app", "--workers", "1", *flags), **OTHERS)
    assert (told["root_path"], told["path"], told["raw_path"]) == ("/shop/app", "/shop/app/x", "/shop/app/x")


def test_forwarded(serve: Serve) -> None:
    server = serve("behind:app", "--workers", "1", "--forwarded-fields", "forwarded")
    value = 'for="[2001:db8::9]:4711";proto=https;host="shop.example:8443";by=_us'
    told = ask(server, Forwarded=value, **FIELDS)
    assert (told["client"], told["scheme"]) == (["2001:db8::9", 4711], "https")
    assert told["server"] == ["shop.example", 8443]
    assert talk(server, {"Forwarded": value})["scheme"] == "wss"
    server.saw_access(r'2001:db8::9:4711 - "GET /x HTTP/1\.1" 200')


def test_malformed_fields_are_as_good_as_absent(serve: Serve) -> None:
    server = serve("behind:app", "--workers", "1")
    with client_of(server) as client:
        for value in ("", ",", "nonsense", "1.2.3.4:99999", "\xff\xfe", "x" * 5000, '"', "203.0.113.9,"):
            headers = [(b"X-Forwarded-For", value.encode("latin-1")), (b"X-Forwarded-Proto", b"gopher")]
            told = client.get("/x", headers=headers).json()
            assert (told["client"][0], told["scheme"]) == ("127.0.0.1", "http"), value


def test_a_client_that_is_not_told_is_none(serve: Serve) -> None:
    server = serve("behind:app", "--workers", "1")
    assert ask(server, **{"X-Forwarded-For": "unknown"})["client"] is None
    assert talk(server, {"X-Forwarded-For": "_hidden"})["client"] is None
    server.saw_access(r'^INFO: +- "GET /x HTTP/1\.1" 200')


def test_who_is_not_trusted_is_told_once(serve: Serve) -> None:
    server = serve("behind:app", "--workers", "1", "--forwarded-allow-ips", "192.0.2.0/24")
    for _ in range(3):
        told = ask(server, **FIELDS)
        assert (told["client"][0], told["scheme"]) == ("127.0.0.1", "http")
    assert talk(server, FIELDS)["scheme"] == "ws"
    log = server.saw("127.0.0.1 sends x-forwarded-")
    assert log.count("is not trusted to") == 1
    assert "--forwarded-allow-ips 192.0.2.0/24,127.0.0.1" in log


def test_a_request_without_such_fields_is_not_warned_of(serve: Serve) -> None:
    server = serve("behind:app", "--workers", "1", "--forwarded-allow-ips", "")
    assert ask(server)["client"][0] == "127.0.0.1"
    server.stop()
    assert "trusted" not in server.log()


@pytest.mark.parametrize("entries", ["127.0.0.0/8", "*", "192.0.2.1, 127.0.0.1"])
def test_networks_and_lists(serve: Serve, entries: str) -> None:
    server = serve("behind:app", "--workers", "1", env={"FORWARDED_ALLOW_IPS": entries})
    assert ask(server, **FIELDS)["client"][0] == "203.0.113.9"


def test_a_dual_stack_socket_sees_the_same_peer(serve: Serve) -> None:
    with socket.socket(socket.AF_INET6) as listener:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(("::ffff:127.0.0.1", 0))
        listener.listen()
        port, fd = listener.getsockname()[1], listener.fileno()
        serve("behind:app", "--workers", "1", "--fd", str(fd), pass_fds=[fd])
    with httpx.Client(trust_env=False, timeout=PATIENCE_S) as client:
        plain = client.get(f"http://127.0.0.1:{port}/x").json()
        told = client.get(f"http://127.0.0.1:{port}/x", headers=FIELDS).json()
    assert plain["client"][0] == "::ffff:127.0.0.1"
    assert told["client"] == ["203.0.113.9", 0]


def test_peers_on_a_unix_socket(serve: Serve, tmp_path: Path) -> None:
    path = f"{tmp_path}/s"
    server = serve("behind:app", "--workers", "1", "--uds", path, "--forwarded-allow-ips", "unix")
    with httpx.Client(transport=httpx.HTTPTransport(uds=path), timeout=PATIENCE_S) as client:
        told = client.get("http://x/x", headers=FIELDS).json()
    assert (told["client"], told["scheme"]) == (["203.0.113.9", 0], "https")
    with unix_connect(path, "ws://x/x", additional_headers=FIELDS) as websocket:
        assert json.loads(websocket.recv(PATIENCE_S))["scheme"] == "wss"
    server.stop()


def test_peers_on_a_unix_socket_are_not_trusted_by_default(serve: Serve, tmp_path: Path) -> None:
    path = f"{tmp_path}/s"
    server = serve("behind:app", "--workers", "1", "--uds", path)
    with httpx.Client(transport=httpx.HTTPTransport(uds=path), timeout=PATIENCE_S) as client:
        told = client.get("http://x/x", headers=FIELDS).json()
    assert (told["client"], told["scheme"]) == (None, "http")
    server.saw("--forwarded-allow-ips 127.0.0.1,::1,unix")


def test_nobody_is_believed_and_nobody_warned_of_without_proxy_headers(serve: Serve) -> None:
    server = serve("behind:app", "--workers", "1", "--no-proxy-headers")
    assert ask(server, **FIELDS)["client"][0] == "127.0.0.1"
    server.stop()
    assert "x-forwarded" not in server.log()


def test_the_log_of_an_error_names_the_client(serve: Serve) -> None:
    server = serve("behind:app", "--workers", "1", quiet=False)
    with client_of(server) as client:
        assert client.get("/fail", headers=FIELDS).status_code == 500
    server.saw(r"GET /fail from 203\.0\.113\.9:0")


def test_fields_that_say_the_same_cannot_both_be_read(tmp_path: Path) -> None:
    ended = Ended(tmp_path, "behind:app", "--forwarded-fields", "x-forwarded-for,forwarded")
    assert ended.code == 2
    assert "has forwarded and x-forwarded-for, which say the same" in ended.text


def test_an_unknown_field_cannot_be_read(tmp_path: Path) -> None:
    ended = Ended(tmp_path, "behind:app", "--forwarded-fields", "x-real-ip")
    assert ended.code == 2
    assert "x-forwarded-prefix" in ended.text
