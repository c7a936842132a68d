"""What can be found out about settings before a worker is started with them.

Rules of this file: nothing is kept and nothing is changed; what is wrong is a ConfigError. It is asked
at the start and at every reload, whose old workers go on serving when it objects.
"""

from __future__ import annotations

import os

from ..config.model import Config
from ..errors import ConfigError


def check(config: Config) -> None:
    """Raises ConfigError for what every worker would fail of."""
    for route, folder in config.static:
        if not os.path.isdir(folder):
            raise ConfigError(f'static {route or "/"}: "{folder}" is not a directory (from {os.getcwd()})')
    if config.ssl_certfile:
        # Not at the top: OpenSSL is memory and time that the master of a plain server does not need.
        from ..net import tls

        tls.check(config)
