"""A stage that is looked at: an access log, figures and request ids, and what must hold of them.

Every line is one line of printable ASCII that takes apart; each response has one, and says what its app said.
The figures add up to the lines.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

from fuzz_apps import Call
from fuzz_responses import must
from fuzz_sockets import Socket

from shardserve.stats import CLASSES, METHODS, NATIVE, NATIVE_HISTOGRAMS

SPACE = b" "
WORDS: list[tuple[str, bytes | None]] = [
    *((op, None) for op in ("client", "host", "method", "target", "path", "query", "version", "status")),
    *((op, None) for op in ("request_bytes", "response_bytes", "duration_us", "first_byte_us", "request_id")),
    *((op, None) for op in ("trace_id", "time_iso", "duration_decimal")),
]
QUOTED: list[tuple[str, bytes | None]] = [
    ("user", None),
    ("request_field", b"host"),
    ("request_field", b"n"),
    ("response_field", b"content-type"),
    ("time_clf", None),
    ("status_text", None),
]
NAMES = [op for op, _ in WORDS]
TEXT_LINE = re.compile(rb"[!#-\[\]-~]*(?: (?:[!#-\[\]-~]|\\x[0-9a-f]{2})*){%d}" % (len(WORDS) - 1))
QUOTES = re.compile(rb'(?: "(?:[ !#-\[\]-~]|\\x[0-9a-f]{2})*"){%d}' % len(QUOTED))
ID = re.compile(r"[A-Za-z0-9._~+/=:@-]{1,128}")
BOUNDS = (10, 100, 1000), (1, 10, 100, 1000)


def text_program() -> list[tuple[str, bytes | None]]:
    program: list[tuple[str, bytes | None]] = []
    for op in WORDS:
        program += [op, ("literal", SPACE)]
    for op in QUOTED:
        program += [("literal", b'"'), op, ("literal", b'" ')]
    return [*program[:-1], ("literal", b'"')]


def json_program() -> list[tuple[str, bytes | None]]:
    program: list[tuple[str, bytes | None]] = [("literal", b"{")]
    for number, op in enumerate([*WORDS, *QUOTED]):
        program += [("literal", b'%b"%d":' % (b"," if number else b"", number)), op]
    return [*program, ("literal", b"}")]


class Observed:
    """The arguments of a factory that has all of it, and what comes of them."""

    def __init__(self, native: Any, number: int) -> None:
        self.json = bool(number & 1)
        self.lines: list[bytes] = []
        self.schedules = 0
        program = json_program() if self.json else text_program()
        self.log = native.AccessLog(
            program,
            program,
            write=self.write,
            schedule=self.schedule,
            json=self.json,
            buffer_bytes=1 if number & 2 else 300,
        )
        methods = len(METHODS) * len(CLASSES)
        room = len(NATIVE) + methods + 2 * sum(len(bounds) + 2 for bounds in BOUNDS)
        self.figures = memoryview(bytearray(8 * room)).cast("Q")
        self.responses = self.figures[len(NATIVE) : len(NATIVE) + methods]
        self.durations = self.figures[len(NATIVE) + methods :][1 : len(BOUNDS[0]) + 2]
        self.arguments = {
            "access": self.log,
            "figures": self.figures,
            "duration_bounds_us": BOUNDS[0],
            "size_bounds_bytes": BOUNDS[1],
            "request_id_field": b"X-Request-ID",
            "make_traceparent": True,
        }

    def write(self, data: bytes) -> None:
        must(data.endswith(b"\n"), "half a line", data)
        self.lines += data[:-1].split(b"\n")

    def schedule(self) -> None:
        self.schedules += 1

    # What must hold

    def check(self, events: list[Any], factory: Any) -> None:
        """At the end of a play, whose events these are."""
        made = self.log.lines
        self.log.flush()
        rows = [self.row(line) for line in self.lines]
        self.lines.clear()
        calls = [event for event in events if isinstance(event, Call)]
        self.check_rows(rows, calls)
        factory.count_states()
        states = sum(self.figure(name) for name in NATIVE if name.startswith("connections_"))
        must(states == factory.connections, "states", states, factory.connections)
        must(sum(self.responses) == made, "responses", list(self.responses), made)
        must(sum(self.durations) == made, "durations", list(self.durations), made)
        must(len(NATIVE_HISTOGRAMS) == 4, "histograms")

    def figure(self, name: str) -> int:
        return self.figures[NATIVE.index(name)]

    def row(self, line: bytes) -> dict[str, str]:
        must(line.isascii() and line.decode().isprintable(), "a line", line)
        if self.json:
            values = [str(value) for value in json.loads(line).values()]
            must(len(values) == len(WORDS) + len(QUOTED), "values", line)
            return dict(zip(NAMES, values, strict=False))
        found = TEXT_LINE.match(line)
        must(found, "words", line)
        assert found is not None
        must(QUOTES.fullmatch(line, found.end()), "quotes", line)
        return dict(zip(NAMES, found[0].decode().split(" "), strict=True))

    def check_rows(self, rows: list[dict[str, str]], calls: list[Call]) -> None:
        lines = Counter(row["request_id"] for row in rows)
        asked = Counter(id_of(call) for call in calls)
        done = Counter(id_of(call) for call in calls if call.finished and not isinstance(call, Socket))
        for name, count in lines.items():
            known = name in ("-", "None") or ID.fullmatch(name)
            must(known, "request id", name)
            must(name not in asked or count <= asked[name], "two lines of one response", name, rows)
        for name, count in done.items():
            must(lines[name] >= count, "a response without its line", name, rows, calls)
        by_id = {id_of(call): call for call in calls if asked[id_of(call)] == 1}
        for row in rows:
            if (call := by_id.get(row["request_id"])) is not None:
                check_row(row, call)


def check_row(row: dict[str, str], call: Call) -> None:
    is_tunnel = row["version"] == "2" and isinstance(call, Socket)
    must(row["method"] == ("WebSocket" if is_tunnel else call.method), "method", row, call)
    must(int(row["first_byte_us"]) <= int(row["duration_us"]), "times", row)
    status, size = int(row["status"]), int(row["response_bytes"])
    if isinstance(call, Socket):
        must((status == (200 if is_tunnel else 101)) == call.accepted, "handshake", row, call)
        return
    if status == call.status:
        must(size <= len(call.sent), "more than the app said", row, call)
        if call.method == "HEAD" or status in (204, 205, 304):
            must(size == 0, "no body", row)
    else:
        must(status == 500 and call.failed, "status", row, call)
    must(int(row["request_bytes"]) >= sum(map(len, call.body)), "request bytes", row, call)


def id_of(call: Call) -> str:
    return str(call.scope["extensions"]["shardserve.request_id"]["id"])
