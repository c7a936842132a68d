"""USR2: a new master takes the listeners over, and no client notices; if it fails, nothing has happened."""

from __future__ import annotations

import fcntl
import http.client
import os
import signal
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.helpers.load import Load, fresh
from tests.helpers.master_process import until
from tests.helpers.server import Serve, ServerProcess
from tests.helpers.versioned import held_up, write_app

TWO = ("--workers", "2", "--no-access-log", "--timeout-drain-idle", "2")


@pytest.fixture
def app_dir(tmp_path: Path) -> Path:
    write_app(tmp_path, 1)
    return tmp_path


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid)


def told(load: Load) -> None:
    print(f"{load.requests} requests, {len(load.failed)} failed, by version or pid: {dict(load.answers)}")


def states(server: ServerProcess) -> list[str]:
    return [one["state"] for one in server.ctl("workers")["workers_list"]]


# It works


def test_two_upgrades_under_load_fail_no_request(serve: Serve, app_dir: Path) -> None:
    server = serve("versioned:app", *TWO, app_dir=app_dir)
    port, url, masters = server.port, server.url, [server.pid]
    with Load.mixed(port, key="version") as load:
        for version in (2, 3):
            load.goes_on(100)
            write_app(app_dir, version)
            masters.append(server.upgraded())
            until(lambda version=version: load.answers[version] > 100 or load.failed, "the new version")
    told(load)
    assert load.failed == []
    assert set(load.answers) == {1, 2, 3}
    assert len(set(masters)) == 3
    assert {fresh(port)["version"] for _ in range(10)} == {3}
    status = server.ctl("status")
    assert (status["pid"], status["urls"], status["phase"]) == (masters[-1], [url], "serving")
    assert {one.pid for one in server.family()} == {masters[-1], *server.pids()}
    assert len(server.pids()) == 2
    server.stop()
    assert server.log().count("took over from the master with pid") == 2


def test_two_upgrades_on_a_unix_socket(serve: Serve, app_dir: Path, tmp_path: Path) -> None:
    server = serve("versioned:app", *TWO, "--uds", "s.sock", "--uds-permissions", "640", app_dir=app_dir)
    path = Path(psutil.Process(server.pid).cwd()) / "s.sock"
    with Load.mixed(path, key="version") as load:
        for version in (2, 3):
            load.goes_on(100)
            write_app(app_dir, version)
            server.upgraded()
            assert server.log().count("ready: 2 workers in") == version
            until(lambda version=version: load.answers[version] > 100 or load.failed, "the new version")
    told(load)
    assert load.failed == []
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    server.stop()
    assert not path.exists()


def test_requests_in_flight_are_finished_by_the_old_one(serve: Serve, notes: Path) -> None:
    server = serve("faulty:app", *TWO)
    port, before = server.port, server.pids()
    go = notes / "go"
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(fresh, port, f"/hold?{go}") for _ in range(8)]
        until(
            lambda: sum(one["in_flight"] for one in server.ctl("workers")["workers_list"]) == 8, "all there"
        )
        heir = server.upgrade()
        server.saw(r"the new master serves; finishing what is in flight here")
        assert server.ctl("status")["pid"] == heir  # the old one still drains, and does not answer any more
        assert fresh(port)["pid"] not in before
        assert server.running
        assert not any(one.done() for one in asked)
        go.touch()
        assert {one.result()["pid"] for one in asked} <= before
    server.upgraded_to(heir)


@pytest.mark.parametrize(("first", "then"), [(1, 3), (3, 1)])
def test_the_new_one_has_more_or_fewer_workers(
    serve: Serve, app_dir: Path, tmp_path: Path, first: int, then: int
) -> None:
    folder = tmp_path / "cwd"
    folder.mkdir()
    settings = 'app = "versioned:app"\nport = 0\naccess-log = false\ntimeout-drain-idle = 2\n'
    file = folder / "shardserve.toml"
    file.write_text(f"{settings}workers = {first}\n")
    server = serve(None, folder=folder, app_dir=app_dir, choose_port=False)
    with Load.mixed(server.port) as load:
        load.goes_on(100)
        file.write_text(f"{settings}workers = {then}\n")
        server.upgraded()
        until(lambda: server.pids() and states(server) == ["ready"] * then, "its workers to serve")
        load.goes_on(300)
    told(load)
    assert load.failed == []
    assert len(server.pids()) == then
    assert {fresh(server.port)["pid"] for _ in range(100)} == server.pids()  # each gets connections
    assert server.ctl("status")["workers"] == then


def test_the_pid_file_is_the_new_ones_and_stays_locked(serve: Serve, app_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "server.pid"
    server = serve("versioned:app", *TWO, "--pid", str(path), app_dir=app_dir)
    old = server.pid
    assert path.read_text() == f"{old}\n"
    inode = path.stat().st_ino
    for _ in range(2):
        heir = server.upgraded()
        assert path.read_text() == f"{heir}\n"
        assert path.stat().st_ino == inode
        with path.open() as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    server.stop()
    assert not path.exists()


def test_the_control_socket_is_the_new_ones(serve: Serve, app_dir: Path, tmp_path: Path) -> None:
    """Also one at a path of its own, which the new one takes over while the old one still drains."""
    path = tmp_path / "ctl.sock"
    server = serve("versioned:app", *TWO, "--control-socket", str(path), app_dir=app_dir)
    assert server.ctl("status", "--socket", str(path))["pid"] == server.pid
    heir = server.upgraded()
    assert server.ctl("status", "--socket", str(path))["pid"] == heir
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    server.stop()
    assert not path.exists()


# It fails, and the old one serves on


def fails(server: ServerProcess, reason: str) -> None:
    """Wait for the failure: said once, and all processes but the old ones are gone."""
    server.saw(rf"ERROR: +the upgrade failed: .*{reason}")
    until(lambda: {one.pid for one in server.family()} == {server.pid, *server.pids()}, "the new ones to go")
    status = server.ctl("status")
    assert (status["pid"], status["phase"]) == (server.pid, "serving")


def begin(server: ServerProcess, notes: Path) -> int:
    """An upgrade whose workers import, and are held up at it."""
    heir = server.upgrade()
    held_up(notes, heir)
    return heir


def works(server: ServerProcess, app_dir: Path, load: Load) -> None:
    """A later upgrade goes through."""
    write_app(app_dir, 2)
    server.upgraded()
    until(lambda: load.answers[2] > 50 or load.failed, "the new version")


def test_a_broken_app(serve: Serve, app_dir: Path, notes: Path, tmp_path: Path) -> None:
    pid_file = tmp_path / "server.pid"
    server = serve("versioned:app", *TWO, "--pid", str(pid_file), app_dir=app_dir, quiet=False)
    before = server.pids()
    with Load.mixed(server.port, key="version") as load:
        (notes / "broken").touch()
        server.upgrade()
        fails(server, "")
        assert "LookupError: the new version is broken" in server.log()
        assert server.pids() == before
        assert pid_file.read_text() == f"{server.pid}\n"
        load.goes_on()
        (notes / "broken").unlink()
        works(server, app_dir, load)
    told(load)
    assert load.failed == []
    assert pid_file.read_text() == f"{server.pid}\n"


def test_a_broken_config_file(serve: Serve, app_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cwd"
    folder.mkdir()
    settings = 'app = "versioned:app"\nport = 0\nworkers = 2\naccess-log = false\ntimeout-drain-idle = 2\n'
    file = folder / "shardserve.toml"
    file.write_text(settings)
    server = serve(None, folder=folder, app_dir=app_dir, choose_port=False, quiet=False)
    before = server.pids()
    with Load.mixed(server.port, key="version") as load:
        file.write_text(settings + 'workers = "many"\n')
        server.upgrade()
        fails(server, "exit code 2")
        assert server.pids() == before
        file.write_text(settings)
        works(server, app_dir, load)
    told(load)
    assert load.failed == []


def test_the_new_master_is_killed_while_it_starts(serve: Serve, app_dir: Path, notes: Path) -> None:
    server = serve("versioned:app", *TWO, app_dir=app_dir, quiet=False)
    before = server.pids()
    with Load.mixed(server.port, key="version") as load:
        (notes / "hold").touch()
        os.kill(begin(server, notes), signal.SIGKILL)
        (notes / "hold").unlink()
        fails(server, "killed by SIGKILL")
        assert server.pids() == before
        works(server, app_dir, load)
    told(load)
    assert load.failed == []


def test_a_new_one_that_takes_too_long_is_given_up(serve: Serve, app_dir: Path, notes: Path) -> None:
    limit = ("--timeout-worker-startup", "1.5")
    server = serve("versioned:app", *TWO, *limit, app_dir=app_dir, quiet=False)
    with Load.mixed(server.port, key="version") as load:
        (notes / "hold").touch()
        server.upgrade()
        fails(server, "")
        (notes / "hold").unlink()
        load.goes_on()
    told(load)
    assert load.failed == []


def test_the_old_one_dies_while_the_new_one_starts(
    serve: Serve, app_dir: Path, notes: Path, tmp_path: Path
) -> None:
    """Then the new one goes on without it: the listeners are its own as well, and the files."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    settings = 'app = "versioned:app"\nbind = ["127.0.0.1:0", "unix:s.sock"]\nworkers = 2\npid = "s.pid"\n'
    file = folder / "shardserve.toml"
    file.write_text(f'{settings}uds-permissions = "600"\n')
    server = serve(None, folder=folder, app_dir=app_dir, choose_port=False, quiet=False)
    port = server.port
    file.write_text(f'{settings}uds-permissions = "640"\n')
    (notes / "hold").touch()
    heir = begin(server, notes)
    server.process.kill()
    server.saw("going on without it")
    (notes / "hold").unlink()
    server.upgraded_to(heir, code=-signal.SIGKILL)
    server.saw(r"ready: 2 workers", times=2)
    assert {fresh(port)["pid"] for _ in range(20)} <= server.pids()
    assert {fresh(folder / "s.sock")["pid"] for _ in range(20)} <= server.pids()
    assert server.ctl("status")["pid"] == heir
    assert (folder / "s.pid").read_text() == f"{heir}\n"
    assert stat.S_IMODE((folder / "s.sock").stat().st_mode) == 0o640  # what it was not to touch before
    until(lambda: {one.pid for one in server.family()} == {heir, *server.pids()}, "the old workers to go")
    server.stop()
    assert not (folder / "s.sock").exists()
    assert not (folder / "s.pid").exists()


# Both together


def test_a_stop_while_an_upgrade_is_on_its_way_ends_both(serve: Serve, app_dir: Path, notes: Path) -> None:
    server = serve("versioned:app", *TWO, app_dir=app_dir)
    (notes / "hold").touch()
    heir = begin(server, notes)
    server.send(signal.SIGTERM)
    until(lambda: server.process.poll() is not None, "the old master to end")
    assert server.process.returncode == 0
    until(lambda: gone(heir), "the new master to end")
    until(lambda: server.family() == [], "its workers to end")
    with pytest.raises(ConnectionRefusedError):
        fresh(server.port)


def test_a_second_usr2_while_one_is_on_its_way_is_refused(serve: Serve, app_dir: Path, notes: Path) -> None:
    server = serve("versioned:app", *TWO, app_dir=app_dir)
    (notes / "hold").touch()
    heir = begin(server, notes)
    server.send(signal.SIGUSR2)
    server.saw("an upgrade is on its way already")
    (notes / "hold").unlink()
    server.upgraded_to(heir)
    assert server.log().count("the new master starts") == 1


def test_a_kept_connection_gets_one_more_answer_and_is_told(serve: Serve, app_dir: Path) -> None:
    """Of the old master, which is draining."""
    flags = ("--workers", "2", "--timeout-drain-idle", "50")
    server = serve("versioned:app", *flags, app_dir=app_dir)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request("GET", "/")
    connection.getresponse().read()
    write_app(app_dir, 2)
    heir = server.upgrade()
    server.saw(r"the new master serves; finishing what is in flight here")
    until(lambda: fresh(server.port)["version"] == 2, "the new version")
    connection.request("GET", "/")
    answer = connection.getresponse()
    assert answer.getheader("connection") == "close"
    assert b'"version": 1' in answer.read()
    connection.close()
    server.upgraded_to(heir)
