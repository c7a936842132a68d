"""What settings say of HTTP/2 together with what surrounds them: the build, and TLS.

Rules of this file: text for people. Pure functions; whether nghttp2 is there is for others to find out: a
worker asks ``_native.nghttp2_version``, the master a process of its own (``master/precheck.py``).
"""

from __future__ import annotations

from ..errors import ConfigError
from .model import Config


def is_on(config: Config) -> bool:
    """Whether any connection is to speak HTTP/2."""
    return config.http2 or config.http2_cleartext


def require(config: Config, nghttp2: str | None) -> None:
    """Raises ConfigError if HTTP/2 is on and was not built. ``nghttp2``: the version that was; None: none."""
    if nghttp2 is not None or not is_on(config):
        return
    which = "http2" if config.http2 else "http2-cleartext"
    raise ConfigError(
        f"{which} is set, but this shardserve was built without HTTP/2: nghttp2 was not there. Install its "
        "headers (Debian and Ubuntu: apt install libnghttp2-dev pkg-config), then build shardserve again "
        "(pip install --force-reinstall --no-cache-dir), or leave the setting out"
    )


def warning(config: Config, *, tls: bool) -> str | None:
    """What to say at start of a setting that does nothing. ``tls``: connections speak TLS."""
    if config.http2 and not tls and not config.http2_cleartext:
        return (
            "http2 does nothing without TLS: clients get HTTP/1.1. Set ssl-certfile, or http2-cleartext for "
            "clients that speak HTTP/2 without TLS (a proxy, gRPC)"
        )
    if config.http2_cleartext and tls and not config.http2:
        return "http2-cleartext does nothing with TLS: clients get HTTP/1.1. Set http2 to offer HTTP/2"
    return None
