"""``shardserve.run("main:app", port=9000)``: the command line's door, opened from Python.

Rules of this file: keywords become a Config, the Config goes to the master, its exit code becomes
the process's. A wrong keyword raises ConfigError to the caller, who is a program.
"""

from __future__ import annotations

import os
import sys

from ..config.load import from_keywords
from ..errors import AppImportError, ConfigError


def run(app: str, **settings: object) -> None:
    """Serve ``app`` ("module:attribute") until told to stop; exits the process if that fails.

    Keywords are the settings of docs/reference/settings.md with underscores. Raises ConfigError
    for a wrong one, and StartupError if the server cannot start.
    """
    _refuse_in_worker()
    if not isinstance(app, str):
        raise ConfigError(
            f"app is {type(app).__name__} object; give its import string, such as 'main:app': "
            "each worker is a process of its own and imports it there"
        )
    config = from_keywords(app, settings, os.environ)
    if not config.app:
        raise ConfigError("app is empty; give an import string, such as 'main:app'")
    from ..master.serve import serve

    code = serve(config)
    if code:
        sys.exit(code)


def _refuse_in_worker() -> None:
    """A worker imports the app's module, and with it a ``run()`` that nothing guards."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    if spec is not None and spec.name.startswith("shardserve.worker"):
        raise AppImportError(
            "shardserve.run() was called while a worker imported the app; "
            'put the call under: if __name__ == "__main__":'
        )
