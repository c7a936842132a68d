"""shardserve, an ASGI server for Linux multi-core hosts. Re-exports only.

The names are imported when they are first used: every worker imports this package on its way to
``shardserve.worker``, and must not pay for the command line, nor need gunicorn.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ._version import __version__

if TYPE_CHECKING:
    from .integrations.embedded import Server
    from .integrations.gunicorn import ShardWorker
    from .integrations.running import run
    from .integrations.settings import Config

__all__ = ["Config", "Server", "ShardWorker", "__version__", "run"]

_HOMES = {
    "Config": ".integrations.settings",
    "Server": ".integrations.embedded",
    "ShardWorker": ".integrations.gunicorn",
    "run": ".integrations.running",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)
