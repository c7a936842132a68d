"""A profile from beginning to end: server, load, warm-up, recording, results.

Rules of this file: the order of things, and that whatever was started is stopped, in the opposite
order, however it ends. The results are written last, both files or none.
"""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Collection
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from .._version import __version__
from . import load as loading
from . import perf, spy, tools
from .flamegraph import svg
from .load import Load, Plan
from .programs import ProfileError
from .progress import Progress
from .server import OwnServer, workers_of
from .stacks import Shares, Stacks, shares
from .table import table
from .tools import Facts, Way

PROFILERS = ("auto", "perf", "py-spy")
_POLL_S = 0.1
_FEW = 50


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is wanted."""

    arguments: tuple[str, ...] = ()
    """APP and flags, as ``shardserve run`` takes them."""
    config_file: str | None = None
    pid: int | None = None
    """Profile this server instead of starting one."""
    plan: Plan | None = field(default_factory=Plan)
    """None: no load of ours."""
    output: Path = Path("profile.svg")
    duration_s: float = 10.0
    warm_up_s: float = 2.0
    rate_hz: int = 199
    profiler: str = "auto"
    off_cpu: bool = False

    @property
    def folded(self) -> Path:
        return self.output.with_suffix(".folded")


@dataclass(frozen=True)
class Profile:
    """What came of it."""

    stacks: Stacks
    shares: Shares
    heading: str
    notes: tuple[str, ...]

    def text(self, *, waiting: bool) -> str:
        """The heading and the table."""
        return f"{self.heading}\n\n{table(self.shares, waiting=waiting)}"


@dataclass
class _Run:
    """What is known while it goes on."""

    options: Options
    folder: Path
    stack: ExitStack
    progress: Progress
    notes: list[str] = field(default_factory=list)
    own: OwnServer | None = None
    load: Load | None = None


def run(options: Options, progress: Progress) -> Profile:
    """Do it, and write the two files. Raises ProfileError."""
    _check_output(options)
    try:
        with tempfile.TemporaryDirectory(prefix="shardserve-profile-") as name, ExitStack() as stack:
            return _run(_Run(options, Path(name), stack, progress))
    finally:
        progress.close()


def _run(run: _Run) -> Profile:
    options = run.options
    run.progress.stage("looking for a profiler")
    pids = workers_of(options.pid) if options.pid is not None else []
    facts = tools.look(run.folder, options.profiler, pid=next(iter(pids), None), off_cpu=options.off_cpu)
    way = tools.choose(options.profiler, facts, off_cpu=options.off_cpu)
    if options.pid is None:
        pids = _start_server(run, way)
        _start_load(run, pids)
    recording = _record(run, way, facts, pids)
    run.progress.stage("reading what was recorded")
    answered = run.load.stop() if run.load is not None else None
    if isinstance(recording, perf.Recording) and run.own is not None:
        run.own.stop()  # Python has written all of its file by then
    stacks = recording.stacks(os.getcwd())
    if not stacks.samples:
        raise ProfileError(_nothing(options))
    run.notes += _remarks(stacks, way, facts)
    heading = _heading(run, way, facts, stacks, answered, len(pids))
    _write(options, stacks, heading)
    return Profile(stacks, shares(stacks), heading, tuple(run.notes))


def _start_server(run: _Run, way: Way) -> list[int]:
    """Its workers' pids."""
    run.progress.stage("starting the server")
    server = OwnServer(
        run.options.arguments, run.folder, config_file=run.options.config_file, extra_env=way.environment
    )
    run.own = server
    run.stack.callback(lambda: perf.remove_traces(server.started_pids))
    run.stack.callback(server.stop)
    server.wait_ready()
    return server.workers


def _start_load(run: _Run, pids: Collection[int]) -> None:
    assert run.own is not None
    plan = run.options.plan
    if plan is None:
        run.progress.note(f"it serves at {run.own.url}")
    else:
        for path, status in loading.ask_once(run.own.url, plan).items():
            if status >= 400:
                run.notes.append(f"{plan.method} {path} is answered {status}; --path names another one")
                run.progress.note(f"warning: {run.notes[-1]}")
        load = run.load = Load(run.own.url, plan, run.folder, cores=_free_cores(run, pids))
        run.stack.callback(load.stop)
    run.progress.wait("warming up", run.options.warm_up_s)
    if run.load is not None:
        run.load.check()
    run.own.check()


def _free_cores(run: _Run, pids: Collection[int]) -> set[int]:
    """Those that no worker is bound to; all, where none is left."""
    allowed = os.sched_getaffinity(0)
    taken: set[int] = set()
    for pid in pids:
        with suppress(OSError):
            cores = os.sched_getaffinity(pid)
            taken |= cores if len(cores) < len(allowed) else set()
    if free := allowed - taken:
        return free
    run.notes.append("the load shares the workers' cores: there is none left for it")
    return set()


def _record(run: _Run, way: Way, facts: Facts, pids: list[int]) -> perf.Recording | spy.Recording:
    options = run.options
    what = f"recording with {way.tool}"
    tool = facts.perf if way.tool == "perf" else facts.spy
    assert tool.path is not None
    where = tool.path, way, pids, run.folder
    seconds, rate = options.duration_s, options.rate_hz
    recording: perf.Recording | spy.Recording
    if way.tool == "perf":
        recording = perf.Recording(*where, duration_s=seconds, rate_hz=rate)
    else:
        recording = spy.Recording(*where, duration_s=seconds, rate_hz=rate, idle=options.off_cpu)
    run.stack.callback(recording.stop)
    run.progress.stage(f"{what}, {seconds:g} s")
    began = time.monotonic()
    while not recording.ended and (passed := time.monotonic() - began) < seconds:
        run.progress.part(f"{what}, {seconds - passed:.0f} s left", passed / seconds)
        time.sleep(_POLL_S)
    if run.own is not None:
        run.own.check()
    if run.load is not None:
        run.load.check()
    recording.finish()
    return recording


# What is said about it


def _nothing(options: Options) -> str:
    if options.off_cpu:
        return "nothing was seen to wait"
    return (
        "nothing ran: was there any load?"
        if options.plan is None or options.pid
        else "nothing was seen to run"
    )


def _remarks(stacks: Stacks, way: Way, facts: Facts) -> list[str]:
    """What a reader of the graph should know."""
    found = []
    if stacks.samples < _FEW:
        found.append(
            f"{stacks.samples} samples are few: take longer (--duration), or load more (--connections)"
        )
    if way.tool == "perf" and facts.perf.limited:
        found.append("the kernel's share is not seen: kernel.perf_event_paranoid is above 1")
    if way.tool == "py-spy":
        found.append(
            "py-spy does not see the kernel: a system call counts as the kernel's, one that waits not at all"
        )
    if way is Way.SPY_PYTHON:
        found.append("native frames cannot be read here: what C code does counts for its Python caller")
    if way is Way.PERF_INNERMOST:
        found.append(
            "this Python keeps no frame pointers: only the innermost Python function is known (use py-spy)"
        )
    if way is Way.PERF_NATIVE:
        found.append("perf knows no names of Python functions here (use Python 3.12 or later, or py-spy)")
    elif stacks.cut * 20 > stacks.samples:
        found.append(
            f"{100 * stacks.cut / stacks.samples:.0f} % of the stacks are cut short: they have no root"
        )
    return found


def _heading(
    run: _Run, way: Way, facts: Facts, stacks: Stacks, answered: loading.Answered | None, workers: int
) -> str:
    """One line: how it was made."""
    options = run.options
    tool = facts.perf if way.tool == "perf" else facts.spy
    parts = [f"{stacks.samples} samples in {options.duration_s:g} s, {options.rate_hz} a second"]
    parts.append(f"{workers} worker{'s' if workers != 1 else ''}")
    if run.load is not None and options.plan is not None:
        asked = f"{options.plan.described()}, {run.load.tool}"
        parts.append(asked)
        if answered is not None and (answered.failed or answered.broken):
            run.notes.append(
                f"of {answered.requests} requests {answered.failed} were answered with an error, "
                f"{answered.broken} connections broke"
            )
    parts.append(tools.version_of(tool.path or way.tool))
    python = f"{platform.python_implementation()} {platform.python_version()}" if options.pid is None else ""
    parts.append(" ".join(filter(None, [f"shardserve {__version__}", python])))
    return " · ".join(parts)


def title_of(options: Options) -> str:
    what = f"pid {options.pid}"
    if options.pid is None:
        app = next(
            (word for word in options.arguments if ":" in word and not word.startswith("-")), "the app"
        )
        what = f"{app} under load" if options.plan is not None else app
    return f"{what}: where it waits" if options.off_cpu else f"{what}: where the CPU goes"


# The files


def _check_output(options: Options) -> None:
    """Better now than after the run."""
    folder = options.output.parent
    if not folder.is_dir():
        raise ProfileError(f"there is no folder {folder} for {options.output.name}")
    if not os.access(folder, os.W_OK):
        raise ProfileError(f"may not write into {folder}")


def _write(options: Options, stacks: Stacks, heading: str) -> None:
    texts = {
        options.folded: stacks.folded(),
        options.output: svg(stacks, title=title_of(options), subtitle=heading),
    }
    try:
        for path, text in texts.items():
            fresh = path.with_name(f".{path.name}.{os.getpid()}")
            fresh.write_text(text, encoding="utf-8", errors="backslashreplace")
            fresh.replace(path)
    except OSError as error:
        raise ProfileError(f"cannot write {error.filename}: {error.strerror}") from None
