"""Does a worker's event loop turn, and if not, why: from its page, its threads and its stacks.

Rules of this file: a ``Watch`` looks at one process and says what it found; the supervisor logs that
and does the killing. ``now`` is an argument (monotonic seconds). Nothing here waits: a stack that was
asked for is picked up by a later look.

- Time is *observed* time: a look adds what passed since the last one, but never more than two looks'
  worth. When the master itself was stopped, or the whole container frozen, no worker is to blame.
- A stall is observed time in which the heartbeat did not change, of a worker that serves or drains and
  whose loop runs. A worker that starts has no stalls; it has a limit of its own.
- Why it stalls is read off what its threads did between two samples: the table CASES.
- Time in which the event loop's thread could have run and was given no CPU is not held against it:
  a worker that is only starved by others is not killed, but warned of.
- Only threads that are to blame are asked for their stacks, each for its own (worker/heartbeat.py says
  why). A kill is by SIGABRT, upon which the worker dumps the stacks of all.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from ..observe.logs import printable
from ..stats import DUMP_SIGNAL, Page, Stage
from . import procfs
from .procfs import ThreadTimes
from .slots import Process

# At least so often should a process be looked at. Looks that come sooner than half of it are not counted.
LOOK_S = 0.25
# Less is the ordinary distance of a heartbeat from a look, and no stall.
SHORTEST_STALL_S = 2 * LOOK_S
# How long a thread may take to write its stack. It takes a millisecond, unless it is stopped, or sits in
# the kernel where signals do not reach it.
ANSWER_S = 1.0
# More of a stack says nothing more.
DUMP_LINES = 60
DUMP_LINE_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Limits:
    """In observed seconds; 0 means never."""

    lag_warn_s: float
    kill_s: float
    startup_s: float


# Why: from two samples of its threads


class Verdict(Enum):
    STOPPED = auto()
    BUSY = auto()
    STARVED_BY_THREAD = auto()
    STARVED_BY_HOST = auto()
    BLOCKED = auto()
    UNKNOWN = auto()


@dataclass(frozen=True, slots=True)
class Sample:
    """The threads of a process at ``at_s`` of the watch's observed time."""

    at_s: float
    threads: Sequence[ThreadTimes]


@dataclass(frozen=True, slots=True)
class Facts:
    """What the event loop's thread and the others did between two samples, as shares of that time."""

    state: str  # of the event loop's thread, now
    ran: float
    waited: float  # it could have run, and had no CPU
    others: float  # what the other threads ran, together
    wakeups_per_s: float | None  # how often it got a CPU
    busiest: ThreadTimes | None  # the other thread that ran most
    waited_s: float  # ``waited``, in seconds


def compare(before: Sample | None, after: Sample | None, pid: int | None) -> Facts | None:
    """None when there is no main thread in both, or no time between them."""
    if before is None or after is None or after.at_s <= before.at_s:
        return None
    window_s = after.at_s - before.at_s
    old = {one.tid: one for one in before.threads}
    main = next((one for one in after.threads if one.tid == pid), None)
    if main is None or main.tid not in old:
        return None
    ran_s = main.cpu_s - old[main.tid].cpu_s
    waited_s = main.run_delay_s - old[main.tid].run_delay_s
    runs = None if main.runs is None else main.runs - (old[main.tid].runs or 0)
    if main.state == old[main.tid].state == "R" and ran_s + waited_s < window_s / 2 and (runs or 0) <= 1:
        waited_s = window_s - ran_s  # the kernel counts a delay when it ends; this one has not
    others = {one: one.cpu_s - (old[one.tid].cpu_s if one.tid in old else 0.0) for one in after.threads}
    del others[main]
    return Facts(
        state=main.state,
        ran=ran_s / window_s,
        waited=waited_s / window_s,
        others=sum(others.values()) / window_s,
        wakeups_per_s=None if runs is None else runs / window_s,
        busiest=max(others, key=lambda one: others[one], default=None),
        waited_s=waited_s,
    )


# A thread that waits for the GIL wakes up to ask for it every 5 ms (sys.setswitchinterval). One in a
# blocking call does not wake up, but for writing its stack, which takes some wake-ups on a busy core.
_GIL_WAKEUPS_PER_S = 40


def _is_busy(f: Facts) -> bool:
    """It ran, and most of the time went to it and to what it shares the GIL or the core with."""
    return f.ran >= 0.25 and f.ran + f.waited + f.others >= 0.5


def _is_starved_by_thread(f: Facts) -> bool:
    """Another thread runs, be it slowly on a busy host, and this one tries to."""
    if f.others <= f.ran:
        return False
    if f.wakeups_per_s is not None and f.wakeups_per_s >= _GIL_WAKEUPS_PER_S:
        return f.others >= 0.05
    return f.others >= 0.25 and (f.waited >= 0.25 or f.wakeups_per_s is None)


@dataclass(frozen=True, slots=True)
class Case:
    """``words`` go behind "it is" and "it was"."""

    verdict: Verdict
    holds: Callable[[Facts], bool]
    words: str
    advice: str


# The first that holds.
CASES = (
    Case(Verdict.STOPPED, lambda f: f.state in "Tt",
         "stopped (SIGSTOP or a debugger)",
         "SIGCONT makes it go on."),
    Case(Verdict.BUSY, _is_busy,
         "busy (a computation or an endless loop)",
         "Long computations belong in another process."),
    Case(Verdict.STARVED_BY_THREAD, _is_starved_by_thread,
         "starved by thread {thread}, which holds the GIL",
         "A call into C that does not release the GIL stops every other thread."),
    Case(Verdict.STARVED_BY_HOST, lambda f: f.ran + f.waited >= 0.5,
         "starved of CPU by other processes on this core or host",
         "See what else runs here; fewer workers may help."),
    Case(Verdict.BLOCKED, lambda f: True,
         "waiting in a blocking call",
         "Make it in a thread (asyncio.to_thread), or use an asynchronous library."),
)  # fmt: skip
_UNKNOWN = Case(
    Verdict.UNKNOWN, lambda f: True, "in a state that /proc does not show", "Its stack is all there is."
)


def diagnose(facts: Facts | None) -> Case:
    return _UNKNOWN if facts is None else next(case for case in CASES if case.holds(facts))


def _is_held_up(facts: Facts) -> bool:
    """Whether it is other processes that keep it from getting on."""
    verdict = diagnose(facts).verdict
    return verdict is Verdict.STARVED_BY_HOST or (verdict is Verdict.BUSY and facts.waited >= 0.5)


# What is found


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to log, and perhaps a worker to kill."""

    text: str
    kill: bool = False
    cause: str = ""  # of the kill, in a word or two
    verdict: Verdict | None = None


@dataclass(slots=True, eq=False)
class _Stall:
    """One time of a heartbeat that does not change."""

    lasted_s: float = 0.0
    over: bool = False
    told: bool = False  # its stacks were asked for
    spared: int = 0  # how often it should have been killed, but was only starved
    before: Sample | None = None
    after: Sample | None = None

    @property
    def sampled_enough(self) -> bool:
        """Whether there is time enough between the samples to tell a habit from an accident."""
        if self.before is None or self.after is None:
            return False
        return self.after.at_s - self.before.at_s >= 2 * LOOK_S


@dataclass(slots=True, eq=False)
class _Question:
    """A stack that was asked for: of a stall, or of a start that takes too long (None)."""

    stall: _Stall | None
    kill: bool
    whose: str
    asked_s: float
    seen_bytes: int = 0
    stacks: list[str] = field(default_factory=list)
    asked_culprit: bool = False


_STARTING = {
    Stage.BORN: "it has not been able to begin",
    Stage.IMPORTING: "it is importing the app",
    Stage.LIFESPAN: "it is in lifespan startup",
}


class Watch:
    """The health of one process. ``look`` at it every LOOK_S or more often."""

    def __init__(
        self,
        page: Page,
        process: Process,
        *,
        ask: Callable[[int], None],
        ask_thread: Callable[[int, int], None] = os.kill,
        threads: Callable[[int], Sequence[ThreadTimes]] = procfs.threads,
    ) -> None:
        """``ask(signal)`` signals the process. ``ask_thread(tid, signal)`` signals one thread of it: the
        kernel gives what is sent to a process by the number of a thread to that thread if it can."""
        self._page = page
        self._process = process
        self._ask = ask
        self._ask_thread = ask_thread
        self._threads = threads
        self._looked_at = process.started_at
        self._clock_s = 0.0  # observed time
        self._starting_s = 0.0
        self._heartbeat_ns = 0
        self._stall: _Stall | None = None
        self._question: _Question | None = None
        self._stray_bytes = 0
        self._condemned = False

    def look(self, now: float, limits: Limits) -> Finding | None:
        passed_s = min(now - self._looked_at, 2 * LOOK_S)
        if self._condemned or passed_s < LOOK_S / 2:
            return None
        self._looked_at = now
        self._clock_s += passed_s
        starting = self._page["stage"] < Stage.SERVING
        if starting:
            self._starting_s += passed_s
        else:
            self._listen(passed_s)
        if self._question is not None:
            finding = self._hear(self._question, limits)
        elif starting:
            finding = self._judge_start(limits)
        else:
            finding = self._judge_loop(limits)
        self._condemned = finding is not None and finding.kill
        return finding

    # Looking

    def _listen(self, passed_s: float) -> None:
        heartbeat_ns = self._page["heartbeat_ns"]
        if heartbeat_ns and heartbeat_ns == self._heartbeat_ns:
            self._stall = self._stall or _Stall()
            self._stall.lasted_s += passed_s
            return
        if heartbeat_ns:  # else the loop has not begun, or has ended
            self._forget_strays()
        if self._stall is not None:
            self._stall.over = True
            self._stall = None
        self._heartbeat_ns = heartbeat_ns

    def _forget_strays(self) -> None:
        """An answer that came too late. Since its loop turned afterwards, it is not from a crash."""
        size = self._page.dump_bytes()
        if size and size == self._stray_bytes and self._question is None:
            self._page.take_dump()
            size = 0
        self._stray_bytes = size

    def _sample(self) -> Sample:
        pid = self._process.pid
        return Sample(self._clock_s, self._threads(pid) if pid else ())

    # Judging

    def _judge_start(self, limits: Limits) -> Finding | None:
        if not 0 < limits.startup_s < self._starting_s:
            return None
        if self._page["stage"] >= Stage.IMPORTING:
            self._question = self._ask_loop(None, kill=True)
            return None
        return self._condemn_start([])

    def _judge_loop(self, limits: Limits) -> Finding | None:
        stall = self._stall
        if stall is None or stall.lasted_s < SHORTEST_STALL_S:
            return None
        if stall.before is None:
            stall.before = self._sample()
        if 0 < limits.kill_s * (stall.spared + 1) < stall.lasted_s:
            if stall.told:
                stall.after = self._sample()
                return self._condemn(stall, [], limits)
            self._question = self._ask_loop(stall, kill=True)
        elif 0 < limits.lag_warn_s < stall.lasted_s and not stall.told:
            self._question = self._ask_loop(stall, kill=False)
        return None

    # Asking

    def _ask_loop(self, stall: _Stall | None, *, kill: bool) -> _Question:
        if stall is not None:
            stall.told = True
            stall.after = self._sample()
        self._ask(DUMP_SIGNAL)
        return _Question(stall, kill, "The event loop's thread", self._clock_s)

    def _ask_culprit(self, question: _Question, culprit: ThreadTimes) -> None:
        question.asked_culprit = True
        question.whose = f"Thread {_name(culprit)}"
        question.asked_s, question.seen_bytes = self._clock_s, 0
        try:
            self._ask_thread(culprit.tid, DUMP_SIGNAL)
        except OSError:
            pass  # it is gone: no answer

    def _hear(self, question: _Question, limits: Limits) -> Finding | None:
        """Wait until the answer is whole; then go on to the next question, or come to a conclusion."""
        stall = question.stall
        if stall is not None and not stall.over and not question.asked_culprit:
            stall.after = self._sample()
        size = self._page.dump_bytes()
        whole = 0 < size == question.seen_bytes
        question.seen_bytes = size
        if not whole and self._clock_s - question.asked_s < ANSWER_S:
            return None
        if stall is not None and not stall.over and not stall.sampled_enough:
            return None
        stack = trimmed(self._page.take_dump()) or "    it did not answer when asked for its Python stack"
        question.stacks.append(f"  {question.whose}:\n{stack}")
        if stall is None:
            self._question = None
            return self._condemn_start(question.stacks) if self._page["stage"] < Stage.SERVING else None
        facts = compare(stall.before, stall.after, self._process.pid)
        blamed = facts is not None and diagnose(facts).verdict is Verdict.STARVED_BY_THREAD
        if blamed and not stall.over and not question.asked_culprit:
            assert facts is not None
            assert facts.busiest is not None
            self._ask_culprit(question, facts.busiest)
            return None
        self._question = None
        if question.kill and not stall.over:
            return self._condemn(stall, question.stacks, limits)
        return self._warn(stall, question.stacks)

    # Concluding

    def _condemn_start(self, stacks: Sequence[str]) -> Finding:
        stage = _STARTING[Stage(self._page["stage"])]
        text = f"{self._process}: not ready {self._starting_s:.0f} s after its start: {stage}. It is killed."
        advice = "If it needs longer, raise --timeout-worker-startup."
        return Finding(_paragraphs(f"{text} {advice}", stacks), kill=True, cause="slow start")

    def _condemn(self, stall: _Stall, stacks: Sequence[str], limits: Limits) -> Finding:
        """Kill it, unless others had the CPU for so long that it did not get its time."""
        facts = compare(stall.before, stall.after, self._process.pid)
        if facts is not None and _is_held_up(facts) and stall.lasted_s - facts.waited_s < limits.kill_s:
            stall.spared += 1
            consequence = f"It is not killed: for {facts.waited_s:.1f} s of that it had to wait for a CPU."
            return self._warn(stall, stacks, consequence)
        warning = self._warn(stall, stacks, "It is killed (--timeout-worker-healthcheck).")
        return Finding(warning.text, kill=True, cause="hung", verdict=warning.verdict)

    def _warn(self, stall: _Stall, stacks: Sequence[str], consequence: str = "") -> Finding:
        facts = compare(stall.before, stall.after, self._process.pid)
        case = diagnose(facts)
        if facts is not None and facts.busiest is not None:
            words = case.words.format(thread=_name(facts.busiest))
        else:
            words = case.words
        if stall.over:
            text = f"its event loop did not turn for {stall.lasted_s:.1f} s, and turns again: it was {words}."
        else:
            text = f"its event loop has not turned for {stall.lasted_s:.1f} s: it is {words}."
        text = f"{self._process}: {text} {consequence or case.advice}"
        return Finding(_paragraphs(text, stacks), verdict=case.verdict)


def _name(thread: ThreadTimes) -> str:
    return f"{printable(thread.comm)} (tid {thread.tid})"


def _paragraphs(text: str, stacks: Sequence[str]) -> str:
    return "\n".join([text, *stacks])


# The text of a dump

_THREAD = re.compile(r"(Current thread|Thread) 0x")


def trimmed(dump: str) -> str:
    """What faulthandler wrote, to be read in a log: the thread at fault first, others that are alike
    (a pool's idle ones) once, indented, and not without end."""
    first: list[str] = []
    threads: list[tuple[str, list[str]]] = []
    last: list[str] = []
    # A dump that is taken while it is written leaves a hole in the file.
    for line in dump.replace("\0", "").splitlines():
        if not line.strip():
            continue
        if _THREAD.match(line):
            threads.append((line, []))
        elif not threads:
            first.append(line)
        elif line.startswith(" ") and not last:
            threads[-1][1].append(line)
        else:
            last.append(line)
    lines = [*first, *_merged(threads), *last]
    if len(lines) > DUMP_LINES:
        lines[DUMP_LINES:] = [f"... and {len(lines) - DUMP_LINES} lines more"]
    return "\n".join(f"    {line[:DUMP_LINE_CHARACTERS]}" for line in lines)


def _merged(threads: list[tuple[str, list[str]]]) -> list[str]:
    alike: dict[tuple[str, ...], list[str]] = {}
    for header, frames in sorted(threads, key=lambda one: not one[0].startswith("Current")):
        alike.setdefault(tuple(frames), []).append(header)
    lines: list[str] = []
    for body, headers in alike.items():
        more = f" (and {len(headers) - 1} more like it)" if len(headers) > 1 else ""
        lines += [headers[0] + more, *body]
    return lines
