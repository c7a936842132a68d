"""A template from the master's side: real processes, and the test as the master."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from shardserve import control
from shardserve.errors import ControlError, StartupError
from shardserve.master.channel import Channel
from shardserve.master.template import FORK_KILL_S, LOST, Forked, become_subreaper
from shardserve.stats import Stage
from tests.helpers.master_process import PATIENCE_S, until
from tests.helpers.nest import Nest, subreaper

DRAIN = control.Drain(grace_s=0.0, deadline_s=PATIENCE_S)


@pytest.fixture(autouse=True)
def _master() -> Iterator[None]:
    with subreaper():
        yield


# The ordinary life


def test_workers_are_forked_and_the_app_is_imported_once(tmp_path: Path) -> None:
    with Nest(tmp_path) as nest:
        nest.ready()
        chicks = [nest.fork(slot) for slot in (0, 1)]
        assert [chick.get() for chick in chicks] == [str(chick.pid) for chick in chicks]
        assert nest.imports() == [nest.template.pid]
        for chick in chicks:
            assert chick.heard[0] == control.Hello(chick.pid)
            assert psutil.Process(chick.pid).ppid() == os.getpid()
            assert chick.worker.page["stage"] == Stage.SERVING
        assert psutil.Process(nest.template.pid).children() == []


def test_a_killed_worker_is_reaped_with_its_signal_and_its_neighbour_serves(tmp_path: Path) -> None:
    with Nest(tmp_path) as nest:
        first, second = nest.ready().fork(0), nest.fork(1)
        first.handle.kill()
        assert first.ended() == -signal.SIGKILL
        assert not psutil.pid_exists(first.pid)
        assert second.get() == str(second.pid)
        assert nest.fork(0).get() != ""


def test_a_worker_drains_like_any_other(tmp_path: Path) -> None:
    with Nest(tmp_path) as nest:
        chick = nest.ready().fork()
        chick.get()
        chick.worker.channel.send(DRAIN, 0.0)
        assert chick.said(control.Drained) == control.Drained(served=1, cut=0)
        assert chick.ended() == 0


def test_the_template_ends_without_its_workers(tmp_path: Path) -> None:
    with Nest(tmp_path) as nest:
        chick = nest.ready().fork()
        nest.template.stop(time.monotonic())
        assert nest.gone() == 0
        assert chick.get() == str(chick.pid)
        assert nest.template.kill_at is None
        assert nest.template.watched() == []


def test_the_end_of_the_master_ends_the_template_and_drains_the_workers(tmp_path: Path) -> None:
    with Nest(tmp_path) as nest:
        chick = nest.ready().fork()
        nest.template.channel.close()
        assert nest.gone() == 0
        chick.worker.channel.close()
        assert until(lambda: [code for code in [chick.handle.poll()] if code is not None]) == [0]
        assert "The master is gone" in nest.err()


# Failures


def test_an_app_that_cannot_be_imported(tmp_path: Path) -> None:
    with Nest(tmp_path, "raise LookupError('the bug')") as nest:
        assert nest.gone() == 3
        assert nest.template.stage == "import"
        assert "LookupError: the bug" in str(nest.template.failed)
        assert not nest.template.ready


def test_a_template_that_is_killed_loses_what_it_has_not_forked(tmp_path: Path) -> None:
    with Nest(tmp_path) as nest:
        served = nest.ready().fork(0)
        os.kill(nest.template.pid, signal.SIGSTOP)
        lost = nest.ask(1)
        assert lost.handle.poll() is None
        os.kill(nest.template.pid, signal.SIGKILL)
        assert nest.gone() == -signal.SIGKILL
        assert lost.ended() == LOST
        assert served.get() == str(served.pid)


def test_a_fork_of_a_template_that_is_gone_is_lost_at_once(tmp_path: Path) -> None:
    with Nest(tmp_path) as nest:
        nest.ready().template.stop(time.monotonic())
        nest.gone()
        assert nest.ask().ended() == LOST


def test_an_import_that_takes_too_long_is_ended_and_tells_where_it_was(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Nest(tmp_path, "import time\ntime.sleep(3600)", startup_s=3600.0) as nest:
        until((tmp_path / "imports").exists)
        deadline = nest.template.kill_at
        assert deadline is not None
        nest.template.turn(deadline)
        assert nest.gone() == -signal.SIGABRT
        assert "not imported in time" in str(nest.template.failed)
        assert "small.py" in caplog.text


def test_a_template_that_is_ready_has_all_the_time(tmp_path: Path) -> None:
    with Nest(tmp_path, startup_s=3600.0) as nest:
        assert nest.ready().template.kill_at is None


def test_a_template_that_does_not_fork_is_killed(tmp_path: Path) -> None:
    with Nest(tmp_path) as nest:
        os.kill(nest.ready().template.pid, signal.SIGSTOP)
        before = time.monotonic()
        chick = nest.ask()
        deadline = nest.template.kill_at
        assert deadline is not None
        assert deadline >= before + FORK_KILL_S
        nest.turn()
        assert nest.template.kill_at == deadline
        nest.template.turn(deadline)
        assert nest.template.kill_at is None
        assert nest.gone() == -signal.SIGKILL
        assert chick.ended() == LOST


def test_a_template_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    with Nest(tmp_path) as nest:
        os.kill(nest.ready().template.pid, signal.SIGSTOP)
        nest.template.stop(time.monotonic())
        deadline = nest.template.kill_at
        assert deadline is not None
        nest.template.turn(deadline)
        assert nest.gone() == -signal.SIGKILL


def test_what_was_handed_over_is_not_kept(tmp_path: Path) -> None:
    with Nest(tmp_path) as nest:
        nest.ready()
        before = len(os.listdir("/proc/self/fd"))
        chick = nest.fork()
        nest.turn()
        # The listener, our end of the pipe, the page, and mmap's own copy of it.
        assert len(os.listdir("/proc/self/fd")) == before + 4, chick


def test_a_start_that_is_too_large_asks_for_nothing(tmp_path: Path) -> None:
    with Nest(tmp_path) as nest:
        before = len(os.listdir("/proc/self/fd"))
        start = control.Start(0, 0, None, {"headers": "x" * control.MAX_DATAGRAM_BYTES})
        with pytest.raises(ControlError):
            nest.template.fork(start, 0.0, sockets=[])
        assert len(os.listdir("/proc/self/fd")) == before
        assert nest.template.kill_at is None


def test_a_worker_given_up_before_its_birth_ends_by_itself(tmp_path: Path) -> None:
    with Nest(tmp_path) as nest:
        os.kill(nest.ready().template.pid, signal.SIGSTOP)
        chick = nest.ask()
        chick.handle.kill()
        assert chick.ended() == LOST
        os.kill(nest.template.pid, signal.SIGCONT)
        (pid,) = until(lambda: {one.pid for one in psutil.Process().children()} - {nest.template.pid})
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert nest.fork().get() != ""


# A handle alone


@pytest.fixture
def forked() -> Iterator[tuple[Forked, Channel, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel = Channel(ours, "worker 0")
    yield Forked(channel), channel, theirs
    channel.close()
    theirs.close()


def test_a_handle_without_a_pid(forked: tuple[Forked, Channel, socket.socket]) -> None:
    handle, channel, theirs = forked
    handle.send_signal(signal.SIGKILL)
    assert handle.poll() is None
    assert handle.awaited
    theirs.close()
    assert handle.poll() is None
    channel.receive()
    assert not handle.awaited
    assert handle.poll() == LOST
    assert handle.returncode == LOST


def test_a_handle_of_somebody_elses_child_is_lost(forked: tuple[Forked, Channel, socket.socket]) -> None:
    handle, _, _ = forked
    handle.pid = os.getpid()
    assert handle.poll() == LOST
    handle.kill()  # what is reaped is not signalled: this process goes on


def test_a_handle_reaps_its_child_once(forked: tuple[Forked, Channel, socket.socket]) -> None:
    handle, _, _ = forked
    with subprocess.Popen(["/bin/sh", "-c", "read line; exit 7"], stdin=subprocess.PIPE) as child:
        handle.pid = child.pid
        assert handle.poll() is None
        assert child.stdin is not None
        child.stdin.close()
        until(lambda: handle.poll() is not None)
        assert handle.poll() == 7
        child.returncode = 7


# Other people's children


def test_a_refused_subreaper_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Libc:
        def prctl(self, *_: int) -> int:
            ctypes.set_errno(1)
            return -1

    monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: Libc())
    with pytest.raises(StartupError, match=r"--preload needs .* Operation not permitted"):
        become_subreaper()


# In a process that has no other children.
STRANGERS = """
import os, subprocess, sys, time
sys.path.insert(0, {root!r})
from shardserve.master.template import become_subreaper, reap_strangers

def ended(pid):
    deadline = time.monotonic() + 20
    while open(f"/proc/{{pid}}/stat").read().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.005)

def orphan():
    hold_in, hold_out = os.pipe()
    tell_in, tell_out = os.pipe()
    between = os.fork()
    if not between:
        pid = os.fork()
        if pid:
            os.write(tell_out, str(pid).encode())
            os._exit(0)
        os.close(hold_out)
        os.read(hold_in, 1)  # until it is an orphan
        os._exit(5)
    os.waitpid(between, 0)
    pid = int(os.read(tell_in, 20))
    os.close(hold_out)
    ended(pid)
    return pid

become_subreaper()
assert reap_strangers(set()) == {{}}  # no children at all
living = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE)
assert reap_strangers({{living.pid}}) == {{}}
first = orphan()
assert reap_strangers({{living.pid, None}}) == {{}}
assert reap_strangers({{living.pid}}) == {{first: 5}}
assert reap_strangers({{living.pid}}) == {{}}
# One of ours has ended: it stays for its own reaper, and at last every stranger is gone.
living.kill()
ended(living.pid)
strangers = [orphan(), orphan()]
found = reap_strangers({{living.pid}})
assert living.wait() == -9
found |= reap_strangers(set())
assert found == dict.fromkeys(strangers, 5), found
print("good")
"""


def test_orphans_are_reaped_and_nobody_else() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STRANGERS.format(root=os.getcwd())], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("good\n", "")
