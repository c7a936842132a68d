"""Memory and threads, read from files like the kernel's, and from the kernel's."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from shardserve.master import procfs
from shardserve.master.procfs import ThreadTimes

TICKS = os.sysconf("SC_CLK_TCK")


class Proc:
    """A fake /proc."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, path: str, text: str) -> Proc:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return self

    def thread(self, pid: int, tid: int, comm: str, state: str, utime: int, stime: int) -> Proc:
        rest = f"{state} 1 2 3 4 5 6 7 8 9 10 {utime} {stime} 13 14 20 0 2 0"
        return self.write(f"{pid}/task/{tid}/stat", f"{tid} ({comm}) {rest}\n")


@pytest.fixture
def proc(tmp_path):
    return Proc(tmp_path)


def test_resident_memory(proc):
    proc.write("7/statm", "1000 250 30 1 0 500 0\n")
    assert procfs.rss_bytes(7, proc.root) == 250 * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("text", ["", "1000", "a b c"])
def test_memory_that_cannot_be_read_is_unknown(proc, text):
    proc.write("7/statm", text)
    assert procfs.rss_bytes(7, proc.root) is None
    assert procfs.rss_bytes(8, proc.root) is None


def test_cpu_time_of_a_process(proc):
    proc.write("7/stat", f"7 (a) b) S 1 2 3 4 5 6 7 8 9 10 {3 * TICKS} {TICKS} 50 60 20 0 2 0\n")
    assert procfs.cpu_s(7, proc.root) == 4.0
    assert procfs.cpu_s(8, proc.root) is None


@pytest.mark.parametrize("text", ["", "7", "7 (a) S 1 2", "7 (a) S 1 2 3 4 5 6 7 8 9 10 x 1 2"])
def test_cpu_time_that_cannot_be_read_is_unknown(proc, text):
    proc.write("7/stat", text)
    assert procfs.cpu_s(7, proc.root) is None


def test_threads(proc):
    proc.thread(7, 7, "python", "S", 3 * TICKS, TICKS).write(
        "7/task/7/schedstat", "4000000000 1500000000 77\n"
    )
    proc.thread(7, 12, "pool", "R", 0, 0).write("7/task/12/schedstat", "0 0 0\n")
    assert procfs.threads(7, proc.root) == [
        ThreadTimes(7, "python", "S", 4.0, 1.5, 77),
        ThreadTimes(12, "pool", "R", 0.0, 0.0, 0),
    ]


@pytest.mark.parametrize("comm", ["a b", "(sd-pam)", "x) R 1 2", "((", "))", ""])
def test_a_name_may_hold_anything(proc, comm):
    proc.thread(7, 7, comm, "D", TICKS, 0)
    assert procfs.threads(7, proc.root) == [ThreadTimes(7, comm, "D", 1.0)]


def test_a_name_cannot_forge_a_log_line(proc):
    proc.thread(7, 7, "a\nb\x1b[0m", "S", 0, 0)
    assert procfs.threads(7, proc.root)[0].comm == "a?b?[0m"


@pytest.mark.parametrize("schedstat", [None, "", "1 2", "a b c"])
def test_a_kernel_that_does_not_count_waiting(proc, schedstat):
    proc.thread(7, 7, "python", "R", TICKS, TICKS)
    if schedstat is not None:
        proc.write("7/task/7/schedstat", schedstat)
    assert procfs.threads(7, proc.root) == [ThreadTimes(7, "python", "R", 2.0, 0.0, None)]


def test_what_is_gone_is_left_out(proc):
    assert procfs.threads(7, proc.root) == []
    proc.thread(7, 7, "python", "R", 0, 0).write("7/task/8/stat", "8 (gone")
    (proc.root / "7/task/9").mkdir()
    (proc.root / "7/task/self").mkdir()
    assert [one.tid for one in procfs.threads(7, proc.root)] == [7]


def test_here():
    end = threading.Event()
    other = threading.Thread(target=end.wait)
    other.start()
    try:
        found = {one.tid: one for one in procfs.threads(os.getpid())}
        assert {os.getpid(), other.native_id} <= set(found)
        assert found[threading.main_thread().native_id].cpu_s > 0
        assert all(one.state in "RSDTtZXIKWP" for one in found.values())
    finally:
        end.set()
        other.join()
    cpu_s = procfs.cpu_s(os.getpid())
    assert cpu_s is not None
    assert cpu_s >= found[threading.main_thread().native_id].cpu_s
    rss = procfs.rss_bytes(os.getpid())
    assert rss is not None
    assert rss > 1024 * 1024
