"""When a worker counts as stalled, what is found to be the reason, and what is done about it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from shardserve.master import health
from shardserve.master.health import LOOK_S, Facts, Limits, Sample, Verdict, Watch, compare, diagnose, trimmed
from shardserve.master.procfs import ThreadTimes
from shardserve.master.slots import Process
from shardserve.stats import DUMP_SIGNAL, Page, Stage
from tests.helpers.master_process import until

ROOT = Path(__file__).parents[3]
PID = 500
LIMITS = Limits(lag_warn_s=1.0, kill_s=5.0, startup_s=4.0)
STACK = 'Stack (most recent call first):\n  File "app.py", line 3 in handler\n'

# What the main thread, and another one, do in a second of observed time: state, CPU, waiting, runs.
BLOCKED = ("S", 0.0, 0.0, 0)
BUSY = ("R", 1.0, 0.0, 10)
OUSTED = ("R", 0.02, 0.97, 30)
ASKING = ("S", 0.01, 0.1, 190)  # for the GIL
STOPPED = ("T", 0.0, 0.0, 0)


class FakePage:
    """A page without a file."""

    def __init__(self) -> None:
        self.figures = {"stage": Stage.SERVING, "heartbeat_ns": 1}
        self.dump = ""

    def __getitem__(self, figure: str) -> int:
        return self.figures[figure]

    def __setitem__(self, figure: str, value: int) -> None:
        self.figures[figure] = value

    def dump_bytes(self) -> int:
        return len(self.dump)

    def take_dump(self) -> str:
        taken, self.dump = self.dump, ""
        return taken


class Patient:
    """A worker that a watch looks at, in a time of its own."""

    def __init__(self, *, started_at: float = 1000.0, pid: int | None = PID) -> None:
        self.page = FakePage()
        self.now = started_at
        self.main = BLOCKED
        self.other: tuple | None = None
        self.answer = STACK
        self.other_answer = 'Stack (most recent call first):\n  File "app.py", line 9 in crunch\n'
        self.asked: list = []
        self.limits = LIMITS
        self.process = Process(pid=pid, slot=2, generation=0, started_at=started_at)
        self.watch = Watch(
            self.page, self.process, ask=self._ask, ask_thread=self._ask_thread, threads=self._threads
        )
        self._born = started_at

    def _ask(self, number: int) -> None:
        assert number == DUMP_SIGNAL
        self.asked.append("process")
        self.page.dump += self.answer

    def _ask_thread(self, tid: int, number: int) -> None:
        assert number == DUMP_SIGNAL
        self.asked.append(tid)
        self.page.dump += self.other_answer

    def _threads(self, pid: int) -> list[ThreadTimes]:
        assert pid == PID
        # Each does what it does now since ever: only differences count, and tests change it between stalls.
        age_s = self.now - self._born
        found = []
        for tid, name, does in ((PID, "python", self.main), (PID + 1, "cruncher", self.other)):
            if does is not None:
                state, cpu, delay, runs = does
                found.append(ThreadTimes(tid, name, state, age_s * cpu, age_s * delay, round(age_s * runs)))
        return found

    def look(self, passes_s: float = LOOK_S, *, beats: bool = False):
        self.now += passes_s
        if beats:
            self.page["heartbeat_ns"] += 1
        return self.watch.look(self.now, self.limits)

    def looks(self, seconds: float, **how):
        """Every finding in so much time."""
        found = [self.look(**how) for _ in range(round(seconds / LOOK_S))]
        return [one for one in found if one is not None]

    def finding(self, **how):
        """The next finding."""
        for _ in range(400):
            found = self.look(**how)
            if found is not None:
                return found
        raise AssertionError("nothing was found")


@pytest.fixture
def patient():
    patient = Patient()
    assert patient.look() is None  # has seen the heartbeat once
    return patient


# A stall


def test_a_heart_that_beats_is_left_alone(patient):
    assert patient.looks(60, beats=True) == []
    assert patient.asked == []


def test_a_heart_that_beats_between_looks_only_sometimes_is_left_alone(patient):
    patient.limits = Limits(0.01, 0.01, 0)  # less than a heartbeat is not to be told from none
    for _ in range(50):
        assert patient.look(beats=True) is None
        assert patient.look() is None


def test_a_stall_is_reported_once_with_reason_and_stack(patient):
    patient.limits = replace(LIMITS, kill_s=0.0)
    found = patient.looks(100)
    assert [(one.kill, one.verdict) for one in found] == [(False, Verdict.BLOCKED)]
    first, *rest = found[0].text.splitlines()
    assert first.startswith("worker 2 (pid 500): its event loop has not turned for 1.")
    assert "it is waiting in a blocking call" in first
    assert rest == [
        "  The event loop's thread:",
        "    Stack (most recent call first):",
        '      File "app.py", line 3 in handler',
    ]
    assert patient.asked == ["process"]


def test_it_is_not_reported_before_its_time(patient):
    assert patient.looks(1.0) == []
    assert patient.asked == []
    patient.look()
    assert patient.asked == ["process"]


def test_each_stall_is_reported(patient):
    assert patient.finding().verdict is Verdict.BLOCKED
    assert patient.look(beats=True) is None
    patient.main = STOPPED
    assert patient.finding().verdict is Verdict.STOPPED
    assert patient.asked == ["process", "process"]


def test_a_loop_that_turned_before_its_stack_came_is_reported_in_the_past(patient):
    patient.answer = ""
    while not patient.asked:
        patient.look()
    patient.look()
    patient.page.dump = STACK
    patient.main = BUSY  # now
    found = patient.finding(beats=True)
    assert "did not turn for 1.5 s, and turns again: it was waiting in a blocking call" in found.text
    assert "line 3 in handler" in found.text


def test_a_loop_that_turns_at_once_is_still_reported(patient):
    while not patient.asked:
        patient.look()
    found = patient.finding(beats=True)
    assert "turns again" in found.text
    assert found.verdict is Verdict.BLOCKED  # there was a sample when the stall began


def test_a_stack_is_not_taken_while_it_grows(patient):
    patient.answer = ""
    while not patient.asked:
        patient.look()
    patient.page.dump = "Stack"
    assert patient.look() is None
    patient.page.dump = STACK
    assert patient.look() is None
    assert "line 3 in handler" in patient.look().text


def test_one_that_does_not_answer_is_reported_without_a_stack(patient):
    patient.answer = ""
    found = patient.finding()
    assert "    it did not answer when asked for its Python stack" in found.text.splitlines()
    assert patient.asked == ["process"]


def test_an_answer_that_comes_too_late_is_forgotten(patient):
    patient.answer = ""
    patient.finding()
    patient.page.dump = STACK
    assert patient.look(beats=True) is None
    assert patient.page.dump  # it might be from a crash
    assert patient.look(beats=True) is None
    assert patient.page.dump == ""


def test_the_stack_of_a_crash_is_kept_for_the_burial(patient):
    patient.look(beats=True)
    patient.page.dump = "Fatal Python error: Segmentation fault\n"
    patient.look(beats=True)  # it beat just before
    assert patient.looks(0.75) == []
    assert patient.page.dump


@pytest.mark.parametrize("figures", [{"heartbeat_ns": 0}, {"stage": Stage.LIFESPAN}, {"stage": Stage.BORN}])
def test_only_a_loop_that_runs_can_stall(patient, figures):
    patient.page.figures |= figures
    patient.limits = replace(LIMITS, startup_s=0.0)
    assert patient.looks(60) == []
    assert patient.asked == []


def test_a_worker_that_drains_can_stall(patient):
    patient.page["stage"] = Stage.DRAINING
    assert patient.finding().verdict is Verdict.BLOCKED


def test_a_master_that_was_stopped_blames_nobody(patient):
    assert patient.look(3600.0) is None
    assert patient.asked == []
    assert patient.look(beats=True) is None
    for _ in range(10):  # and one whose looks are few counts only what it could have seen
        assert patient.look(3600.0, beats=True) is None
    patient.looks(0.5)
    assert patient.asked == []


def test_looks_that_come_too_soon_do_not_count(patient):
    """The supervisor's loop may turn for a thousand reasons; a stack is not whole a millisecond later."""
    for _ in range(1000):
        assert patient.look(0.001) is None
    assert patient.asked == []
    while not patient.asked:
        patient.look(0.001)
    assert patient.look(0.001) is None
    assert patient.look(0.001) is None
    assert "for 1." in patient.finding(passes_s=0.01).text


def test_never_is_never(patient):
    patient.limits = Limits(0.0, 0.0, 0.0)
    assert patient.looks(1000) == []
    assert patient.asked == []


def test_a_worker_whose_pid_is_not_known_yet():
    patient = Patient(pid=None)
    patient.look()
    found = patient.finding()
    assert (found.verdict, found.text.split(":")[0]) == (Verdict.UNKNOWN, "worker 2")


# The kill


def test_it_is_killed_at_the_limit(patient):
    warning, kill = patient.looks(5.5)
    assert (warning.kill, kill.kill, kill.cause) == (False, True, "hung")
    assert "for 5.2 s: it is waiting in a blocking call. It is killed" in kill.text
    assert "handler" not in kill.text  # it was in the warning
    assert patient.looks(100) == []


@pytest.mark.parametrize("warn_s", [0.0, 30.0])
def test_without_a_warning_its_stack_comes_with_the_kill(patient, warn_s):
    patient.limits = replace(LIMITS, lag_warn_s=warn_s)
    (kill,) = patient.looks(100)
    assert kill.kill
    assert "line 3 in handler" in kill.text
    assert patient.asked == ["process"]


def test_one_that_turns_at_the_last_moment_is_not_killed(patient):
    patient.limits = replace(LIMITS, lag_warn_s=0.0)
    while not patient.asked:
        patient.look()
    found = patient.finding(beats=True)
    assert not found.kill
    assert "turns again" in found.text
    assert patient.looks(100, beats=True) == []


def test_after_the_kill_its_last_dump_is_left_for_the_burial(patient):
    while not patient.finding().kill:
        pass
    patient.page.dump = "Fatal Python error: Aborted\n"
    patient.looks(10)
    assert patient.page.dump


@pytest.mark.parametrize("main", [BLOCKED, BUSY, STOPPED, ASKING])
def test_whatever_its_own_reason_it_is_killed(patient, main):
    patient.main = main
    patient.other = BUSY if main is ASKING else None
    assert any(one.kill for one in patient.looks(6))


@pytest.mark.parametrize("warn_s", [0.0, 1.0])
def test_one_that_others_starve_is_warned_of_and_not_killed(patient, warn_s):
    patient.limits = replace(LIMITS, lag_warn_s=warn_s)
    patient.main = OUSTED
    found = patient.looks(5.5 if warn_s else 6)
    assert {(one.kill, one.verdict) for one in found} == {(False, Verdict.STARVED_BY_HOST)}
    assert "It is not killed" in found[-1].text
    later = patient.looks(50)
    assert len(later) == 10  # once in each kill_s
    assert not any(one.kill for one in later)


def test_an_endless_loop_is_killed_also_on_a_busy_host(patient):
    """A third of the CPU is what it gets: it is given three times as long."""
    patient.main = ("R", 0.33, 0.66, 100)
    found = patient.looks(15.0)
    assert not any(one.kill for one in found)
    assert patient.looks(6.0)[-1].kill


# The start


def starting(stage: Stage) -> Patient:
    patient = Patient()
    patient.page.figures = {"stage": stage, "heartbeat_ns": 0}
    return patient


@pytest.mark.parametrize(
    ("stage", "words"), [(Stage.IMPORTING, "importing the app"), (Stage.LIFESPAN, "in lifespan startup")]
)
def test_a_start_that_takes_too_long(stage, words):
    patient = starting(stage)
    assert patient.looks(4.0) == []
    assert patient.asked == []
    found = patient.finding()
    assert (found.kill, found.cause) == (True, "slow start")
    assert words in found.text
    assert "line 3 in handler" in found.text
    assert patient.looks(100) == []


def test_one_that_has_not_begun_is_not_asked():
    """The signal would kill it without a word."""
    patient = starting(Stage.BORN)
    assert patient.finding().kill
    assert patient.asked == []


def test_one_that_gets_ready_at_the_last_moment_is_not_killed():
    patient = starting(Stage.IMPORTING)
    while not patient.asked:
        patient.look()
    patient.page.figures = {"stage": Stage.SERVING, "heartbeat_ns": 5}
    assert patient.looks(100, beats=True) == []
    assert patient.page.dump == ""


def test_a_start_may_take_for_ever():
    patient = starting(Stage.LIFESPAN)
    patient.limits = replace(LIMITS, startup_s=0.0)
    patient.page["heartbeat_ns"] = 1  # a loop that is blocked while it starts
    assert patient.looks(1000) == []


def test_a_start_is_measured_in_observed_time():
    patient = starting(Stage.IMPORTING)
    assert patient.look(3600.0) is None
    assert patient.looks(3.5) == []
    assert patient.asked == []


# Why


def test_a_thread_that_starves_the_others_is_asked_too(patient):
    patient.main, patient.other = ASKING, BUSY
    found = patient.finding()
    assert found.verdict is Verdict.STARVED_BY_THREAD
    assert "it is starved by thread cruncher (tid 501), which holds the GIL" in found.text
    assert patient.asked == ["process", PID + 1]
    stacks = found.text.partition("\n")[2]
    assert stacks.index("The event loop's thread:") < stacks.index("line 3 in handler")
    assert stacks.index("line 3 in handler") < stacks.index("Thread cruncher (tid 501):")
    assert stacks.index("Thread cruncher (tid 501):") < stacks.index("line 9 in crunch")


def test_a_thread_that_no_longer_starves_the_others_is_left_alone(patient):
    patient.main, patient.other = ASKING, BUSY
    while not patient.asked:
        patient.look()
    assert patient.finding(beats=True).verdict is Verdict.STARVED_BY_THREAD
    assert patient.asked == ["process"]


def test_the_verdict_waits_until_there_is_something_to_compare(patient):
    """The stack is there at once, but the samples are as far apart as two looks should be."""
    patient.limits = replace(LIMITS, lag_warn_s=0.4)
    patient.main = BUSY
    while not patient.asked:
        patient.look(LOOK_S / 2)
    assert [patient.look(LOOK_S / 2) for _ in range(3)] == [None] * 3
    assert patient.look(LOOK_S / 2).verdict is Verdict.BUSY


def test_a_thread_that_is_gone_when_it_is_asked(patient):
    def gone(tid: int, number: int) -> None:
        raise ProcessLookupError

    patient.watch = Watch(
        patient.page, patient.process, ask=patient._ask, ask_thread=gone, threads=patient._threads
    )
    patient.main, patient.other = ASKING, BUSY
    patient.look()
    assert "    it did not answer" in patient.finding().text


FACTS = Facts(state="S", ran=0.0, waited=0.0, others=0.0, wakeups_per_s=0.0, busiest=None, waited_s=0.0)


@pytest.mark.parametrize(
    ("facts", "verdict"),
    [
        ({}, Verdict.BLOCKED),
        ({"state": "D"}, Verdict.BLOCKED),
        ({"ran": 0.3}, Verdict.BLOCKED),  # many blocking calls
        ({"others": 1.0}, Verdict.BLOCKED),  # it does not ask for the GIL
        ({"state": "T"}, Verdict.STOPPED),
        ({"state": "t", "ran": 1.0}, Verdict.STOPPED),
        ({"state": "R", "ran": 0.95}, Verdict.BUSY),
        ({"state": "R", "ran": 0.5, "waited": 0.5}, Verdict.BUSY),
        ({"ran": 0.33, "others": 0.66, "wakeups_per_s": 70}, Verdict.BUSY),  # threads in turns
        ({"others": 1.0, "wakeups_per_s": 195}, Verdict.STARVED_BY_THREAD),
        ({"others": 0.95, "wakeups_per_s": 50, "waited": 0.6}, Verdict.STARVED_BY_THREAD),  # on one core
        ({"others": 1.0, "wakeups_per_s": None}, Verdict.STARVED_BY_THREAD),  # a kernel that counts less
        ({"others": 4.0, "wakeups_per_s": 195}, Verdict.STARVED_BY_THREAD),
        ({"others": 0.15, "wakeups_per_s": 140, "waited": 0.2}, Verdict.STARVED_BY_THREAD),  # a busy host
        ({"others": 0.03, "wakeups_per_s": 195}, Verdict.BLOCKED),
        ({"others": 1.0, "wakeups_per_s": 30}, Verdict.BLOCKED),
        ({"state": "R", "ran": 0.02, "waited": 0.97, "wakeups_per_s": 30}, Verdict.STARVED_BY_HOST),
        ({"state": "R", "ran": 0.33, "waited": 0.66}, Verdict.BUSY),
        ({"state": "R", "ran": 0.2, "waited": 0.6, "others": 0.1}, Verdict.STARVED_BY_HOST),
        ({"waited": 0.8, "others": 0.05}, Verdict.STARVED_BY_HOST),
    ],
)
def test_the_table(facts, verdict):
    assert diagnose(replace(FACTS, **facts)).verdict is verdict


def test_without_facts_there_is_no_verdict():
    assert diagnose(None).verdict is Verdict.UNKNOWN


def thread(tid: int, state: str, cpu_s: float, delay_s: float = 0.0, runs: int | None = 0) -> ThreadTimes:
    return ThreadTimes(tid, f"t{tid}", state, cpu_s, delay_s, runs)


def test_facts_are_differences():
    before = Sample(10.0, [thread(1, "R", 5.0, 1.0, 100), thread(2, "S", 7.0), thread(3, "S", 1.0)])
    after = Sample(12.0, [thread(1, "S", 5.5, 1.25, 140), thread(2, "S", 7.0), thread(4, "R", 1.0)])
    facts = compare(before, after, 1)
    assert facts == Facts("S", 0.25, 0.125, 0.5, 20.0, after.threads[2], 0.25)


def test_waiting_that_has_not_ended_is_waiting():
    """The kernel counts a delay when the thread gets its CPU."""
    before, after = (Sample(at_s, [thread(1, "R", 5.0, 1.0, 9)]) for at_s in (10.0, 13.0))
    facts = compare(before, after, 1)
    assert facts is not None
    assert (facts.waited_s, diagnose(facts).verdict) == (3.0, Verdict.STARVED_BY_HOST)


def test_a_glimpse_of_a_thread_about_to_run_is_not_waiting():
    before, after = (Sample(at_s, [thread(1, "R", 5.0, 1.0, runs)]) for at_s, runs in ((10.0, 9), (13.0, 15)))
    facts = compare(before, after, 1)
    assert facts is not None
    assert facts.waited_s == 0.0


@pytest.mark.parametrize(
    ("before", "after", "pid"),
    [
        (None, Sample(1.0, [thread(1, "R", 1.0)]), 1),
        (Sample(1.0, [thread(1, "R", 1.0)]), Sample(1.0, [thread(1, "R", 1.0)]), 1),  # no time between
        (Sample(1.0, [thread(1, "R", 1.0)]), Sample(2.0, [thread(1, "R", 1.0)]), 2),
        (Sample(1.0, []), Sample(2.0, [thread(1, "R", 1.0)]), 1),
        (Sample(1.0, []), Sample(2.0, []), None),
    ],
)
def test_what_cannot_be_compared(before, after, pid):
    assert compare(before, after, pid) is None


# The text of a dump


def test_the_current_thread_comes_first_and_like_threads_once():
    idle = '  File "queue.py", line 1 in get\n  File "threading.py", line 9 in run\n'
    dump = (
        "Fatal Python error: Aborted\n\n"
        f"Thread 0x03 (most recent call first):\n{idle}\n"
        f"Thread 0x02 (most recent call first):\n{idle}\n"
        'Current thread 0x01 (most recent call first):\n  File "app.py", line 3 in handler\n\n'
        "Extension modules: uvloop.loop (total: 1)\n"
    )
    assert trimmed(dump).splitlines() == [
        "    Fatal Python error: Aborted",
        "    Current thread 0x01 (most recent call first):",
        '      File "app.py", line 3 in handler',
        "    Thread 0x03 (most recent call first): (and 1 more like it)",
        '      File "queue.py", line 1 in get',
        '      File "threading.py", line 9 in run',
        "    Extension modules: uvloop.loop (total: 1)",
    ]


def test_a_long_dump_is_cut():
    lines = trimmed("Stack (most recent call first):\n" + "  File x\n" * 100).splitlines()
    assert len(lines) == health.DUMP_LINES + 1
    assert lines[-1] == "    ... and 41 lines more"
    assert len(trimmed("x" * 5000)) < 300


def test_a_hole_in_a_dump_is_no_text():
    assert trimmed("\0\0\0Stack") == "    Stack"
    assert trimmed("") == trimmed("\0\n") == ""


# Real processes


class Stalled:
    """A real process that stalls, a real page, and whoever looks."""

    def __init__(self, how: str) -> None:
        self.page = Page.create("test")
        self.popen = subprocess.Popen(
            [sys.executable, "tests/helpers/stalling.py", str(self.page.fd), how],
            cwd=ROOT, pass_fds=[self.page.fd], stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.popen.stdout is not None
        assert self.popen.stdout.readline() == "ready\n"

    def watch(self) -> Watch:
        process = Process(self.popen.pid, slot=0, generation=0, started_at=time.monotonic())
        return Watch(self.page, process, ask=self.popen.send_signal)

    def finding(self, *verdicts: Verdict):
        """What is found, once that is the verdict: a machine that is busy itself may show another one."""
        limits = Limits(lag_warn_s=0.6, kill_s=0.0, startup_s=0.0)
        seen = []

        def once():
            watch = self.watch()
            found = until(lambda: watch.look(time.monotonic(), limits), "a finding")
            seen.append(found.text)
            return found if found.verdict in verdicts else None

        try:
            return until(once, str(verdicts), 60)
        except AssertionError:
            print(*seen, sep="\n")
            raise

    def close(self) -> None:
        self.popen.kill()
        self.popen.wait()
        assert self.popen.stdout is not None
        self.popen.stdout.close()
        self.page.close()


@pytest.fixture
def stalled():
    started = []

    def start(how: str) -> Stalled:
        started.append(Stalled(how))
        return started[-1]

    yield start
    for one in started:
        one.close()


def test_a_blocking_call(stalled):
    one = stalled("wait_for_ever")
    assert "in wait_for_ever" in one.finding(Verdict.BLOCKED).text
    assert one.popen.poll() is None


def test_an_endless_loop(stalled):
    one = stalled("compute_for_ever")
    # The latter where the tests themselves have to share the machine with too many others.
    found = one.finding(Verdict.BUSY, Verdict.STARVED_BY_HOST)
    assert "in compute_for_ever" in found.text


def test_a_thread_that_holds_the_gil(stalled):
    one = stalled("hold_the_gil")
    found = one.finding(Verdict.STARVED_BY_THREAD)
    loop_stack, _, thread_stack = found.text.partition("\n  Thread ")
    assert "add_up_in_c" not in loop_stack
    assert "in add_up_in_c" in thread_stack
    tid = int(thread_stack.partition("(tid ")[2].partition(")")[0])
    assert tid != one.popen.pid
    assert f"(tid {tid}), which holds the GIL" in loop_stack


def test_a_thread_that_only_computes_is_not_to_blame(stalled):
    one = stalled("wait_while_a_thread_computes")
    found = one.finding(Verdict.BLOCKED)
    assert "in wait_while_a_thread_computes" in found.text
    assert "compute_for_ever" not in found.text


def test_a_stopped_process_and_its_late_answer(stalled):
    one = stalled("tick")
    os.kill(one.popen.pid, signal.SIGSTOP)
    assert "it did not answer" in one.finding(Verdict.STOPPED).text
    os.kill(one.popen.pid, signal.SIGCONT)
    watch = one.watch()
    seen = []

    def forgotten() -> bool:
        assert watch.look(time.monotonic(), Limits(0.0, 0.0, 0.0)) is None
        seen.append(one.page.dump_bytes())
        return any(seen) and seen[-1] == 0

    until(forgotten, "the late answer comes and is forgotten")


def test_other_processes_that_take_the_core(stalled):
    one = stalled("compute_for_ever")
    core = min(os.sched_getaffinity(0))
    os.sched_setaffinity(one.popen.pid, {core})
    os.setpriority(os.PRIO_PROCESS, one.popen.pid, 19)
    hog = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        os.sched_setaffinity(hog.pid, {core})
        found = one.finding(Verdict.STARVED_BY_HOST)
    finally:
        hog.kill()
        hog.wait()
    assert "by other processes" in found.text


def test_what_an_abort_leaves_can_be_read(stalled):
    one = stalled("wait_for_ever")
    os.kill(one.popen.pid, signal.SIGABRT)
    assert one.popen.wait(20) == -signal.SIGABRT
    lines = trimmed(one.page.take_dump()).splitlines()
    assert lines[0] == "    Fatal Python error: Aborted"
    assert any("in main" in line for line in lines)
