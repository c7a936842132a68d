"""curl, as the client that no one here wrote."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass

import pytest

LIMIT_S = 20

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@dataclass
class Answer:
    status: int
    version: str
    headers: dict[str, str]
    body: bytes
    verbose: str
    """What ``-v`` told of the conversation."""

    @property
    def text(self) -> str:
        return self.body.decode()


def command(*arguments: str) -> list[str]:
    return ["curl", "--silent", "--show-error", "--noproxy", "*", "--max-time", str(LIMIT_S), *arguments]


def curl(*arguments: str, stdin: bytes = b"") -> Answer:
    """Run curl; it must succeed. The answer is that of the last response."""
    done = subprocess.run(
        command("--verbose", "--write-out", "%{stderr}\n@@%{http_code} %{http_version}\n", *arguments),
        input=stdin,
        capture_output=True,
        timeout=LIMIT_S + 5,
        check=False,
    )
    verbose = done.stderr.decode()
    assert done.returncode == 0, verbose
    found = re.findall(r"^@@(\d+) (\S+)$", verbose, re.MULTILINE)[-1]
    # The head of the last response that is not an interim one.
    heads = re.findall(r"(?:^< .*\n)+", verbose.replace("\r\n", "\n"), re.MULTILINE)
    fields = [line[2:].partition(": ") for line in heads[-1].splitlines()[1:] if ": " in line]
    headers = {name.lower(): value for name, _, value in fields}
    return Answer(int(found[0]), found[1], headers, done.stdout, verbose)
