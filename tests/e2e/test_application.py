"""Flags about the app: lifespan, factory, app-dir, context variables, root path, fixed headers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.helpers.server import APPS, Ended, Serve, ServerProcess, client_of


def ask(server: ServerProcess, path: str = "/", **how: Any) -> httpx.Response:
    """One request on a connection of its own."""
    with client_of(server) as client:
        return client.get(path, **how)


def state_of(server: ServerProcess) -> Any:
    return ask(server).json()["state"]


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_lifespan_runs(serve: Serve, notes: Path, mode: str) -> None:
    server = serve("probe:app", "--workers", "1", "--lifespan", mode)
    [pid] = server.pids()
    assert (notes / f"up-{pid}").exists()
    assert state_of(server) == {"lifespan": "ran"}
    server.stop()
    assert (notes / f"down-{pid}").exists()


def test_lifespan_off_skips_it(serve: Serve, notes: Path) -> None:
    server = serve("probe:app", "--workers", "1", "--lifespan", "off")
    assert not state_of(server)
    server.stop()
    assert list(notes.iterdir()) == []
    assert "application startup" not in server.log()


def test_lifespan_auto_serves_an_app_without_one(serve: Serve) -> None:
    server = serve("probe:only_http", "--workers", "1")
    assert ask(server).status_code == 200
    assert "ASGI 'lifespan' protocol appears unsupported." in server.log()


def test_lifespan_on_insists(tmp_path: Path) -> None:
    ended = Ended(tmp_path, "probe:only_http", "--workers", "2", "--lifespan", "on")
    assert ended.code == 3, ended.text
    assert "--lifespan on" in ended.text
    assert "NotImplementedError: no lifespan here" in ended.text


def test_a_factory(serve: Serve) -> None:
    server = serve("probe:create", "--factory", "--workers", "1")
    assert ask(server).status_code == 200
    assert "WARNING" not in server.log()


def test_a_factory_without_the_flag_works_and_is_told(serve: Serve) -> None:
    server = serve("probe:create", "--workers", "1")
    assert ask(server).status_code == 200
    assert "looks like an app factory" in server.log()


def test_no_factory_can_be_said(tmp_path: Path) -> None:
    ended = Ended(tmp_path, "probe:app", "--factory", "--workers", "1")
    assert ended.code == 3
    assert "leave --factory out" in ended.text


def test_app_dir_goes_first_on_the_path(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "probe.py").write_text(hello_source("the one in app-dir"))
    server = serve("probe:app", "--workers", "1", app_dir=tmp_path, env={"PYTHONPATH": str(APPS)})
    assert ask(server).text == "the one in app-dir"


def test_the_working_directory_is_the_default(serve: Serve, tmp_path: Path) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "main.py").write_text(hello_source("the one in here"))
    server = serve("main:app", "--workers", "1", app_dir=None, folder=folder)
    assert ask(server).text == "the one in here"


def test_app_dir_may_be_relative(serve: Serve, tmp_path: Path) -> None:
    folder = tmp_path / "here"
    (folder / "src").mkdir(parents=True)
    (folder / "src" / "main.py").write_text(hello_source("relative"))
    server = serve("main:app", "--workers", "1", "--app-dir", "src", app_dir=None, folder=folder)
    assert ask(server).text == "relative"


def hello_source(text: str) -> str:
    return (
        "async def app(scope, receive, send):\n"
        "    assert scope['type'] == 'http'\n"
        "    await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n"
        f"    await send({{'type': 'http.response.body', 'body': {text!r}.encode()}})\n"
    )


@pytest.mark.parametrize(
    ("flags", "seen"), [((), "set at import"), (("--reset-contextvars",), "unset")], ids=["kept", "reset"]
)
def test_context_variables(serve: Serve, flags: tuple[str, ...], seen: str) -> None:
    server = serve("probe:app", "--workers", "1", *flags)
    with client_of(server) as client:
        # The request changes the variable; the next one on the same connection must not see that.
        assert [client.get("/context").text for _ in range(3)] == [seen] * 3


def test_root_path_is_in_the_scope(serve: Serve) -> None:
    server = serve("probe:app", "--workers", "1", "--root-path", "/api/v1")
    found = ask(server, "/a%20b/%C3%A9?q=%20").json()
    assert found["root_path"] == "/api/v1"
    assert found["path"] == "/api/v1/a b/é"
    assert found["query_string"] == "q=%20"


def test_the_scope_says_who_talks_to_whom(serve: Serve) -> None:
    server = serve("probe:app", "--workers", "1")
    with client_of(server) as client:
        found = client.get("/").json()
    assert found["server"] == ["127.0.0.1", server.port]
    assert found["client"][0] == "127.0.0.1"
    assert found["scheme"] == "http"
    assert found["pid"] in server.pids()


def test_headers_added_to_every_response(serve: Serve) -> None:
    flags = ("--header", "X-One: 1", "--header", "X-Two:  with: colon", "--header", "X-One: again")
    server = serve("probe:app", "--workers", "1", *flags)
    headers = ask(server).headers
    assert headers.get_list("x-one") == ["1", "again"]
    assert headers["x-two"] == "with: colon"
    assert headers["server"] == "shardserve"
    assert "date" in headers


def test_server_and_date_headers_can_be_left_out(serve: Serve) -> None:
    server = serve("probe:app", "--workers", "1", "--no-server-header", "--no-date-header")
    headers = ask(server).headers
    assert "server" not in headers
    assert "date" not in headers


def test_the_apps_own_server_and_date_headers_win(serve: Serve) -> None:
    server = serve("probe:app", "--workers", "1")
    headers = ask(server, "/own-headers").headers
    assert headers.get_list("server") == ["the app"]
    assert headers.get_list("date") == ["long ago"]


def test_a_server_header_of_the_operators(serve: Serve) -> None:
    server = serve("probe:app", "--workers", "1", "--no-server-header", "--header", "Server: mine")
    assert ask(server).headers.get_list("server") == ["mine"]


def test_run_from_python(serve: Serve, tmp_path: Path) -> None:
    """``shardserve.run`` in a script, as a Uvicorn user writes it."""
    folder = tmp_path / "script"
    folder.mkdir()
    (folder / "probe_settings.json").write_text(json.dumps({"port": 0, "workers": 2, "app_dir": str(APPS)}))
    (folder / "__main__.py").write_text(
        "import json, pathlib, shardserve\n"
        "settings = json.loads(pathlib.Path(__file__).with_name('probe_settings.json').read_text())\n"
        "if __name__ == '__main__':\n"
        "    shardserve.run('probe:app', **settings)\n"
    )
    server = serve(None, program=[str(folder)], folder=tmp_path / "cwd")
    assert len(server.pids()) == 2
    assert ask(server).status_code == 200
