"""The ticks of an event loop, and the stacks that a process writes when asked."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from shardserve.stats import DUMP_SIGNAL, LOOP_LAG, Page, Stage
from shardserve.worker import heartbeat
from shardserve.worker.heartbeat import Heartbeat, watch_for_dumps
from tests.helpers.master_process import until

ROOT = Path(__file__).parents[3]


@pytest.fixture
def page():
    page = Page.create("test")
    yield page
    page.close()


class FakeTimer:
    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class FakeLoop:
    """A loop whose turns the test makes, at times that the test chooses."""

    def __init__(self, monkeypatch) -> None:
        self.now_s = 100.0
        self.calls: list = []
        clock = SimpleNamespace(monotonic=lambda: self.now_s, monotonic_ns=lambda: round(self.now_s * 1e9))
        monkeypatch.setattr(heartbeat, "time", clock)

    def call_later(self, delay_s, callback):
        timer = FakeTimer()
        self.calls.append((self.now_s + delay_s, callback, timer))
        return timer

    def turn(self, late_s: float = 0.0) -> None:
        (due_s, callback, timer), self.calls = self.calls[0], self.calls[1:]
        assert not timer.cancelled
        self.now_s = due_s + late_s
        callback()


@pytest.fixture
def loop(monkeypatch):
    return FakeLoop(monkeypatch)


def nothing(page: Page) -> None:
    pass


def test_every_lag_is_counted(page, loop):
    Heartbeat(page).arm(loop, nothing)
    for late_s in (0.0, 0.0004, 0.0005, 3.0):
        loop.turn(late_s)
    found = dict(zip([*LOOP_LAG.bounds, None], page.buckets(LOOP_LAG), strict=True))
    assert {bound: count for bound, count in found.items() if count} == {100: 2, 500: 2, 5_000_000: 1}
    assert page["loop_lag_us_sum"] == 400 + 500 + 3_000_000


def test_it_ticks_as_soon_as_it_is_armed(page, loop):
    Heartbeat(page).arm(loop, nothing)
    assert (page["heartbeat_ns"], page["lag_us"]) == (100_000_000_000, 0)
    assert [due_s for due_s, _, _ in loop.calls] == [100.25]


def test_the_lag_of_each_tick_and_the_worst(page, loop):
    Heartbeat(page).arm(loop, nothing)
    seen = []
    for late_s in (0.002, 1.5, 0.0):
        loop.turn(late_s)
        seen.append((page["lag_us"], page["lag_max_us"]))
    assert seen == [(2000, 2000), (1_500_000, 1_500_000), (0, 1_500_000)]
    assert page["heartbeat_ns"] == round(loop.now_s * 1e9)


def test_a_timer_that_is_early_is_not_late(page, loop):
    Heartbeat(page).arm(loop, nothing)
    loop.turn(-0.001)
    assert page["lag_us"] == 0


def test_ticks_that_were_missed_are_not_made_up_for(page, loop):
    Heartbeat(page).arm(loop, nothing)
    loop.turn(10.0)
    assert [due_s for due_s, _, _ in loop.calls] == [110.5]


def test_the_time_that_the_figures_took_is_no_lag(page, loop):
    def publish(page: Page) -> None:
        loop.now_s += 0.125

    Heartbeat(page).arm(loop, publish)
    loop.turn()
    assert page["lag_us"] == 0


def test_each_tick_publishes(page, loop):
    published = []
    Heartbeat(page, interval_s=2.0).arm(loop, lambda page: published.append(page["heartbeat_ns"]))
    loop.turn()
    loop.turn()
    assert published == [100_000_000_000, 102_000_000_000, 104_000_000_000]


def test_figures_that_fail_do_not_stop_the_heart_and_are_told_once(page, loop, caplog):
    def broken(page: Page) -> None:
        raise ValueError("no figures")

    with caplog.at_level(logging.ERROR, "shardserve.worker"):
        Heartbeat(page).arm(loop, broken)
        loop.turn()
        loop.turn()
    assert page["heartbeat_ns"] == 100_500_000_000
    assert len(loop.calls) == 1
    assert [record.exc_info[1].args for record in caplog.records] == [("no figures",)]


def test_a_stopped_heart_says_so_and_stays_still(page, loop):
    heart = Heartbeat(page)
    heart.arm(loop, nothing)
    _, tick, timer = loop.calls[0]
    heart.stop()
    assert timer.cancelled
    tick()  # it was on its way already
    assert page["heartbeat_ns"] == 0
    assert len(loop.calls) == 1
    heart.stop()


def test_stopping_what_was_never_armed_is_fine(page):
    Heartbeat(page).stop()
    assert page["heartbeat_ns"] == 0


async def test_it_ticks_on_a_real_loop(page):
    heart = Heartbeat(page, interval_s=0.001)
    heart.arm(asyncio.get_running_loop(), nothing)
    first = page["heartbeat_ns"]
    deadline = time.monotonic() + 20
    while page["heartbeat_ns"] == first:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)
    assert first < page["heartbeat_ns"] <= time.monotonic_ns()
    heart.stop()


# Dumps, of a process of its own


class Child:
    """A Python process with a page. ``begun`` waits for the line that it prints."""

    def __init__(self, page: Page, *argv: str) -> None:
        self.page = page
        self.process = subprocess.Popen(
            [sys.executable, *argv],
            cwd=ROOT,
            # Its crashes are meant: no report of them from a sanitizer that this runs under.
            env={**os.environ, "ASAN_OPTIONS": f"{os.environ.get('ASAN_OPTIONS', '')}:handle_segv=0"},
            pass_fds=[page.fd],
            stdout=subprocess.PIPE,
            text=True,
        )

    def begun(self) -> Child:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"
        return self

    def asked(self, tid: int, *phrases: str) -> str:
        """What it dumps when it is asked, until that has these phrases: it may not be there yet."""
        found = ""

        def probe() -> bool:
            nonlocal found
            os.kill(tid, DUMP_SIGNAL)
            found += self.page.take_dump()
            return all(phrase in found for phrase in phrases)

        until(probe)
        return found

    def ended(self) -> int:
        return self.process.wait(20)


@pytest.fixture
def child(page):
    started = []

    def start(how: str) -> Child:
        started.append(Child(page, "tests/helpers/stalling.py", str(page.fd), how))
        return started[-1].begun()

    def run(program: str) -> Child:
        started.append(Child(page, "-c", PROGRAM + program, str(page.fd)))
        return started[-1].begun()

    start.run = run
    yield start
    for one in started:
        one.process.kill()
        one.process.wait()
        one.process.stdout.close()


PROGRAM = """
import os, resource, signal, sys, threading, time
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
from shardserve.stats import DUMP_SIGNAL, Page
from shardserve.worker.heartbeat import watch_for_dumps
page = Page(int(sys.argv[1]))
watch_for_dumps(page)
"""


def test_a_worker_without_a_page_is_left_alone():
    before = signal.getsignal(DUMP_SIGNAL)
    watch_for_dumps(None)
    assert signal.getsignal(DUMP_SIGNAL) is before


def test_the_stage_says_that_one_may_ask(page, child):
    child("import")
    assert page["stage"] == Stage.IMPORTING


def test_a_thread_that_waits_tells_where(page, child):
    one = child("wait_for_ever")
    one.asked(one.process.pid, "in wait_for_ever", "in main")
    assert one.process.poll() is None


def test_a_thread_that_holds_the_gil_in_c_tells_where(page, child):
    one = child("hold_the_gil")
    tid = until(
        lambda: [
            int(name) for name in os.listdir(f"/proc/{one.process.pid}/task") if int(name) != one.process.pid
        ]
    )[0]
    one.asked(tid, "in add_up_in_c")


def test_only_the_asked_thread_is_dumped(page, child):
    one = child("wait_while_a_thread_computes")
    assert "compute_for_ever" not in one.asked(one.process.pid, "in wait_for_ever", "in main")


@pytest.mark.parametrize(
    ("number", "words"), [(signal.SIGABRT, "Aborted"), (signal.SIGSEGV, "Segmentation fault")]
)
def test_a_crash_leaves_the_stacks_of_all_threads(page, child, number, words):
    one = child.run(
        "running = threading.Event()\n"
        "def other(): running.set(); time.sleep(1e6)\n"
        "def crash(): running.wait(); print('ready', flush=True); time.sleep(1e6)\n"
        "threading.Thread(target=other, daemon=True).start()\n"
        "crash()\n"
    )
    os.kill(one.process.pid, number)
    assert one.ended() == -number
    dump = page.take_dump()
    assert words in dump
    assert "in crash" in dump
    assert "in other" in dump


def test_a_forked_process_dumps_to_its_own_page(page, child):
    one = child.run(
        "if os.fork() == 0:\n"
        "    theirs = Page.create('other')\n"
        "    watch_for_dumps(theirs)\n"
        "    os.kill(os.getpid(), DUMP_SIGNAL)\n"
        "    os._exit(0 if 'most recent call first' in theirs.take_dump() else 1)\n"
        "code = os.waitpid(-1, 0)[1]\n"
        "print('ready', flush=True)\n"
        "sys.exit(code)\n"
    )
    assert one.ended() == 0
    assert page.dump_bytes() == 0


def test_the_handler_of_an_app_wins(page, child):
    one = child.run(
        "signal.signal(DUMP_SIGNAL, lambda *_: os._exit(7))\nprint('ready', flush=True)\ntime.sleep(1e6)\n"
    )
    os.kill(one.process.pid, DUMP_SIGNAL)
    assert one.ended() == 7
    assert page.dump_bytes() == 0
