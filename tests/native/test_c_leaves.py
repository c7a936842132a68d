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
    assert "== gcc" in run.stdout or "== clang" in run.stdout
    for compiler in run.stdout.split("== ")[1:]:
        lines = compiler.splitlines()
        assert "leaves: ok" in lines
        assert "ws leaves: ok" in lines
        assert "bucket: ok" in lines


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


# Likewise of WebSockets (fuzz_reference.py): what a client said, and what it got.


@pytest.fixture
def reference(reader: ModuleType) -> ModuleType:
    return importlib.import_module("fuzz_reference")


@pytest.fixture
def frames(reader: ModuleType) -> ModuleType:
    return importlib.import_module("fuzz_frames")


def head(first: int, length: int, *more: int) -> bytes:
    return bytes([first, length, *more])


SAID: dict[str, tuple[list[tuple[int, bytes]], list[str | bytes], tuple[Any, ...] | None]] = {
    "nothing": ([], [], None),
    "messages": ([(0x81, "é".encode()), (0x82, b"\xff"), (0x81, b"")], ["é", b"\xff", ""], None),
    "fragments": ([(0x01, b"\xc3"), (0x89, b"?"), (0x80, b"\xa9")], ["é"], None),
    "a close": ([(0x81, b"a"), (0x88, b"\x03\xe8bye"), (0x81, b"b")], ["a"], ("close", 1000, "bye")),
    "a close without a code": ([(0x88, b"")], [], ("close", 1005, "")),
    "a close in a message": ([(0x01, b"a"), (0x88, b"\x0f\xa0")], [], ("close", 4000, "")),
    "the largest": ([(0x82, b"x" * 100), (0x82, b"x" * 101)], [b"x" * 100], ("fail", {1002, 1009})),
    "too much in fragments": ([(0x02, b"x" * 60), (0x80, b"x" * 41)], [], ("fail", {1009})),
    "too many fragments": ([(0x02, b"")] + [(0x00, b"")] * 3, [], ("fail", {1008})),
    "no text": ([(0x81, b"a\xff")], [], ("fail", {1007})),
    "half a letter": ([(0x01, b"\xc3"), (0x80, b"")], [], ("fail", {1007})),
    "a fragment of nothing": ([(0x80, b"a")], [], ("fail", {1002})),
    "a message in a message": ([(0x01, b"a"), (0x81, b"b")], [], ("fail", {1002, 1009})),
    "reserved bits": ([(0x91, b"a")], [], ("fail", {1002})),
    "a reserved opcode": ([(0x83, b"a")], [], ("fail", {1002})),
    "compressed, although nothing was agreed": ([(0xC1, b"a")], [], ("fail", {1002, 1009})),
    "a fragmented ping": ([(0x09, b"")], [], ("fail", {1002})),
    "a long ping": ([(0x89, b"x" * 126)], [], ("fail", {1002})),
    "half a code": ([(0x88, b"\x03")], [], ("fail", {1002})),
    "a code that may not be sent": ([(0x88, b"\x03\xed")], [], ("fail", {1002})),
    "a reason that is no text": ([(0x88, b"\x03\xe8\xff")], [], ("fail", {1002, 1007})),
}


@pytest.mark.parametrize("name", SAID)
def test_the_fuzzers_reference_knows_what_a_client_said(
    reference: ModuleType, frames: ModuleType, name: str
) -> None:
    given, messages, ending = SAID[name]
    data = b"".join(frames.frame(first, payload) for first, payload in given)
    rules = reference.Rules(max_size=100, max_fragments=3, window_bits=0)
    said = reference.Said(data, rules)
    assert (said.messages, said.ending) == (messages, ending)
    for cut in range(len(data)):
        part = reference.Said(data[:cut], rules)
        assert part.messages == messages[: len(part.messages)]
        assert part.ending in (None, ending)


def test_the_fuzzers_reference_inflates(reference: ModuleType, frames: ModuleType) -> None:
    rules = reference.Rules(max_size=100, max_fragments=3, window_bits=12)
    whole = frames.frame(0xC1, frames.deflated(b"x" * 100))
    parts = frames.deflated(b"hello")
    said = reference.Said(whole + frames.frame(0x42, parts[:2]) + frames.frame(0x80, parts[2:]), rules)
    assert (said.messages, said.ending) == (["x" * 100, b"hello"], None)
    assert reference.Said(frames.frame(0xC1, frames.deflated(b"x" * 101)), rules).ending == ("fail", {1009})
    assert reference.Said(frames.frame(0xC1, b"\xff\xff"), rules).ending[1] >= {1002}


HEARD_RIGHT = {
    "nothing": b"",
    "text": head(0x81, 2) + "é".encode(),
    "bytes": head(0x82, 126, 0, 126) + b"x" * 126,
    "a pong, and the end": head(0x8A, 1) + b"x" + head(0x88, 2, 3, 232),
    "a part of a header": head(0x82, 126, 0),
    "a part of a frame": head(0x82, 3) + b"ab",
}
HEARD_WRONG = {
    "masked": head(0x81, 0x81, 0, 0, 0, 0, 97),
    "a fragment": head(0x01, 1, 97),
    "a reserved bit": head(0x91, 1, 97),
    "compressed": head(0xC1, 1, 97),
    "a reserved opcode": head(0x83, 1, 97),
    "no text": head(0x81, 1, 0xFF),
    "longer than it must be": head(0x82, 126, 0, 125) + b"x" * 125,
    "much longer than it must be": head(0x82, 127, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF) + b"x" * 0xFFFF,
    "a long ping": head(0x89, 126, 0, 126) + b"x" * 126,
    "half a code": head(0x88, 1, 3),
    "a code that may not be sent": head(0x88, 2, 3, 0xED),
    "a message behind the end": head(0x88, 2, 3, 232) + head(0x82, 0),
    "half a message behind the end": head(0x88, 2, 3, 232) + b"\x82",
    "HTTP behind the end": head(0x88, 0) + b"HTTP/1.1 400 Bad Request\r\n\r\n",
}


@pytest.mark.parametrize("name", HEARD_RIGHT)
def test_the_fuzzers_reader_of_frames_takes_what_is_right(reference: ModuleType, name: str) -> None:
    assert reference.read_output(HEARD_RIGHT[name], 0).whole == (not name.startswith("a part"))


@pytest.mark.parametrize("name", HEARD_WRONG)
def test_the_fuzzers_reader_of_frames_sees_what_is_wrong(
    reader: ModuleType, reference: ModuleType, name: str
) -> None:
    with pytest.raises((reader.Broken, UnicodeDecodeError)):
        reference.read_output(HEARD_WRONG[name], 0)
