"""What the tests of the access log, the figures and the ids share: a log that keeps its lines, and a model.

Rules of this file: those of drive.py. ``escaped`` is the model of a value of a line, made from the contract
alone (``shardserve/_native.pyi``), byte by byte; a line is compared with it, never with another line.
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from shardserve import _native
from shardserve.stats import CLASSES, METHODS, NATIVE_HISTOGRAMS, Page
from tests.native.drive import Driver, FakeTransport, turns

Op = tuple[str, bytes | None]
SEPARATOR = b"\x1f"
"""Between two values of a line: no value has it, as it would be escaped."""

NO_LIMITS = {
    "limit_request_line": 0,
    "limit_request_head": 0,
    "limit_request_field_size": 0,
    "limit_pipelined": 0,
}

TEXT_OPS = ["client", "host", "method", "target", "path", "query", "user", "request_id", "trace_id"]
OPS: list[Op] = [
    *((op, None) for op in (*TEXT_OPS, "port", "version", "status", "time_clf", "time_iso")),
    ("status_text", b""),
    ("status_text", b"colours"),
    *((f"duration_{unit}", None) for unit in ("us", "ms", "s", "decimal")),
    *((op, None) for op in ("first_byte_us", "request_bytes", "response_bytes", "response_bytes_clf")),
    ("request_field", b"user-agent"),
    ("response_field", b"content-type"),
    ("tls_version", None),
]
"""Each op once, but literal."""


def escaped(value: bytes, *, spaces: bool = False) -> str:
    """Bytes outside printable ASCII, the quote and the backslash as \\xNN; the space too if ``spaces``."""
    plain = set(range(0x20 + spaces, 0x7F)) - set(b'"\\')
    return "".join(chr(code) if code in plain else f"\\x{code:02x}" for code in value)


def basic(user: bytes, password: bytes = b"secret") -> bytes:
    """The value of an Authorization field (RFC 7617 §2)."""
    return b"Basic " + base64.b64encode(user + b":" + password)


class Log:
    """An AccessLog, and what it wrote."""

    def __init__(self, ops: Iterable[Op], websocket_ops: Iterable[Op] | None = None, **options: Any) -> None:
        self.writes: list[bytes] = []
        self.schedules = 0
        program = list(ops)
        other = program if websocket_ops is None else list(websocket_ops)
        self.native = _native.AccessLog(
            program, other, **{"write": self.write, "schedule": self.schedule, **options}
        )

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def schedule(self) -> None:
        self.schedules += 1

    def lines(self) -> list[bytes]:
        """Every line so far, without its end. What is buffered is flushed."""
        self.native.flush()
        for data in self.writes:
            assert type(data) is bytes
            assert data.endswith(b"\n"), data
        return b"".join(self.writes).split(b"\n")[:-1]


def separated(ops: Sequence[Op]) -> list[Op]:
    """A program whose lines ``values`` can take apart."""
    program: list[Op] = []
    for op in ops:
        program += [("literal", SEPARATOR), op]
    return program[1:]


def values(line: bytes) -> list[str]:
    text = line.decode("ascii")
    assert text.replace("\x1b[", "").replace(SEPARATOR.decode(), "").isprintable(), line
    return text.split(SEPARATOR.decode())


class Patient(FakeTransport):
    """One that can be told how much to hold, as a file wants it."""

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...


class Eyes:
    """A Driver with a log, figures, or both, and what they say."""

    def __init__(
        self,
        app: Any,
        ops: Sequence[Op] = (),
        *,
        log: Log | None = None,
        figures: bool = False,
        **options: Any,
    ) -> None:
        self.log = log if log is not None else Log(separated(ops)) if ops else None
        self.page = Page.create("figures") if figures else None
        if self.page is not None:
            options |= figure_options(self.page.native)
        if self.log is not None:
            options["access"] = self.log.native
        self.unraisable: list[str] = []
        self.driver = Driver(app, **options)
        sys.unraisablehook = lambda args: self.unraisable.append(repr(args.exc_value))

    @property
    def factory(self) -> _native.ProtocolFactory:
        return self.driver.factory

    def connect(self, transport: FakeTransport | None = None) -> tuple[_native.Connection, FakeTransport]:
        return self.driver.connect(transport or Patient())

    async def talk(self, *data: bytes, transport: FakeTransport | None = None) -> bytes:
        """One connection from its first byte to its end; what came out."""
        connection, transport = self.connect(transport)
        for piece in data:
            connection.data_received(piece)
            await turns(4)
        await turns()
        output = transport.read()
        connection.connection_lost(None)
        await turns()
        return output

    def rows(self) -> list[list[str]]:
        """The values of each line."""
        assert self.log is not None
        return [values(line) for line in self.log.lines()]

    def counts(self) -> dict[str, int]:
        """What is not zero, without histograms and gauges; and how many values each histogram has."""
        assert self.page is not None
        names = ["accepted", "reused", "abandoned", "app_errors", "websockets_accepted"]
        names += ["ws_messages_received", "ws_messages_sent"]
        names += [f"responses_{method}_{kind}" for method in METHODS for kind in CLASSES]
        return {name: self.page[name] for name in names if self.page[name]}

    def observed(self) -> dict[str, int]:
        """How many values each histogram has."""
        assert self.page is not None
        return {one.name: sum(self.page.buckets(one)) for one in NATIVE_HISTOGRAMS}


def figure_options(view: memoryview) -> dict[str, Any]:
    """The arguments of a factory that writes its figures there."""
    duration, _, _, size = NATIVE_HISTOGRAMS
    return {"figures": view, "duration_bounds_us": duration.bounds, "size_bounds_bytes": size.bounds}


async def values_of(
    ops: Sequence[Op], data: bytes, app: Any, *, json: bool = False, **options: Any
) -> list[str]:
    """The values of the one line that this request gives."""
    transport = options.pop("transport", None)
    eyes = Eyes(app, log=Log(separated(ops), json=json), **options)
    await eyes.talk(data, transport=transport)
    [line] = eyes.rows()
    assert eyes.unraisable == []
    return line


def answers(status: int = 200, headers: Any = (), body: bytes = b"") -> Callable[..., Any]:
    """An app that reads everything and says this."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


def request(
    method: bytes = b"GET",
    target: bytes = b"/",
    *fields: tuple[bytes, bytes],
    body: bytes | None = None,
    version: bytes = b"1.1",
) -> bytes:
    """A request with these fields, a Host, and a length if it has a body."""
    lines = [b"%b %b HTTP/%b" % (method, target, version), b"Host: h"]
    lines += [b"%b: %b" % field for field in fields]
    if body is not None:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + (body or b"")
