"""Which profilers there are and may be used, and which is taken.

Rules of this file: whether one works is found out by trying it for a moment, not by reading
settings; the settings are only read to say what to change. ``choose`` is pure: facts in, a way of
profiling out, or a ProfileError that says what is missing and how to get it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from .programs import ProfileError, Program, output_of

TRIAL_S = 20.0
PACKAGES = {
    "perf": "the package linux-perf (Debian), linux-tools-$(uname -r) (Ubuntu) or perf (Fedora, Arch)",
    "py-spy": "python -m pip install py-spy",
}
_PARANOID = Path("/proc/sys/kernel/perf_event_paranoid")
_PTRACE_SCOPE = Path("/proc/sys/kernel/yama/ptrace_scope")


class Way(Enum):
    """How stacks are got."""

    PERF_JIT = "perf, with -X perf_jit: kernel, native and Python frames"
    PERF_FRAME_POINTERS = "perf, with -X perf: kernel, native and Python frames"
    PERF_INNERMOST = "perf, with -X perf: kernel and native frames, the innermost Python function"
    PERF_NATIVE = "perf: kernel and native frames, no Python functions"
    SPY = "py-spy: native and Python frames"
    SPY_PYTHON = "py-spy: Python frames"

    @property
    def tool(self) -> str:
        return "py-spy" if self in (Way.SPY, Way.SPY_PYTHON) else "perf"

    @property
    def environment(self) -> dict[str, str]:
        """What a Python needs in its environment for it."""
        if self is Way.PERF_JIT:
            return {"PYTHON_PERF_JIT_SUPPORT": "1"}
        return {"PYTHONPERFSUPPORT": "1"} if self in (Way.PERF_FRAME_POINTERS, Way.PERF_INNERMOST) else {}


# perf's stacks are whole only then.
_WHOLE = (Way.PERF_JIT, Way.PERF_FRAME_POINTERS)


@dataclass(frozen=True)
class Tool:
    """One profiler, as it was found on this machine."""

    path: str | None = None
    trouble: str = ""
    """Why it cannot be used, if it cannot."""
    limited: bool = False
    """perf: it may not look into the kernel. py-spy: it cannot read native frames."""

    @property
    def works(self) -> bool:
        return self.path is not None and not self.trouble


@dataclass(frozen=True)
class Facts:
    """What ``choose`` goes by."""

    perf: Tool
    spy: Tool
    trampolines: str
    """How this Python can tell perf its functions: "jit" (3.13), "perf" (3.12) or "" (it cannot)."""
    frame_pointers: bool = False
    """Whether it was compiled to keep them: then perf can follow a stack through it without more."""


def find(name: str) -> str | None:
    """A program: on the PATH, or beside this interpreter, where pip puts it."""
    beside = os.path.dirname(sys.executable)
    return shutil.which(name) or shutil.which(name, path=beside)


def choose(wanted: str, facts: Facts, *, off_cpu: bool = False) -> Way:
    """The best way that works. ``wanted`` is "auto", "perf" or "py-spy". Raises ProfileError."""
    spy = [Way.SPY_PYTHON if facts.spy.limited else Way.SPY] if facts.spy.works else []
    perf = [_perf_way(facts)] if facts.perf.works else []
    if off_cpu:
        if wanted == "perf":
            raise ProfileError("--off-cpu is done by py-spy: perf sees only what runs")
        perf = []
    # perf also sees the kernel; py-spy's stacks are whole where perf's would be cut off or have no names.
    ways = [*perf, *spy] if perf and perf[0] in _WHOLE else [*spy, *perf]
    ways = [way for way in ways if wanted in ("auto", way.tool)]
    if ways:
        return ways[0]
    names = ["py-spy"] if off_cpu else ["perf", "py-spy"] if wanted == "auto" else [wanted]
    tools = {"perf": facts.perf, "py-spy": facts.spy}
    troubles = [f"{name}: {_trouble(name, tools[name])}" for name in names]
    raise ProfileError("\n".join(["no profiler can be used here.", *(f"  {one}" for one in troubles), _SEE]))


_SEE = "docs/profiling.md says more about permissions and containers."


def _perf_way(facts: Facts) -> Way:
    if facts.trampolines == "jit":
        return Way.PERF_JIT
    if facts.trampolines:
        return Way.PERF_FRAME_POINTERS if facts.frame_pointers else Way.PERF_INNERMOST
    return Way.PERF_NATIVE


def _trouble(name: str, tool: Tool) -> str:
    return tool.trouble if tool.path else f"not installed; install it with: {PACKAGES[name]}"


# Trying them


def look(folder: Path, wanted: str, *, pid: int | None = None, off_cpu: bool = False) -> Facts:
    """What can be used here, as far as ``choose`` has to know it: a trial takes a second.

    ``pid`` is a process to be profiled, if it runs already; ``folder`` is for the files of the trials.
    """
    facts = Facts(
        perf=Tool(),
        spy=Tool(),
        trampolines=_trampolines_of(pid) if pid is not None else trampolines_of_this_python(),
        frame_pointers=has_frame_pointers(sysconfig.get_config_var("PY_CORE_CFLAGS") or ""),
    )
    trials = {"perf": try_perf, "py-spy": try_spy}
    first = "perf" if _perf_way(facts) in _WHOLE else "py-spy"
    for name in [first, *(name for name in trials if name != first)]:
        if wanted not in ("auto", name) or (off_cpu and name == "perf"):
            continue
        found = trials[name](folder, pid=pid)
        facts = replace(facts, perf=found) if name == "perf" else replace(facts, spy=found)
        if found.works:
            break
    return facts


def trampolines_of_this_python() -> str:
    if not hasattr(sys, "activate_stack_trampoline") or not sysconfig.get_config_var(
        "PY_HAVE_PERF_TRAMPOLINE"
    ):
        return ""
    return "jit" if sys.version_info >= (3, 13) else "perf"


def _trampolines_of(pid: int) -> str:
    """A process that runs can only be asked what it was started with."""
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return ""
    on = {one.partition(b"=")[0] for one in variables if one.partition(b"=")[2] not in (b"", b"0")}
    return "jit" if b"PYTHON_PERF_JIT_SUPPORT" in on else "perf" if b"PYTHONPERFSUPPORT" in on else ""


def has_frame_pointers(flags: str) -> bool:
    """Whether these compiler flags keep them. The last word counts."""
    said = re.findall(r"-f(no-)?omit-frame-pointer(?=\s|$)", flags)
    return bool(said) and said[-1] == "no-"


def try_perf(folder: Path, *, pid: int | None = None) -> Tool:
    """Record nearly nothing, and look which events that took."""
    path = find("perf")
    if path is None:
        return Tool()
    data = folder / "trial.data"
    target = ["-p", str(pid)] if pid is not None else []
    argv = [
        path,
        "record",
        "-N",
        "-q",
        "-g",
        "-F",
        "99",
        "-k",
        "mono",
        "-o",
        str(data),
        *target,
        "--",
        "sleep",
        "0.05",
    ]
    code, said = output_of(argv, folder, timeout_s=TRIAL_S)
    if code != 0 or not data.exists():
        return Tool(path, trouble=_perf_trouble(said))
    listing = folder / "trial.events"
    output_of([path, "evlist", "-v", "-i", str(data)], folder, timeout_s=TRIAL_S, output=listing)
    events = listing.read_text(errors="replace")
    data.unlink()
    return Tool(path, limited=bool(re.search(r"exclude_kernel: 1", events)))


def _perf_trouble(said: str) -> str:
    level = _read(_PARANOID)
    text = "it may not be used here"
    if level is not None and level > 2:
        return f"{text}: kernel.perf_event_paranoid is {level}; as root: sysctl kernel.perf_event_paranoid=1"
    if "ermission" in said or "ermitted" in said or "denied" in said:
        return f"{text}: a container needs CAP_PERFMON and a seccomp profile with perf_event_open"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return f"it does not work here: {lines[0] if lines else 'it says nothing'}"


def try_spy(folder: Path, *, pid: int | None = None) -> Tool:
    """Read the stack of a process once: of ``pid``, or of a child that sleeps."""
    path = find("py-spy")
    if path is None:
        return Tool()
    if pid is not None:
        return _spied(path, pid, folder)
    ready = folder / "trial.ready"
    code = "import sys, time; print('ready', flush=True); time.sleep(600)"
    child = Program([sys.executable, "-I", "-c", code], folder / "trial.log", output=ready)
    try:
        give_up = time.monotonic() + TRIAL_S
        while not ready.read_bytes() and child.returncode is None and time.monotonic() < give_up:
            time.sleep(0.01)
        return _spied(path, child.pid, folder)
    finally:
        child.stop()


def _spied(path: str, pid: int, folder: Path) -> Tool:
    argv = [path, "dump", "--pid", str(pid)]
    code, said = output_of([*argv, "--native"], folder, timeout_s=TRIAL_S)
    if code == 0:
        return Tool(path)
    code, said = output_of(argv, folder, timeout_s=TRIAL_S)
    return Tool(path, limited=True) if code == 0 else Tool(path, trouble=_spy_trouble(said))


def _spy_trouble(said: str) -> str:
    text, scope = "it may not read other processes", _read(_PTRACE_SCOPE)
    if re.search(r"[Pp]ermission [Dd]enied|Operation not permitted|EPERM", said):
        if scope:
            return f"{text}: kernel.yama.ptrace_scope is {scope}; be root, or set it to 0"
        return f"{text}: be root, or give the container the capability SYS_PTRACE"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return f"it does not work here: {lines[-1] if lines else 'it says nothing'}"


def _read(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def version_of(path: str) -> str:
    """``perf 6.1.192``, for the graph's subtitle."""
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=TRIAL_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return os.path.basename(path)
    return done.stdout.strip().replace(" version", "") or os.path.basename(path)
