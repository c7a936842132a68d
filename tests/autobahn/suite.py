"""Autobahn's fuzzing client: installed into a folder of its own, and run against one server.

The suite is Python 2: its last release, 25.10.1, installs on Python 3 but cannot be imported there, and has
the same cases as 0.8.2, which is taken because it says what it needs. So a Python 2.7 with pip is needed:
$AUTOBAHN_PYTHON, `python2.7`, or one of pyenv's. The suite runs unchanged; nothing of it is in this
repository, and nothing of it is installed elsewhere.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import queue
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PINS = Path(__file__).with_name("requirements.txt")
ENVIRONMENT = ROOT / ".venv-autobahn"
STAMP = ENVIRONMENT / "installed"
INSTALL_S = 900
# The longest cases give up after 100 s. A client that is silent for so long has got stuck.
SILENCE_S = 300
# zope and others are spread over packages with .pth files, which are only read in a folder of site-packages.
START = (
    "import site, sys\n"
    "site.addsitedir(sys.argv.pop(1))\n"
    "from autobahntestsuite.wstest import run\n"
    "run()\n"
)  # fmt: skip


class SuiteError(Exception):
    """The suite cannot be installed, or did not run to its end."""


# The environment


def _is_python_27(command: str) -> bool:
    probe = [command, "-c", "import sys; sys.exit(sys.version_info[:2] != (2, 7))"]
    try:
        return subprocess.run(probe, capture_output=True, check=False, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _pyenv_python_27() -> str | None:
    pyenv = shutil.which("pyenv")
    if pyenv is None:
        return None
    listed = subprocess.run([pyenv, "versions", "--bare"], capture_output=True, text=True, check=False).stdout
    versions = [line.strip() for line in listed.splitlines() if line.strip().startswith("2.7")]
    for version in reversed(versions):
        asked = subprocess.run([pyenv, "prefix", version], capture_output=True, text=True, check=False)
        python = str(Path(asked.stdout.strip()) / "bin" / "python")
        if _is_python_27(python):
            return python
    return None


def find_python() -> str | None:
    """A Python 2.7, or None."""
    named = os.environ.get("AUTOBAHN_PYTHON")
    if named:
        return named if _is_python_27(named) else None
    return "python2.7" if _is_python_27("python2.7") else _pyenv_python_27()


def _pins() -> str:
    return hashlib.sha256(PINS.read_bytes()).hexdigest()


def installed() -> str | None:
    """The Python 2.7 that the environment was made with, if it is whole and has what the pins say."""
    try:
        found = json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return None
    return str(found["python"]) if found["pins"] == _pins() and _is_python_27(found["python"]) else None


def install(say: Callable[[str], None]) -> str:
    """Make the environment, unless it is there; the Python 2.7 to run it with."""
    python = installed()
    if python is not None:
        return python
    python = find_python()
    if python is None:
        raise SuiteError(
            "Autobahn's test suite needs a Python 2.7 with pip: install one (pyenv install 2.7.18) "
            "or name one with AUTOBAHN_PYTHON"
        )
    say(f"installing Autobahn's test suite into {ENVIRONMENT.name} (about half a minute)")
    shutil.rmtree(ENVIRONMENT, ignore_errors=True)
    command = [
        *(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
        *("--no-warn-script-location", "--no-deps", "--target", str(ENVIRONMENT), "--requirement", str(PINS)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=INSTALL_S)
    if done.returncode:
        raise SuiteError(f"the test suite cannot be installed:\n{done.stdout}{done.stderr}")
    STAMP.write_text(json.dumps({"python": python, "pins": _pins()}))
    return python


def versions() -> dict[str, str]:
    """Of the two packages whose behaviour counts."""
    pinned = dict(re.findall(r"^(autobahn\w*)==(\S+)$", PINS.read_text(), re.MULTILINE))
    return {name: pinned[name] for name in ("autobahntestsuite", "autobahn")}


# A run


def patterns(selection: Sequence[str]) -> list[str]:
    """What the suite understands: ``7`` means section 7."""
    return [f"{one}.*" if one.isdigit() else one for one in selection]


def spec(agent: str, url: str, folder: Path, cases: Sequence[str]) -> dict[str, object]:
    """What the fuzzing client is told."""
    return {
        "outdir": str(folder),
        "servers": [{"agent": agent, "url": url}],
        "cases": patterns(cases),
        "exclude-cases": [],
        "exclude-agent-cases": {},
    }


def run(
    python: str,
    agent: str,
    url: str,
    folder: Path,
    *,
    cases: Sequence[str] = ("*",),
    on_case: Callable[[str, int], None] = lambda case, total: None,
) -> list[str]:
    """Run the cases; the ids of all that should have been run. Its reports are in ``folder`` then.

    ``on_case`` is told when a case begins, and how many there are.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    settings, log = folder / "spec.json", folder / "client.log"
    settings.write_text(json.dumps(spec(agent, url, folder, cases)))
    command = [
        *(python, "-u", "-s", "-E", "-c", START, str(ENVIRONMENT)),
        *("--mode", "fuzzingclient", "--spec", str(settings)),
    ]
    client = subprocess.Popen(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        with log.open("w", buffering=1) as file:
            chosen = _follow(client, file.write, on_case)
        code = client.wait(SILENCE_S)
    finally:
        client.kill()
        client.wait()
        if client.stdout is not None:
            client.stdout.close()
    if code or not (folder / "index.json").exists():
        raise SuiteError(f"the fuzzing client ended with {code} and no report:\n{log.read_text()[-2000:]}")
    return chosen


def _follow(
    client: subprocess.Popen[str], keep: Callable[[str], object], on_case: Callable[[str, int], None]
) -> list[str]:
    """Read what the client prints until it ends; the ids of the cases that it was going to run."""
    lines: queue.Queue[str | None] = queue.Queue()

    def pump() -> None:
        assert client.stdout is not None
        for line in client.stdout:
            lines.put(line)
        lines.put(None)

    reader = threading.Thread(target=pump, name="fuzzing client")
    reader.start()
    chosen: list[str] = []
    try:
        while (line := lines.get(timeout=SILENCE_S)) is not None:
            keep(line)
            if line.startswith("Cases = "):
                chosen = ast.literal_eval(line.removeprefix("Cases = "))
            elif begun := re.match(r"Running test case ID (\S+)", line):
                on_case(begun[1], len(chosen))
    except queue.Empty:
        client.kill()
        raise SuiteError(f"the fuzzing client has been silent for {SILENCE_S} s") from None
    except BaseException:
        client.kill()
        raise
    finally:
        reader.join()
    return chosen
