"""What a client sends never reaches a log as it is: no control character, no escape, no forged line.

Rules of this file: the bytes of stdout and stderr are looked at, of a real server, after raw sockets have
said the worst. ``noisy:app`` fails with what it was sent.
"""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.master_process import PATIENCE_S, until
from tests.helpers.server import Serve, ServerProcess

# Percent-decoded, this is a line of ours, in colour, behind every kind of line end there is.
FORGED = "INFO:     [worker 0, pid 7] forged"
ENDS = ["%0a", "%0d", "%0d%0a", "%0b", "%0c", "%1c", "%1d", "%1e", "%c2%85", "%e2%80%a8", "%e2%80%a9"]
ESCAPES = [
    "%1b[31m",
    "%1b]0;title%07",
    "%c2%9b31m",
    "%9b31m",
    "%00",
    "%08%08",
    "%7f",
    "%e2%80%ae",
    "%ed%a0%80",
    "%ff",
]
EVIL_PATH = "".join(
    end + FORGED.replace(" ", "%20") + escape for end, escape in zip(ENDS, ESCAPES * 2, strict=False)
)
# The same as far as a field value may be that.
EVIL_FIELD = bytes([*range(0x80, 0xA0), 0xFF]) + b" \xe2\x80\xae\xe2\x80\xa8 " + FORGED.encode()

APP_ERRORS = [
    "value", "key", "note", "group", "context", "mute", "syntax", "syntax-error", "named", "frame",
    "bad-header", "bad-length", "bad-type", "late",
]  # fmt: skip
UNCAUGHT = {
    "task": "Task exception was never retrieved (",
    "callback": "Exception in callback ",
    "finalizer": "Exception ignored in: <function Doomed.__del__ at 0x",
    "thread": "Exception in thread ",
}

LEVELS = "TRACE|DEBUG|INFO|WARNING|ERROR|CRITICAL"
# How a line of the server log begins; the first one in a colour.
OURS = re.compile(rf"(?:\x1b\[\d+m)?(?:{LEVELS})(?:\x1b\[0m)?: +(?:\[worker 0, pid \d+\] )?(?P<text>.*)")


def exchange(port: int, request: bytes) -> tuple[int, bytes]:
    """The client's port, and everything it got up to the end of the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as client:
        own_port: int = client.getsockname()[1]
        client.sendall(request)
        got = b""
        while data := client.recv(65536):
            got += data
    return own_port, got


def request(target: bytes, *fields: bytes, method: bytes = b"GET") -> bytes:
    lines = [method + b" " + target + b" HTTP/1.1", b"Connection: close", *fields]
    if not any(field.startswith(b"Host:") for field in fields):
        lines.append(b"Host: test")
    return b"\r\n".join([*lines, b"", b""])


class Noisy:
    """A server and the bytes of its two logs."""

    def __init__(self, server: ServerProcess, folder: Path) -> None:
        self.server = server
        self._folder = folder

    def stderr(self, since: int = 0) -> bytes:
        return (self._folder / "stderr.log").read_bytes()[since:]

    def stdout(self) -> bytes:
        return (self._folder / "stdout.log").read_bytes()

    def logged(self, pattern: bytes, since: int = 0) -> bytes:
        """stderr from there on, once it has this."""
        until(lambda: re.search(pattern, self.stderr(since)), f"{pattern!r} on stderr")
        return self.stderr(since)

    def access_line(self, port: int) -> str:
        """The one line of this client, once the line is whole."""
        mark = b"127.0.0.1:%d " % port
        until(lambda: re.search(re.escape(mark) + b".*\n", self.stdout()), f"{mark!r} on stdout")
        [line] = [line for line in self.stdout().split(b"\n") if mark in line]
        return line.decode("ascii")


def assert_harmless(log: bytes) -> list[str]:
    """Its lines. None has a character that a terminal or another reader of lines would obey."""
    assert not set(log) & {*range(0x20), 0x7F} - {0x0A}
    lines = log.decode("utf-8").split("\n")  # strictly: nothing that is no text
    assert all(line.isprintable() for line in lines)  # neither C1, separators, bidi controls nor surrogates
    assert lines == log.decode("utf-8").splitlines() + [""] * log.endswith(b"\n")
    return lines


def entries(log: bytes) -> list[str]:
    """The first lines of the entries of a server log, in which nothing else looks like one."""
    texts = []
    for line in assert_harmless(log):
        ours = OURS.fullmatch(line)
        if ours is not None:
            assert not ours["text"].startswith("forged"), line
            texts.append(ours["text"])
    return texts


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Noisy]:
    folder = tmp_path_factory.mktemp("noisy")
    with ServerProcess(folder, "noisy:app", "--workers", "1", "--log-level", "debug", quiet=False) as server:
        noisy = Noisy(server, folder)
        yield noisy
        entries(noisy.stderr())
        assert_harmless(noisy.stdout())


# The access log

TARGETS = [
    (b"/%1b[31mred%0d%0aINFO:", "/%1b[31mred%0d%0aINFO:"),
    (b"/?a=%1b%5B31m%0A", "/?a=%1b%5B31m%0A"),
    (b"/a\"b\\c'd", "/a\\x22b\\x5cc'd"),
    (b'/"_200_OK\\n', "/\\x22_200_OK\\x5cn"),
    (b"/\\x1b[31m", "/\\x5cx1b[31m"),
    (b"/%c2%9b31m", "/%c2%9b31m"),
    (b"/%00%7f%ff", "/%00%7f%ff"),
    (b"//evil/%%%", "//evil/%%%"),
    (b"http://host/%0a", "http://host/%0a"),
]


@pytest.mark.parametrize(("target", "shown"), TARGETS, ids=[shown for _, shown in TARGETS])
def test_a_target_is_one_line(noisy: Noisy, target: bytes, shown: str) -> None:
    """CVE-2020-7694 was the decoded path in Uvicorn's access log."""
    port, got = exchange(noisy.server.port, request(target))
    assert got.startswith(b"HTTP/1.1 200 OK\r\n")
    assert noisy.access_line(port) == f'INFO:     127.0.0.1:{port} - "GET {shown} HTTP/1.1" 200 OK'


def test_each_byte_of_a_target(noisy: Noisy) -> None:
    """Whatever the parser lets through is shown as it is, or as its number."""
    for code in range(256):
        port, got = exchange(noisy.server.port, request(b"/a" + bytes([code]) + b"b"))
        if not got.startswith(b"HTTP/1.1 200 "):
            assert got.startswith(b"HTTP/1.1 400 "), code
            continue
        char = chr(code)
        shown = char if 0x21 <= code < 0x7F and char not in '"\\' else f"\\x{code:02x}"
        assert noisy.access_line(port) == f'INFO:     127.0.0.1:{port} - "GET /a{shown}b HTTP/1.1" 200 OK'


@pytest.mark.parametrize("method", [b"BREW", b"get", b"G'E`T", b"!#$%&'*+-.^_`|~", b"INFO", b"A" * 32])
def test_a_custom_method_is_one_word(noisy: Noisy, method: bytes) -> None:
    port, got = exchange(noisy.server.port, request(b"/", method=method))
    assert got.startswith(b"HTTP/1.1 200 OK\r\n")
    assert noisy.access_line(port) == f'INFO:     127.0.0.1:{port} - "{method.decode()} / HTTP/1.1" 200 OK'


@pytest.mark.parametrize("host", [b"Host: %1b%5b31m", b"Host: a%0d%0aINFO:1", b"Host: [::1]:80", b"Host:"])
@pytest.mark.parametrize("kind", [b"/", b"/value/"])
def test_a_host_is_in_no_log(noisy: Noisy, kind: bytes, host: bytes) -> None:
    port, got = exchange(noisy.server.port, request(kind, host))
    assert got.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 500 ", b"HTTP/1.1 400 "))
    name = host.removeprefix(b"Host:").strip()
    if not got.startswith(b"HTTP/1.1 400 "):
        assert name.decode() not in noisy.access_line(port) or not name
    assert not name or name not in noisy.stderr()


# Errors of the app


@pytest.mark.parametrize("kind", APP_ERRORS)
@pytest.mark.parametrize("how", ["path", "field"])
def test_an_app_error(noisy: Noisy, kind: str, how: str) -> None:
    since = len(noisy.stderr())
    target = f"/{kind}/{EVIL_PATH if how == 'path' else ''}".encode()
    fields = [b"X-Text: " + EVIL_FIELD] if how == "field" else []
    port, _ = exchange(noisy.server.port, request(target, *fields))
    assert target.decode() in noisy.access_line(port)
    exchange(noisy.server.port, request(b"/value/last"))
    log = noisy.logged(rb"ValueError: /value/last\n", since)
    # What earlier tests were refused may be told up to a second later.
    first, last = [one for one in entries(log) if not HELD_BACK.fullmatch(one)]
    assert first.startswith(f"Exception in ASGI application: GET {target.decode()} from 127.0.0.1:{port}, ")
    assert last.startswith("Exception in ASGI application: GET /value/last from ")


def test_a_traceback_stays_readable(noisy: Noisy) -> None:
    since = len(noisy.stderr())
    exchange(noisy.server.port, request(b"/note/%0a%20%20indented%0d%0aINFO:%20%20%20%20%20forged"))
    log = noisy.logged(rb"forged\n.*\n.*\n.*forged\n", since).decode()
    trace = log.partition("Traceback (most recent call last):\n")[2].splitlines()
    assert re.fullmatch(r'  File ".*/noisy\.py", line \d+, in app', trace[0])
    assert trace[-7:] == [
        "ValueError: with notes",
        *["    /note/", "      indented\\x0d", "    INFO:     forged"] * 2,
    ]


@pytest.mark.parametrize("kind", UNCAUGHT)
@pytest.mark.parametrize("how", ["path", "field"])
def test_an_error_that_nobody_caught(noisy: Noisy, kind: str, how: str) -> None:
    since = len(noisy.stderr())
    target = f"/{kind}/{EVIL_PATH if how == 'path' else ''}".encode()
    fields = [b"X-Text: " + EVIL_FIELD] if how == "field" else []
    _, got = exchange(noisy.server.port, request(target, *fields))
    assert got.startswith(b"HTTP/1.1 200 OK\r\n")
    [first] = entries(noisy.logged(rb"ValueError: (.*\n)*.*forged.*\n$", since))
    assert first.startswith(UNCAUGHT[kind])


def test_a_client_that_goes(noisy: Noisy) -> None:
    """Told at debug level only; the line has the target."""
    since = len(noisy.stderr())
    target = f"/gone/{EVIL_PATH}".encode()
    with socket.create_connection(("127.0.0.1", noisy.server.port), timeout=PATIENCE_S) as client:
        client.sendall(request(target))
        assert client.recv(1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close with a reset
    log = noisy.logged(rb"DEBUG: .*Client disconnected: GET /gone/", since)
    [first] = entries(log)
    assert target.decode() in first


# Requests that are refused

REFUSED = [
    b"\x1b[31mGET / HTTP/1.1\r\n\r\n",
    b"GET /\x1b[31m HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /\x9b31m\r\n\r\n",
    b"GET / HTTP/1.1\x1b[31m\r\n\r\n",
    b"G\xff\xfe / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"INFO:     forged\nINFO:     forged\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: \x1b[31m\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\nINFO:     forged\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n\x1b[31m: b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: \x07\x08\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nExpect: \x9b\xe2\x80\xae\r\n\r\n",
    b"GET / HTTP/9.9\r\nHost: a\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \xc2\x9b\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\x1b[31m\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;\x1b=\x9b\r\n",
    b"A" * 40 + b" / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /" + b"\x9b" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: \x9b\r\n" * 200 + b"\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]
TOLD = re.compile(
    r"Rejected a request from 127\.0\.0\.1:\d+: \d{3} [ -~]*?(?: \((\d+) more since the last such line\))?"
)
HELD_BACK = re.compile(r"Rejected (\d+) more requests?")


def told_of(lines: list[str]) -> int:
    """How many refusals a log tells of. Nothing else is in it."""
    count = 0
    for line in lines:
        if held_back := HELD_BACK.fullmatch(line):
            count += int(held_back[1])
        else:
            told = TOLD.fullmatch(line)
            assert told, line
            count += 1 + int(told[1] or 0)
    return count


def test_refused_requests(serve: Serve, tmp_path: Path) -> None:
    server = serve("noisy:app", "--workers", "1", folder=tmp_path / "refused")
    noisy = Noisy(server, tmp_path / "refused")
    since = len(noisy.stderr())
    for wrong in REFUSED:
        _, got = exchange(server.port, wrong)
        assert re.match(rb"HTTP/1\.1 [45]\d\d ", got), (wrong, got)
    until(lambda: told_of(entries(noisy.stderr(since))) == len(REFUSED), "all refusals to be told")
    server.stop()
    assert_harmless(noisy.stderr())
    assert noisy.stdout() == b""  # not one of them was served


# Colours


def test_colours_are_the_only_escapes(serve: Serve, tmp_path: Path) -> None:
    folder = tmp_path / "colours"
    server = serve("noisy:app", "--workers", "1", "--use-colors", folder=folder, quiet=False, wait=False)
    server.saw("ready: 1 worker")
    noisy = Noisy(server, folder)
    ports = []
    for target in (f"/{EVIL_PATH}", f"/value/{EVIL_PATH}", f"/finalizer/{EVIL_PATH}", '/"\\'):
        port, _ = exchange(server.port, request(target.encode()))
        ports.append(port)
        noisy.access_line(port)
    exchange(server.port, b"\x1b[31m\r\n\r\n")
    noisy.logged(rb"Rejected a request")
    server.stop()
    red, bold, plain = r"\x1b\[\d\dm", r"\x1b\[1m", r"\x1b\[0m"
    start = rf"{red}INFO{plain}:     127\.0\.0\.1:(\d+) - "
    coloured = re.compile(rf'{start}"{bold}[!-~]+ [!-~]+ HTTP/1\.1{plain}" {red}[ -~]+{plain}')
    found = [coloured.fullmatch(line) for line in noisy.stdout().decode("ascii").splitlines()]
    assert [int(line[1]) for line in found if line] == ports
    assert len(found) == len(ports)
    log = re.sub(rf"(?m)^{red}({LEVELS}){plain}:".encode(), rb"\1:", noisy.stderr())
    entries(log)


# What is the app's


def test_what_an_app_logs_itself_is_the_apps(serve: Serve, tmp_path: Path) -> None:
    """Its handlers are not ours to change: docs/operations.md says so."""
    folder = tmp_path / "own"
    server = serve("noisy:app", "--workers", "1", folder=folder)
    exchange(server.port, request(b"/own/%1b[31m"))
    assert b"own: /own/\x1b[31m\n" in Noisy(server, folder).logged(rb"own: ")
