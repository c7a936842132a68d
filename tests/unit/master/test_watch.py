"""What counts, when it is told, and what is seen. The process around it: tests/e2e/test_dev_reload.py."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from uvicorn.supervisors.watchfilesreload import FileFilter

from shardserve.master import watch
from shardserve.master.watch import Debounce, Order, Rules, changes, look
from tests.helpers.master_process import PATIENCE_S


def rules(
    *, includes: tuple[str, ...] = (), excludes: tuple[str, ...] = (), dirs: tuple[str, ...] = ()
) -> Rules:
    order = Order("/w", ["/w"], ["/w/shardserve.toml"], list(includes), list(excludes))
    return Rules.of(order, is_dir=lambda path: path in dirs)


# Which files count


@pytest.mark.parametrize(
    ("path", "counts"),
    [
        ("/w/main.py", True),
        ("/w/a/b/main.py", True),
        ("/w/shardserve.toml", True),  # by its name
        ("/w/a/shardserve.toml", False),
        ("/w/main.pyc", False),
        ("/w/main.py~", False),
        ("/w/page.html", False),
        ("/w/.main.py", False),
        ("/w/~main.py", False),
        ("/w/.sw.py", False),
        ("/w/MAIN.PY", False),
    ],
)
def test_what_counts_by_default(path: str, counts: bool) -> None:
    assert rules().wants(path) is counts


@pytest.mark.parametrize(
    ("includes", "excludes", "path", "counts"),
    [
        (("*.html",), (), "/w/page.html", True),
        (("*.html",), (), "/w/main.py", True),  # as well
        (("*",), (), "/w/.hidden", False),
        ((".env",), (), "/w/.env", True),  # meant by its name, though it is hidden
        ((".env*",), (), "/w/.env.local", False),
        ((".*",), (), "/w/.env.local", True),  # a default exclude that is asked for is given up
        ((), ("*.py",), "/w/main.py", False),  # and a default include
        ((), ("*_pb2.py",), "/w/api_pb2.py", False),
        ((), ("gen/*.py",), "/w/a/gen/api.py", False),  # the end of the path is compared
        ((), ("gen/*.py",), "/w/a/api.py", True),
        ((), ("/w/a/*.py",), "/w/b/a/api.py", True),  # from the root, if it begins there
        ((), ("/w/a/*.py",), "/w/a/api.py", False),
        (("templates/*.html",), (), "/w/templates/x.html", True),
        (("templates/*.html",), (), "/w/x.html", False),
        (("",), ("",), "/w/x.html", False),
    ],
)
def test_what_counts_by_pattern(
    includes: tuple[str, ...], excludes: tuple[str, ...], path: str, counts: bool
) -> None:
    assert rules(includes=includes, excludes=excludes).wants(path) is counts


@pytest.mark.parametrize("includes", [(), ("*.html",), (".*",), (".env",), ("a/*.css", "*.txt"), ("*",)])
@pytest.mark.parametrize("excludes", [(), ("*.py",), ("*_pb2.py",), ("a/*",), (".*", "x*"), ("*.html",)])
def test_uvicorn_counts_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, includes: tuple[str, ...], excludes: tuple[str, ...]
) -> None:
    """The directories that neither of them is asked about are another matter."""
    monkeypatch.chdir(tmp_path)
    theirs = FileFilter(
        uvicorn.Config("m:app", reload=True, reload_includes=list(includes), reload_excludes=list(excludes))
    )
    order = Order(str(tmp_path), [str(tmp_path)], [], list(includes), list(excludes))
    ours = Rules.of(order)
    names = (
        "main.py",
        "api_pb2.py",
        "x.html",
        ".env",
        ".env.local",
        "a.css",
        "x.txt",
        ".x.py",
        "~x.py",
        "m.pyc",
    )
    for path in (tmp_path / folder / name for folder in (".", "a", "b/a", "a/b") for name in names):
        assert ours.wants(str(path)) == theirs(path), path


@pytest.mark.parametrize("name", sorted(watch.NEVER))
def test_some_directories_are_never_entered(name: str) -> None:
    assert not rules(includes=("*", ".*")).enters(f"/w/a/{name}")


@pytest.mark.parametrize(
    ("includes", "excludes", "path", "entered"),
    [
        ((), (), "/w/a", True),
        ((), (), "/w/.cache", False),
        ((".*",), (), "/w/.cache", True),
        ((), (), "/w/~a", True),  # a default exclude of editors' files only
        ((), ("tests",), "/w/a/tests", False),
        ((), ("tests",), "/w/a/tests_too", True),
        ((), ("tests/",), "/w/tests", False),
        ((), ("tests/**",), "/w/tests", False),
        ((), ("**/tests/**",), "/w/a/tests", False),
        ((), ("tests/*",), "/w/tests", True),  # for what is in it
        ((), ("tests/*",), "/w/tests/inner", False),
        ((), ("a/tests",), "/w/a/tests", False),  # there is such a directory, see below
        ((), ("a/tests",), "/w/b/tests", True),
    ],
)
def test_which_directories_are_entered(
    includes: tuple[str, ...], excludes: tuple[str, ...], path: str, entered: bool
) -> None:
    assert rules(includes=includes, excludes=excludes, dirs=("/w/a/tests",)).enters(path) is entered


# When it is told


class Clock:
    """A debounce, and everything that it tells of while time passes in milliseconds."""

    def __init__(self, *, delay_ms: int) -> None:
        self.debounce = Debounce(delay_ms / 1000, settle_s=0.03)
        self.told: list[int] = []

    def run(self, *changes_ms: int, until_ms: int = 3000) -> list[int]:
        for ms in range(until_ms):
            if ms in changes_ms:
                self.debounce.changed(ms / 1000)
            due = self.debounce.due
            if due is not None and due <= ms / 1000:
                self.debounce.told(ms / 1000)
                self.told.append(ms)
        return self.told


def test_a_save_is_told_when_it_has_settled() -> None:
    assert Clock(delay_ms=250).run(100) == [130]


def test_the_writes_of_one_save_are_one_change() -> None:
    assert Clock(delay_ms=250).run(100, 110, 125, 150) == [180]


def test_two_changes_are_told_at_least_the_delay_apart() -> None:
    """A formatter rewrites what was just saved."""
    assert Clock(delay_ms=250).run(100, 200) == [130, 380]
    assert Clock(delay_ms=250).run(100, 1000) == [130, 1030]
    assert Clock(delay_ms=2000).run(100, 200, 900) == [130, 2130]


def test_writes_without_an_end_are_waited_for_no_longer_than_the_delay() -> None:
    assert Clock(delay_ms=250).run(*range(100, 1000, 10))[:3] == [350, 610, 870]


def test_without_a_delay_only_the_settling_counts() -> None:
    assert Clock(delay_ms=0).run(100, 140) == [130, 170]


def test_what_is_undone_is_not_told() -> None:
    clock = Clock(delay_ms=250)
    clock.debounce.changed(0.1)
    clock.debounce.undone()
    assert clock.debounce.due is None
    assert clock.run(500) == [530]  # and does not delay the next one


# What there is


@pytest.fixture
def seen(tmp_path: Path) -> Callable[..., tuple[set[str], set[str]]]:
    """Directories and files, relative to tmp_path."""

    def see(*roots: str, **how: Any) -> tuple[set[str], set[str]]:
        order = Order(str(tmp_path), [str(tmp_path / root) for root in roots or (".",)], **how)
        order = Order(**{**vars_of(order), "roots": [os.path.normpath(root) for root in order.roots]})
        directories, files = look(order, Rules.of(order))
        return {os.path.relpath(one, tmp_path) for one in directories}, {
            os.path.relpath(one, tmp_path) for one in files
        }

    return see


def vars_of(order: Order) -> dict[str, Any]:
    return {name: getattr(order, name) for name in Order.__slots__}


See = Callable[..., tuple[set[str], set[str]]]


def plant(folder: Path, *paths: str) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()


def test_directories_that_do_not_count_are_not_watched(tmp_path: Path, seen: See) -> None:
    plant(
        tmp_path,
        "main.py",
        "a/b/c.py",
        ".venv/x.py",
        "a/node_modules/x.py",
        "my-env/pyvenv.cfg",
        "my-env/x.py",
    )
    assert seen() == ({".", "a", "a/b"}, {"main.py", "a/b/c.py"})


def test_what_is_named_as_a_root_is_watched(tmp_path: Path, seen: See) -> None:
    plant(tmp_path, ".venv/pyvenv.cfg", ".venv/src/x.py", "main.py")
    assert seen(".venv") == ({".venv", ".venv/src"}, {".venv/src/x.py"})
    assert seen(".", ".venv/src") == ({".", ".venv/src"}, {"main.py", ".venv/src/x.py"})


def test_an_excluded_root_leaves_the_working_directory(tmp_path: Path, seen: See) -> None:
    """As Uvicorn has it."""
    plant(tmp_path, "a/x.py", "main.py")
    assert seen("a", excludes=["a"]) == ({"."}, {"main.py"})


def test_symlinks_are_followed_once(tmp_path: Path, seen: See) -> None:
    plant(tmp_path, "library/x.py", "work/main.py")
    (tmp_path / "work" / "library").symlink_to(tmp_path / "library")
    (tmp_path / "library" / "back").symlink_to(tmp_path / "work")
    (tmp_path / "work" / "nowhere.py").symlink_to(tmp_path / "gone.py")
    assert seen("work") == ({"work", "work/library"}, {"work/main.py", "work/library/x.py"})


def test_what_is_not_there_yet_is_waited_for_above(tmp_path: Path, seen: See) -> None:
    plant(tmp_path, "a/x.txt")
    assert seen("a/b/c") == ({"a"}, set())
    settings = str(tmp_path / "etc" / "app.toml")
    assert seen("a", files=[settings]) == ({"a", "."}, set())
    plant(tmp_path, "etc/app.toml")
    assert seen("a", files=[settings]) == ({"a", "etc"}, {"etc/app.toml"})


def test_changes_are_what_is_new_gone_or_different() -> None:
    before = {"same": (1, 1, 1), "time": (1, 1, 1), "size": (1, 1, 1), "inode": (1, 1, 1), "gone": (1, 1, 1)}
    after = {"same": (1, 1, 1), "time": (2, 1, 1), "size": (1, 2, 1), "inode": (1, 1, 2), "new": (1, 1, 1)}
    assert changes(before, after) == ["gone", "inode", "new", "size", "time"]


def test_bytecode_of_a_changed_source_is_forgotten(tmp_path: Path) -> None:
    tag = sys.implementation.cache_tag
    plant(tmp_path, f"__pycache__/main.{tag}.pyc", f"__pycache__/other.{tag}.pyc", "main.py")
    watch.forget_bytecode(str(tmp_path / "main.py"))
    watch.forget_bytecode(str(tmp_path / "none.py"))
    watch.forget_bytecode(str(tmp_path / "page.html"))
    assert os.listdir(tmp_path / "__pycache__") == [f"other.{tag}.pyc"]


# Polling


@pytest.mark.parametrize(
    ("forced", "release", "expected"),
    [
        (None, "6.1.0", False),
        (None, "5.15.90.1-microsoft-standard-WSL2", True),
        ("true", "6.1.0", True),
        ("1", "6.1.0", True),
        ("", "6.1.0", False),
        ("false", "5.15.90.1-microsoft-standard-WSL2", False),
        ("Disabled", "6.1.0", False),
    ],
)
def test_when_files_are_polled(forced: str | None, release: str, expected: bool) -> None:
    environ = {} if forced is None else {"WATCHFILES_FORCE_POLLING": forced}
    assert watch.polls(environ, release) is expected


@pytest.mark.parametrize(("text", "seconds"), [("", 0.3), ("1000", 1.0), ("-5", 0.3), ("soon", 0.3)])
def test_how_often_files_are_polled(text: str, seconds: float) -> None:
    assert watch.poll_s({"WATCHFILES_POLL_DELAY_MS": text}) == seconds


# The process, without inotify


def limited(limit: str, value: int) -> list[str]:
    """What runs a command where the kernel has so little of inotify: in a user namespace of its own."""
    script = f'echo {value} > /proc/sys/user/{limit} && exec "$@"'
    return ["unshare", "--user", "--map-root-user", "sh", "-c", script, "sh"]


@pytest.mark.parametrize(
    ("limit", "value", "named"),
    [
        ("max_inotify_watches", 1, "fs.inotify.max_user_watches=524288"),
        ("max_inotify_instances", 0, "fs.inotify.max_user_instances=1024"),
    ],
)
def test_a_limit_that_is_reached_is_named_and_files_are_polled(
    tmp_path: Path, limit: str, value: int, named: str
) -> None:
    probe = [*limited(limit, value), "true"]
    if shutil.which("unshare") is None or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("user namespaces are not allowed here, so the limit cannot be lowered")
    plant(tmp_path, "main.py", "a/x.py", "b/x.py")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(PATIENCE_S)
    watcher = [sys.executable, "-P", "-m", "shardserve.master.watch", str(theirs.fileno())]
    with theirs:
        process = subprocess.Popen([*limited(limit, value), *watcher], pass_fds=[theirs.fileno()])
    try:
        ours.send(json.dumps(vars_of(Order(str(tmp_path), [str(tmp_path)]))).encode())
        problem = json.loads(ours.recv(65536))
        assert problem["kind"] == "problem"
        assert named in problem["text"]
        assert "(polling)" in problem["text"]
        assert json.loads(ours.recv(65536)) == {
            "kind": "watching", "text": "3 files in ., every 0.3 s (polling)",
        }  # fmt: skip
        (tmp_path / "b" / "x.py").write_text("x = 1")
        assert json.loads(ours.recv(65536)) == {"kind": "changed", "text": "b/x.py"}
        ours.close()  # it ends at end of file
        assert process.wait(PATIENCE_S) == 0
    finally:
        ours.close()
        process.kill()
        process.wait()
