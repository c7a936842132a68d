"""The C programs of this folder, compiled when they are needed.

Rules of this file: one source file and the headers next to it, one program, the system's cc, no
dependencies but a library that is named here with its Debian package; the program goes where the caller
says and lives as long as the run.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from perf.programs import lacking

HERE = Path(__file__).resolve().parent
FLAGS = ("-O2", "-std=c11")
LIBRARIES = {"h2_floor": ("-lnghttp2", "libnghttp2-dev")}
"""Program to what it is linked with, and the Debian package of that."""


class CompileError(Exception):
    """A program cannot be had. str() is one line; ``log`` is what the compiler said."""

    def __init__(self, why: str, log: str = "") -> None:
        super().__init__(why)
        self.log = log


def find() -> str:
    """The C compiler."""
    path = shutil.which("cc")
    if path is None:
        raise CompileError(lacking("cc") or "cc is gone")
    return path


def version() -> str:
    """The compiler's name and version."""
    done = subprocess.run([find(), "-dumpfullversion", "-dumpversion"], capture_output=True, text=True)
    return f"cc {done.stdout.strip() or '?'}"


def build(name: str, folder: Path) -> Path:
    """Compile ``name``.c into ``folder``, once."""
    binary = folder / name
    if not binary.exists():
        library, package = LIBRARIES.get(name, (None, None))
        command = [find(), *FLAGS, str(HERE / f"{name}.c"), "-o", str(binary), *filter(None, [library])]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            remedy = f"; it needs the Debian package {package}" if package else ""
            raise CompileError(f"{name}.c does not compile{remedy}", done.stderr)
    return binary
