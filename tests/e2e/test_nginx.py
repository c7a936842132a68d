"""A real nginx in front, with the very lines of docs/behind-nginx.md."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from signal import SIGHUP
from typing import Any

import httpx
from websockets.sync.client import connect

from tests.helpers.front import needs_nginx, nginx
from tests.helpers.master_process import PATIENCE_S
from tests.helpers.server import Serve, ServerProcess

pytestmark = needs_nginx

# What docs/behind-nginx.md says: outside of ``server``, inside, and for an app below a path.
DOCUMENT = Path(__file__).parents[2] / "docs" / "behind-nginx.md"
OUTSIDE, INSIDE, BELOW_A_PATH = re.findall(r"```nginx\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)


def outside(server: ServerProcess | None, path: Path | None = None) -> str:
    address = f"127.0.0.1:{server.port}" if server is not None else f"unix:{path}"
    assert OUTSIDE.count("127.0.0.1:8000") == 1
    return OUTSIDE.replace("127.0.0.1:8000", address)


def client_at(port: int) -> httpx.Client:
    return httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=PATIENCE_S)


def test_the_client_is_the_one_that_nginx_saw(serve: Serve, tmp_path: Path) -> None:
    server = serve("behind:app", "--workers", "1")
    with nginx(tmp_path / "nginx", INSIDE, http=outside(server)) as port, client_at(port) as client:
        told = client.get("/x").json()
        # A client that names others before itself, as far as it can.
        spoofed = client.get("/x", headers={"X-Forwarded-For": "6.6.6.6, 127.0.0.1"}).json()
        assert server.connections() == 1, "nginx keeps its connection"
    assert told["client"] == ["127.0.0.1", 0]
    assert dict(told["headers"])["x-forwarded-for"] == "127.0.0.1"
    # All of these are trusted here, where client and nginx are on one host: it is the left-most.
    assert spoofed["client"] == ["6.6.6.6", 0]


def test_a_client_cannot_name_another_one(serve: Serve, tmp_path: Path) -> None:
    """nginx on another host than its client, as far as the server can tell: 127.0.0.2 is not trusted."""
    server = serve("behind:app", "--workers", "1")
    with nginx(tmp_path / "nginx", INSIDE, http=outside(server)) as port:
        transport = httpx.HTTPTransport(local_address="127.0.0.2")
        with httpx.Client(transport=transport, timeout=PATIENCE_S) as client:
            spoofed = {
                "X-Forwarded-For": "6.6.6.6, 127.0.0.1", "X-Forwarded-Proto": "https",
                "X-Forwarded-Host": "evil.example", "X-Forwarded-Port": "1", "X-Forwarded-Prefix": "/evil",
                "Forwarded": "for=6.6.6.6;host=evil.example;proto=https",
            }  # fmt: skip
            told = client.get(f"http://127.0.0.1:{port}/x", headers=spoofed).json()
    assert told["client"] == ["127.0.0.2", 0]
    assert (told["scheme"], told["root_path"], told["path"]) == ("http", "", "/x")
    assert dict(told["headers"])["host"] == f"127.0.0.1:{port}"
    assert dict(told["headers"])["x-forwarded-host"] == "evil.example", "nginx passes it through"


def test_a_websocket(serve: Serve, tmp_path: Path) -> None:
    server = serve("behind:app", "--workers", "1")
    with (
        nginx(tmp_path / "nginx", INSIDE, http=outside(server)) as port,
        connect(f"ws://127.0.0.1:{port}/x", open_timeout=PATIENCE_S) as client,
    ):
        told = json.loads(client.recv(PATIENCE_S))
        client.send("hello" * 10_000)
        assert client.recv(PATIENCE_S) == "hello" * 10_000
    assert (told["client"], told["scheme"]) == (["127.0.0.1", 0], "ws")


def test_over_a_unix_socket(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "s"
    serve("behind:app", "--workers", "1", "--uds", str(path), "--forwarded-allow-ips", "unix")
    with nginx(tmp_path / "nginx", INSIDE, http=outside(None, path)) as port, client_at(port) as client:
        told = client.get("/x", headers={"X-Forwarded-For": "6.6.6.6"}).json()
    assert told["client"] == ["127.0.0.1", 0]


def test_an_app_below_a_prefix_makes_the_right_links(serve: Serve, tmp_path: Path) -> None:
    fields = "x-forwarded-for,x-forwarded-proto,x-forwarded-prefix"
    server = serve("behind:app", "--workers", "1", "--forwarded-fields", fields)
    with nginx(tmp_path / "nginx", BELOW_A_PATH, http=outside(server)) as port, client_at(port) as client:
        link = f"http://127.0.0.1:{port}/api/link?a=b"
        assert client.get("/api/link?a=b").text == link
        # The client's own prefix was replaced.
        assert client.get("/api/link?a=b", headers={"X-Forwarded-Prefix": "/evil"}).text == link


def test_a_prefix_can_be_a_setting_instead(serve: Serve, tmp_path: Path) -> None:
    server = serve("behind:app", "--workers", "1", "--root-path", "/api")
    with nginx(tmp_path / "nginx", BELOW_A_PATH, http=outside(server)) as port, client_at(port) as client:
        assert client.get("/api/link").text == f"http://127.0.0.1:{port}/api/link"


def test_forwarded(serve: Serve, tmp_path: Path) -> None:
    """nginx ends TLS for https://shop.example:8443, as far as the app can tell."""
    server = serve("behind:app", "--workers", "1", "--forwarded-fields", "forwarded")
    element = 'for=$remote_addr;proto=https;host=\\"shop.example:8443\\"'
    location = f'location / {{ proxy_pass http://app; proxy_set_header Forwarded "{element}"; }}'
    with nginx(tmp_path / "nginx", location, http=outside(server)) as port, client_at(port) as client:
        headers = {"Forwarded": "for=6.6.6.6", "X-Forwarded-For": "6.6.6.6"}
        assert client.get("/x", headers=headers).json()["client"] == ["127.0.0.1", 0]
        assert client.get("/link").text == "https://shop.example:8443/link"


def test_a_reload_is_not_seen_behind_nginx(serve: Serve, tmp_path: Path) -> None:
    """nginx keeps connections to workers that go, and must never find one dead."""
    server = serve("behind:app", "--workers", "2")
    statuses: list[Any] = []
    over = threading.Event()

    def load(port: int) -> None:
        with client_at(port) as client:
            while not over.is_set():
                statuses.append(client.get("/x").status_code)

    # nginx must not hide a failure by trying again.
    with nginx(tmp_path / "nginx", f"proxy_next_upstream off; {INSIDE}", http=outside(server)) as port:
        loads = [threading.Thread(target=load, args=(port,)) for _ in range(3)]
        for thread in loads:
            thread.start()
        before = server.pids()
        for _ in range(2):
            since = len(server.log())
            server.send(SIGHUP)
            server.saw(r"^INFO:     reloaded$", since=since)
        over.set()
        for thread in loads:
            thread.join(PATIENCE_S)
        assert not server.pids() & before
    assert set(statuses) == {200}
