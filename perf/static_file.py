"""The file of the static scenarios: where it lies and what is in it.

Rules of this file: standard library only, because every peer's interpreter imports it. The bytes are those of
body-100k, so that a file can be compared with the same body out of memory. It lies in the build folder, since
every server of a run, and of the next, reads the same one.
"""

from __future__ import annotations

import os
from pathlib import Path

from perf.apps import BODY_100K

FOLDER = Path(__file__).resolve().parent.parent / ".build" / "perf-static"
NAME = "body-100k.bin"


def make() -> Path:
    """The folder, with the file in it."""
    path = FOLDER / NAME
    if not path.exists() or path.stat().st_size != len(BODY_100K):
        FOLDER.mkdir(parents=True, exist_ok=True)
        part = FOLDER / f".{NAME}.{os.getpid()}"
        part.write_bytes(BODY_100K)
        part.replace(path)
    return FOLDER
