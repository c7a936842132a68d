"""What ``shardserve ctl`` and the master say to each other, each command declared once.

Rules of this file: sans-I/O, but for the last section, which finds the folder that both sides look
in, and asks the kernel who the other side is. Lines of UTF-8 JSON over a Unix stream socket. A
connection carries one command and is answered by one reply; ``progress`` lines may come before it:

    {"command": "reload", "wait": true}      the request
    {"progress": "worker 0 is ready"}        any number of these
    {"ok": true, "message": "reloaded"}      the reply; or {"ok": false, "error": "why"}

A request is read strictly: what this version does not understand must not be half obeyed. Replies
are read tolerantly, so that ``ctl`` and a master of another version still understand each other.
Sockets are ``master/control_socket.py`` and ``cli/ctl_client.py``; what a command does is the
supervisor's.
"""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, TypeVar, cast, get_args, get_origin, get_type_hints

from .errors import ControlError, ListenError

MAX_REQUEST_BYTES = 64 * 1024
MAX_REPLY_BYTES = 4 * 1024 * 1024
# As many as --workers may be.
MOST_WORKERS = 1024
_UCRED = struct.Struct("3i")  # struct ucred of unix(7): pid, uid, gid


# Commands


@dataclass(frozen=True, slots=True)
class Status:
    """Everything about the server. Answered by a ServerStatus."""

    name: ClassVar[str] = "status"


@dataclass(frozen=True, slots=True)
class Workers:
    """Only the workers. Answered by ``{"ok": true, "workers_list": [...]}``."""

    name: ClassVar[str] = "workers"


@dataclass(frozen=True, slots=True)
class Reload:
    """A rolling reload, as by HUP. ``wait``: answer when it is over, not when it has begun."""

    name: ClassVar[str] = "reload"
    wait: bool = True


@dataclass(frozen=True, slots=True)
class Reopen:
    """Have every process open its log files again, as by USR1."""

    name: ClassVar[str] = "reopen"


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop, as by TERM; ``force``: as by QUIT. Answered at once; the connection stays open until the
    server is gone, so that its end says so.
    """

    name: ClassVar[str] = "stop"
    force: bool = False


@dataclass(frozen=True, slots=True)
class Scale:
    """Have this many workers from now on."""

    name: ClassVar[str] = "scale"
    workers: int

    def __post_init__(self) -> None:
        if not 1 <= self.workers <= MOST_WORKERS:
            raise ValueError(f"workers is {self.workers}; it is 1 to {MOST_WORKERS}")


Command = Status | Workers | Reload | Reopen | Stop | Scale
_COMMANDS: dict[str, type[Any]] = {one.name: one for one in get_args(Command)}


def encode_command(command: Command) -> bytes:
    """The request, as one line."""
    return _line({"command": command.name, **dataclasses.asdict(command)})


def decode_command(line: bytes) -> Command:
    """The command that one line is. Raises ControlError naming what is wrong with it."""
    body = _object(line, "request")
    name = body.pop("command", None)
    kind = _COMMANDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ControlError(f"unknown command {name!r}; there are {', '.join(_COMMANDS)}")
    unknown = sorted(set(body) - {one.name for one in dataclasses.fields(kind)})
    if unknown:
        raise ControlError(f"{kind.name}: this version of the server does not know {', '.join(unknown)}")
    command: Command = _build(kind, body, kind.name)
    return command


# What a server says of itself


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """One worker process, or a slot that has none; a slot has several while one replaces another.
    None is what cannot be known.
    """

    slot: int
    state: str  # ready, starting, reloading (it serves, its successor starts), draining, backoff
    core: int | None = None
    pid: int | None = None
    generation: int | None = None
    uptime_s: float | None = None
    restarts: dict[str, int] = field(default_factory=dict)  # of the slot, by cause
    connections: int | None = None
    connections_idle: int | None = None  # of these, the ones between two requests
    websockets: int | None = None  # of the connections
    in_flight: int | None = None
    served: int = 0
    errors_5xx: int = 0  # responses, since its start
    rps: float | None = None
    p50_ms: float | None = None  # of the last seconds' requests, from the first byte in to the last one out
    p99_ms: float | None = None
    loop_lag_ms: float | None = None
    loop_lag_max_ms: float | None = None
    cpu_percent: float | None = None  # of one core
    rss_bytes: int | None = None
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, body: object) -> WorkerStatus:
        """Unknown keys are ignored. Raises ControlError for what is no worker."""
        return _build(cls, body, "worker")


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """One server: the reply to ``status``."""

    version: str
    pid: int
    app: str
    phase: str  # starting, serving, reloading, upgrading, stopping
    uptime_s: float
    urls: list[str] = field(default_factory=list)
    generation: int = 0
    workers: int = 0  # how many there should be
    reloads: int = 0
    reload_failures: int = 0
    requests: int = 0  # with those of workers that are gone
    errors_5xx: int = 0  # as well
    rps: float = 0.0
    p50_ms: float | None = None  # of the last seconds' requests, of all workers
    p99_ms: float | None = None
    config_problems: list[str] = field(default_factory=list)  # why it does not run what is configured
    workers_list: list[WorkerStatus] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, body: object) -> ServerStatus:
        """Unknown keys are ignored. Raises ControlError for what is no status."""
        if isinstance(body, dict):
            body = {**body, "workers_list": workers_from_json(body)}
        return _build(cls, body, "status")


def workers_from_json(body: Mapping[str, Any]) -> list[WorkerStatus]:
    """The workers of a reply to ``status`` or ``workers``. Raises ControlError."""
    entries = body.get("workers_list", [])
    if not isinstance(entries, list):
        raise ControlError("workers_list is not a list")
    return [WorkerStatus.from_json(entry) for entry in entries]


# Replies


def encode_progress(text: str) -> bytes:
    return _line({"progress": text})


def encode_reply(document: Mapping[str, Any]) -> bytes:
    """The reply of a command that was carried out. Raises ControlError if it is too large."""
    return _reply({"ok": True, **document})


def encode_failure(text: str) -> bytes:
    """The reply of a command that was not carried out, and why."""
    return _reply({"ok": False, "error": text})


def decode_reply(line: bytes) -> dict[str, Any]:
    """``{"progress": text}``, ``{"ok": True, ...}`` or ``{"ok": False, "error": text}``.

    Raises ControlError for what is none of them.
    """
    body = _object(line, "reply")
    if isinstance(body.get("progress"), str):
        return {"progress": body["progress"]}
    if body.get("ok") is True or (body.get("ok") is False and isinstance(body.get("error"), str)):
        return body
    raise ControlError(f"not a reply: {line[:80]!r}")


def _reply(document: Mapping[str, Any]) -> bytes:
    data = _line(document)
    if len(data) > MAX_REPLY_BYTES:
        raise ControlError(f"a reply of {len(data)} bytes is over the limit of {MAX_REPLY_BYTES}")
    return data


def _line(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"


def _object(line: bytes, what: str) -> dict[str, Any]:
    try:
        body = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ControlError(f"the {what} is not JSON: {error}: {line[:80]!r}") from None
    if not isinstance(body, dict):
        raise ControlError(f"the {what} is not an object: {line[:80]!r}")
    return body


# Dataclasses out of JSON

_T = TypeVar("_T")


def _build(kind: type[_T], body: object, what: str) -> _T:
    """A dataclass of the keys that it knows, each checked against its annotation."""
    if not isinstance(body, dict):
        raise ControlError(f"{what} is not an object: {body!r:.80}")
    hints = _hints(cast("Any", kind))
    given = {name: body[name] for name in hints if name in body}
    for name, value in given.items():
        if not _fits(value, hints[name]):
            raise ControlError(f"{what}: {name} cannot be {value!r:.80}")
    try:
        return kind(**given)
    except (TypeError, ValueError) as error:
        raise ControlError(f"{what}: {error}") from None


@cache
def _hints(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {one.name: hints[one.name] for one in dataclasses.fields(kind)}


def _fits(value: object, hint: Any) -> bool:
    """Whether a value out of JSON is of this type. ``True`` is no int, a whole number is a float."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is UnionType:
        return any(_fits(value, one) for one in arguments)
    if origin is list:
        return isinstance(value, list) and all(_fits(entry, arguments[0]) for entry in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(entry, arguments[1]) for entry in value.values())
    return type(value) in ((int, float) if hint is float else (hint,))


# Where the socket is, and who is at its other end


def peer(sock: socket.socket) -> tuple[int, int]:
    """The pid and the uid of the process at the other end: whoever connected, or listened. A pid of 0
    is in a namespace that we cannot see. Raises OSError.
    """
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, _ = _UCRED.unpack(data)
    return pid, uid


def runtime_directory(environ: Mapping[str, str], uid: int, *, create: bool = False) -> Path:
    """The folder of the sockets of ``control-socket = "auto"``: the first of systemd's
    $RUNTIME_DIRECTORY; $XDG_RUNTIME_DIR if it is a folder of this user; /run/shardserve for root;
    /tmp/shardserve-UID. ``create`` makes the last two. Raises ListenError if somebody else could
    put a socket of his own there.
    """
    if given := environ.get("RUNTIME_DIRECTORY", "").split(":")[0]:
        return Path(given)
    if (session := environ.get("XDG_RUNTIME_DIR")) and _owner(session) == uid:
        return Path(session)
    path, mode = (_OF_ROOT, 0o755) if uid == 0 else (_of_user(uid), 0o700)
    if create:
        _make_private(path, mode, uid)
    if os.path.lexists(path):
        _check_private(path, uid)
    return path


def search_directories(environ: Mapping[str, str], uid: int) -> list[Path]:
    """Every folder in which a server that this user may command can have its socket, the likeliest
    first. A service's is another one than that of its user's shell.
    """
    found = [Path(one) for one in environ.get("RUNTIME_DIRECTORY", "").split(":") if one]
    if (session := environ.get("XDG_RUNTIME_DIR")) and _owner(session) == uid:
        found.append(Path(session))
    found.append(_OF_ROOT)
    if _owner(_of_user(uid)) == uid:
        found.append(_of_user(uid))
    return list(dict.fromkeys(found))


def socket_path(setting: str, environ: Mapping[str, str], uid: int, pid: int) -> Path | None:
    """Where a master with this ``control-socket`` has its socket; None is nowhere. Makes the folder
    of ``auto``. Raises ListenError.
    """
    if setting == "off":
        return None
    if setting == "auto":
        return runtime_directory(environ, uid, create=True) / socket_name(pid)
    return Path(setting)


def socket_name(pid: int | str) -> str:
    """The name of an ``auto`` socket. ``*`` makes it a pattern."""
    return f"shardserve-{pid}.sock"


_OF_ROOT = Path("/run/shardserve")


def _of_user(uid: int) -> Path:
    return Path(f"/tmp/shardserve-{uid}")


def _owner(path: str | Path) -> int | None:
    """Who owns this folder; None if it is none. A symbolic link is none."""
    try:
        found = os.lstat(path)
    except (OSError, ValueError):
        return None
    return found.st_uid if stat.S_ISDIR(found.st_mode) else None


def _make_private(path: Path, mode: int, uid: int) -> None:
    try:
        os.mkdir(path, mode)
        os.chmod(path, mode)  # whatever the umask is
    except FileExistsError:
        return
    except OSError as error:
        raise ListenError(
            f"cannot make the folder {path} for the control socket: {error.strerror}; "
            "set control-socket to a path, or to off"
        ) from error


def _check_private(path: Path, uid: int) -> None:
    """/tmp is everybody's: whoever came first may have left a folder, or a link, for us to fall into."""
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode):
        wrong = "it is not a folder"
    elif found.st_uid != uid:
        wrong = f"it belongs to uid {found.st_uid}, not to uid {uid}"
    elif found.st_mode & 0o022:
        wrong = f"others may write into it (mode {stat.S_IMODE(found.st_mode):04o})"
    else:
        return
    raise ListenError(
        f"cannot use the folder {path} for the control socket: {wrong}; "
        "remove it, or set control-socket to a path, or to off"
    )
