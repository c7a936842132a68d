"""The programs of the system that the laboratory runs, and the Debian package each comes in.

Rules of this file: one row for each program; what is missing is one line that names the package, and
whoever asked decides what is skipped for it.
"""

from __future__ import annotations

import shutil

DEBIAN = {
    "wrk": "wrk",
    "h2load": "nghttp2-client",
    "nghttpd": "nghttp2-server",
    "cc": "gcc",
    "openssl": "openssl",
    "node": "nodejs",
    "git": "git",
}
"""Program to package."""


def lacking(program: str) -> str | None:
    """Why the program cannot be run, as one line that says what to install; None if it can."""
    if shutil.which(program) is not None:
        return None
    package = DEBIAN.get(program)
    remedy = (
        f"install the Debian package {package}" if package else "install it with the system's package manager"
    )
    return f"{program} is not on PATH; {remedy}"
