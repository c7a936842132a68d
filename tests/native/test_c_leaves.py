"""Runs the C tests of the leaves that need no Python (native/tests); tests what their fuzzers judge by."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
@pytest.mark.skipif(shutil.which("gcc") is None and shutil.which("clang") is None, reason="no C compiler")
def test_the_leaves_under_the_sanitizers(tmp_path: Path) -> None:
    environment = {
        name: value for name, value in os.environ.items() if name not in ("LD_PRELOAD", "ASAN_OPTIONS")
    }
    run = subprocess.run(
        ["make", "-C", str(ROOT / "native" / "tests"), "test", f"BUILD={tmp_path}"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "leaves: ok" in run.stdout


# The reader of fuzz_connection.py: it must see each of these, or a finding passes for none.


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "native" / "tests"))
    return importlib.import_module("fuzz_responses")


def call(index: int = 0, sent: bytes = b"ok", method: str = "GET", **state: Any) -> Any:
    """A request that its app answered with 200 and ``sent``."""
    scope = {"method": method, "http_version": "1.1", "raw_path": b"/", "query_string": b"", "headers": []}
    made = importlib.import_module("fuzz_apps").Call(None, index, scope, None, None)
    made.status, made.sent, made.finished = 200, bytearray(sent), True
    vars(made).update(state)
    return made


def answer(index: int, *fields: bytes, body: bytes = b"ok", status: bytes = b"200 OK") -> bytes:
    lines = [b"HTTP/1.1 " + status, b"n: %d" % index, *fields, b"", body]
    return b"\r\n".join(lines)


LENGTH, CHUNKED, CLOSE = b"content-length: 2", b"transfer-encoding: chunked", b"connection: close"
RIGHT = {
    "nothing": (b"", [{}]),
    "one": (answer(0, LENGTH), [{}]),
    "two": (answer(0, LENGTH) + answer(1, LENGTH, CLOSE), [{}, {"index": 1}]),
    "chunks": (answer(0, CHUNKED, body=b"2\r\nok\r\n0\r\n\r\n"), [{}]),
    "HEAD": (answer(0, LENGTH, body=b"") + answer(1, LENGTH), [{"method": "HEAD"}, {"index": 1}]),
    "a part": (answer(0, LENGTH, body=b"o"), [{}]),
    "a part of a head": (b"HTTP/1.1 200 OK\r\nn", [{}]),
    "a body to the end": (answer(0, CLOSE), [{}]),
    "500": (b"HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n", [{"failed": True}]),
}
WRONG = {
    "for nobody": (answer(0, LENGTH), []),
    "twice": (answer(0, LENGTH) * 2, [{}]),
    "in the wrong order": (answer(1, LENGTH) + answer(0, LENGTH), [{}, {"index": 1}]),
    "behind a close": (answer(0, LENGTH, CLOSE) + answer(1, LENGTH), [{}, {"index": 1}]),
    "more than the length": (answer(0, LENGTH, body=b"okay"), [{}]),
    "another body": (answer(0, LENGTH, body=b"no"), [{}]),
    "less than was said": (answer(0, LENGTH), [{"sent": b"okay"}]),
    "body of HEAD": (answer(0, LENGTH), [{"method": "HEAD"}]),
    "two framings": (answer(0, LENGTH, CHUNKED), [{}]),
    "two lengths": (answer(0, LENGTH, LENGTH), [{}]),
    "no framing": (answer(0), [{}]),
    "no number": (answer(0, b"content-length: +2"), [{}]),
    "another coding": (answer(0, b"transfer-encoding: gzip"), [{}]),
    "a chunk too short": (answer(0, CHUNKED, body=b"3\r\nok\r\n0\r\n\r\n"), [{}]),
    "a chunk size that is none": (answer(0, CHUNKED, body=b"x\r\nok\r\n0\r\n\r\n"), [{}]),
    "a part that looks whole": (answer(0, CHUNKED, body=b"2\r\nok\r\n0\r\n\r\n"), [{"finished": False}]),
    "bare LF": (answer(0, LENGTH).replace(b"\r\nn", b"\nn"), [{}]),
    "a field without name": (answer(0, LENGTH, b": x"), [{}]),
    "NUL in a field": (answer(0, LENGTH, b"x: \0"), [{}]),
    "another status": (answer(0, LENGTH, status=b"404 No"), [{}]),
    "500 of nobody": (b"HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n", [{}]),
    "413 of nobody": (b"HTTP/1.1 413 Oh\r\ncontent-length: 0\r\n\r\n", [{}]),
    "100 for nobody": (b"HTTP/1.1 100 Continue\r\n\r\n" + answer(0, LENGTH), [{}]),
    "101": (answer(0, status=b"101 Switching Protocols"), [{}]),
}


@pytest.mark.parametrize("name", RIGHT)
def test_the_fuzzers_reader_takes_what_is_right(reader: ModuleType, name: str) -> None:
    output, calls = RIGHT[name]
    reader.check(output, [call(**told) for told in calls])


@pytest.mark.parametrize("name", WRONG)
def test_the_fuzzers_reader_sees_what_is_wrong(reader: ModuleType, name: str) -> None:
    output, calls = WRONG[name]
    with pytest.raises(reader.Broken):
        reader.check(output, [call(**told) for told in calls])
