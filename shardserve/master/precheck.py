"""What can be found out about settings before a worker is started with them.

Rules of this file: nothing is kept and nothing is changed; what is wrong is a ConfigError. It is asked
at the start and at every reload, whose old workers go on serving when it objects.
"""

from __future__ import annotations

import os
import subprocess
import sys

from ..config import http2
from ..config.model import Config
from ..errors import ConfigError

# For a process that imports the extension, on a machine that is busy.
ASK_S = 10.0


def check(config: Config) -> None:
    """Raises ConfigError for what every worker would fail of."""
    for route, folder in config.static:
        if not os.path.isdir(folder):
            raise ConfigError(f'static {route or "/"}: "{folder}" is not a directory (from {os.getcwd()})')
    _check_access_log_file(config.access_log_file)
    if config.ssl_certfile:
        # Not at the top: OpenSSL is memory and time that the master of a plain server does not need.
        from ..net import tls

        tls.check(config)
    if http2.is_on(config):
        http2.require(config, _nghttp2_version())


def _nghttp2_version() -> str | None:
    """With which nghttp2 the extension was built; None: without. Asked of a process of its own, since the
    master has no other use for the extension. If that fails, so will the workers, and say more.
    """
    program = "from shardserve import _native; print(_native.nghttp2_version)"
    try:
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=ASK_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    said = done.stdout.strip()
    return None if said == "None" else said


def _check_access_log_file(path: str | None) -> None:
    if path is None or path.startswith("syslog:"):
        return
    folder = os.path.dirname(path) or "."
    if os.path.isdir(path):
        wrong = "it is a directory"
    elif not os.path.isdir(folder):
        wrong = f'"{folder}" is not a directory (from {os.getcwd()})'
    elif os.path.exists(path) and not os.access(path, os.W_OK):
        wrong = "no permission to write to it"
    elif not os.path.exists(path) and not os.access(folder, os.W_OK | os.X_OK):
        wrong = f'no permission to make a file in "{folder}"'
    else:
        return
    raise ConfigError(f'access-log-file "{path}": {wrong}')
