"""curl, as the client that no one here wrote."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass

import pytest

LIMIT_S = 20


def has_http2() -> bool:
    if shutil.which("curl") is None:
        return False
    return (
        "HTTP2" in subprocess.run(["curl", "--version"], capture_output=True, text=True, check=False).stdout
    )


needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
needs_curl_with_http2 = pytest.mark.skipif(not has_http2(), reason="no curl with HTTP/2")


@dataclass
class Answer:
    status: int
    version: str
    headers: dict[str, str]
    body: bytes
    verbose: str
    """What ``-v`` told of the conversation."""
    connects: list[int]
    """How many connections were made for each URL."""

    @property
    def text(self) -> str:
        return self.body.decode()


def command(*arguments: str) -> list[str]:
    return ["curl", "--silent", "--show-error", "--noproxy", "*", "--max-time", str(LIMIT_S), *arguments]


def curl(*arguments: str, stdin: bytes = b"") -> Answer:
    """Run curl; it must succeed. The answer is that of the last response."""
    done = subprocess.run(
        command(
            "--verbose",
            "--write-out",
            "%{stderr}\n@@%{http_code} %{http_version} %{num_connects}\n",
            *arguments,
        ),
        input=stdin,
        capture_output=True,
        timeout=LIMIT_S + 5,
        check=False,
    )
    verbose = done.stderr.decode()
    assert done.returncode == 0, verbose
    found = re.findall(r"^@@(\d+) (\S+) (\d+)$", verbose, re.MULTILINE)
    status, version, _ = found[-1]
    # The head of the last response that is not an interim one.
    heads = re.findall(r"(?:^< .*\n)+", verbose.replace("\r\n", "\n"), re.MULTILINE)
    fields = [line[2:].partition(": ") for line in heads[-1].splitlines()[1:] if ": " in line]
    headers = {name.lower(): value for name, _, value in fields}
    connects = [int(one[2]) for one in found]
    return Answer(int(status), version, headers, done.stdout, verbose, connects)
