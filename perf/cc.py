"""The C programs of this folder, compiled when they are needed.

Rules of this file: one source file and the headers next to it, one program, the system's cc, no
dependencies; the program goes where the caller says and lives as long as the run.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from perf.programs import lacking

HERE = Path(__file__).resolve().parent
FLAGS = ("-O2", "-std=c11")


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
        command = [find(), *FLAGS, str(HERE / f"{name}.c"), "-o", str(binary)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise CompileError(f"{name}.c does not compile", done.stderr)
    return binary
