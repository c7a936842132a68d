"""The access log of a worker, as the settings have it: what a line says, where lines go, who has none.

Rules of this file: made once, before the app is up. Whether lines go this way at all is found out later, by
``observe/access_sink.py``.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable

from .. import _native
from ..config.access_format import Compiled, Process, compiled
from ..config.addresses import parse_syslog
from ..config.model import Config
from ..errors import ConfigError
from ..observe import access_sink
from ..observe.access import AccessLog, Sink
from ..observe.formatters import identity, wants_colours
from ..observe.line_file import LineFile
from ..observe.syslog import Syslog

# Lines that are gathered at most. More would save few system calls, and push the request path out of the
# first caches: 64 KiB cost measurably more than this.
BUFFER_BYTES = 16 * 1024


def access_log(config: Config, loop: asyncio.AbstractEventLoop) -> AccessLog | None:
    """None where nothing is to be written this way. Raises ConfigError for a file that cannot be opened."""
    if not access_sink.wanted(config):
        return None
    line = _line(config)

    def make(write: Callable[[bytes], None], schedule: Callable[[], None]) -> _native.AccessLog:
        return _native.AccessLog(
            line.program,
            line.websocket_program,
            write=write,
            schedule=schedule,
            exclude=tuple(os.fsencode(glob) for glob in config.access_log_exclude),
            sample=config.access_log_sample,
            buffer_bytes=BUFFER_BYTES,
            json=line.json,
        )

    return AccessLog(make, _sink(config.access_log_file, loop), loop=loop)


def _line(config: Config) -> Compiled:
    text = config.access_log_format or ("json" if config.log_format == "json" else "uvicorn")
    # A file is read by programs, and later.
    colours = config.access_log_file is None and wants_colours(sys.stdout, config.use_colors)
    return compiled(text, Process(pid=os.getpid(), slot=identity.slot), colours=colours)


def _sink(target: str | None, loop: asyncio.AbstractEventLoop) -> Sink:
    if target is None:
        return LineFile(1, "stdout")
    if target.startswith("syslog:"):
        return Syslog(parse_syslog(target), loop=loop)
    try:
        return LineFile.opened(target)
    except OSError as error:
        raise ConfigError(f"access-log-file {target}: {error.strerror}") from None
