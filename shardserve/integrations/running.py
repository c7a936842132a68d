"""``shardserve.run(app, **keywords)``: what ``uvicorn.run`` is, by another import.

Rules of this file: an import string is served by a master and its workers, an app object by one worker in
this process, since no other process can have the object. A wrong keyword raises ConfigError to the caller,
who is a program; what goes wrong later ends the process.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from typing import Any

from ..config.load import from_keywords
from ..errors import AppImportError, ConfigError
from .keywords import API_ONLY, settings_among, signature, warn_once

log = logging.getLogger("shardserve.master")


def run(app: Any, **keywords: Any) -> None:
    """Serve ``app`` until told to stop; exits the process if that fails.

    ``app``: an import string ("module:attribute"), for a worker on every core, or an application, for one
    worker in this process. Keywords are the settings of docs/reference/settings.md with underscores, and
    Uvicorn's ``ssl_context_factory``. Raises ConfigError for a wrong one, and StartupError if the server
    cannot start.
    """
    _refuse_in_worker()
    if isinstance(app, str) and keywords.get("ssl_context_factory") is None:
        _run_workers(app, keywords)
    else:
        _run_here(app, keywords)


run.__signature__ = signature()  # type: ignore[attr-defined]


def _run_workers(app: str, keywords: Mapping[str, Any]) -> None:
    for word in ("callback_notify", "timeout_notify"):
        if keywords.get(word, API_ONLY[word]) != API_ONLY[word]:
            warn_once(
                f"{word} has no meaning with worker processes, whose event loops the master watches by itself"
            )
    config = from_keywords(app, settings_among(keywords), os.environ)
    if not config.app:
        raise ConfigError("app is empty; give an import string, such as 'main:app'")
    from ..master.serve import serve

    code = serve(config)
    if code:
        sys.exit(code)


def _run_here(app: Any, keywords: Mapping[str, Any]) -> None:
    # Only now: uvloop and the native side are no business of a master's.
    from ..master.banner import raise_descriptor_limit
    from .embedded import Server
    from .settings import Config

    if app_dir := keywords.get("app_dir"):
        sys.path.insert(0, os.fspath(app_dir))
    config = Config(app, **keywords)
    if config.use_subprocess:
        what = "reload" if config.reload else "workers"
        why = (
            "ssl_context_factory is a function of this one" if isinstance(app, str)
            else "app is an object of this one: pass it as an import string, such as 'main:app'"
        )  # fmt: skip
        log.error("%s needs other processes, but %s.", what, why)
        sys.exit(AppImportError.exit_code)
    raise_descriptor_limit()
    server = Server(config)
    try:
        server.run()
    except KeyboardInterrupt:
        return
    if not server.started:
        sys.exit(AppImportError.exit_code)


def _refuse_in_worker() -> None:
    """A worker imports the app's module, and with it a ``run()`` that nothing guards."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    if spec is not None and spec.name.startswith("shardserve.worker"):
        raise AppImportError(
            "shardserve.run() was called while a worker imported the app; "
            'put the call under: if __name__ == "__main__":'
        )
