"""``shardserve profile`` on a real app: with whichever profiler works here, or the message where none does.

A container may forbid both profilers. Then the same runs must end with 1 and say what to do, and that is what
is tested: no test here passes by not looking.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.helpers.load import KeptAlive, Load
from tests.helpers.master_process import PATIENCE_S, until
from tests.helpers.server import MARK, Serve, clean_environment, marked

RUN_S = 4 * PATIENCE_S
FORBIDDEN = "no profiler can be used here."
APP = """
import json

def find_me_in_the_graph():
    return sum(json.loads("[1, 2, 3]")[2] for _ in range(300))

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    body = str(find_me_in_the_graph()).encode() if scope["path"] == "/work" else b""
    status = 200 if scope["path"] == "/work" and scope["method"] == "POST" else 404
    length = b"%d" % len(body)
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", length)]})
    await send({"type": "http.response.body", "body": body})
"""
ASKED = ("--path", "/work", "--body", "x=1", "--connections", "4", "--warm-up", "0.2")


@dataclass
class Run:
    """One that is over."""

    code: int
    out: str
    err: str
    folder: Path
    left: int
    """Processes that it has not ended."""

    @property
    def forbidden(self) -> bool:
        """Neither profiler may be used here, and the message says so and what to do."""
        if FORBIDDEN not in self.err:
            return False
        assert self.code == 1
        assert self.out == ""
        assert re.search(r"perf_event_paranoid|CAP_PERFMON|SYS_PTRACE|ptrace_scope|install it with", self.err)
        assert "Traceback" not in self.err
        return True


def command(*flags: str) -> list[str]:
    return [sys.executable, "-m", "shardserve", "profile", *flags]


def profile(folder: Path, *flags: str, **env: str) -> Run:
    mark = uuid.uuid4().hex
    done = subprocess.run(
        command(*flags),
        cwd=folder,
        env=clean_environment(**{MARK: mark, **env}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
    left = marked(mark)
    for process in left:
        process.kill()
    return Run(done.returncode, done.stdout, done.stderr, folder, len(left))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("profile")
    (found / "busy.py").write_text(APP)
    return found


@pytest.fixture(scope="module")
def ran(folder: Path) -> Run:
    """Two seconds of it."""
    return profile(folder, "busy:app", *ASKED, "--duration", "2", "--no-access-log")


@pytest.fixture(scope="module")
def done(ran: Run) -> Run:
    """The same, of a machine that lets us."""
    if ran.forbidden:
        pytest.skip("neither perf nor py-spy is permitted; the message is tested")
    return ran


def shares_in(table: str) -> list[tuple[str, float, float]]:
    """The rows of layers, which begin at the left."""
    rows = re.findall(r"^(\w+) +([\d.]+) % +([\d.]+) %", table, re.MULTILINE)
    return [(name, float(own), float(behalf)) for name, own, behalf in rows]


def test_it_ends_well_or_says_why_not(ran: Run) -> None:
    assert ran.forbidden or ran.code == 0, ran.err
    assert ran.left == 0
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", ran.err), "stderr is no terminal"


def test_the_app_s_own_function_is_in_the_graph_and_in_the_stacks(done: Run) -> None:
    folded = (done.folder / "profile.folded").read_text()
    assert re.search(r"find_me_in_the_graph \(busy\.py\)", folded)
    graph = ElementTree.parse(done.folder / "profile.svg")
    names = {one.get("data-name") for one in graph.iter()}
    assert {"all", "app", "find_me_in_the_graph"} <= names


def test_the_shares_of_the_table_add_up(done: Run) -> None:
    rows = shares_in(done.out)
    assert [name for name, _, _ in rows][:6] == [
        "kernel",
        "loop",
        "parser",
        "shardserve",
        "app",
        "interpreter",
    ]
    for column in (1, 2):
        assert sum(row[column] for row in rows) == pytest.approx(100, abs=0.5)
    app = next(row for row in rows if row[0] == "app")
    assert app[2] > 30, "it does next to nothing else"
    assert re.search(r"^  your code +[\d.]+ %", done.out, re.MULTILINE)


def test_its_load_was_answered(done: Run) -> None:
    assert "POST /work on 4 connections" in done.out
    assert "answered with an error" not in done.err
    assert "is answered 404" not in done.err


def test_off_cpu_with_nothing_on_the_path(folder: Path) -> None:
    """No wrk: the load is our own. py-spy is beside the interpreter."""
    (folder / "empty").mkdir()
    flags = (*ASKED, "--off-cpu", "--duration", "1", "--output", "waits.svg")
    ran = profile(folder, "busy:app", *flags, PATH=str(folder / "empty"))
    assert ran.left == 0
    if not ran.forbidden:
        assert ran.code == 0, ran.err
        assert "shardserve's own load" in ran.out
        assert "answered with an error" not in ran.err
        # The thread that waits for the master's death.
        assert re.search(r"orphan\.py\);.*(poll|select)", (folder / "waits.folded").read_text())


def test_a_missing_perf_is_named_with_its_package(folder: Path, tmp_path: Path) -> None:
    ran = profile(folder, "busy:app", "--profiler", "perf", "--output", "no.svg", PATH=str(tmp_path))
    assert ran.forbidden
    assert not (folder / "no.svg").exists()
    assert "perf: not installed" in ran.err
    assert "linux-perf" in ran.err


def test_a_server_that_does_not_start_is_quoted(folder: Path) -> None:
    ran = profile(folder, "nothing_like_this:app", "--duration", "1")
    assert ran.forbidden or "nothing_like_this" in ran.err, ran.err
    assert (ran.code, ran.left) == (1, 0)
    assert "Traceback" not in ran.err


def test_interrupted_it_leaves_nothing(folder: Path) -> None:
    mark = uuid.uuid4().hex
    output, log = folder / "interrupted.svg", folder / "interrupted.log"
    with log.open("wb") as errors:
        child = subprocess.Popen(
            command("busy:app", *ASKED, "--duration", "600", "--output", output.name),
            cwd=folder,
            env=clean_environment(**{MARK: mark}),
            stderr=errors,
            stdout=subprocess.DEVNULL,
        )
    try:
        until(lambda: "recording" in log.read_text() or child.poll() is not None, "the recording", RUN_S)
        if FORBIDDEN in log.read_text():
            assert child.wait(PATIENCE_S) == 1
            return
        assert len(marked(mark)) >= 5, "profile, its master, its worker, a profiler, a load"
        child.send_signal(signal.SIGINT)
        assert child.wait(RUN_S) == 130
        assert "interrupted; nothing was written" in log.read_text()
        assert marked(mark) == []
        assert not output.exists()
    finally:
        child.kill()
        child.wait()
        for process in marked(mark):
            process.kill()


def test_a_server_that_runs_already(serve: Serve, folder: Path) -> None:
    server = serve("shardserve.demo:app", "--workers", "2", app_dir=None)
    clients = [KeptAlive(server.port, "/whoami") for _ in range(4)]
    with Load(*clients, pause_s=0.0005) as load:
        ran = profile(folder, "--pid", str(server.pid), "--duration", "1", "--output", "running.svg")
        load.goes_on(5)
    assert ran.left == 0
    if not ran.forbidden:
        assert ran.code == 0, ran.err
        assert "pid" in (folder / "running.svg").read_text()
        assert shares_in(ran.out)
