"""The messages between the master and a worker, each declared once.

Rules of this file: sans-I/O. A message is a frozen dataclass; ``encode`` turns it into one
datagram, ``decode`` turns one datagram into a message or raises ControlError. File descriptors
travel beside the datagram (SCM_RIGHTS), never in it, except the numbers a worker inherited at
exec, which START names. Sockets, retries and policy live in ``master/`` and ``worker/``.

    master → worker     START  ADOPT  RELEASE  REOPEN  DRAIN  STOP
    worker → master     HELLO  READY  FAILED  LEAVING  DRAINED
    master → template   PRELOAD  FORK  REOPEN  STOP
    template → master   READY  FAILED

The pipe is a SEQPACKET socketpair, so message boundaries hold and EOF means the other side died.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, ClassVar, get_args

from .errors import ControlError

# A datagram must fit the smallest default socket buffer (net.core.wmem_default, 208 KiB).
MAX_DATAGRAM_BYTES = 128 * 1024


@dataclass(frozen=True, slots=True)
class Listener:
    """One inherited listening socket. ``url`` is for people: ``http://127.0.0.1:8000``."""

    fd: int
    url: str


@dataclass(frozen=True, slots=True)
class Start:
    """Everything a fresh worker needs. ``config`` is ``config.model.to_json(config)``; ``page_fd``
    is the worker's page of figures (stats.py), inherited like the listeners.
    """

    type: ClassVar[str] = "START"
    slot: int
    generation: int
    core: int | None
    config: dict[str, Any]
    listeners: list[Listener] = field(default_factory=list)
    page_fd: int | None = None


@dataclass(frozen=True, slots=True)
class Preload:
    """To a template process (--preload): import this config's app, say READY, then wait for FORKs."""

    type: ClassVar[str] = "PRELOAD"
    generation: int
    config: dict[str, Any]
    page_fd: int | None = None


@dataclass(frozen=True, slots=True)
class Fork:
    """To a template: fork a worker. Beside the datagram travel, in this order, the worker's end of
    its control pipe, its page, and its listeners; the numbers in ``start`` mean nothing.
    """

    type: ClassVar[str] = "FORK"
    start: Start


@dataclass(frozen=True, slots=True)
class Hello:
    """The first word of a forked worker: its parent is a template, so the master learns its pid here."""

    type: ClassVar[str] = "HELLO"
    pid: int


@dataclass(frozen=True, slots=True)
class Ready:
    """The app is imported, its lifespan startup is done, the worker accepts."""

    type: ClassVar[str] = "READY"
    pid: int
    startup_ms: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The worker cannot serve and exits. ``stage`` is "start", "import" or "lifespan"."""

    type: ClassVar[str] = "FAILED"
    stage: str
    text: str


@dataclass(frozen=True, slots=True)
class Adopt:
    """Accept on another slot's listeners too: that slot is down or removed, its queue must not be
    lost. One descriptor per entry of ``urls`` travels beside the datagram, in the same order.
    """

    type: ClassVar[str] = "ADOPT"
    slot: int
    urls: list[str]


@dataclass(frozen=True, slots=True)
class Release:
    """Stop accepting on what was adopted for this slot and close it: the slot serves again."""

    type: ClassVar[str] = "RELEASE"
    slot: int


@dataclass(frozen=True, slots=True)
class Drain:
    """Stop accepting, finish what is in flight, then exit. ``grace_s``: how long an idle
    keep-alive connection may still bring one more request; ``streams_s``: when responses without
    an end are told that their client is gone; ``deadline_s``: when to cut the rest.
    """

    type: ClassVar[str] = "DRAIN"
    grace_s: float
    deadline_s: float
    streams_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Leaving:
    """The worker drains, for a reason of its own (``SIGTERM``): another one should take its slot."""

    type: ClassVar[str] = "LEAVING"
    reason: str


@dataclass(frozen=True, slots=True)
class Drained:
    """Nothing is left; the worker exits with 0. ``cut`` requests were cut at the deadline."""

    type: ClassVar[str] = "DRAINED"
    served: int
    cut: int


@dataclass(frozen=True, slots=True)
class Reopen:
    """The log files were moved away: open them again by their names (USR1)."""

    type: ClassVar[str] = "REOPEN"


@dataclass(frozen=True, slots=True)
class Stop:
    """Cut everything and exit now (the second signal)."""

    type: ClassVar[str] = "STOP"


Message = (
    Start | Preload | Fork | Hello | Ready | Failed | Adopt | Release | Reopen | Drain | Leaving | Drained
    | Stop
)  # fmt: skip
_TYPES: dict[str, type[Any]] = {m.type: m for m in get_args(Message)}


def encode(message: Message) -> bytes:
    """One message as one datagram (UTF-8 JSON). Raises ControlError if it cannot fit."""
    body = {"type": message.type, **dataclasses.asdict(message)}
    data = json.dumps(body, separators=(",", ":")).encode()
    if len(data) > MAX_DATAGRAM_BYTES:
        raise ControlError(
            f"control message {message.type} is {len(data)} bytes, over the limit of {MAX_DATAGRAM_BYTES}"
        )
    return data


def decode(data: bytes) -> Message:
    """One datagram as a message. Raises ControlError naming what is wrong with it."""
    try:
        body = json.loads(data)
    except ValueError as error:
        raise ControlError(f"control datagram is not JSON: {error}: {data[:80]!r}") from None
    if not isinstance(body, dict):
        raise ControlError(f"control datagram is not an object: {data[:80]!r}")
    kind = _TYPES.get(str(body.pop("type", None)))
    if kind is None:
        raise ControlError(f"unknown control message: {data[:80]!r}")
    try:
        if kind is Fork:
            body["start"] = _start(body["start"])
        elif kind is Start:
            return _start(body)
        message: Message = kind(**body)
    except (TypeError, KeyError, AttributeError) as error:
        raise ControlError(f"control message {kind.type}: {error}") from None
    return message


def _start(body: dict[str, Any]) -> Start:
    listeners = [Listener(**entry) for entry in body.pop("listeners", [])]
    return Start(**body, listeners=listeners)
