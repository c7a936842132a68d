"""The files that servers send: that of the static scenarios, and the answer of a scenario as a file.

Rules of this file: standard library only, because every peer's interpreter imports it. The static file's
bytes are those of body-100k, so that it can be compared with the same body out of memory. It lies in the
build folder, since every server of a run, and of the next, reads the same one.
"""

from __future__ import annotations

import os
from pathlib import Path

from perf.apps import BODY_100K

FOLDER = Path(__file__).resolve().parent.parent / ".build" / "perf-static"
NAME = "body-100k.bin"
INDEX = "index.html"


def make() -> Path:
    """The folder, with the file in it."""
    path = FOLDER / NAME
    if not path.exists() or path.stat().st_size != len(BODY_100K):
        FOLDER.mkdir(parents=True, exist_ok=True)
        part = FOLDER / f".{NAME}.{os.getpid()}"
        part.write_bytes(BODY_100K)
        part.replace(path)
    return FOLDER


def answer(body: bytes, folder: Path) -> Path:
    """A folder inside ``folder`` whose only file is what "/" gives: for a server with files and no app."""
    made = folder / "answer"
    made.mkdir(exist_ok=True)
    (made / INDEX).write_bytes(body)
    return made
