"""HUP and ``ctl reload`` under load: no client notices, and what cannot be had changes nothing."""

from __future__ import annotations

import http.client
import os
import re
import signal
from pathlib import Path

import pytest

from tests.helpers.load import Load, fresh
from tests.helpers.master_process import PATIENCE_S, until
from tests.helpers.queues import restarts, settled, workers
from tests.helpers.server import APPS, Serve, ServerProcess

# faulty.py, but its startup fails while a file is there.
WRAPPED = """
import os
from faulty import app as rest

async def app(scope, receive, send):
    if scope["type"] == "lifespan" and os.path.exists(os.environ["BROKEN_STARTUP_IF"]):
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "the database is away"})
        return
    await rest(scope, receive, send)
"""


def reload_by_hup(server: ServerProcess) -> None:
    since = len(server.log())
    server.send(signal.SIGHUP)
    server.saw(r"^INFO:     reloaded$", since=since)


@pytest.mark.parametrize(("parallel", "reloads"), [(1, 20), (2, 3)])
def test_no_reload_costs_a_request(serve: Serve, parallel: int, reloads: int) -> None:
    flags = ("--workers", "2", "--reload-parallel", str(parallel), "--no-access-log")
    server = serve("faulty:app", *flags)
    with Load.mixed(server.port, pause_s=0.02) as load:
        for number in range(reloads):
            load.goes_on(20)
            if number % 2:
                server.ctl("reload")
            else:
                reload_by_hup(server)
        load.goes_on()
    print(f"{reloads} reloads, {load.requests} requests, {len(load.failed)} errors")
    assert load.failed == []
    settled(server, 2)
    status = server.ctl("status")
    assert (status["reloads"], status["reload_failures"]) == (reloads, 0)
    assert restarts(server) == {"reload": 2 * reloads}
    # Those of workers that are gone are counted, too. What a worker counts is a heartbeat old.
    until(lambda: server.ctl("status")["requests"] >= load.requests, "every request to be counted")
    # Every generation was used: each reload had requests before it.
    assert len(load.answers) > reloads
    how = "one at a time" if parallel == 1 else "2 at a time"
    assert server.log().count(f"reloading 2 workers, {how}") == reloads


def configure(path: Path, **settings: str) -> None:
    lines = [f"{key.replace('_', '-')} = {value}\n" for key, value in settings.items()]
    new = path.with_suffix(".new")
    new.write_text("".join(lines))
    os.replace(new, path)


def server_header(port: int) -> str | None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    connection.request("GET", "/")
    found = connection.getresponse().getheader("server")
    connection.close()
    return found


def test_a_bad_configuration_is_named_and_changes_nothing(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "shardserve.toml"
    configure(path, workers="2", access_log="false")
    server = serve("faulty:app", "--config", str(path), quiet=False)
    before = server.pids()
    with Load.mixed(server.port, pause_s=0.02) as load:
        load.goes_on()
        configure(path, workers="2", access_log="false", timeout_keep_alive='"soon"')
        server.send(signal.SIGHUP)
        server.saw(r"not reloading, the old configuration stays: (?s:.)*shardserve\.toml:3: .*timeout")
        refused = server.run_ctl("reload")
        load.goes_on()
    print(f"2 refused reloads, {load.requests} requests, {len(load.failed)} errors")
    assert refused.returncode == 1
    assert re.search(r"shardserve\.toml:3: .*soon", refused.stderr)
    assert load.failed == []
    assert server.pids() == before
    status = server.ctl("status")
    assert (status["reloads"], status["reload_failures"], status["phase"]) == (0, 2, "serving")
    assert "shardserve.toml:3" in status["config_problems"][0]
    # The error is gone once it is mended.
    configure(path, workers="2", access_log="false", server_header="false")
    server.ctl("reload")
    status = server.ctl("status")
    assert (status["reloads"], status["config_problems"]) == (1, [])
    assert server_header(server.port) is None


def test_settings_that_cannot_change_are_named(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "shardserve.toml"
    configure(path, workers="2", access_log="false")
    server = serve("faulty:app", "--config", str(path))
    assert server_header(server.port) is not None
    with Load.mixed(server.port, pause_s=0.02) as load:
        load.goes_on()
        configure(path, workers="3", backlog="99", access_log="false", server_header="false")
        server.ctl("reload")
        load.goes_on()
    assert load.failed == []
    words = "changed, but needs a restart: backlog, workers"
    assert words in server.log()
    assert server.ctl("status")["config_problems"] == [words]
    assert len({one["pid"] for one in workers(server) if one["state"] == "ready"}) == 2
    assert server_header(server.port) is None  # what can change has changed


@pytest.mark.parametrize(
    ("stage", "marker", "why"),
    [("import", "import-fails", "told to be broken"), ("lifespan", "startup-fails", "the database is away")],
)
def test_a_version_that_does_not_start_leaves_the_old_one(
    serve: Serve, tmp_path: Path, notes: Path, stage: str, marker: str, why: str
) -> None:
    (tmp_path / "wrapped.py").write_text(WRAPPED)
    env = {
        "PYTHONPATH": str(APPS),
        "BROKEN_IF": str(notes / "import-fails"),
        "BROKEN_STARTUP_IF": str(notes / "startup-fails"),
    }
    flags = ("--workers", "2", "--no-access-log")
    server = serve("wrapped:app", *flags, app_dir=tmp_path, env=env, quiet=False)
    before = server.pids()
    with Load.mixed(server.port, pause_s=0.02) as load:
        load.goes_on()
        (notes / marker).touch()
        server.send(signal.SIGHUP)
        server.saw("reload abandoned; not reloaded: worker 0, 1")
        refused = server.run_ctl("reload")
        load.goes_on()
        assert set(load.answers) <= before
        settled(server, 2)
        assert server.pids() == before
        status = server.ctl("status")
        (notes / marker).unlink()
        server.ctl("reload")
        load.goes_on()
    print(f"2 failed reloads and one that went well, {load.requests} requests, {len(load.failed)} errors")
    assert load.failed == []
    assert re.search(rf"worker 0 did not start \({stage}\): .*{why}", server.log())
    assert (refused.returncode, why in refused.stderr) == (1, True)
    assert (status["reloads"], status["reload_failures"]) == (0, 2)
    assert why in status["config_problems"][0]
    assert fresh(server.port)["pid"] not in before
