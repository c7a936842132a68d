"""What a forked worker is like, and what a template puts up with: real processes, the test as the master."""

from __future__ import annotations

import gc
import logging
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shardserve import control
from shardserve.master.template import Template
from shardserve.stats import DUMP_SIGNAL, DUMPS_AT
from shardserve.worker import template
from tests.helpers.master_process import PATIENCE_S, until
from tests.helpers.nest import Nest, become_ordinary, subreaper

DRAIN = control.Drain(grace_s=0.0, deadline_s=PATIENCE_S)


@pytest.fixture(autouse=True)
def _master() -> Iterator[None]:
    with subreaper():
        yield


# The import


def test_what_the_import_printed_is_printed_once(tmp_path: Path) -> None:
    with Nest(tmp_path, "print('imported')") as nest:
        for slot in (0, 1):
            chick = nest.ready().fork(slot)
            chick.worker.channel.send(DRAIN, 0.0)
            chick.ended()
        nest.template.stop(time.monotonic())
        nest.gone()
        assert nest.out().count("imported") == 1


def test_an_app_that_wants_a_loop_at_import_is_told_what_to_do(tmp_path: Path) -> None:
    with Nest(tmp_path, "import asyncio\nasyncio.get_event_loop()") as nest:
        assert nest.gone() == 3
        assert "no current event loop" in str(nest.template.failed)
        assert "Make what needs one in the lifespan startup" in str(nest.template.failed)


def test_another_mistake_is_not_blamed_on_preload(tmp_path: Path) -> None:
    with Nest(tmp_path, "raise RuntimeError('no')") as nest:
        assert nest.gone() == 3
        assert "--preload" not in str(nest.template.failed)


def test_an_app_may_run_a_loop_of_its_own_at_import(tmp_path: Path) -> None:
    with Nest(tmp_path, "import asyncio\nasyncio.run(asyncio.sleep(0))") as nest:
        assert nest.ready().fork().get("7 * 6") == "42"


def test_threads_of_the_import_are_named(tmp_path: Path) -> None:
    source = """
import threading
for name in ("pump", "feeder"):
    threading.Thread(target=threading.Event().wait, name=name, daemon=True).start()
"""
    with Nest(tmp_path, source) as nest:
        names = nest.ready().fork().get("[one.name for one in threading.enumerate()]")
        assert "MainThread" in names
        assert "pump" not in names
        (line,) = [line for line in nest.err().splitlines() if "threads" in line]
        assert line.startswith("WARNING:")
        assert "pump, feeder" in line


def test_no_threads_no_warning(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "enumerate", lambda: [threading.main_thread()])
    template.warn_of_threads()
    assert caplog.text == ""


def test_what_was_imported_is_left_alone_by_the_garbage_collector() -> None:
    before = gc.get_freeze_count()
    try:
        template.freeze()
        assert gc.get_freeze_count() > before
    finally:
        gc.unfreeze()


# A worker


def test_a_worker_has_its_own_session_and_core(tmp_path: Path) -> None:
    core = max(os.sched_getaffinity(0))
    with Nest(tmp_path) as nest:
        chick = nest.ready().fork(core=core)
        assert chick.get("os.getsid(0)") == str(chick.pid)
        assert chick.get("os.sched_getaffinity(0)") == str({core})
        assert os.sched_getaffinity(nest.template.pid) == os.sched_getaffinity(0)


def test_a_core_that_is_refused_is_a_warning(tmp_path: Path) -> None:
    with Nest(tmp_path) as nest:
        chick = nest.ready().fork(slot=3, core=1023)
        assert chick.get() == str(chick.pid)
        assert f"worker 3 (pid {chick.pid}) runs unpinned: core 1023 is refused" in nest.err()


def test_workers_draw_different_random_numbers(tmp_path: Path) -> None:
    with Nest(tmp_path) as nest:
        nest.ready()
        drawn = {nest.fork(slot).get("random.random()") for slot in (0, 1)}
        assert len(drawn) == 2


def test_context_variables_of_the_import_reach_the_requests(tmp_path: Path) -> None:
    source = "import contextvars\nwho = contextvars.ContextVar('who')\nwho.set('set at import')"
    with Nest(tmp_path, source) as nest:
        assert nest.ready().fork().get("who.get()") == "'set at import'"


def test_log_lines_say_which_worker(tmp_path: Path) -> None:
    with Nest(tmp_path) as nest:
        chick = nest.ready().fork(slot=5)
        assert f"[worker 5, pid {chick.pid}] Application startup complete." in nest.err()


def test_an_app_that_sets_up_our_logger_keeps_it(tmp_path: Path) -> None:
    source = """
import logging, sys
handler = logging.StreamHandler(sys.stderr)
handler.setFormatter(logging.Formatter("mine: %(message)s"))
logging.getLogger("shardserve").handlers[:] = [handler]
"""
    with Nest(tmp_path, source) as nest:
        nest.ready().fork()
        assert "mine: Application startup complete." in nest.err()


def test_a_worker_has_no_pipe_but_its_own(tmp_path: Path) -> None:
    """Or the end of a neighbour, or of the template, would not show."""
    with Nest(tmp_path) as nest:
        first, second = nest.ready().fork(0), nest.fork(1)
        theirs = [_sockets(chick.pid) for chick in (first, second)]
        (pipe,) = _sockets(nest.template.pid)
        assert pipe not in theirs[0] | theirs[1]
        assert not theirs[0] & theirs[1]


def _sockets(pid: int) -> set[str]:
    return {name for name in map(os.readlink, _links(pid)) if name.startswith("socket:")}


def _links(pid: int) -> list[str]:
    return [f"/proc/{pid}/fd/{fd}" for fd in os.listdir(f"/proc/{pid}/fd")]


def test_dumps_of_a_worker_go_to_its_own_page(tmp_path: Path) -> None:
    with Nest(tmp_path) as nest:
        first, second = nest.ready().fork(0), nest.fork(1)
        first.handle.send_signal(DUMP_SIGNAL)
        page = first.worker.page
        # It is written in pieces: none may be taken before the others.
        until(lambda: b"most recent call first" in os.pread(page.fd, 4096, DUMPS_AT))
        assert second.worker.page.dump_bytes() == 0
        assert first.get() == str(first.pid)
        fds = [os.readlink(link) for link in _links(first.pid)]
        assert not any("template" in name for name in fds)


def test_exit_handlers_run_in_the_worker_and_not_in_the_template(tmp_path: Path) -> None:
    source = "import atexit\natexit.register(lambda: open(FOLDER / f'exit-{os.getpid()}', 'w'))"
    with Nest(tmp_path, source) as nest:
        chick = nest.ready().fork()
        nest.template.stop(time.monotonic())
        nest.gone()
        assert not (tmp_path / f"exit-{nest.template.pid}").exists()
        chick.worker.channel.send(DRAIN, 0.0)
        chick.ended()
        assert (tmp_path / f"exit-{chick.pid}").exists()


def test_a_worker_that_the_master_does_not_get_ends(tmp_path: Path) -> None:
    with Nest(tmp_path) as nest:
        nest.ready()
        become_ordinary()
        chick = nest.ask()
        until(lambda: "not the master" in nest.err())
        until(lambda: not chick.hear() and not chick.worker.channel.open)
        assert chick.handle.pid is None


# A template


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_signals_that_are_the_masters_business(tmp_path: Path, number: signal.Signals) -> None:
    with Nest(tmp_path) as nest:
        os.kill(nest.ready().template.pid, number)
        assert nest.fork().get("1") == "1"


def test_sigterm_ends_the_template_and_no_worker(tmp_path: Path) -> None:
    with Nest(tmp_path) as nest:
        chick = nest.ready().fork()
        os.kill(nest.template.pid, signal.SIGTERM)
        assert nest.gone() == -signal.SIGTERM
        assert chick.get("2") == "2"


def test_what_is_no_message_for_a_template_is_ignored(tmp_path: Path) -> None:
    with Nest(tmp_path) as nest:
        with nest.ready().pipe() as pipe:
            pipe.send(b"garbage")
            pipe.send(control.encode(DRAIN))
        assert nest.fork().get("3") == "3"
        assert "The template ignored a control message: control datagram is not JSON" in nest.err()
        assert "Ignored DRAIN from the master" in nest.err()


def test_a_fork_without_its_descriptors_forks_nothing(tmp_path: Path) -> None:
    with Nest(tmp_path) as nest:
        start = control.Start(7, 1, None, {}, [control.Listener(3, "http://test")], page_fd=4)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs, nest.ready().pipe() as pipe:
            socket.send_fds(pipe, [control.encode(control.Fork(start))], [theirs.fileno()])
            theirs.close()
            ours.settimeout(PATIENCE_S)
            assert ours.recv(1) == b""
        assert "Did not fork worker 7: its FORK came with 1 descriptors, not with 3." in nest.err()
        assert nest.fork(1).get("4") == "4"


def test_a_preload_that_cannot_be_obeyed() -> None:
    started = Template.start({"app": "small:app", "colour": "red"}, 1, time.monotonic())

    def probe() -> bool:
        started.turn(time.monotonic())
        return started.gone

    until(probe)
    assert (started.returncode, started.stage) == (3, "start")
    assert re.search("PRELOAD cannot be obeyed: .*colour", str(started.failed))


# A fork that fails


def test_a_fork_that_is_refused(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def refuse() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refuse)
    with caplog.at_level(logging.ERROR, "shardserve"):
        assert template._fork(3) is None
    assert "Cannot fork worker 3: Resource temporarily unavailable" in caplog.text


def test_a_second_fork_that_is_refused(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fork, calls = os.fork, [0]

    def refuse_the_second() -> int:
        calls[0] += 1
        if calls[0] == 2:
            raise OSError(12, "Cannot allocate memory")
        return fork()

    monkeypatch.setattr(os, "fork", refuse_the_second)
    assert template._fork(3) is None
    assert "Cannot fork worker 3: Cannot allocate memory" in caplog.text
