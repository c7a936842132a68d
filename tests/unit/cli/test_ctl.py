"""``shardserve ctl`` against a control socket in a thread: what it asks, what it prints, how it ends."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import pytest

from shardserve import commands
from shardserve.cli import ctl_client, ctl_tables
from shardserve.master import control_socket
from shardserve.master.control_socket import Request
from tests.helpers.control_server import Answer, ControlServer

ROOT = Path(__file__).parents[3]
WORKERS = [
    commands.WorkerStatus(
        slot=1, state="backoff", restarts={"crash": 3, "lifetime": 1, "rss": 0}, note="again in 3.2 s"
    ),
    commands.WorkerStatus(
        slot=0, state="ready", core=2, pid=4243, generation=3, uptime_s=7500.0, connections=1200, in_flight=7,
        served=1_234_567, rps=1520.4, loop_lag_ms=0.25, loop_lag_max_ms=1500.0, rss_bytes=47_395_635,
    ),
]  # fmt: skip
STATUS = commands.ServerStatus(
    version="1.2.3", pid=4242, app="main:app", phase="serving", uptime_s=86400.0 * 3 + 3600 * 4,
    urls=["http://127.0.0.1:8000", "unix:/run/a"], generation=3, workers=2, reloads=3, reload_failures=1,
    requests=1_234_568, config_problems=["port: 9000 waits for a restart"], workers_list=WORKERS,
)  # fmt: skip


TABLE = [
    "slot  state    core   pid  gen     uptime  conns  in flight     served  req/s     lag  max lag"
    "       rss  restarts                 note",
    "   0  ready       2  4243    3  2 h 5 min  1,200          7  1,234,567  1,520  0.2 ms    1.5 s"
    "  45.2 MiB  0",
    "   1  backoff     -     -    -          -      -          -          0      -       -        -"
    "         -  4 (crash 3, lifetime 1)  again in 3.2 s",
]


def answer(request: Request) -> None:
    """A server for which everything works."""
    match request.command:
        case commands.Status():
            request.reply(STATUS.to_json())
        case commands.Workers():
            request.reply({"workers_list": [one.to_json() for one in WORKERS]})
        case _:
            request.reply()


Serve = Callable[..., ControlServer]


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder in which servers are looked for."""
    folder = tmp_path / "run"
    folder.mkdir()
    monkeypatch.setattr(commands, "_OF_ROOT", folder)
    monkeypatch.setattr(commands, "_of_user", lambda uid: tmp_path / "nowhere")
    for variable in ("RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR", "NO_COLOR"):
        monkeypatch.delenv(variable, raising=False)
    return folder


@pytest.fixture
def serve(run_dir: Path) -> Iterator[Serve]:
    """``serve(answer, pid=5)`` in the folder, or ``serve(answer, path=...)``."""
    with ExitStack() as running:

        def start(answer: Answer = answer, pid: int = 4242, path: Path | None = None) -> ControlServer:
            return running.enter_context(ControlServer(path or run_dir / commands.socket_name(pid), answer))

        yield start


def asked(server: ControlServer) -> list[commands.Command]:
    return [request.command for request in server.requests]


# Commands


def test_status(shardserve, serve: Serve) -> None:
    server = serve()
    result = shardserve("ctl", "status")
    assert result.exit_code == 0
    assert asked(server) == [commands.Status()]
    assert result.stdout.splitlines() == [
        "main:app on http://127.0.0.1:8000, unix:/run/a: serving, up 3 d 4 h, 1,234,568 requests",
        "shardserve 1.2.3, pid 4242, generation 3, 3 reloads (1 failed), 1 of 2 workers ready",
        "! port: 9000 waits for a restart",
        "",
        *TABLE,
    ]


def test_workers(shardserve, serve: Serve) -> None:
    server = serve()
    result = shardserve("ctl", "workers")
    assert result.exit_code == 0
    assert asked(server) == [commands.Workers()]
    assert result.stdout.splitlines() == TABLE


@pytest.mark.parametrize(
    ("args", "command"),
    [
        (["reload"], commands.Reload(wait=True)),
        (["reload", "--no-wait"], commands.Reload(wait=False)),
        (["reopen"], commands.Reopen()),
        (["stop", "--no-wait"], commands.Stop(force=False)),
        (["stop", "--no-wait", "--force"], commands.Stop(force=True)),
        (["scale", "7"], commands.Scale(7)),
    ],
)
def test_what_is_asked_for(shardserve, serve: Serve, args: list[str], command: commands.Command) -> None:
    server = serve()
    result = shardserve("ctl", *args)
    assert (result.exit_code, result.stderr) == (0, "")
    assert asked(server) == [command]
    assert len(result.stdout.splitlines()) == 1


def test_the_message_of_the_server_is_printed(shardserve, serve: Serve) -> None:
    serve(lambda request: request.reply({"message": "from 2 to 7 workers\x1b[2J"}))
    assert shardserve("ctl", "scale", "7").stdout == "from 2 to 7 workers\\x1b[2J\n"


def test_a_reload_says_how_far_it_is(shardserve, serve: Serve) -> None:
    """On stderr: stdout is the answer."""

    def slowly(request: Request) -> None:
        request.progress("worker 0 is ready (1 of 2)")
        request.progress("worker 1 is ready (2 of 2)")
        request.reply({"message": "reloaded 2 workers in 1.5 s"})

    serve(slowly)
    result = shardserve("ctl", "reload")
    assert result.exit_code == 0
    assert result.stderr == "worker 0 is ready (1 of 2)\nworker 1 is ready (2 of 2)\n"
    assert result.stdout == "reloaded 2 workers in 1.5 s\n"


def test_a_reload_that_fails(shardserve, serve: Serve) -> None:
    def fails(request: Request) -> None:
        request.progress("worker 0 starts")
        request.fail("worker 0 did not start (import): No module named 'x'\n  trace\x1b[31m")

    serve(fails)
    result = shardserve("ctl", "reload")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == (
        "worker 0 starts\nError: worker 0 did not start (import): No module named 'x'\n  trace\\x1b[31m\n"
    )


def test_a_stop_waits_for_the_end(shardserve, serve: Serve) -> None:
    """What ends is seen by the connection's end, so the reply alone is not enough."""
    told = threading.Event()

    def stops(request: Request) -> None:
        request.reply({"message": "stopping: requests in flight get 30 s"})
        told.set()

    server = serve(stops)
    ending = threading.Thread(target=lambda: told.wait(20) and server.end())
    ending.start()
    result = shardserve("ctl", "stop")
    ending.join()
    assert result.exit_code == 0
    assert result.stdout == "stopping: requests in flight get 30 s\nstopped\n"
    assert not server.path.exists()


def test_a_server_that_stops_before_it_answers_has_stopped(shardserve, serve: Serve) -> None:
    servers: list[ControlServer] = []
    servers.append(serve(lambda request: servers[0].end()))
    result = shardserve("ctl", "stop", "--force")
    assert (result.exit_code, result.stdout) == (0, "stopping\nstopped\n")


def test_a_server_that_ends_over_another_command_is_an_error(shardserve, serve: Serve) -> None:
    servers: list[ControlServer] = []
    servers.append(serve(lambda request: servers[0].end()))
    result = shardserve("ctl", "reload")
    assert result.exit_code == 1
    assert "ended without an answer; its log says why" in result.stderr


# JSON


def test_json_is_the_reply(shardserve, serve: Serve) -> None:
    serve()
    result = shardserve("ctl", "status", "--json")
    assert json.loads(result.stdout) == {"ok": True, **STATUS.to_json()}
    assert json.loads(shardserve("ctl", "workers", "--json").stdout)["workers_list"][0]["slot"] == 1


def test_json_of_a_failure(shardserve, serve: Serve) -> None:
    def fails(request: Request) -> None:
        request.progress("worker 0 starts")
        request.fail("because")

    serve(fails)
    result = shardserve("ctl", "reload", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"ok": False, "error": "because"}
    assert result.stderr == "worker 0 starts\nError: because\n"


def test_json_of_a_stop(shardserve, serve: Serve) -> None:
    servers: list[ControlServer] = []

    def stops(request: Request) -> None:
        request.reply()
        servers[0].end()

    servers.append(serve(stops))
    result = shardserve("ctl", "stop", "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (0, {"ok": True})


# Which server


def test_by_its_socket(shardserve, serve: Serve, tmp_path: Path) -> None:
    server = serve(path=tmp_path / "c.sock")
    serve(pid=5)
    assert shardserve("ctl", "scale", "2", "--socket", str(server.path)).exit_code == 0
    assert asked(server) == [commands.Scale(2)]


def test_by_the_environment(shardserve, serve: Serve, tmp_path: Path) -> None:
    server = serve(path=tmp_path / "c.sock")
    serve(pid=5)
    env = {"SHARDSERVE_CONTROL_SOCKET": str(server.path)}
    assert shardserve("ctl", "scale", "2", env=env).exit_code == 0
    assert asked(server) == [commands.Scale(2)]


def test_by_the_file(shardserve, serve: Serve, tmp_path: Path) -> None:
    server = serve(path=tmp_path / "c.sock")
    serve(pid=5)
    (tmp_path / "shardserve.toml").write_text('control-socket = "c.sock"\n')
    assert shardserve("ctl", "scale", "2").exit_code == 0
    assert asked(server) == [commands.Scale(2)]


def test_a_path_that_is_configured_and_not_served_is_named(shardserve, tmp_path: Path, run_dir: Path) -> None:
    (tmp_path / "shardserve.toml").write_text('\ncontrol-socket = "/nowhere/c.sock"\n')
    result = shardserve("ctl", "status")
    assert result.exit_code == 1
    assert "there is no control socket /nowhere/c.sock (control-socket of " in result.stderr
    assert "shardserve.toml:2): the server does not run" in result.stderr


@pytest.mark.parametrize("pid", [5, 77])
def test_by_its_pid(shardserve, serve: Serve, pid: int, tmp_path: Path) -> None:
    """Also beside a configured one."""
    servers = {number: serve(pid=number) for number in (5, 77)}
    (tmp_path / "shardserve.toml").write_text('control-socket = "/nowhere/c.sock"\n')
    assert shardserve("ctl", "scale", "2", "--pid", str(pid)).exit_code == 0
    assert {number: asked(one) for number, one in servers.items() if one.requests} == {
        pid: [commands.Scale(2)]
    }


def test_by_the_pid_of_one_with_a_path_of_its_own(shardserve, serve: Serve, tmp_path: Path) -> None:
    """The kernel knows who listens."""
    server = serve(path=tmp_path / "c.sock")
    env = {"SHARDSERVE_CONTROL_SOCKET": str(server.path)}
    assert shardserve("ctl", "scale", "2", "--pid", str(os.getpid()), env=env).exit_code == 0
    assert asked(server) == [commands.Scale(2)]


def test_the_only_one_is_meant(shardserve, serve: Serve, run_dir: Path) -> None:
    """Stale sockets are no servers."""
    for pid in (1, 2):
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(run_dir / commands.socket_name(pid)))
    server = serve()
    assert shardserve("ctl", "scale", "2").exit_code == 0
    assert asked(server) == [commands.Scale(2)]


def test_of_several_one_must_be_named(shardserve, serve: Serve) -> None:
    def other(request: Request) -> None:
        status = dataclasses.replace(STATUS, pid=77, app="other:app\x1b", urls=["http://[::1]:9000"])
        request.reply(status.to_json())

    serve()
    serve(other, pid=77)
    result = shardserve("ctl", "reload")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "Error: 2 servers run here; say which one is meant:",
        "  --pid 4242  main:app       http://127.0.0.1:8000, unix:/run/a",
        "  --pid 77    other:app\\x1b  http://[::1]:9000",
    ]


def test_none(shardserve, run_dir: Path) -> None:
    result = shardserve("ctl", "status")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "Error: no running server was found",
        f"Looked for shardserve-*.sock in {run_dir}.",
        "If it does run: name its socket with --socket PATH, and be its user, or root.",
    ]


def test_none_with_this_pid(shardserve, serve: Serve) -> None:
    serve()
    result = shardserve("ctl", "status", "--pid", "999999")
    assert result.exit_code == 1
    assert "no server with pid 999999 was found" in result.stderr
    assert f"There is pid {os.getpid()}." in result.stderr


def test_none_because_it_is_off(shardserve, tmp_path: Path, run_dir: Path) -> None:
    (tmp_path / "shardserve.toml").write_text('control-socket = "off"\n')
    result = shardserve("ctl", "status")
    assert result.exit_code == 1
    assert "control-socket is off (" in result.stderr
    assert "shardserve.toml:1): such a server takes no commands." in result.stderr


def test_a_file_with_mistakes_stops_nobody(shardserve, serve: Serve, tmp_path: Path) -> None:
    """It is edited, and somebody wants to know how the server is."""
    (tmp_path / "shardserve.toml").write_text("prot = 1\n")
    server = serve()
    assert shardserve("ctl", "scale", "2").exit_code == 0
    server.end()
    server._thread.join(20)
    result = shardserve("ctl", "status")
    assert "The configuration has mistakes (shardserve config check)" in result.stderr


def test_a_server_of_somebody_else_is_passed_over(
    shardserve, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = run_dir / commands.socket_name(5)

    def refuse(self: socket.socket, address: Any) -> None:
        raise PermissionError(13, "Permission denied")

    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(str(path))
        monkeypatch.setattr(ctl_client.socket.socket, "connect", refuse)
        result = shardserve("ctl", "status")
    assert result.exit_code == 1
    uid = os.getuid()
    assert (
        f"Passed over: may not use {path}: the server is uid {uid}'s; be that user, or root." in result.stderr
    )


# What goes wrong


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("nothing", "there is no control socket {path}: the server does not run"),
        ("file", "{path} is not a socket"),
        ("folder", "{path} is not a socket"),
        ("stale", "nobody answers at {path}: the server that made it is gone; the next start replaces it"),
        ("long", "cannot connect to {path}: AF_UNIX path too long"),
    ],
)
def test_a_socket_that_is_none(shardserve, tmp_path: Path, what: str, why: str) -> None:
    path = tmp_path / "c.sock"
    if what == "file":
        path.touch()
    elif what == "folder":
        path.mkdir()
    elif what == "stale":
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
    elif what == "long":
        path = tmp_path / ("x" * 200)
    result = shardserve("ctl", "status", "--socket", str(path))
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: " + why.format(path=path))


class Stranger:
    """Something else that listens there and says ``data``; then it hangs up, or it does not."""

    def __init__(self, path: Path, data: bytes, *, hangs_up: bool = True) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.bind(str(path))
        self._sock.listen()
        self._data, self._hangs_up = data, hangs_up
        self._thread = threading.Thread(target=self._speak)
        self._done = threading.Event()

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(20)
        self._sock.close()

    def _speak(self) -> None:
        self._sock.settimeout(20)
        connection, _ = self._sock.accept()
        with connection:
            try:
                connection.sendall(self._data)
            except OSError:
                return
            if not self._hangs_up:
                self._done.wait(20)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "ended without an answer"),
        (b'{"ok":tr', "ended without an answer"),
        (b"HTTP/1.1 400 Bad Request\r\n", "what answers at {path} is no shardserve: the reply is not JSON"),
        (b'{"ok":5}\n', "no shardserve: not a reply"),
        (
            b'{"ok":true,"version":1}\n',
            "the reply makes no sense: status: version cannot be 1; is the server",
        ),
        (b'{"ok":true,"workers_list":5}\n', "makes no sense: workers_list is not a list"),
        # Little enough more than it reads, that the rest fits into the kernel's buffer.
        (b"x" * (commands.MAX_REPLY_BYTES + 100_000), "no shardserve: its answer has no end"),
    ],
    ids=["nothing", "half", "http", "no-reply", "no-status", "no-list", "endless"],
)
def test_what_is_no_shardserve(shardserve, tmp_path: Path, data: bytes, why: str) -> None:
    path = tmp_path / "c.sock"
    with Stranger(path, data):
        result = shardserve("ctl", "status", "--socket", str(path))
    assert result.exit_code == 1
    assert why.format(path=path) in result.stderr


def test_a_server_that_does_not_answer(shardserve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctl_client.Connection.ask, "__kwdefaults__", {
        **(ctl_client.Connection.ask.__kwdefaults__ or {}), "timeout_s": 0.05,
    })  # fmt: skip
    path = tmp_path / "c.sock"
    with Stranger(path, b"", hangs_up=False):
        result = shardserve("ctl", "status", "--socket", str(path))
    assert result.exit_code == 1
    assert f"the server (pid {os.getpid()}) at {path} took the command but does not answer" in result.stderr
    assert "is it suspended (SIGSTOP)" in result.stderr


def test_a_server_with_a_full_queue(shardserve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctl_client.Connection.__init__, "__kwdefaults__", {"timeout_s": 0.05})
    path = tmp_path / "c.sock"
    with socket.socket(socket.AF_UNIX) as stuck, socket.socket(socket.AF_UNIX) as waiting:
        stuck.bind(str(path))
        stuck.listen(0)
        waiting.connect(str(path))
        result = shardserve("ctl", "status", "--socket", str(path))
    assert result.exit_code == 1
    assert f"the server at {path} does not answer; is it suspended (SIGSTOP)" in result.stderr


def test_a_refusal_is_read_although_the_server_hangs_up(
    shardserve, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_socket, "MOST_CLIENTS", 0)
    monkeypatch.setattr(
        control_socket.ControlSocket, "_accept", lambda self: self._welcome(self._listener.accept()[0])
    )
    serve()
    result = shardserve("ctl", "status")
    assert result.exit_code == 1
    assert "the server is busy with 0 other commands; try again" in result.stderr


@pytest.mark.parametrize("command", ["reload", "stop"])
def test_waiting_can_be_interrupted(
    shardserve, serve: Serve, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    serve()
    method = "ask" if command == "reload" else "wait_for_end"
    monkeypatch.setattr(ctl_client.Connection, method, interrupted)
    result = shardserve("ctl", command)
    assert result.exit_code == 1
    assert "not waiting any more; the" in result.stderr
    assert "goes on" in result.stderr


@pytest.mark.parametrize(
    "args",
    [["scale"], ["scale", "0"], ["scale", "1025"], ["scale", "x"], ["nope"], ["status", "more"],
     ["status", "--pid", "0"], ["status", "--pid", "5", "--socket", "/a"], ["reload", "--force"]],
    ids=" ".join,
)  # fmt: skip
def test_a_wrong_command_line(shardserve, serve: Serve, args: list[str]) -> None:
    server = serve()
    result = shardserve("ctl", *args)
    assert result.exit_code == 2
    assert result.stderr.startswith("Usage: shardserve ctl ")
    assert server.requests == []


@pytest.mark.parametrize("command", ["", "status", "workers", "reload", "stop", "scale"])
def test_help(shardserve, command: str) -> None:
    result = shardserve("ctl", *command.split(), "--help")
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= 80
    if command:
        assert all(flag in result.stdout for flag in ("--socket PATH", "--pid PID", "--json"))
    else:
        assert all(f"  {name} " in result.stdout for name in ("status", "workers", "reload", "stop", "scale"))


def test_it_imports_nothing_of_the_master(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from shardserve.cli import main\n"
        "try:\n"
        "    main(['ctl', 'status', '--socket', '/nowhere'], standalone_mode=False)\n"
        "except Exception as error:\n"
        "    print(error)\n"
        "heavy = {'asyncio', 'uvloop', 'psutil', 'shardserve.master', 'shardserve.worker'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)\n"
    )
    env = {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "there is no control socket /nowhere" in done.stdout


# Tables


def test_colours_change_no_width() -> None:
    plain = ctl_tables.status_text(STATUS, colours=False)
    coloured = ctl_tables.status_text(STATUS, colours=True)
    assert "\x1b" not in plain
    assert click.unstyle(coloured) == plain
    for text, colour in (("ready", "green"), ("backoff", "red"), ("serving", "green")):
        assert click.style(text, fg=colour).removesuffix("\x1b[0m") in coloured


@pytest.mark.parametrize("coloured", [True, False])
def test_colours_are_where_the_log_has_them(
    shardserve, serve: Serve, coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal, and not against NO_COLOR: tests/unit/observe/test_logs.py."""
    serve()
    monkeypatch.setattr(sys.modules["shardserve.cli.ctl"], "wants_colours", lambda stream, flag: coloured)
    assert ("\x1b[" in shardserve("ctl", "status").stdout) == coloured


def test_a_new_server_has_not_much_to_say() -> None:
    status = commands.ServerStatus("1", 7, "a:b", "starting", 0.2, workers=1, workers_list=[
        commands.WorkerStatus(0, "starting", pid=8),
    ])  # fmt: skip
    lines = ctl_tables.status_text(status, colours=False).splitlines()
    assert lines[0] == "a:b on no address: starting, up 0 s, 0 requests"
    assert lines[1] == "shardserve 1, pid 7, generation 0, 0 reloads, 0 of 1 worker ready"
    assert "note" not in lines[3]
    assert len(lines) == 5


def test_while_a_worker_is_replaced_its_slot_has_two() -> None:
    workers = [
        commands.WorkerStatus(1, "ready", pid=12),
        commands.WorkerStatus(0, "reloading", pid=10),
        commands.WorkerStatus(0, "starting", pid=11),
        commands.WorkerStatus(1, "draining", pid=9),
    ]
    lines = ctl_tables.status_text(
        dataclasses.replace(STATUS, config_problems=["it failed:\n  why"], workers_list=workers),
        colours=False,
    ).splitlines()
    assert lines[1].endswith("2 of 2 workers ready")
    assert lines[2:4] == ["! it failed:", "  why"]
    assert [line.split()[:2] for line in lines[6:]] == [
        ["0", "reloading"], ["0", "starting"], ["1", "ready"], ["1", "draining"],
    ]  # fmt: skip


def test_what_a_server_says_cannot_command_the_terminal() -> None:
    evil = "\x1b]0;x\x07\n"
    status = dataclasses.replace(
        STATUS, app=evil, phase=evil, version=evil, urls=[evil], config_problems=[evil],
        workers_list=[commands.WorkerStatus(0, evil, note=evil, restarts={evil: 1})],
    )  # fmt: skip
    text = ctl_tables.status_text(status, colours=True)
    assert "\x1b]" not in text
    assert "\x07" not in text
    assert len(text.splitlines()) == 6


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (0.9, "0 s"), (59.9, "59 s"), (60, "1 min"), (723, "12 min 3 s"), (3600, "1 h"),
     (7500, "2 h 5 min"), (3605, "1 h"), (273_600, "3 d 4 h"), (86_400 * 400, "400 d")],
)  # fmt: skip
def test_duration(seconds: float, text: str) -> None:
    assert ctl_tables.duration(seconds) == text


def test_units() -> None:
    assert [ctl_tables.milliseconds(ms) for ms in (0.0, 0.25, 9.94, 35.4, 999.4, 1250)] == [
        "0.0 ms", "0.2 ms", "9.9 ms", "35 ms", "999 ms", "1.2 s",
    ]  # fmt: skip
    assert [ctl_tables.size(count) for count in (0, 819_200, 47_395_635, 1_342_177_280)] == [
        "0 KiB", "800 KiB", "45.2 MiB", "1.25 GiB",
    ]  # fmt: skip
