"""Where the server listens, which processes do it, and when they are replaced."""

from __future__ import annotations

from dataclasses import dataclass

from ..setting import setting
from ..values import BindAddress, Choice, FileMode, Integer, Many, Seconds, Switch, Text, UnixPath


@dataclass(frozen=True, init=False, repr=False, eq=False)
class Address:
    """Where to listen."""

    __slots__ = ()

    # fmt: off
    host: str = setting(
        "127.0.0.1", Text(), reloadable=False, uvicorn=True,
        help="Listen on this address.",
    )
    port: int = setting(
        8000, Integer(0, 65535), reloadable=False, uvicorn=True, fallback_env=("PORT",),
        help="Listen on this port; 0 picks a free one.",
    )
    uds: str | None = setting(
        None, UnixPath(), reloadable=False, uvicorn=True,
        help="Listen on a Unix domain socket at this path, instead of host and port.",
    )
    uds_permissions: int = setting(
        0o666, FileMode(), reloadable=False,
        help="File mode of Unix domain sockets.",
    )
    fd: int | None = setting(
        None, Integer(0), reloadable=False, uvicorn=True,
        help="Listen on this inherited file descriptor, instead of host and port.",
    )
    bind: tuple[str, ...] = setting(
        (), Many(BindAddress(), ","), reloadable=False,
        help="Listen here: host:port, [::1]:8000, :8000, unix:/path or fd://3. Repeatable; replaces --host, "
        "--port, --uds and --fd.",
    )
    backlog: int = setting(
        2048, Integer(1, 2**31 - 1), reloadable=False, uvicorn=True,
        help="How many connections may wait to be accepted, for each worker.",
    )
    # fmt: on


@dataclass(frozen=True, init=False, repr=False, eq=False)
class Processes:
    """How many processes, where they run, and how they are replaced."""

    __slots__ = ()

    # fmt: off
    workers: int | None = setting(
        None, Integer(1, 1024), reloadable=False, fallback_env=("WEB_CONCURRENCY",), uvicorn=True,
        unset="one per usable core",
        help="How many worker processes. With --reload, 1 unless this is set.",
    )
    affinity: bool = setting(
        True, Switch(),
        help="Pin each worker to a core of its own.",
    )
    balance: str = setting(
        "hash", Choice(("hash", "cpu", "random")), reloadable=False,
        help="Who gets a new TCP connection: hash of its addresses, the worker of the cpu it arrived on, or "
        "random.",
    )
    preload: bool = setting(
        False, Switch(), reloadable=False,
        help="Import the application once, in a template process, and fork the workers from it: they share "
        "its memory.",
    )
    reload_parallel: int = setting(
        1, Integer(1, 1024),
        help="At reload: how many workers are replaced at the same time.",
    )
    # fmt: on


@dataclass(frozen=True, init=False, repr=False, eq=False)
class Recycling:
    """When a worker has worked enough."""

    __slots__ = ()

    # fmt: off
    limit_max_requests: int | None = setting(
        None, Integer(1), unset="never", uvicorn=True,
        help="Replace a worker after this many requests.",
    )
    limit_max_requests_jitter: int = setting(
        0, Integer(0), uvicorn=True,
        help="Add up to this many requests, at random, to the limit of each worker.",
    )
    worker_lifetime_s: float | None = setting(
        None, Seconds(1.0), unit="s", unset="never",
        help="Replace a worker after this long.",
    )
    worker_lifetime_jitter_s: float = setting(
        0.0, Seconds(), unit="s",
        help="Add up to this long, at random, to the lifetime of each worker.",
    )
    worker_max_rss_mib: int | None = setting(
        None, Integer(1), unit="mib", unset="never",
        help="Replace a worker whose resident memory is more than this many MiB.",
    )
    # fmt: on
