"""Other revisions of this project as servers: ``--revision REV`` is a row ``shardserve@REV``.

Rules of this file: a revision is taken out of git with ``git archive``, so neither the working tree nor the
repository changes, and pip builds it as it would for a user, without dependencies: those are the
interpreter's, the same for every revision. A build is kept under .build/revisions by commit and Python, and
used again. What cannot be built is a row that is skipped with the reason, not a run that fails.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from perf.peer_env import PIP_DEADLINE_S, ROOT
from perf.peers import BY_NAME, Server
from perf.programs import lacking

BUILDS = ROOT / ".build" / "revisions"
_OURS = "shardserve"
_CHECK = "import shardserve, shardserve._native as native; print(shardserve.__file__); print(native.__file__)"


class RevisionError(Exception):
    """A revision cannot be had. The text is one line for the user."""


def row(
    revision: str, commit: str, say: Callable[[str], None], *, root: Path = ROOT, builds: Path = BUILDS
) -> Server:
    """The server ``shardserve@REVISION``, built if it is not yet; a broken row if it cannot be."""
    ours = replace(
        BY_NAME[_OURS], name=f"{_OURS}@{revision}", what=f"this project at {commit[:12]}", revision=commit
    )
    try:
        return replace(ours, source=build(commit, say, root=root, builds=builds))
    except RevisionError as error:
        return replace(ours, broken=str(error))


def find_commit(revision: str, root: Path = ROOT) -> str:
    """The commit's hash in full. Raises RevisionError if git knows no such revision."""
    why = lacking("git")
    if why is not None:
        raise RevisionError(why)
    command = ["git", "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if done.returncode != 0:
        raise RevisionError(f"git knows no revision {revision!r}")
    return done.stdout.strip()


def build(commit: str, say: Callable[[str], None], *, root: Path = ROOT, builds: Path = BUILDS) -> Path:
    """The folder to import the package of a commit from. It appears whole or not at all."""
    place = builds / f"{commit[:12]}-{sys.implementation.cache_tag}"
    if place.exists():
        return place
    say(f"building {_OURS} at {commit[:12]} (about half a minute, once)")
    builds.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="part-", dir=builds) as name:
        source, target = Path(name) / "source", Path(name) / "target"
        source.mkdir()
        _unpack(commit, source, root)
        _install(source, target)
        _check(target)
        try:
            target.rename(place)
        except OSError:
            if not place.exists():  # else: another run was quicker, with the same thing
                raise
    return place


def environment(source: Path) -> dict[str, str]:
    """What a server of this source is started with: its package first, this tree (for the apps) second.

    ``python -m`` would put the current folder in front of both, here and in the workers.
    """
    return {"PYTHONPATH": os.pathsep.join((str(source), str(ROOT))), "PYTHONSAFEPATH": "1"}


def _unpack(commit: str, into: Path, root: Path) -> None:
    archive = subprocess.Popen(["git", "archive", commit], cwd=root, stdout=subprocess.PIPE)
    try:
        done = subprocess.run(["tar", "-x", "-C", str(into)], stdin=archive.stdout, capture_output=True)
    finally:
        assert archive.stdout is not None
        archive.stdout.close()
        code = archive.wait()
    if code != 0 or done.returncode != 0:
        raise RevisionError("its files could not be taken out of git")


def _install(source: Path, target: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--target", str(target), str(source)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_DEADLINE_S)
    except subprocess.TimeoutExpired:
        raise RevisionError(f"its build took more than {PIP_DEADLINE_S} s") from None
    if done.returncode != 0:
        raise RevisionError(f"it does not build: {_complaint(done.stdout + done.stderr)}")


def _complaint(output: str) -> str:
    """The compiler's first error, else pip's last word."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r":\d+: (fatal )?error: ", line)]
    return (errors or lines[-1:] or ["no output"])[0]


def _check(target: Path) -> None:
    """That this is what such a server imports, extension and all."""
    command = [sys.executable, "-c", _CHECK]
    env = {**os.environ, **environment(target)}
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=target)
    files = done.stdout.split("\n")[:2]
    if done.returncode != 0 or not all(Path(one).is_relative_to(target) for one in files):
        raise RevisionError("its package cannot be imported")
