"""Where the server listens: Unix sockets, inherited descriptors, several addresses, IPv6."""

from __future__ import annotations

import os
import re
import socket
import stat
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.helpers.curl import curl, needs_curl
from tests.helpers.server import Ended, Serve


def ask(url: str, *, uds: Path | None = None) -> Any:
    """One request on a connection of its own: what the app saw."""
    transport = httpx.HTTPTransport(uds=str(uds)) if uds else httpx.HTTPTransport()
    with httpx.Client(transport=transport, timeout=20) as client:
        answer = client.get(url)
        assert answer.status_code == 200
        return answer.json()


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no ::1 here")


@needs_curl
def test_a_unix_socket_with_its_mode(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    server = serve("probe:app", "--workers", "2", "--uds", str(path), "--uds-permissions", "600")
    assert server.urls == [f"unix:{path}"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = ask("http://any.name/", uds=path)
    assert found["client"] is None
    assert found["server"] == [str(path), None]
    assert curl("--unix-socket", str(path), "http://any.name/status?204").status == 204
    server.saw_access(r'^INFO:      - "GET / HTTP/1.1" 200 OK$')
    server.stop()
    assert not path.exists()


def test_the_default_mode_lets_a_proxy_in(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    serve("probe:app", "--workers", "1", "--uds", str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o666


def test_a_socket_left_by_a_crash_is_replaced(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(path))
    serve("probe:app", "--workers", "1", "--uds", str(path))
    assert ask("http://x/", uds=path)["path"] == "/"


def test_a_socket_in_use_is_not_replaced(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    server = serve("probe:app", "--workers", "1", "--uds", str(path))
    ended = Ended(tmp_path, "probe:app", "--workers", "1", "--uds", str(path))
    assert ended.code == 1
    assert re.search(rf"the address is in use by pid {server.pid} \(", ended.text), ended.text
    assert ended.tracebacks == 0
    assert ask("http://x/", uds=path)["pid"] in server.pids()


def test_an_inherited_descriptor(serve: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mine:
        port = mine.getsockname()[1]
        server = serve("probe:app", "--workers", "2", "--fd", str(mine.fileno()), pass_fds=(mine.fileno(),))
    assert server.urls == [f"http://127.0.0.1:{port}"]
    assert ask(server.url)["server"] == ["127.0.0.1", port]


def test_an_inherited_unix_socket(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as mine:
        mine.bind(str(path))
        mine.listen(16)
        server = serve("probe:app", "--workers", "1", "--fd", str(mine.fileno()), pass_fds=(mine.fileno(),))
    assert ask("http://x/", uds=path)["client"] is None
    server.stop()
    assert path.exists()  # it is its owner's


def test_several_addresses_at_once(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    flags = ("--bind", "127.0.0.1:0", "--bind", "127.0.0.2:0", "--bind", f"unix:{path}")
    server = serve("probe:app", "--workers", "2", *flags)
    first, second, last = server.urls
    assert last == f"unix:{path}"
    assert ask(first)["server"] == ["127.0.0.1", int(first.rpartition(":")[2])]
    assert ask(second)["server"] == ["127.0.0.2", int(second.rpartition(":")[2])]
    assert ask("http://x/", uds=path)["client"] is None


def test_bind_does_not_go_with_port(tmp_path: Path) -> None:
    ended = Ended(tmp_path, "probe:app", "--bind", "127.0.0.1:0", "--port", "0")
    assert ended.code == 2
    assert "port cannot be given together with bind" in ended.text


@needs_ipv6
@needs_curl
@pytest.mark.parametrize("flags", [("--host", "::1"), ("--bind", "[::1]:0")], ids=["host", "bind"])
def test_ipv6(serve: Serve, flags: tuple[str, ...]) -> None:
    server = serve("probe:app", "--workers", "2", *flags)
    assert server.url == f"http://[::1]:{server.port}"
    found = ask(server.url)
    assert found["server"] == ["::1", server.port]
    assert found["client"][0] == "::1"
    assert ["host", f"[::1]:{server.port}"] in found["headers"]
    assert curl("--globoff", server.url).status == 200


@needs_ipv6
def test_localhost_is_both_families(serve: Serve) -> None:
    families = {entry[0] for entry in socket.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)}
    server = serve("probe:app", "--workers", "1", "--host", "localhost")
    assert len(server.urls) == len(families)
    assert len({url.rpartition(":")[2] for url in server.urls}) == 1  # the same port on all
    for url in server.urls:
        assert ask(url)["path"] == "/"


def test_the_port_is_free_again_at_once(serve: Serve) -> None:
    server = serve("probe:app", "--workers", "2")
    port = server.port
    for _ in range(5):
        ask(server.url)  # leaves connections in TIME_WAIT
    server.stop()
    again = serve("probe:app", "--workers", "2", "--port", str(port))
    assert ask(again.url)["server"] == ["127.0.0.1", port]


def test_a_descriptor_that_is_not_there(tmp_path: Path) -> None:
    ended = Ended(tmp_path, "probe:app", "--fd", "77")
    assert ended.code == 1
    assert "no open socket was inherited under that number" in ended.text
    assert ended.tracebacks == 0


def test_a_descriptor_that_is_no_socket(serve: Serve, tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as mine:
        os.set_inheritable(mine.fileno(), True)
        server = serve(
            "probe:app", "--fd", str(mine.fileno()), pass_fds=(mine.fileno(),), wait=False, quiet=False
        )
        assert server.ended() == 1
    assert "Traceback" not in server.log()
