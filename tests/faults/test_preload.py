"""--preload with real servers: one import, forked workers, reloads that lose nothing."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest

from tests.helpers.load import Load, fresh
from tests.helpers.master_process import until
from tests.helpers.server import Serve, ServerProcess


def reload(server: ServerProcess) -> None:
    since = len(server.log())
    server.send(signal.SIGHUP)
    server.saw(r"^INFO:     reloaded$", since=since)


def workers_of(server: ServerProcess) -> set[int]:
    return {one["pid"] for one in server.ctl("workers")["workers_list"]}


def template_of(server: ServerProcess) -> int:
    [pid] = server.pids() - workers_of(server)
    return pid


def imports(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()]


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    return tmp_path / "imports"


def test_one_import_for_all_workers_and_their_lives(serve: Serve, notebook: Path) -> None:
    server = serve("faulty:app", "--workers", "3", "--preload", env={"IMPORTS": str(notebook)}, quiet=False)
    workers = workers_of(server)
    assert len(workers) == 3
    assert imports(notebook) == [template_of(server)]
    for pid in workers:  # children of the master, in sessions of their own
        assert psutil.Process(pid).ppid() == server.pid
        assert os.getsid(pid) == pid
    victim = fresh(server.port)["pid"]
    os.kill(victim, signal.SIGKILL)
    server.saw(rf"worker \d \(pid {victim}\) ended \(killed by SIGKILL")
    until(lambda: len(workers_of(server) - {victim}) == 3, "a successor")
    assert len(imports(notebook)) == 1  # it was forked, too
    assert victim not in server.pids()


def test_reloads_under_load_make_new_templates_and_fail_no_request(serve: Serve, notebook: Path) -> None:
    server = serve("faulty:app", "--workers", "2", "--preload", "--no-access-log",
                   env={"IMPORTS": str(notebook)})  # fmt: skip
    templates = [template_of(server)]
    with Load.mixed(server.port) as load:
        for _ in range(5):
            load.goes_on()
            reload(server)
            until(lambda: len(server.pids() - workers_of(server)) == 1, "the old template to go")
            templates.append(template_of(server))
        load.goes_on()
    print(f"5 reloads with --preload: {load.requests} requests, {len(load.failed)} errors")
    assert load.failed == []
    assert imports(notebook) == templates
    assert len(set(templates)) == 6


def test_a_new_version_that_cannot_be_imported_leaves_the_old_one(serve: Serve, tmp_path: Path) -> None:
    marker = tmp_path / "broken"
    server = serve("faulty:app", "--workers", "2", "--preload", env={"BROKEN_IF": str(marker)}, quiet=False)
    before = workers_of(server)
    with Load.mixed(server.port) as load:
        marker.touch()
        failed = server.run_ctl("reload")
        assert failed.returncode == 1
        assert "told to be broken" in failed.stderr
        assert workers_of(server) == before
        marker.unlink()
        server.ctl("reload")
    assert load.failed == []
    assert not before & workers_of(server)


def test_a_first_start_that_fails_is_exit_3(serve: Serve, tmp_path: Path) -> None:
    marker = tmp_path / "broken"
    marker.touch()
    server = serve("faulty:app", "--preload", env={"BROKEN_IF": str(marker)}, quiet=False, wait=False)
    assert server.ended() == 3
    assert server.log().count("the app did not start (import)") == 1
    assert "SystemExit: told to be broken" in server.log()


def test_without_its_template_the_server_goes_on_and_gets_another(serve: Serve, notebook: Path) -> None:
    server = serve("faulty:app", "--workers", "2", "--preload", env={"IMPORTS": str(notebook)}, quiet=False)
    old, workers = template_of(server), workers_of(server)
    with Load.mixed(server.port) as load:
        os.kill(old, signal.SIGKILL)
        server.saw(rf"the template process \(pid {old}\) ended")
        until(lambda: len(server.pids() - workers) == 1 and old not in server.pids(), "a new template")
        load.goes_on()
    assert load.failed == []
    assert workers_of(server) == workers


def test_orphans_of_the_app_are_reaped(serve: Serve, tmp_path: Path) -> None:
    """As a subreaper the master is given what an app leaves behind."""
    (tmp_path / "leaver.py").write_text(
        "import os, json\n"
        "async def app(scope, receive, send):\n"
        "    assert scope['type'] == 'http'\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        orphan = os.fork()\n"
        "        os._exit(0)\n"
        "    os.waitpid(child, 0)\n"
        "    await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n"
        "    await send({'type': 'http.response.body', 'body': b'{\"pid\": 1}'})\n"
    )
    server = serve("leaver:app", "--workers", "1", "--preload", app_dir=tmp_path)
    for _ in range(5):
        fresh(server.port)

    def zombies() -> list[psutil.Process]:
        children = psutil.Process(server.pid).children()
        return [one for one in children if one.status() == psutil.STATUS_ZOMBIE]

    until(lambda: not zombies() and len(server.pids()) == 2, "the orphans to be reaped")


def test_forked_workers_share_memory(serve: Serve, tmp_path: Path) -> None:
    """The private memory of a forked worker is a fraction of that of one that was exec'd."""
    (tmp_path / "large.py").write_text(
        "TABLE = [str(number) * 3 for number in range(300_000)]\n"
        "async def app(scope, receive, send):\n"
        "    assert scope['type'] == 'http'\n"
        "    await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n"
        "    await send({'type': 'http.response.body', 'body': b'{\"pid\": 1}'})\n"
    )
    private = {}
    for flags in ((), ("--preload",)):
        server = serve("large:app", "--workers", "2", *flags, app_dir=tmp_path)
        for _ in range(20):
            fresh(server.port)
        private[flags] = [psutil.Process(pid).memory_full_info().uss for pid in workers_of(server)]
    print(f"private bytes of a worker: exec'd {private[()]}, forked {private[('--preload',)]}")
    assert max(private[("--preload",)]) < min(private[()]) / 2
