"""Cores and quotas, read from trees of files like the kernel's."""

from __future__ import annotations

import subprocess
from pathlib import Path

import psutil
import pytest

from shardserve.master import affinity
from shardserve.master.affinity import Cores, Roots


class Tree:
    """A fake /proc and /sys."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.roots = Roots(proc=folder / "proc", sys=folder / "sys")

    def write(self, path: str, text: str) -> Tree:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
        return self

    def siblings(self, lists: dict[int, str]) -> Tree:
        for core, text in lists.items():
            self.write(f"sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list", text)
        return self

    def usable(self, *allowed: int) -> Cores:
        return affinity.usable(list(allowed), self.roots)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_nothing_known_is_the_allowed_cores(tree: Tree) -> None:
    assert tree.usable(3, 1) == Cores((1, 3), None)
    assert tree.usable(3, 1).workers == 2


def test_here_it_is_what_the_scheduler_allows() -> None:
    assert set(affinity.usable().order) == set(psutil.Process().cpu_affinity())


@pytest.mark.parametrize(
    ("lists", "order"),
    [
        ({0: "0,4", 1: "1,5", 4: "0,4", 5: "1,5"}, (0, 1, 4, 5)),  # siblings far apart
        ({0: "0-1", 1: "0-1", 2: "2-3", 3: "2-3"}, (0, 2, 1, 3)),  # siblings side by side
        ({0: "0-3", 1: "0-3", 2: "0-3", 3: "0-3"}, (0, 1, 2, 3)),  # four threads of one core
        ({0: "0", 1: "1"}, (0, 1)),  # no SMT
        ({0: "nonsense", 1: ""}, (0, 1)),
    ],
)
def test_one_thread_of_each_physical_core_comes_first(
    tree: Tree, lists: dict[int, str], order: tuple[int, ...]
) -> None:
    assert tree.siblings(lists).usable(*lists).order == order


def test_a_sibling_that_is_not_allowed_does_not_count(tree: Tree) -> None:
    tree.siblings({0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"})
    assert tree.usable(1, 2, 3).order == (1, 2, 3)


@pytest.mark.parametrize(
    ("text", "quota", "workers"),
    [("max 100000", None, 4), ("200000 100000", 2.0, 2), ("150000 100000", 1.5, 2), ("5000 100000", 0.05, 1),
     ("900000 100000", 9.0, 4), ("rubbish", None, 4), ("100000 0", None, 4)],
)  # fmt: skip
def test_a_v2_quota_caps_the_workers(tree: Tree, text: str, quota: float | None, workers: int) -> None:
    tree.write("proc/self/cgroup", "0::/pod").write("sys/fs/cgroup/pod/cpu.max", text)
    cores = tree.usable(0, 1, 2, 3)
    assert (cores.quota, cores.workers) == (quota, workers)


def test_the_tightest_quota_on_the_way_up_counts(tree: Tree) -> None:
    tree.write("proc/self/cgroup", "0::/slice/pod/c")
    tree.write("sys/fs/cgroup/slice/pod/c/cpu.max", "max 100000")
    tree.write("sys/fs/cgroup/slice/pod/cpu.max", "300000 100000")
    tree.write("sys/fs/cgroup/slice/cpu.max", "250000 100000")
    assert tree.usable(0, 1, 2, 3).quota == 2.5


@pytest.mark.parametrize("path", ["/", "/not/below/this/mount", "/../../outside"])
def test_a_path_that_a_container_does_not_have_falls_back_to_the_mount(tree: Tree, path: str) -> None:
    tree.write("proc/self/cgroup", f"0::{path}").write("sys/fs/cgroup/cpu.max", "100000 100000")
    assert tree.usable(0, 1).workers == 1


@pytest.mark.parametrize("mount", ["cpu,cpuacct", "cpu"])
def test_a_v1_quota_caps_the_workers(tree: Tree, mount: str) -> None:
    tree.write("proc/self/cgroup", "5:memory:/x\n4:cpu,cpuacct:/docker/abc\n0::/")
    tree.write(f"sys/fs/cgroup/{mount}/docker/abc/cpu.cfs_quota_us", "-1")
    tree.write(f"sys/fs/cgroup/{mount}/docker/abc/cpu.cfs_period_us", "100000")
    tree.write(f"sys/fs/cgroup/{mount}/cpu.cfs_quota_us", "110000")
    tree.write(f"sys/fs/cgroup/{mount}/cpu.cfs_period_us", "100000")
    assert tree.usable(0, 1, 2).workers == 2


def test_more_slots_than_cores_wrap_round() -> None:
    cores = Cores((4, 6))
    assert [cores.of_slot(slot) for slot in range(5)] == [4, 6, 4, 6, 4]


def test_fewer_workers_than_cores_start_where_the_seed_says() -> None:
    cores = Cores(tuple(range(8)))
    starts = {cores.spread(2, seed=f"host-{n}").of_slot(0) for n in range(50)}
    assert len(starts) > 4
    spread = cores.spread(2, seed="host-1")
    assert spread == cores.spread(2, seed="host-1")
    assert sorted(spread.order) == list(range(8))
    assert cores.spread(8, seed="host-1") == cores


def test_a_spread_still_takes_different_physical_cores() -> None:
    cores = Cores((0, 1, 2, 3, 4, 5, 6, 7))  # 4 to 7 are the siblings of 0 to 3
    for n in range(50):
        spread = cores.spread(4, seed=str(n))
        assert len({spread.of_slot(slot) % 4 for slot in range(4)}) == 4


def test_pinning_pins_and_does_not_mind_the_dead() -> None:
    core = affinity.usable().order[-1]
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        affinity.pin(process.pid, core)
        assert psutil.Process(process.pid).cpu_affinity() == [core]
    affinity.pin(process.pid, core)


def test_a_core_that_is_refused_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        affinity.pin(process.pid, 100_000)
    assert "runs unpinned" in caplog.text
