"""The peers' virtual environment, ``.venv-peers``: making it, and seeing what is in it.

Rules of this file: peers never go into the interpreter that runs perf, and each package is installed
by a pip call of its own, so that one that fails to build does not take the others along. What cannot
run is reported as one line that names the package; nothing here raises for a missing peer.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from perf.peers import Home, Server, requirements
from perf.programs import lacking

ROOT = Path(__file__).resolve().parent.parent
PEERS_DIR = ROOT / ".venv-peers"
INSTALL_HINT = "python -m perf peers install"
PIP_DEADLINE_S = 600

_LIST_VERSIONS = """
import importlib.metadata as metadata, json, sys
found = {"python": sys.version.split()[0]}
for dist in metadata.distributions():
    found[dist.metadata["Name"].lower().replace("_", "-")] = dist.version
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Interpreters:
    """The two interpreters servers run in, and the versions of what is installed in each."""

    ours: Path
    peers: Path | None
    _versions: dict[Path, dict[str, str]] = field(default_factory=dict)

    @classmethod
    def find(cls, peers_dir: Path = PEERS_DIR) -> Interpreters:
        """Our own interpreter, and that of the peers where it exists."""
        peers = peers_dir / "bin" / "python"
        return cls(ours=Path(sys.executable), peers=peers if peers.exists() else None)

    def python(self, server: Server) -> Path | None:
        return {Home.OURS: self.ours, Home.PEERS: self.peers, Home.NONE: None}[server.home]

    def versions(self, server: Server) -> dict[str, str]:
        """Distribution name (lower case, dashes) to version, in the server's interpreter."""
        python = self.python(server)
        if python is None:
            return {}
        if python not in self._versions:
            self._versions[python] = _installed(python)
        return self._versions[python]

    def version(self, server: Server) -> str:
        """The server's own version: its first package's, ours, or the program's."""
        if server.revision is not None:
            return server.revision[:12]
        if server.home is Home.OURS:
            from shardserve._version import __version__

            return __version__
        if server.home is Home.PEERS:
            return self.versions(server).get(_key(server.packages[0]), "?")
        return _program_version(server.program)


def missing(server: Server, interpreters: Interpreters, needs: Iterable[str] = ()) -> str | None:
    """Why the server cannot run, as one line that says what to install; None if it can.

    ``needs`` are the scenario's packages, on top of the server's own.
    """
    if server.broken is not None:
        return server.broken
    if server.program is not None and (why := lacking(server.program)) is not None:
        return why
    if server.home is Home.PEERS and interpreters.peers is None:
        return f"package {server.packages[0]} is not installed: no {PEERS_DIR.name}; run `{INSTALL_HINT}`"
    if server.home is Home.NONE:
        return None
    have = interpreters.versions(server)
    absent = [name for name in (*server.packages, *needs) if _key(name) not in have]
    if not absent:
        return None
    remedy = f"`{INSTALL_HINT}`" if server.home is Home.PEERS else f"`pip install {' '.join(absent)}`"
    return f"package {', '.join(absent)} is not installed in {server.home.value}; run {remedy}"


def install(say: Callable[[str], None], peers_dir: Path = PEERS_DIR) -> list[str]:
    """Make the environment where there is none, install every requirement; returns those that failed."""
    python = peers_dir / "bin" / "python"
    if not python.exists():
        say(f"making {peers_dir.name} with Python {sys.version.split()[0]}")
        subprocess.run([sys.executable, "-m", "venv", str(peers_dir)], check=True)
    failed = []
    for requirement in requirements():
        error = _pip_install(python, requirement)
        say(f"{requirement}: {'installed' if error is None else f'FAILED: {error}'}")
        if error is not None:
            failed.append(requirement)
    return failed


def _pip_install(python: Path, requirement: str) -> str | None:
    """One pip call. Returns None, or pip's own last word on why not."""
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--upgrade", requirement]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_DEADLINE_S)
    except subprocess.TimeoutExpired:
        return f"pip took more than {PIP_DEADLINE_S} s"
    if done.returncode == 0:
        return None
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    return (errors or done.stderr.splitlines() or ["no output"])[-1]


def _installed(python: Path) -> dict[str, str]:
    done = subprocess.run([str(python), "-c", _LIST_VERSIONS], capture_output=True, text=True)
    if done.returncode != 0:
        return {}
    versions: dict[str, str] = json.loads(done.stdout)
    return versions


def _key(requirement: str) -> str:
    return requirement.lower().replace("_", "-")


def _program_version(program: str | None) -> str:
    if program is None or shutil.which(program) is None:
        return "?"
    done = subprocess.run([program, "--version"], capture_output=True, text=True)
    number = re.search(r"\d+(\.\d+)+", done.stdout)
    return number.group() if number else "?"
