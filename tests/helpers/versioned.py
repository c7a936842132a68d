"""``versioned:app``, an app whose file is written anew for each version, and which can be held up or break.

Rules of this file: what a server of it answers is JSON: version, pid, and the size of what was sent. Its
folder ``NOTES`` has the files ``hold`` and ``broken`` as long as it should be that.
"""

from __future__ import annotations

import os
from pathlib import Path

from tests.helpers.master_process import until

SOURCE = """
import json, os, time
NOTES = os.environ["NOTES"]
open(f"{NOTES}/importing-{os.getppid()}", "w").close()
while os.path.exists(f"{NOTES}/hold"):
    time.sleep(0.02)
if os.path.exists(f"{NOTES}/broken"):
    raise LookupError("the new version is broken")

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    body = json.dumps({"version": VERSION, "pid": os.getpid(), "size": size}).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""


def write_app(folder: Path, version: int) -> None:
    """Its size changes with the version, so that no cached bytecode passes for it."""
    path = folder / "versioned.py"
    path.with_suffix(".new").write_text(f"VERSION = {version}\n{'#' * version}\n{SOURCE}")
    os.replace(path.with_suffix(".new"), path)


def held_up(notes: Path, master: int) -> None:
    """Wait until workers of this master import it."""
    until((notes / f"importing-{master}").exists, "the workers to import")
