"""The watcher of ``--reload``: a process that says when a file that counts has changed.

``python -P -m shardserve.master.watch FD``, started by the master (``devreload.py``). Not for people.

Rules of this file: one thread of ours, one socket (SEQPACKET, JSON). The first datagram is the ``Order``;
everything after it goes to the master, as ``Told``; end of file is the end. What happens upon a change is
the master's business.

- A process and not a thread of the master: watchfiles imports asyncio, runs a thread of its own, and
  blocks; the master does none of these. It takes part in no fork, no signal and no upgrade of the master's,
  and a fault in it costs a reload, not the server.
- Directories are walked here and watched one by one, not recursively, so that those which never count
  (``NEVER``) have no watch at all: inotify has a limit, and a ``pip install`` would wake us all the time.
- watchfiles says *that* something happened, and comparing stamps says *what*. So what happens to a file
  twice, or while a watch is being set up, is neither lost nor told twice, and a file that is as it was
  (chmod, ``touch`` with its own time) has not changed.
- Stamps are compared with those last told of: what changes and is undone within the delay is no change.
"""

from __future__ import annotations

import fnmatch
import importlib.util
import json
import os
import platform
import select
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import PurePath

from watchfiles._rust_notify import RustNotify, WatchfilesRustInternalError

# Directories that are not looked into, whatever the patterns say; a virtual environment of any other name
# is known by its pyvenv.cfg. One that is named as a --reload-dir itself is watched.
NEVER = frozenset({".git", ".venv", "__pycache__", "node_modules", "site-packages", "venv"})
# Uvicorn's.
INCLUDES = ("*.py",)
EXCLUDES = (".*", ".py[cod]", ".sw.*", "~*")
HIDDEN = ".*"
# Nothing may happen for so long before a change is told: an editor truncates, writes, renames.
SETTLE_S = 0.03
# How often watchfiles looks whether inotify has told its thread anything. It is awake for 30 µs each time.
IDLE_STEP_MS = 50
BUSY_STEP_MS = 10
# Where there is no inotify: watchfiles' own default, and never more than a tenth of the time.
POLL_S = 0.3
POLL_PAUSES = 10
# A line of the log should stay one.
MOST_NAMES = 5


@dataclass(frozen=True, slots=True)
class Order:
    """What to watch. Paths are absolute."""

    directory: str  # what patterns and names are relative to
    roots: list[str]
    files: list[str] = field(default_factory=list)  # that count, wherever they are
    includes: list[str] = field(default_factory=list)
    excludes: list[str] = field(default_factory=list)
    delay_s: float = 0.25


@dataclass(frozen=True, slots=True)
class Told:
    """To the master: ``watching``, ``changed`` or ``problem``, and the words for it."""

    kind: str
    text: str


# Which files count


@dataclass(frozen=True)
class Rules:
    """Uvicorn's globs: a file counts if one of ``includes`` matches, and none of ``excludes``."""

    includes: tuple[str, ...]
    excludes: tuple[str, ...]
    excluded_dirs: frozenset[str] = frozenset()
    files: frozenset[str] = frozenset()

    @classmethod
    def of(cls, order: Order, is_dir: Callable[[str], bool] = os.path.isdir) -> Rules:
        """A default pattern that the user names on the other side is given up."""
        excluded = [os.path.normpath(os.path.join(order.directory, one)) for one in order.excludes]
        return cls(
            (*(one for one in INCLUDES if one not in order.excludes), *order.includes),
            (*(one for one in EXCLUDES if one not in order.includes), *order.excludes),
            frozenset(one for one in excluded if is_dir(one)),
            frozenset(order.files),
        )

    def wants(self, path: str) -> bool:
        """Whether this file counts. Directories above it are not asked about: see ``enters``."""
        if path in self.files:
            return True
        for pattern in self.includes:
            if _matches(path, pattern):
                # A name without wildcards that is included by itself is meant, .env for one.
                return path.endswith(pattern) or not any(_matches(path, one) for one in self.excludes)
        return False

    def enters(self, path: str) -> bool:
        """Whether a directory below a root is looked into. Hidden ones are not, like hidden files."""
        name = os.path.basename(path)
        if name in NEVER or path in self.excluded_dirs:
            return False
        return not any(_matches(path, one) for one in self._for_directories)

    @cached_property
    def _for_directories(self) -> tuple[str, ...]:
        theirs = [one for one in self.excludes if one == HIDDEN or one not in EXCLUDES]
        # "tests/**" is meant for everything below, so for the directory.
        return tuple(one for pattern in theirs if (one := pattern.removesuffix("/**").rstrip("/")))


def _matches(path: str, pattern: str) -> bool:
    """``PurePath.match``: a relative pattern is compared with the end of the path. Faster for a mere name."""
    if "/" in pattern:
        return PurePath(path).match(pattern)
    return fnmatch.fnmatchcase(os.path.basename(path), pattern)


# When a change is told


class Debounce:
    """Gathers the several writes of one save. Pure: ``now`` is an argument (monotonic seconds).

    The first change in a while is told as soon as the writes have settled. ``delay_s`` is the least time
    between two tellings, as Uvicorn's ``reload_delay`` is between two looks, and the longest that writes
    without an end are waited for.
    """

    def __init__(self, delay_s: float, settle_s: float = SETTLE_S) -> None:
        self._delay_s = delay_s
        self._settle_s = settle_s
        self._first: float | None = None
        self._last = 0.0
        self._told_at = float("-inf")

    def changed(self, now: float) -> None:
        self._first = now if self._first is None else self._first
        self._last = now

    @property
    def due(self) -> float | None:
        """When to tell; None when there is nothing to tell."""
        if self._first is None:
            return None
        settled = min(self._last + self._settle_s, self._first + max(self._delay_s, self._settle_s))
        return max(settled, self._told_at + self._delay_s)

    def told(self, now: float) -> None:
        self._first, self._told_at = None, now

    def undone(self) -> None:
        """All is as it was when it was told last."""
        self._first = None


# What there is


Stamp = tuple[int, int, int]
"""A file's time of modification in ns, its size, its inode."""


def changes(before: Mapping[str, Stamp], after: Mapping[str, Stamp]) -> list[str]:
    """The files that are new, gone or different."""
    return sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))


def look(order: Order, rules: Rules) -> tuple[set[str], dict[str, Stamp]]:
    """The directories to watch, and the files that count. What cannot be read is not there."""
    directories: set[str] = set()
    files: dict[str, Stamp] = {}
    seen: set[tuple[int, int]] = set()  # a symlink may lead back
    waiting = [root for root in order.roots if root not in rules.excluded_dirs] or [order.directory]
    roots = set(waiting)
    while waiting:
        directory = waiting.pop()
        try:
            found = os.stat(directory)
            if (found.st_dev, found.st_ino) in seen:
                continue
            seen.add((found.st_dev, found.st_ino))
            entries = list(os.scandir(directory))
        except OSError:
            if directory in roots and not os.path.lexists(directory):
                directories.add(_nearest(directory))
            continue
        if directory not in roots and any(entry.name == "pyvenv.cfg" for entry in entries):
            continue
        directories.add(directory)
        for entry in entries:
            if _is_dir(entry):
                if rules.enters(entry.path):
                    waiting.append(entry.path)
            elif rules.wants(entry.path):
                _stamp(entry.path, files)
    for path in order.files:
        directories.add(_nearest(os.path.dirname(path)))
        _stamp(path, files)
    return directories, files


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _stamp(path: str, files: dict[str, Stamp]) -> None:
    try:
        found = os.stat(path)
    except OSError:
        return
    if stat.S_ISREG(found.st_mode):
        files[path] = (found.st_mtime_ns, found.st_size, found.st_ino)


def _nearest(directory: str) -> str:
    """The directory, or the one above it in which it, or the way to it, would appear."""
    while not os.path.isdir(directory):
        directory = os.path.dirname(directory)
    return directory


# Being told that something happened


class Over(Exception):
    """The master is gone, or wants us gone."""


class _EndOfFile:
    """What watchfiles asks, at each of its steps, whether to stop."""

    def __init__(self, sock: socket.socket) -> None:
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def is_set(self) -> bool:
        return bool(self._poll.poll(0))

    def wait(self, timeout_s: float) -> bool:
        return bool(self._poll.poll(max(0, timeout_s) * 1000))


class Inotify:
    """watchfiles over a set of directories. Raises OSError where the system has no room for it."""

    def __init__(self, directories: Iterable[str], over: _EndOfFile) -> None:
        self._over = over
        try:
            # Of the errors that it can be told to ignore, one is that there are no watches left.
            self._notify = RustNotify(sorted(directories), False, False, 0, False, False)
        except WatchfilesRustInternalError as error:
            raise OSError(str(error)) from None

    def wait(self, timeout_s: float | None) -> list[tuple[int, str]]:
        """What happened: kinds and paths; nothing after ``timeout_s``. Raises Over, OSError."""
        step_ms = IDLE_STEP_MS if timeout_s is None else BUSY_STEP_MS
        timeout_ms = 0 if timeout_s is None else max(1, int(timeout_s * 1000))
        try:
            found = self._notify.watch(IDLE_STEP_MS, step_ms, timeout_ms, self._over)
        except WatchfilesRustInternalError as error:
            raise OSError(str(error)) from None  # a name that is not UTF-8, and it goes on saying so
        if isinstance(found, str):
            if found != "timeout":
                raise Over
            return []
        return list(found)

    def close(self) -> None:
        self._notify.close()


def polls(environ: Mapping[str, str], release: str) -> bool:
    """Whether to poll: watchfiles' variable, or else its guess (WSL, where inotify sees no Windows files)."""
    if forced := environ.get("WATCHFILES_FORCE_POLLING"):
        return forced.lower() not in {"false", "disable", "disabled"}
    return "microsoft-standard" in release.lower()


def poll_s(environ: Mapping[str, str]) -> float:
    delay_ms = environ.get("WATCHFILES_POLL_DELAY_MS", "")
    return int(delay_ms) / 1000 if delay_ms.isdecimal() else POLL_S


# The process


class Watch:
    """The state of the watcher. ``run`` it once."""

    def __init__(self, order: Order, over: _EndOfFile, tell: Callable[[Told], None]) -> None:
        self._order = order
        self._rules = Rules.of(order)
        self._over = over
        self._tell = tell
        self._debounce = Debounce(order.delay_s)
        self._polling = polls(os.environ, platform.release())
        self._poll_s = poll_s(os.environ)
        self._inotify: Inotify | None = None
        self._directories: set[str] = set()
        self._now: dict[str, Stamp] = {}
        self._told: dict[str, Stamp] = {}

    def run(self) -> None:
        """Until the master is gone."""
        for root in self._order.roots:
            if not os.path.isdir(root):
                self._tell(Told("problem", f"{self._name(root)} is no directory (yet); watching for it"))
        self._look(anew=True)
        self._told = self._now
        how = f", every {self._poll_s:g} s (polling)" if self._polling else ""
        count = f"{len(self._now)} file{'s' if len(self._now) != 1 else ''}"
        where = ", ".join(self._name(root) for root in self._order.roots)
        self._tell(Told("watching", f"{count} in {where}{how}"))
        try:
            while True:
                self._turn()
        except Over:
            return

    def _turn(self) -> None:
        due = self._debounce.due
        now = time.monotonic()
        if due is not None and due <= now:
            self._report(now)
            return
        if self._inotify is None:
            self._poll(now, due)
            return
        try:
            events = self._inotify.wait(None if due is None else due - now)
        except OSError:
            events, anew = [], True
        else:
            anew = any(self._moves_directories(kind, path) for kind, path in events)
        if anew or any(self._rules.wants(path) for _, path in events):
            self._look(anew=anew)

    def _poll(self, now: float, due: float | None) -> None:
        if self._over.wait(self._poll_s if due is None else due - now):
            raise Over
        began = time.monotonic()
        self._look(anew=False)
        self._poll_s = max(poll_s(os.environ), POLL_PAUSES * (time.monotonic() - began))

    def _moves_directories(self, kind: int, path: str) -> bool:
        """A directory that came or went: its watch, which inotify keeps by inode, is missing or void."""
        modified = 2
        if kind == modified:
            return False
        if path in self._directories:
            return True
        return os.path.isdir(path) and (self._rules.enters(path) or self._leads_somewhere(path))

    def _leads_somewhere(self, directory: str) -> bool:
        """Whether what was not there before, and is looked for by its name, may be below."""
        return any(f"{one}/".startswith(f"{directory}/") for one in [*self._order.roots, *self._order.files])

    def _look(self, *, anew: bool) -> None:
        """See what there is; ``anew``: with fresh watches, set up before the look that counts."""
        directories, files = look(self._order, self._rules)
        while not self._polling and (anew or directories != self._directories):
            anew = False
            self._directories = directories
            self._watch_anew()
            directories, files = look(self._order, self._rules)
        if files != self._now:
            self._now = files
            self._debounce.changed(time.monotonic())

    def _watch_anew(self) -> None:
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None
        try:
            self._inotify = Inotify(self._directories, self._over)
        except FileNotFoundError:
            self._directories = set()  # one has gone meanwhile: look again
        except OSError as error:
            self._polling = True
            self._tell(Told("problem", _why_not(str(error), len(self._directories), self._poll_s)))

    def _report(self, now: float) -> None:
        changed = changes(self._told, self._now)
        self._told = self._now
        if not changed:
            self._debounce.undone()
            return
        self._debounce.told(now)
        for path in changed:
            forget_bytecode(path)
        names = [self._name(path) for path in changed[:MOST_NAMES]]
        more = f" and {len(changed) - MOST_NAMES} more" if len(changed) > MOST_NAMES else ""
        self._tell(Told("changed", ", ".join(names) + more))

    def _name(self, path: str) -> str:
        """As people know it."""
        below = os.path.relpath(path, self._order.directory)
        return path if below.startswith("..") else below


def _why_not(error: str, directories: int, every_s: float) -> str:
    """Which limit it is, in the words of whoever can raise it."""
    text = f"cannot watch {directories} directories"
    setting = {"watch limit": "max_user_watches", "Too many open files": "max_user_instances"}
    for words, name in setting.items():
        if words in error:
            raised = {"max_user_watches": 524288, "max_user_instances": 1024}[name]
            text += f", the system's limit is reached: sudo sysctl fs.inotify.{name}={raised} raises it"
            break
    else:
        text += f": {error}"
    return f"{text}. Until then they are looked at every {every_s:g} s (polling)"


def forget_bytecode(path: str) -> None:
    """Remove what Python has cached of a source file.

    It takes bytecode for valid if the source has the size, and to the second the time, that it had. Of two
    saves within a second the first one could be served.
    """
    if path.endswith(".py"):
        try:
            os.unlink(importlib.util.cache_from_source(path))
        except (OSError, NotImplementedError):
            return


def main() -> None:
    with socket.socket(fileno=int(sys.argv[1])) as sock:
        order = Order(**json.loads(sock.recv(1 << 20)))

        def tell(told: Told) -> None:
            try:
                sock.send(json.dumps(asdict(told)).encode())
            except OSError:
                raise Over from None

        try:
            Watch(order, _EndOfFile(sock), tell).run()
        except Over:
            return


if __name__ == "__main__":
    main()
