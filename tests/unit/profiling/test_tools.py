"""Which profiler is taken, and what is said where none can be."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from shardserve.profiling import perf, tools
from shardserve.profiling.programs import ProfileError
from shardserve.profiling.tools import Facts, Tool, Way, choose

WORKS, MISSING = Tool("/usr/bin/x"), Tool()
FORBIDDEN = Tool("/usr/bin/x", trouble="kernel.perf_event_paranoid is 3")


@pytest.mark.parametrize(
    ("facts", "way"),
    [
        (Facts(WORKS, WORKS, "jit"), Way.PERF_JIT),
        (Facts(WORKS, WORKS, "perf", frame_pointers=True), Way.PERF_FRAME_POINTERS),
        (Facts(WORKS, WORKS, "perf"), Way.SPY),  # whole stacks are worth more than the kernel's part
        (Facts(WORKS, MISSING, "perf"), Way.PERF_INNERMOST),
        (Facts(WORKS, WORKS, ""), Way.SPY),
        (Facts(WORKS, MISSING, ""), Way.PERF_NATIVE),
        (Facts(FORBIDDEN, WORKS, "jit"), Way.SPY),
        (Facts(FORBIDDEN, Tool("/usr/bin/x", limited=True), "jit"), Way.SPY_PYTHON),
        (Facts(MISSING, WORKS, "jit"), Way.SPY),
    ],
)
def test_the_best_that_works(facts: Facts, way: Way) -> None:
    assert choose("auto", facts) is way


def test_one_can_be_asked_for() -> None:
    both = Facts(WORKS, WORKS, "jit")
    assert choose("py-spy", both) is Way.SPY
    assert choose("perf", Facts(WORKS, WORKS, "")) is Way.PERF_NATIVE
    assert choose("auto", both, off_cpu=True) is Way.SPY
    with pytest.raises(ProfileError, match="--off-cpu is done by py-spy"):
        choose("perf", both, off_cpu=True)


@pytest.mark.parametrize(
    ("wanted", "off_cpu", "named"),
    [
        ("auto", False, ["perf_event_paranoid is 3", "pip install py-spy"]),
        ("perf", False, ["perf_event_paranoid is 3"]),
        ("py-spy", False, ["pip install py-spy"]),
        ("auto", True, ["pip install py-spy"]),
    ],
)
def test_where_none_works_each_is_told_with_what_to_do(wanted: str, off_cpu: bool, named: list[str]) -> None:
    with pytest.raises(ProfileError) as caught:
        choose(wanted, Facts(FORBIDDEN, MISSING, "jit"), off_cpu=off_cpu)
    text = str(caught.value)
    assert all(one in text for one in named)
    assert len(text.splitlines()) == len(named) + 2


def test_a_missing_perf_is_named_with_its_package() -> None:
    with pytest.raises(ProfileError, match=r"linux-perf \(Debian\)"):
        choose("perf", Facts(MISSING, WORKS, "jit"))


@pytest.mark.parametrize(
    ("flags", "kept"),
    [
        ("-O3 -Wall", False),
        ("-O3 -fno-omit-frame-pointer -mno-omit-leaf-frame-pointer", True),
        ("-fno-omit-frame-pointer -O2 -fomit-frame-pointer", False),
        ("-O2 -fno-omit-frame-pointer", True),
    ],
)
def test_frame_pointers_by_the_compiler_s_flags(flags: str, kept: bool) -> None:
    assert tools.has_frame_pointers(flags) is kept


def program(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_a_program_that_refuses_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(tools, "_PARANOID", tmp_path / "level")
    program(
        tmp_path,
        "perf",
        "echo 'WARNING: perf not found for kernel 6.1' >anything; echo 'no perf' >&2; exit 2",
    )
    program(tmp_path, "py-spy", "echo 'Error: Permission Denied: Try running again' >&2; exit 1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tools, "_PTRACE_SCOPE", tmp_path / "scope")
    (tmp_path / "scope").write_text("1\n")
    found = tools.look(tmp_path, "auto")
    assert found.perf.trouble == "it does not work here: no perf"
    assert "ptrace_scope is 1" in found.spy.trouble
    assert tools.look(tmp_path, "auto", off_cpu=True).perf == Tool(), "it cannot do that"
    assert tools.look(tmp_path, "perf").spy == Tool(), "nobody has asked for it"
    (tmp_path / "level").write_text("4\n")
    assert "perf_event_paranoid is 4" in tools.try_perf(tmp_path).trouble
    (tmp_path / "scope").write_text("0\n")
    assert "SYS_PTRACE" in tools.try_spy(tmp_path).trouble


def test_a_process_is_asked_for_its_trampolines(tmp_path: Path) -> None:
    for name, expected in [("PYTHON_PERF_JIT_SUPPORT", "jit"), ("PYTHONPERFSUPPORT", "perf"), ("OTHER", "")]:
        with subprocess.Popen(["sleep", "60"], env={name: "1", "PATH": "/usr/bin:/bin"}) as child:
            environment = Path(f"/proc/{child.pid}/environ")
            while not environment.read_bytes():  # it is not there from the program's first moment on
                time.sleep(0.01)
            assert tools._trampolines_of(child.pid) == expected
            child.kill()


def test_a_long_recording_takes_less_of_each_stack() -> None:
    assert perf.stack_bytes(10, 199, 1) == 65528
    assert 8192 <= perf.stack_bytes(600, 199, 2) < 65528
    assert perf.stack_bytes(3600, 5000, 64) == 8192
    assert perf.stack_bytes(77, 999, 3) % 8 == 0


def test_what_python_left_in_tmp_is_removed_for_our_processes_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(perf, "_TMP", tmp_path)
    for name in ("perf-12.map", "jit-12.dump", "jitted-12-1.so", "perf-123.map", "jitted-123-1.so"):
        (tmp_path / name).touch()
    perf.remove_traces([12, 99])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["jitted-123-1.so", "perf-123.map"]
