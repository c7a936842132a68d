"""``shardserve.run()`` in a script: an app object in the script's own process, an import string by a master.

Where the end of the process matters, the same script runs with ``uvicorn`` in the place of ``shardserve``.
"""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.helpers.certificates import Authority
from tests.helpers.master_process import PATIENCE_S, until
from tests.helpers.server import Serve, clean_environment, client_of

APP = """
import json, os, sys

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        print("shut down", flush=True)
        await send({"type": "lifespan.shutdown.complete"})
        return
    told = {"pid": os.getpid(), "scheme": scope["scheme"]}
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(told).encode()})

async def refusing(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})
"""


class Script:
    """A script that runs a server on ``port``, and what it says."""

    def __init__(self, folder: Path, text: str, *, port: int, **env: str) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "script.py").write_text(text)
        self.port = port
        self._out, self._log = folder / "stdout.log", folder / "stderr.log"
        with self._out.open("wb") as out, self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "script.py"],
                cwd=folder,
                env=clean_environment(**env),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
            )

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def log(self) -> str:
        return self._log.read_text()

    def get(self, path: str = "/", **how: Any) -> Any:
        """The answer, once the server gives one."""
        scheme = "https" if "verify" in how else "http"

        def probe() -> httpx.Response | None:
            assert self.process.poll() is None, self.log
            try:
                url = f"{scheme}://localhost:{self.port}{path}"
                return httpx.get(url, trust_env=False, timeout=PATIENCE_S, **how)
            except httpx.TransportError:
                return None

        return until(probe, "an answer").json()

    def ended(self) -> int:
        return self.process.wait(PATIENCE_S)


def free_port() -> int:
    """One that nobody has now. Uvicorn says nothing of the port that it picks for 0 until its log is read."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


@contextmanager
def script(folder: Path, call: str, *, server: str = "shardserve", **env: str) -> Iterator[Script]:
    """``call`` has the name of the server, and ``{port}``."""
    port = free_port()
    lines = [f"import {server} as server", call.replace("{port}", str(port)), "print('behind', flush=True)"]
    guarded = "".join(f"    {line}\n" for line in lines)
    one = Script(folder, f"{APP}\nif __name__ == '__main__':\n{guarded}", port=port, **env)
    try:
        yield one
    finally:
        one.process.kill()
        one.process.wait()


def ends(folder: Path, call: str, number: signal.Signals | None) -> dict[str, tuple[int, str]]:
    """The exit code and stdout of the same script, by server."""
    found = {}
    for server in ("uvicorn", "shardserve"):
        with script(folder / server, call, server=server) as one:
            if number is not None:
                one.get()
                one.process.send_signal(number)
            code = one.ended()
            found[server] = (code, "".join(re.findall(r"(?m)^(?:shut down|behind)\n", one.out)))
    return found


# An object


def test_an_object_is_served_by_the_scripts_own_process(tmp_path: Path) -> None:
    with script(tmp_path, "server.run(app, port={port})") as one:
        assert one.get()["pid"] == one.process.pid
        until(lambda: f"http://127.0.0.1:{one.port} (press Ctrl-C to stop)" in one.log, "the address")
        assert 'GET / HTTP/1.1" 200 OK' in until(lambda: one.out, "the access log")


def test_ctrl_c_returns_to_the_script_as_from_uvicorn(tmp_path: Path) -> None:
    found = ends(tmp_path, "server.run(app, port={port})", signal.SIGINT)
    assert found["shardserve"] == found["uvicorn"] == (0, "shut down\nbehind\n")


def test_term_ends_the_script_as_from_uvicorn(tmp_path: Path) -> None:
    found = ends(tmp_path, "server.run(app, port={port})", signal.SIGTERM)
    assert found["shardserve"] == found["uvicorn"] == (-signal.SIGTERM, "shut down\n")


@pytest.mark.parametrize(
    "call",
    [
        "server.run(refusing, port={port})",
        "server.run(app, port={port}, workers=2)",
        "server.run(app, port={port}, reload=True)",
        "server.run(app, port={port}, lifespan='on', factory=True)",
    ],
    ids=["lifespan failed", "workers", "reload", "not a factory"],
)
def test_what_cannot_start_exits_with_uvicorns_code(tmp_path: Path, call: str) -> None:
    found = ends(tmp_path, call, None)
    assert found["shardserve"] == found["uvicorn"] == (3, "")


def test_an_object_over_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    files = authority.issue("localhost")
    call = f"server.run(app, port={{port}}, ssl_certfile={str(files.cert)!r}, ssl_keyfile={str(files.key)!r})"
    with script(tmp_path / "script", call) as one:
        assert one.get(verify=authority.client_context())["scheme"] == "https"
        assert f"https://127.0.0.1:{one.port}" in one.log


def test_a_log_config_that_names_uvicorns_loggers(tmp_path: Path) -> None:
    """The dict that programs take from Uvicorn and change a little."""
    call = (
        "import copy, uvicorn.config; config = copy.deepcopy(uvicorn.config.LOGGING_CONFIG); "
        "config['formatters']['access']['fmt'] = 'MINE %(client_addr)s %(status_code)s'; "
        "config['formatters']['default']['fmt'] = 'OURS %(message)s'; "
        "server.run(app, port={port}, log_config=config)"
    )
    with script(tmp_path, call) as one:
        one.get()
        assert re.search(r"(?m)^MINE 127\.0\.0\.1:\d+ 200", until(lambda: one.out, "the access log"))
        assert "OURS Application startup complete." in one.log


# An import string


def test_an_import_string_is_served_by_workers(serve: Serve, tmp_path: Path) -> None:
    folder = tmp_path / "program"
    folder.mkdir()
    (folder / "served.py").write_text(APP)
    config = {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"short": {"format": "SHORT %(message)s"}},
        "handlers": {
            "out": {"class": "logging.StreamHandler", "formatter": "short", "stream": "ext://sys.stderr"}
        },
        "loggers": {"shardserve": {"handlers": ["out"], "level": "INFO"}},
    }
    (folder / "__main__.py").write_text(
        "import shardserve\n"
        "if __name__ == '__main__':\n"
        f"    shardserve.run('served:app', app_dir={str(folder)!r}, port=0, workers=2, "
        f"log_config={config!r})\n"
    )
    server = serve(None, program=[str(folder)], folder=tmp_path / "cwd")
    with client_of(server) as client:
        assert client.get("/").json()["pid"] in server.pids()
    assert server.pid not in server.pids()
    assert server.log().count("SHORT Application startup complete.") == 2


def test_a_run_that_nothing_guards_says_so(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("")
    port = free_port()
    text = f"{APP}\nimport shardserve\nshardserve.run('script:app', port={port}, workers=1)\n"
    one = Script(tmp_path, text, port=port)
    try:
        assert one.ended() == 3
        assert 'if __name__ == "__main__":' in one.log
    finally:
        one.process.kill()
        one.process.wait()
