"""The protocol of ``shardserve ctl``: each command and reply survives the wire, junk is refused by name."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from shardserve import commands
from shardserve.config.model import BY_ATTRIBUTE
from shardserve.config.values import Integer
from shardserve.errors import ControlError, ListenError

COMMANDS: list[commands.Command] = [
    commands.Status(),
    commands.Workers(),
    commands.Reload(),
    commands.Reload(wait=False),
    commands.Reopen(),
    commands.Stop(),
    commands.Stop(force=True),
    commands.Scale(1),
    commands.Scale(1024),
]
WORKER = commands.WorkerStatus(
    slot=1, state="ready", core=3, pid=77, generation=2, uptime_s=1.5, restarts={"crash": 2}, connections=4,
    connections_idle=2, websockets=1, in_flight=1, served=99, errors_5xx=3, rps=0.5, p50_ms=0.25, p99_ms=12.0,
    loop_lag_ms=0.1, loop_lag_max_ms=20.0, cpu_percent=99.5, rss_bytes=2**20, note="é",
)  # fmt: skip
STATUS = commands.ServerStatus(
    version="1.2", pid=7, app="main:app", phase="serving", uptime_s=3.5, urls=["http://[::1]:80"],
    generation=2, workers=2, reloads=3, reload_failures=1, requests=10, errors_5xx=4,
    rps=0.5, p50_ms=0.25, p99_ms=12.0, config_problems=["port waits"],
    workers_list=[WORKER, commands.WorkerStatus(0, "backoff")],
)  # fmt: skip


# Requests


def test_every_command_is_tried_here() -> None:
    assert {type(one) for one in COMMANDS} == set(commands._COMMANDS.values())


@pytest.mark.parametrize("command", COMMANDS, ids=repr)
def test_a_command_survives_the_wire(command: commands.Command) -> None:
    line = commands.encode_command(command)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert commands.decode_command(line) == command
    assert json.loads(line)["command"] == command.name


def test_what_is_left_out_has_its_default() -> None:
    assert commands.decode_command(b'{"command":"reload"}') == commands.Reload(wait=True)
    assert commands.decode_command(b'{"command":"stop"}') == commands.Stop(force=False)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"", "the request is not JSON"),
        (b"\xff\xfe", "the request is not JSON"),
        (b"status", "the request is not JSON"),
        (b"[" * 60_000, "the request is not JSON"),
        (b"[]", "the request is not an object"),
        (b"{}", "unknown command None; there are status, workers, reload, reopen, stop, scale"),
        (b'{"command":"restart"}', "unknown command 'restart'"),
        (b'{"command":["status"]}', "unknown command"),
        (b'{"command":"status","verbose":true}', "status: this version .* does not know verbose"),
        (b'{"command":"reload","wait":1}', "reload: wait cannot be 1"),
        (b'{"command":"stop","force":"yes"}', "stop: force cannot be 'yes'"),
        (b'{"command":"scale"}', "scale: .*workers"),
        (b'{"command":"scale","workers":true}', "scale: workers cannot be True"),
        (b'{"command":"scale","workers":2.0}', "scale: workers cannot be 2.0"),
        (b'{"command":"scale","workers":0}', "scale: workers is 0; it is 1 to 1024"),
        (b'{"command":"scale","workers":1025}', "workers is 1025"),
    ],
)
def test_what_is_no_command_is_refused(line: bytes, why: str) -> None:
    with pytest.raises(ControlError, match=why):
        commands.decode_command(line)


# Replies


def test_replies() -> None:
    assert commands.decode_reply(commands.encode_progress("a\nb")) == {"progress": "a\nb"}
    assert commands.decode_reply(commands.encode_reply({})) == {"ok": True}
    assert commands.decode_reply(commands.encode_reply({"message": "é"})) == {"ok": True, "message": "é"}
    assert commands.decode_reply(commands.encode_failure("why")) == {"ok": False, "error": "why"}
    for line in (commands.encode_progress("a\nb"), commands.encode_failure("a\nb")):
        assert line.count(b"\n") == 1


@pytest.mark.parametrize(
    "line",
    [b"", b"\xff", b"5", b"{}", b'{"ok":1}', b'{"ok":false}', b'{"ok":false,"error":5}', b'{"progress":5}'],
)
def test_what_is_no_reply_is_refused(line: bytes) -> None:
    with pytest.raises(ControlError, match="reply"):
        commands.decode_reply(line)


def test_a_reply_too_large_for_the_client_is_refused() -> None:
    with pytest.raises(ControlError, match=r"over the limit of 4194304"):
        commands.encode_reply({"message": "x" * commands.MAX_REPLY_BYTES})


def test_the_status_of_as_many_workers_as_there_may_be_fits() -> None:
    workers = [dataclasses.replace(WORKER, note="x" * 500) for _ in range(commands.MOST_WORKERS)]
    commands.encode_reply(dataclasses.replace(STATUS, workers_list=workers).to_json())


# A status


def test_a_status_survives_the_wire() -> None:
    reply = commands.decode_reply(commands.encode_reply(STATUS.to_json()))
    assert commands.ServerStatus.from_json(reply) == STATUS
    assert commands.workers_from_json(reply) == STATUS.workers_list


def test_a_server_of_another_version_is_understood() -> None:
    """One that says more, and one that says less."""
    body = {**STATUS.to_json(), "weather": "fine"}
    body["workers_list"] = [{"slot": 0, "state": "ready", "mood": 5}]
    del body["reloads"], body["config_problems"]
    status = commands.ServerStatus.from_json(body)
    assert status.workers_list == [commands.WorkerStatus(0, "ready")]
    assert (status.reloads, status.config_problems) == (0, [])


def test_a_whole_number_is_a_time_too() -> None:
    body = {**WORKER.to_json(), "uptime_s": 3, "rps": 0}
    assert commands.WorkerStatus.from_json(body).uptime_s == 3


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"pid": "7"}, "status: pid cannot be '7'"),
        ({"pid": True}, "status: pid cannot be True"),
        ({"pid": None}, "status: pid cannot be None"),
        ({"urls": "http://x"}, "status: urls cannot be"),
        ({"urls": [5]}, "status: urls cannot be"),
        ({"workers_list": {}}, "workers_list is not a list"),
        ({"workers_list": [5]}, "worker is not an object: 5"),
        ({"workers_list": [{"slot": 1}]}, "worker: .*state"),
        ({"workers_list": [{"slot": 1, "state": "ready", "restarts": {"crash": "x"}}]}, "restarts cannot be"),
        ({"workers_list": [{"slot": 1, "state": "ready", "restarts": []}]}, "restarts cannot be"),
        ({"workers_list": [{"slot": 1, "state": "ready", "rps": "fast"}]}, "rps cannot be 'fast'"),
    ],
)
def test_what_is_no_status_is_refused(change: dict[str, Any], why: str) -> None:
    with pytest.raises(ControlError, match=why):
        commands.ServerStatus.from_json({**STATUS.to_json(), **change})


def test_a_status_of_nothing_is_refused() -> None:
    with pytest.raises(ControlError, match=r"status: .*version"):
        commands.ServerStatus.from_json({"ok": True})
    with pytest.raises(ControlError, match="status is not an object"):
        commands.ServerStatus.from_json(None)


# Where the socket is

UID = os.getuid()


@pytest.fixture
def roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """/run and /tmp of our own."""
    (tmp_path / "run").mkdir()
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(commands, "_OF_ROOT", tmp_path / "run" / "shardserve")
    monkeypatch.setattr(commands, "_of_user", lambda uid: tmp_path / "tmp" / f"shardserve-{uid}")
    return tmp_path


def a_user(monkeypatch: pytest.MonkeyPatch, uid: int = 4711) -> int:
    """A user who is not root, and to whom all belongs that we make."""
    real = os.lstat

    def lstat(path: Any) -> os.stat_result:
        found = list(real(path))
        found[stat.ST_UID] = uid if found[stat.ST_UID] == UID else found[stat.ST_UID]
        return os.stat_result(found)

    monkeypatch.setattr(commands.os, "lstat", lstat)
    return uid


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_systemd_comes_first(roots: Path) -> None:
    environ = {"RUNTIME_DIRECTORY": "/run/a:/run/b", "XDG_RUNTIME_DIR": str(roots)}
    assert commands.runtime_directory(environ, UID) == Path("/run/a")


def test_then_the_session(roots: Path) -> None:
    environ = {"RUNTIME_DIRECTORY": "", "XDG_RUNTIME_DIR": str(roots)}
    assert commands.runtime_directory(environ, UID) == roots


@pytest.mark.parametrize("what", ["", "nowhere", "file", "link"])
def test_a_session_folder_that_is_none_is_passed_over(roots: Path, what: str) -> None:
    (roots / "file").touch()
    (roots / "link").symlink_to(roots)
    environ = {"XDG_RUNTIME_DIR": str(roots / what) if what else ""}
    assert commands.runtime_directory(environ, 0) == roots / "run" / "shardserve"


def test_a_session_folder_of_somebody_else_is_passed_over(roots: Path) -> None:
    """``su`` keeps the variable."""
    environ = {"XDG_RUNTIME_DIR": str(roots)}
    assert commands.runtime_directory(environ, UID + 1).parent in (roots / "tmp", roots / "run")


def test_looking_makes_nothing(roots: Path) -> None:
    for uid in (0, 4711):
        assert not commands.runtime_directory({}, uid).exists()


def test_a_user_gets_a_private_folder(roots: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uid = a_user(monkeypatch)
    umask = os.umask(0)
    try:
        found = commands.runtime_directory({}, uid, create=True)
    finally:
        os.umask(umask)
    assert found == roots / "tmp" / "shardserve-4711"
    assert mode_of(found) == 0o700
    assert commands.runtime_directory({}, uid, create=True) == found


def test_root_gets_run(roots: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_user(monkeypatch, 0)
    umask = os.umask(0o077)
    try:
        found = commands.runtime_directory({}, 0, create=True)
    finally:
        os.umask(umask)
    assert found == roots / "run" / "shardserve"
    assert mode_of(found) == 0o755


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o1777])
def test_a_folder_that_others_may_write_is_refused(
    roots: Path, mode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    uid = a_user(monkeypatch)
    folder = roots / "tmp" / f"shardserve-{uid}"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(ListenError, match=rf"shardserve-4711 .*others may write into it \(mode {mode:04o}\)"):
        commands.runtime_directory({}, uid, create=True)


def test_a_folder_of_somebody_else_is_refused(roots: Path) -> None:
    uid = UID + 4711
    (roots / "tmp" / f"shardserve-{uid}").mkdir(0o700)
    for create in (True, False):
        with pytest.raises(ListenError, match=f"it belongs to uid {UID}, not to uid {uid}; remove it"):
            commands.runtime_directory({}, uid, create=create)


def test_a_link_is_refused(roots: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who was first in /tmp must not choose where we put our socket."""
    uid = a_user(monkeypatch)
    (roots / "tmp" / f"shardserve-{uid}").symlink_to(roots / "run")
    with pytest.raises(ListenError, match="it is not a folder"):
        commands.runtime_directory({}, uid, create=True)


def test_a_folder_that_cannot_be_made_is_named(roots: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (roots / "run").rmdir()
    with pytest.raises(ListenError, match=r"cannot make the folder .*run/shardserve .*No such file"):
        commands.runtime_directory({}, 0, create=True)


def test_the_path_of_each_setting(roots: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uid = a_user(monkeypatch)
    assert commands.socket_path("off", {}, uid, 5) is None
    assert commands.socket_path("/run/a.sock", {}, uid, 5) == Path("/run/a.sock")
    folder = roots / "tmp" / "shardserve-4711"
    assert not folder.exists()
    assert commands.socket_path("auto", {}, uid, 5) == folder / "shardserve-5.sock"
    assert folder.is_dir()


def test_the_search_looks_wherever_a_server_can_be(roots: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uid = a_user(monkeypatch)
    mine = roots / "tmp" / f"shardserve-{uid}"
    assert commands.search_directories({}, uid) == [roots / "run" / "shardserve"]
    mine.mkdir()
    environ = {"RUNTIME_DIRECTORY": f"/run/a:{roots}", "XDG_RUNTIME_DIR": str(roots)}
    assert commands.search_directories(environ, uid) == [
        Path("/run/a"), roots, roots / "run" / "shardserve", mine,
    ]  # fmt: skip
    assert mine not in commands.search_directories(environ, uid + 1)


def test_scale_goes_as_far_as_the_setting() -> None:
    kind = BY_ATTRIBUTE["workers"].kind
    assert isinstance(kind, Integer)
    assert kind.high == commands.MOST_WORKERS
