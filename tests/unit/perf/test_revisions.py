"""Revisions as servers: built out of git once, imported from a folder of their own, skipped if broken."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from perf import revisions
from perf.peer_env import ROOT
from perf.revisions import RevisionError

# A build backend of the repository's own: pip runs it as it would ours, and needs no index for it.
PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
BACKEND = """
import zipfile
from pathlib import Path
def build_wheel(folder, config_settings=None, metadata_directory=None):
    name = "shardserve-1-py3-none-any.whl"
    info = "shardserve-1.dist-info/"
    with zipfile.ZipFile(Path(folder) / name, "w") as wheel:
        for path in Path("shardserve").iterdir():
            wheel.write(path, f"shardserve/{path.name}")
        wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\\nName: shardserve\\nVersion: 1\\n")
        wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(info + "RECORD", "")
    return name
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two commits: ``good``, and ``bad``, which does not build; the working tree is neither."""
    root = tmp_path_factory.mktemp("repository")
    (root / "shardserve").mkdir()
    (root / "pyproject.toml").write_text(PYPROJECT)
    (root / "backend.py").write_text(BACKEND)
    (root / "shardserve" / "__init__.py").write_text("VALUE = 'good'\n")
    (root / "shardserve" / "_native.py").write_text("")
    _git(root, "init", "--quiet")
    _commit(root, "good")
    (root / "backend.py").write_text("raise SystemExit('native/x.c:1:2: error: no such thing')\n")
    _commit(root, "bad")
    (root / "shardserve" / "__init__.py").write_text("VALUE = 'uncommitted'\n")
    return root


def _git(root: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.test", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, *arguments], cwd=root, check=True, capture_output=True)


def _commit(root: Path, tag: str) -> None:
    _git(root, "add", ".")
    _git(root, "commit", "--quiet", "--message", tag)
    _git(root, "tag", tag)


def test_a_revision_is_built_once_and_is_what_its_server_imports(repository: Path, tmp_path: Path) -> None:
    said: list[str] = []
    builds = tmp_path / "builds"
    commit = revisions.find_commit("good", repository)
    server = revisions.row("good", commit, said.append, root=repository, builds=builds)
    assert (server.name, server.revision, server.broken) == ("shardserve@good", commit, None)
    assert len(said) == 1
    again = revisions.row("good", commit, said.append, root=repository, builds=builds)
    assert again.source == server.source
    assert len(said) == 1, "not built again"
    assert [path.name for path in builds.iterdir()] == [f"{commit[:12]}-{sys.implementation.cache_tag}"]
    assert server.source is not None
    # As rounds.py starts it: in this tree, whose own package `-c` and `-m` would otherwise find first.
    done = subprocess.run(
        [sys.executable, "-c", "import shardserve, perf.apps; print(shardserve.VALUE)"],
        cwd=ROOT,
        env={**os.environ, **revisions.environment(server.source)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "good\n"
    assert "uncommitted" in (repository / "shardserve" / "__init__.py").read_text(), "the tree is left alone"


def test_a_revision_that_does_not_build_is_a_row_that_says_so(repository: Path, tmp_path: Path) -> None:
    commit = revisions.find_commit("bad", repository)
    server = revisions.row("bad", commit, lambda text: None, root=repository, builds=tmp_path)
    assert server.source is None
    assert server.broken == "it does not build: native/x.c:1:2: error: no such thing"
    assert list(tmp_path.iterdir()) == [], "nothing half-made is left"


@pytest.mark.parametrize("name", ["nonesuch", "--help", "", "good:backend.py"])
def test_what_is_no_revision_is_told(repository: Path, name: str) -> None:
    with pytest.raises(RevisionError, match="git knows no revision"):
        revisions.find_commit(name, repository)


def test_without_git_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(RevisionError, match="install the Debian package git"):
        revisions.find_commit("HEAD")
