"""What is served, and how it is developed: the settings of APP."""

from __future__ import annotations

from dataclasses import dataclass

from ..kinds import StaticRoute
from ..setting import setting
from ..values import Choice, FilePath, ImportString, Integer, Many, Seconds, Switch, Text


@dataclass(frozen=True, init=False, repr=False, eq=False)
class Application:
    """What is served."""

    __slots__ = ()

    # fmt: off
    app: str = setting(
        "", ImportString(), argument=True, uvicorn=True,
        help="The application to serve, as module:attribute.",
    )
    app_dir: str = setting(
        "", FilePath(), uvicorn=True,
        help="Directory to look for APP in, put first on the import path. Empty is the current one.",
    )
    factory: bool = setting(
        False, Switch(), uvicorn=True,
        help="APP is a function that takes nothing and returns the application.",
    )
    lifespan: str = setting(
        "auto", Choice(("auto", "on", "off")), uvicorn=True,
        help="Run the application's lifespan: on insists, off skips, auto runs it if there is one.",
    )
    root_path: str = setting(
        "", Text(), uvicorn=True,
        help="The path the application is mounted at behind a proxy: ASGI's root_path.",
    )
    reset_contextvars: bool = setting(
        False, Switch(), uvicorn=True,
        help="Run each request in a fresh context, without the variables set at import and startup.",
    )
    interface: str = setting(
        "auto", Choice(("auto", "asgi3", "asgi2", "wsgi")), uvicorn=True,
        help="What APP is; auto finds out.",
    )
    wsgi_threads: int = setting(
        10, Integer(1, 1000),
        # Twice the processors that a request of Flask or Django waits on (database, cache) is a guess; ten
        # is what waitress and gthread users arrive at, and a thread that waits costs 100 KiB.
        help="How many requests of a WSGI application run at the same time, for each worker.",
    )
    env_file: str | None = setting(
        None, FilePath(), uvicorn=True,
        help="Set the variables of this file (python-dotenv) for APP, where they are not set yet.",
    )
    static: tuple[tuple[str, str], ...] = setting(
        (), Many(StaticRoute(), ","),
        help="Serve the files of a directory under a path, /assets=public. Repeatable; APP does not see "
        "these requests.",
    )
    static_max_age_s: int = setting(
        0, Integer(0, 2**31 - 1, "SECONDS"), unit="s",
        # RFC 9111 §1.2.2: a cache must know delta-seconds up to 2**31, and no more.
        help="Let caches keep those files for this long; 0 sends no Cache-Control.",
    )
    # fmt: on


@dataclass(frozen=True, init=False, repr=False, eq=False)
class Development:
    """Reload on change."""

    __slots__ = ()

    # fmt: off
    reload: bool = setting(
        False, Switch(), reloadable=False, uvicorn=True,
        help="Restart the workers when a source file has changed. For development.",
    )
    reload_dirs: tuple[str, ...] = setting(
        (), Many(FilePath(), ",", lone=True), flag_name="reload-dir", reloadable=False, uvicorn=True,
        help="Watch this directory, instead of the current one. Repeatable.",
    )
    reload_includes: tuple[str, ...] = setting(
        (), Many(Text("PATTERN"), ",", lone=True), flag_name="reload-include", reloadable=False, uvicorn=True,
        help="Watch files like this too; *.py are. Repeatable.",
    )
    reload_excludes: tuple[str, ...] = setting(
        (), Many(Text("PATTERN"), ",", lone=True), flag_name="reload-exclude", reloadable=False, uvicorn=True,
        help="Do not watch files like this; .*, .py[cod], .sw.* and ~* are not. Repeatable.",
    )
    reload_delay_s: float = setting(
        0.25, Seconds(), unit="s", reloadable=False, uvicorn=True,
        help="Reload at most once in this time.",
    )
    # fmt: on
