"""``--reload``: a save is served, whatever the editor, the code or open clients do. The real server.

What must *not* cause a reload is followed by a save that does: its line in the log must name it alone.
"""

from __future__ import annotations

import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.helpers.load import KeptAlive, Load, fresh
from tests.helpers.master_process import PATIENCE_S, until
from tests.helpers.server import Serve, ServerProcess, clean_environment

TWO = ("--workers", "2")

APP = """
import asyncio, json, os
{top}
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        assert (await receive())["type"] == "lifespan.startup"
        {startup}
        await send({{"type": "lifespan.startup.complete"}})
        await receive()
        await send({{"type": "lifespan.shutdown.complete"}})
    elif scope["type"] == "websocket":
        await receive()
        await send({{"type": "websocket.accept"}})
        await asyncio.sleep(3600)  # hears nothing
    elif scope["path"] == "/events":
        await send({{"type": "http.response.start", "status": 200, "headers": []}})
        while True:  # hears nothing
            await send({{"type": "http.response.body", "body": b"data: {version}\\n\\n", "more_body": True}})
            await asyncio.sleep(0.05)
    else:
        body = json.dumps({{"version": {version}, "pid": os.getpid()}}).encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({{"type": "http.response.start", "status": 200, "headers": headers}})
        await send({{"type": "http.response.body", "body": body}})
"""


def source(version: int, *, top: str = "", startup: str = "pass") -> str:
    return APP.format(version=version, top=top, startup=startup)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The working directory of the server, in which everything counts that is not excluded."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "main.py").write_text(source(1))
    return folder


class Developer:
    """The server of a project, and what its log says of changes."""

    def __init__(self, serve: Serve, project: Path, *flags: str, **how: object) -> None:
        self.project = project
        self.server: ServerProcess = serve(
            "main:app", "--reload", *flags, folder=project, app_dir=None, **{"quiet": False, **how}
        )
        self.server.saw(r"--reload: watching")
        self.port = self.server.port

    def save(self, version: int, **how: str) -> None:
        (self.project / "main.py").write_text(source(version, **how))

    def serves(self, version: int) -> None:
        until(lambda: fresh(self.port)["version"] == version, f"version {version} to be served")

    def changes(self) -> list[str]:
        return re.findall(r"INFO: +(.+) changed, ", self.server.log())

    def says(self, *names: str) -> None:
        """Wait for a change that has not been waited for; it, and all before it, name just these."""
        until(lambda: len(self.changes()) >= len(names), f"{names} in the log")
        assert self.changes() == list(names)


# Saves


@pytest.mark.parametrize("workers", [(), TWO], ids=["one", "two"])
def test_a_save_is_served_by_every_worker(serve: Serve, project: Path, workers: tuple[str, ...]) -> None:
    developer = Developer(serve, project, *workers, quiet=True)
    before = fresh(developer.port)["pid"]
    kept = KeptAlive(developer.port)
    assert kept()["version"] == 1
    developer.save(2)
    developer.server.saw(r"^INFO:     reloaded$")
    assert {fresh(developer.port)["version"] for _ in range(20)} == {2}
    developer.says("main.py")
    until(lambda: before not in developer.server.pids(), "the old worker to go")
    kept.close()


def test_a_save_by_rename_is_served(serve: Serve, project: Path) -> None:
    """As most editors do, some with a copy of the old file beside it."""
    developer = Developer(serve, project)
    (project / "main.py").rename(project / "main.py~")
    (project / ".main.py.new").write_text(source(2))
    (project / ".main.py.new").rename(project / "main.py")
    (project / "main.py~").unlink()
    developer.serves(2)
    developer.says("main.py")


def test_of_several_saves_within_a_second_the_last_one_is_served(serve: Serve, project: Path) -> None:
    """Of the same size, so that Python would take the bytecode of an earlier one for that of the last."""
    developer = Developer(serve, project, env={"PYTHONDONTWRITEBYTECODE": ""})
    for version in range(2, 10):
        developer.save(version)
        developer.serves(version)
    assert list(project.glob("__pycache__/main.*.pyc"))  # there was some


def test_a_save_during_a_reload_overtakes_it(serve: Serve, project: Path, notes: Path) -> None:
    developer = Developer(serve, project, *TWO)
    blocks = f"import time; open({str(notes / 'there')!r}, 'w')\nwhile True: time.sleep(0.1)"
    developer.save(2, top=blocks)
    until((notes / "there").exists, "the new code to hang in its import")
    assert fresh(developer.port)["version"] == 1
    developer.save(3)
    developer.server.saw(r"^INFO:     reloaded$")
    assert {fresh(developer.port)["version"] for _ in range(20)} == {3}
    assert "did not start" not in developer.server.log()


def test_no_request_fails_at_a_save(serve: Serve, project: Path) -> None:
    developer = Developer(serve, project, *TWO, "--no-access-log", quiet=True)
    port = developer.port
    kept = KeptAlive(port)
    with Load(kept, lambda: fresh(port), lambda: fresh(port), key="version") as load:
        for version in (2, 3, 4):
            load.goes_on()
            developer.save(version)
            until(lambda version=version: load.answers[version] >= 20 or load.failed, "new answers")
    assert load.failed == []
    assert set(load.answers) == {1, 2, 3, 4}


# What counts


def test_a_module_in_a_new_directory_counts_from_its_birth_to_its_end(serve: Serve, project: Path) -> None:
    developer = Developer(serve, project)
    module = project / "package" / "inner" / "module.py"
    module.parent.mkdir(parents=True)
    module.write_text("")
    developer.says("package/inner/module.py")
    module.write_text("x = 1")
    developer.says(*["package/inner/module.py"] * 2)
    module.unlink()
    developer.says(*["package/inner/module.py"] * 3)
    # Another directory of the same name has to be watched anew.
    shutil.rmtree(project / "package")
    module.parent.mkdir(parents=True)
    module.write_text("")
    developer.says(*["package/inner/module.py"] * 4)
    module.write_text("x = 2")
    developer.says(*["package/inner/module.py"] * 5)


def test_what_does_not_count_does_nothing(serve: Serve, project: Path) -> None:
    for folder in (".venv/lib", "venv", "node_modules/x", "__pycache__", ".git", ".cache", "env", "tests"):
        (project / folder).mkdir(parents=True)
    (project / "env" / "pyvenv.cfg").touch()
    developer = Developer(serve, project, "--reload-exclude", "tests")
    for path in (
        ".venv/lib/a.py", "venv/a.py", "node_modules/x/a.py", "__pycache__/a.py", ".git/a.py", ".cache/a.py",
        "env/a.py", "tests/a.py", "notes.txt", "page.html", ".main.py.swp", ".hidden.py", "main.pyc",
    ):  # fmt: skip
        (project / path).write_text("x")
    found = (project / "main.py").stat()
    os.utime(project / "main.py", ns=(found.st_atime_ns, found.st_mtime_ns))
    (project / "main.py").chmod(0o600)
    (project / "other.py").write_text("")
    developer.says("other.py")
    developer.server.saw(r"^INFO:     reloaded$")


def test_includes_excludes_and_directories(serve: Serve, project: Path, tmp_path: Path) -> None:
    library = tmp_path / "library"
    library.mkdir()
    developer = Developer(
        serve, project, "--reload-dir", ".", "--reload-dir", str(library),
        "--reload-include", "*.html", "--reload-include", ".env", "--reload-exclude", "*_generated.py",
    )  # fmt: skip
    (project / "api_generated.py").write_text("")
    (project / "page.html").write_text("")
    developer.says("page.html")
    (project / ".env").write_text("")
    developer.says("page.html", ".env")
    (library / "shared.py").write_text("")
    developer.says("page.html", ".env", str(library / "shared.py"))


def test_a_change_of_the_settings_counts(serve: Serve, project: Path) -> None:
    (project / "shardserve.toml").write_text("")
    developer = Developer(serve, project)
    (project / "shardserve.toml").write_text('headers = ["X-Mode: new"]\n')
    developer.says("shardserve.toml")

    def header() -> str | None:
        connection = http.client.HTTPConnection("127.0.0.1", developer.port, timeout=PATIENCE_S)
        connection.request("GET", "/")
        answer = connection.getresponse()
        answer.read()
        connection.close()
        return answer.getheader("x-mode")

    until(lambda: header() == "new", "the new setting to be served")
    (project / "shardserve.toml").write_text("headers = 7\n")
    developer.server.saw("not reloading, the old configuration stays")
    assert header() == "new"


def test_where_there_is_no_inotify_files_are_looked_at(serve: Serve, project: Path) -> None:
    env = {"WATCHFILES_FORCE_POLLING": "true", "WATCHFILES_POLL_DELAY_MS": "50"}
    developer = Developer(serve, project, env=env)
    assert "every 0.05 s (polling)" in developer.server.log()
    developer.save(2)
    developer.serves(2)
    (project / "new").mkdir()
    (project / "new" / "module.py").write_text("")
    developer.says("main.py", "new/module.py")


# Code that does not start


def test_a_syntax_error_is_shown_once_and_the_old_code_serves(serve: Serve, project: Path) -> None:
    developer = Developer(serve, project, *TWO)
    before = {fresh(developer.port)["pid"] for _ in range(20)}
    (project / "main.py").write_text("def app(:\n")
    log = developer.server.saw(r"waiting for changes; the old code serves on")
    assert log.count("def app(:") == 1
    assert "SyntaxError" in log
    assert {fresh(developer.port)["pid"] for _ in range(20)} <= before
    developer.save(3)
    developer.server.saw(r"^INFO:     reloaded$")
    assert {fresh(developer.port)["version"] for _ in range(20)} == {3}
    assert developer.server.log().count("SyntaxError") == 1


@pytest.mark.parametrize(
    ("top", "startup"),
    [("def broken(:", "pass"), ("", "raise ValueError('no database')")],
    ids=["import", "lifespan"],
)
def test_a_first_start_that_fails_is_waited_for(serve: Serve, project: Path, top: str, startup: str) -> None:
    """The port is open meanwhile: who connects is answered once there is an app."""
    (project / "main.py").write_text(source(1, top=top, startup=startup))
    developer = Developer(serve, project, *TWO, "--lifespan", "on", wait=False)
    log = developer.server.saw(r"waiting for changes; connections wait until there is an app")
    assert log.count("the app did not start") == 1
    waiting = http.client.HTTPConnection("127.0.0.1", developer.port, timeout=PATIENCE_S)
    waiting.request("GET", "/")
    developer.save(2, startup="raise ValueError('another one')")
    developer.server.saw("another one")
    developer.server.saw(r"waiting for changes", times=2)
    developer.save(3)
    developer.server.saw(r"ready: 2 workers")
    answer = waiting.getresponse()
    assert (answer.status, b'"version": 3' in answer.read()) == (200, True)
    waiting.close()
    developer.save(4)
    developer.serves(4)


def test_a_server_that_waits_for_its_first_app_can_be_stopped(serve: Serve, project: Path) -> None:
    (project / "main.py").write_text("import nothing_of_this_name\n")
    developer = Developer(serve, project, wait=False)
    developer.server.saw("waiting for changes")
    developer.server.stop(signal.SIGINT)


def test_a_worker_that_dies_comes_back(serve: Serve, project: Path) -> None:
    developer = Developer(serve, project)
    os.kill(fresh(developer.port)["pid"], signal.SIGKILL)
    developer.serves(1)
    developer.save(2)
    developer.serves(2)


# Clients that stay


def stream_of(port: int) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    connection.request("GET", "/events")
    answer = connection.getresponse()
    assert answer.readline().startswith(b"data:")
    return answer


def test_open_streams_do_not_hold_a_reload_up(serve: Serve, project: Path) -> None:
    """Not even those of an app that listens to nothing: they are cut."""
    developer = Developer(serve, project, "--timeout-graceful-shutdown", "600")
    old = fresh(developer.port)["pid"]
    stream = stream_of(developer.port)
    with connect(f"ws://127.0.0.1:{developer.port}/", proxy=None, open_timeout=PATIENCE_S) as client:
        developer.save(2)
        developer.serves(2)
        with pytest.raises(ConnectionClosed):
            client.recv(timeout=PATIENCE_S)
        assert client.close_code == 1012
    until(lambda: old not in developer.server.pids(), "the old worker to go")
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        stream.read()
    stream.close()


def test_ctrl_c_does_not_wait_for_streams(serve: Serve, project: Path) -> None:
    developer = Developer(serve, project, "--timeout-graceful-shutdown", "600")
    stream = stream_of(developer.port)
    developer.server.stop(signal.SIGINT)  # waits for its end, for less than these 600 s
    stream.close()


# Processes


def watchers(server: ServerProcess) -> list[int]:
    return [one.pid for one in server.workers() if "shardserve.master.watch" in one.cmdline()]


def test_a_watcher_that_dies_is_replaced(serve: Serve, project: Path) -> None:
    developer = Developer(serve, project)
    [watcher] = watchers(developer.server)
    os.kill(watcher, signal.SIGKILL)
    developer.server.saw(r"the watcher ended \(killed by SIGKILL")
    developer.server.saw(r"--reload: watching", times=2)
    developer.save(2)
    developer.serves(2)
    assert watcher not in watchers(developer.server)


def test_nothing_outlives_a_master_that_is_killed(serve: Serve, project: Path) -> None:
    developer = Developer(serve, project)
    until(lambda: len(developer.server.workers()) == 3, "worker, watcher and spare")
    developer.server.process.kill()
    until(lambda: not developer.server.family(), "all of them to go")
    with pytest.raises(AssertionError, match="exit code -9"):  # the fixture would be told the same
        developer.server.stop()


def test_the_spare_serves_the_next_version(serve: Serve, project: Path) -> None:
    developer = Developer(serve, project)
    serving = fresh(developer.port)["pid"]
    until(lambda: len(developer.server.workers()) == 3, "worker, watcher and spare")
    [spare] = developer.server.pids() - {serving, *watchers(developer.server)}
    developer.save(2)
    developer.serves(2)
    assert fresh(developer.port)["pid"] == spare


# breakpoint()


class Terminal:
    """A terminal with the server of a project in its foreground, as under a shell, and its screen."""

    def __init__(self, project: Path, listener: socket.socket) -> None:
        self._ours, theirs = os.openpty()
        os.set_blocking(self._ours, False)
        self._settings = self.settings()
        fd = listener.fileno()
        command = [sys.executable, "-m", "shardserve", "main:app", "--reload", "--fd", str(fd)]
        takes_it = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"{takes_it}os.execv(sys.executable, {command!r})"],
            cwd=project, stdin=theirs, stdout=theirs, stderr=theirs, pass_fds=[fd], start_new_session=True,
            env=clean_environment(SHARDSERVE_CONTROL_SOCKET="off"),
        )  # fmt: skip
        os.close(theirs)
        self._screen = ""

    def settings(self) -> list[object]:
        return termios.tcgetattr(self._ours)

    @property
    def as_before(self) -> bool:
        return self.settings() == self._settings

    def types(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def shows(self, text: str) -> None:
        """Wait for this, and for what comes after it from now on."""

        def probe() -> bool:
            with suppress(BlockingIOError):
                self._screen += os.read(self._ours, 65536).decode(errors="replace")
            return text in self._screen

        try:
            until(probe, f"{text!r} on the terminal")
        except AssertionError:
            raise AssertionError(f"never said {text!r}: {self._screen}") from None
        self._screen = self._screen.partition(text)[2]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


@pytest.fixture
def debugged(project: Path) -> Iterator[tuple[Terminal, http.client.HTTPConnection]]:
    """An app that is at its breakpoint, and the client that it answers then."""
    breaks = "def ask():\n    secret = 42\n    breakpoint()\n    return secret\n"
    text = source(1, top=breaks).replace('{"version": 1', '{"version": ask()')
    (project / "main.py").write_text(text)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        terminal = Terminal(project, listener)
        client = http.client.HTTPConnection("127.0.0.1", listener.getsockname()[1], timeout=PATIENCE_S)
        try:
            terminal.shows("ready: 1 worker")
            client.request("GET", "/")
            terminal.shows("(Pdb) ")
            yield terminal, client
        finally:
            client.close()
            terminal.close()


def test_a_breakpoint_gets_the_terminal(debugged: tuple[Terminal, http.client.HTTPConnection]) -> None:
    terminal, client = debugged
    terminal.types("p secret * 1000 + 1\n")
    terminal.shows("42001")
    terminal.types("c\n")
    assert b'"version": 42,' in client.getresponse().read()
    terminal.types("\x03")  # Ctrl-C
    terminal.shows("stopped")
    assert terminal.process.wait(PATIENCE_S) == 0


def test_ctrl_c_at_a_breakpoint_ends_the_server_and_leaves_the_terminal_usable(
    debugged: tuple[Terminal, http.client.HTTPConnection],
) -> None:
    terminal, _ = debugged
    assert not terminal.as_before  # the prompt edits lines by itself
    terminal.types("\x03")
    terminal.shows("stopped")
    assert terminal.process.wait(PATIENCE_S) == 0
    assert terminal.as_before
