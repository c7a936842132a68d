"""``_native.AccessLog``: what each op writes, byte for byte, whatever the client and the app put into it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shardserve import _native
from shardserve.observe.formatters import status_text, timestamp
from tests.native.drive import FakeTransport
from tests.native.isolated import survives
from tests.native.observe_drive import (
    NO_LIMITS,
    OPS,
    Eyes,
    Log,
    Op,
    answers,
    basic,
    escaped,
    request,
    separated,
    values_of,
)

CLF = re.compile(r"\[(\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4})\]")
ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
MANY = settings(
    max_examples=150,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

RICH = request(
    b"POST",
    b'/p%20a/~|th?q=1&x="\\',
    (b"User-Agent", b'Agent "x" \\ \xfc\tend'),
    (b"Authorization", basic(b"alice")),
    (b"X-Request-ID", b"abc-123"),
    (b"Traceparent", TRACE),
    body=b"hello",
)
RICH_ROWS: list[tuple[Op, str, Any]] = [
    (("client", None), "127.0.0.1:4711", "127.0.0.1:4711"),
    (("host", None), "127.0.0.1", "127.0.0.1"),
    (("port", None), "4711", 4711),
    (("method", None), "POST", "POST"),
    (
        ("target", None),
        "/p%20a/~|th?q=1&x=\\x22\\x5c",
        "/p%20a/~|th?q=1&x=\\x22\\x5c",
    ),
    (("path", None), "/p%20a/~|th", "/p%20a/~|th"),
    (("query", None), "q=1&x=\\x22\\x5c", "q=1&x=\\x22\\x5c"),
    (("version", None), "1.1", "1.1"),
    (("status", None), "201", 201),
    (("status_text", b""), "201 Created", "201 Created"),
    (("user", None), "alice", "alice"),
    (("request_bytes", None), "5", 5),
    (("response_bytes", None), "8", 8),
    (("response_bytes_clf", None), "8", 8),
    (
        ("request_field", b"user-agent"),
        "Agent \\x22x\\x22 \\x5c \\xfc\\x09end",
        "Agent \\x22x\\x22 \\x5c \\xfc\\x09end",
    ),
    (("response_field", b"content-type"), "text/plain; x=\\x22", "text/plain; x=\\x22"),
    (("response_field", b"x-odd"), "\\xff\\x5c", "\\xff\\x5c"),
    (("request_id", None), "abc-123", "abc-123"),
    (("trace_id", None), "0af7651916cd43dd8448eb211c80319c", "0af7651916cd43dd8448eb211c80319c"),
    (("tls_version", None), "TLSv1.3", "TLSv1.3"),
]
BARE_ROWS: list[tuple[Op, str, tuple[Any, ...]]] = [
    (("client", None), "", (None, "")),
    (("host", None), "-", (None,)),
    (("port", None), "-", (None,)),
    (("query", None), "", (None, "")),
    (("version", None), "1.0", ("1.0",)),
    (("status", None), "299", (299,)),
    (("status_text", b""), "299 ", ("299 ",)),
    (("user", None), "-", (None,)),
    (("request_bytes", None), "0", (0,)),
    (("response_bytes", None), "0", (0,)),
    (("response_bytes_clf", None), "-", (None, 0)),
    (("request_field", b"user-agent"), "-", (None,)),
    (("response_field", b"content-type"), "-", (None,)),
    (("request_id", None), "-", (None,)),
    (("trace_id", None), "-", (None,)),
    (("tls_version", None), "-", (None,)),
]


class Secure:
    """As much of an ssl.SSLObject as is looked at."""

    def version(self) -> str:
        return "TLSv1.3"


async def rich(as_json: bool) -> list[str]:
    headers = [(b"Content-Type", b'text/plain; x="'), (b"X-Odd", b"\xff\\")]
    return await values_of(
        [op for op, _, _ in RICH_ROWS],
        RICH,
        answers(201, headers, b"created!"),
        json=as_json,
        request_id_field=b"X-Request-ID",
        tls_info=lambda ssl_object: {"tls_version": 0x0304},
        transport=FakeTransport(extra={"ssl_object": Secure()}),
    )


async def bare(as_json: bool) -> list[str]:
    transport = FakeTransport(extra={"peername": ""})
    ops = [op for op, _, _ in BARE_ROWS]
    data = request(version=b"1.0")
    return await values_of(ops, data, answers(299), json=as_json, transport=transport)


def test_the_value_of_each_op() -> None:
    assert survives(rich, False) == [text for _, text, _ in RICH_ROWS]


def test_the_value_of_each_op_in_json() -> None:
    assert [json.loads(value) for value in survives(rich, True)] == [value for _, _, value in RICH_ROWS]


def test_what_is_not_there() -> None:
    assert survives(bare, False) == [text for _, text, _ in BARE_ROWS]


def test_what_is_not_there_in_json() -> None:
    for value, (op, _, allowed) in zip(survives(bare, True), BARE_ROWS, strict=True):
        assert json.loads(value) in allowed, op


# Those whose reason Python has called the same in all its versions.
STATUSES = (200, 201, 302, 404, 503, 299, 451, 599, 600, 999)


async def colours() -> list[list[str]]:
    return [await values_of([("status_text", b"colours")], request(), answers(status)) for status in STATUSES]


def test_colours_are_those_of_the_text_log() -> None:
    assert [one for [one] in survives(colours)] == [status_text(status, True) for status in STATUSES]


async def colours_in_json() -> str:
    log = Log([("status_text", b"colours")], json=True)
    eyes = Eyes(answers(), log=log)
    await eyes.talk(request())
    [line] = log.lines()
    return str(json.loads(line))


def test_json_with_colours_is_json() -> None:
    assert "200 OK" in survives(colours_in_json)


USERS = {
    "plain": (basic(b"alice"), "alice"),
    "any case of the scheme": (basic(b"alice").replace(b"Basic", b"bAsIc"), "alice"),
    "a colon in the password": (basic(b"alice", b"a:b"), "alice"),
    "hostile": (basic(b'a" b\n\x1b\\\xff'), escaped(b'a" b\n\x1b\\\xff')),
    "NUL": (basic(b"a\0b"), "a\\x00b"),
    "no colon": (b"Basic YWxpY2U=", "-"),
    "another scheme": (b"Bearer YWxpY2U6eA==", "-"),
    "no base64": (b"Basic !!!!", "-"),
    "nothing": (b"Basic", "-"),
    "only a space": (b"Basic ", "-"),
    "cut padding": (b"Basic YWxpY2U6c2VjcmV", "-"),
    "no name": (basic(b""), "-"),
    "longer": (basic(b"u" * 5000), "u" * 5000),
}


async def users() -> list[str]:
    found = []
    for value, _ in USERS.values():
        data = request(b"GET", b"/", (b"Authorization", value))
        found += await values_of([("user", None)], data, answers(), **NO_LIMITS)
    return found


def test_the_user_of_basic_authentication() -> None:
    found = dict(zip(USERS, survives(users), strict=True))
    lenient = {"no colon", "cut padding", "no name", "longer"}
    for name, (_, wanted) in USERS.items():
        if name in lenient:  # what a malformed or overlong one gives is open, as long as it is harmless
            assert found[name] in (wanted, "-", "alice", "") or set(found[name]) == {"u"}, name
        else:
            assert found[name] == wanted, name


# Whatever the client and the app send

FIELD = st.text(
    st.sampled_from([chr(code) for code in (9, *range(0x20, 0x7F), *range(0x80, 0x100))]), max_size=40
).map(lambda text: text.encode("latin-1").strip(b" \t"))
TARGET = st.text(
    st.sampled_from([chr(code) for code in (*range(0x21, 0x7F), *range(0x80, 0x100)) if chr(code) != "#"]),
    max_size=40,
).map(lambda text: b"/" + text.encode("latin-1"))
METHOD = st.text(st.sampled_from("!$&'*+-.^_`|~09AZaz"), min_size=1, max_size=12).map(str.encode)
HOST = st.one_of(st.text(max_size=30), st.sampled_from(["\ud800", "a\nb", '"', "\x1b[31m", "\u2028", "::1"]))
MODEL_OPS: list[Op] = [
    *((op, None) for op in ("method", "target", "path", "query", "status", "response_bytes", "user")),
    ("request_field", b"x-in"),
    ("response_field", b"x-out"),
    ("host", None),
    ("client", None),
]


def model(
    method: bytes, target: bytes, status: int, body: bytes, user: bytes, field: bytes, answer: bytes
) -> list[str]:
    path, _, query = target.partition(b"?")
    sent = 0 if status in (204, 205, 304) or method == b"HEAD" else len(body)
    return [
        escaped(method, spaces=True),
        escaped(target, spaces=True),
        escaped(path, spaces=True),
        escaped(query, spaces=True),
        str(status),
        str(sent),
        escaped(user),
        escaped(field),
        escaped(answer),
    ]


async def any_bytes(as_json: bool) -> int:
    said: dict[str, Any] = {}
    compared = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(
            {"type": "http.response.start", "status": said["status"], "headers": [(b"X-Out", said["out"])]}
        )
        await send({"type": "http.response.body", "body": said["body"]})

    log = Log(separated(MODEL_OPS), json=as_json)
    eyes = Eyes(app, log=log, **NO_LIMITS)

    @MANY
    @given(
        method=METHOD,
        target=TARGET,
        status=st.sampled_from([200, 204, 304, 404, 599, 999]),
        body=st.binary(max_size=20),
        user=st.binary(min_size=1, max_size=20).filter(lambda name: b":" not in name),
        fields=st.tuples(FIELD, FIELD),
        host=HOST,
        port=st.integers(0, 65535),
    )
    def check(
        method: bytes,
        target: bytes,
        status: int,
        body: bytes,
        user: bytes,
        fields: tuple[bytes, bytes],
        host: str,
        port: int,
    ) -> None:
        nonlocal compared
        said.update(status=status, body=body, out=fields[1])
        transport = FakeTransport()
        connection = eyes.factory()
        connection.set_addresses((host, port), None, None)
        connection.connection_made(transport)
        connection.data_received(
            request(method, target, (b"X-In", fields[0]), (b"Authorization", basic(user)))
        )
        connection.connection_lost(None)
        transport.shut()
        log.native.flush()
        lines = b"".join(log.writes)
        log.writes.clear()
        if not lines:
            assert eyes.driver.rejects.pop()  # the parser did not take it
            return
        compared += 1
        assert lines.count(b"\n") == 1
        found = lines.removesuffix(b"\n").split(b"\x1f")
        assert all(0x20 <= code < 0x7F for value in found for code in value)
        if as_json:
            decoded = [json.loads(value) for value in found]
            texts = ["" if value is None else str(value) for value in decoded]
            assert [text.replace("-", "") for text in texts[:9]] == [
                value.replace("-", "") for value in model(method, target, status, body, user, *fields)
            ]
        else:
            wanted = model(method, target, status, body, user, *fields)
            shown = [value.decode() for value in found]
            # An empty value may stand as "-".
            assert [one or "-" for one in shown[:7]] == [one or "-" for one in wanted[:7]]
            assert [one or "-" for one in shown[7:9]] == [one or "-" for one in wanted[7:]]
            assert b'"' not in lines
            if host.isascii() and host.isprintable() and not set(host) & set('"\\ '):
                assert shown[9] == (host or shown[9])
                assert shown[10] == f"{host}:{port}"

    check()
    assert eyes.unraisable == []
    return compared


@pytest.mark.parametrize("as_json", [False, True])
def test_any_bytes_are_one_harmless_line(as_json: bool) -> None:
    assert survives(any_bytes, as_json, patience_s=120) > 50


COMBINED: list[Op] = [
    ("host", None),
    ("literal", b" - "),
    ("user", None),
    ("literal", b" "),
    ("time_clf", None),
    ("literal", b' "'),
    ("method", None),
    ("literal", b" "),
    ("target", None),
    ("literal", b" HTTP/"),
    ("version", None),
    ("literal", b'" '),
    ("status", None),
    ("literal", b" "),
    ("response_bytes_clf", None),
    ("literal", b' "'),
    ("request_field", b"referer"),
    ("literal", b'" "'),
    ("request_field", b"user-agent"),
    ("literal", b'"'),
]
COMBINED_LINE = re.compile(
    r'(\S+) - (.*) (\[[^]]+\]) "(\S+) (\S+) HTTP/(1\.[01])" (\d{3}) (\d+|-) "([^"]*)" "([^"]*)"'
)


async def combined() -> list[str]:
    log = Log(COMBINED)
    eyes = Eyes(answers(), log=log)
    forged = b'x" 200 7 "-" "-"\\" 200'
    await eyes.talk(
        request(b"GET", b'/"%20200%200', (b"Referer", forged), (b"User-Agent", b'" "')),
    )
    await eyes.talk(request(b"GET", b"/", (b"Authorization", basic(b'u" "GET / HTTP/1.1" 200 1'))))
    connection, transport = eyes.driver.factory(), FakeTransport()
    connection.set_addresses(('1.2.3.4 - - [x] "GET / HTTP/1.1" 200 1\nfe80::1%\x1b', 1), None, None)
    connection.connection_made(transport)
    connection.data_received(request())
    return [line.decode("ascii") for line in log.lines()]


def test_the_fields_of_a_combined_line_cannot_be_forged() -> None:
    lines = survives(combined)
    assert len(lines) == 3
    for line in lines:
        found = COMBINED_LINE.fullmatch(line)
        assert found, line
        assert line.count('"') == 6
        assert (found[4], found[6], found[7], found[8]) == ("GET", "1.1", "200", "-")
    assert COMBINED_LINE.fullmatch(lines[0])[9] == escaped(b'x" 200 7 "-" "-"\\" 200')
    assert " " not in COMBINED_LINE.fullmatch(lines[2])[1]


# Time


async def times(zone: str) -> list[tuple[float, list[str], float]]:
    os.environ["TZ"] = zone
    time.tzset()
    log = Log(separated([("time_clf", None), ("time_iso", None)]))
    eyes = Eyes(answers(), log=log)
    connection, transport = eyes.connect()
    found = []
    end = time.monotonic() + 1.2  # over the end of a second
    while time.monotonic() < end:
        before = time.time()
        connection.data_received(request())
        after = time.time()
        transport.read()
        found.append((before, after))
        time.sleep(0.002)
    return [(before, values, after) for (before, after), values in zip(found, eyes.rows(), strict=True)]


@pytest.mark.parametrize("zone", ["UTC0", "XXX-05:45", "YYY3:30", "EST5EDT,M3.2.0,M11.1.0"])
def test_the_time_is_now_in_the_local_zone(zone: str) -> None:
    seen = survives(times, zone)
    assert len({values[0] for _, values, _ in seen}) > 1
    for before, (clf, iso), after in seen:
        assert CLF.fullmatch(clf), clf
        assert ISO.fullmatch(iso), iso
        local = datetime.strptime(clf, "[%d/%b/%Y:%H:%M:%S %z]")
        # The kernel's coarse clock is behind by a tick at most.
        assert int(before - 0.05) <= local.timestamp() <= after
        exact = datetime.strptime(iso, "%Y-%m-%dT%H:%M:%S.%f%z")
        assert before - 0.05 <= exact.timestamp() <= after
        assert iso == timestamp(exact.timestamp() + 0.0005)
    offsets = {values[0][-6:-1] for _, values, _ in seen}
    wanted = {"UTC0": {"+0000"}, "XXX-05:45": {"+0545"}, "YYY3:30": {"-0330"}}
    assert offsets == wanted.get(zone, {"-0500"}) or offsets == {"-0400"}


DURATIONS: list[Op] = [
    *((f"duration_{unit}", None) for unit in ("us", "ms", "s", "decimal")),
    ("first_byte_us", None),
]


async def durations(as_json: bool) -> list[list[str]]:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.02)
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await asyncio.sleep(0.02)
        await send({"type": "http.response.body"})

    log = Log(separated(DURATIONS), json=as_json)
    eyes = Eyes(app, log=log)
    connection, _ = eyes.connect()
    connection.data_received(b"GET / HTTP/1.1\r\n")
    await asyncio.sleep(0.02)  # the clock runs: the line is there
    connection.data_received(b"Host: h\r\n\r\n")
    while not log.native.lines:
        await asyncio.sleep(0.005)
    return eyes.rows()


@pytest.mark.parametrize("as_json", [False, True])
def test_durations_agree_with_each_other(as_json: bool) -> None:
    [[us, ms, s, decimal, first]] = survives(durations, as_json)
    assert int(us) >= 60_000 - 8000
    assert 40_000 - 8000 <= int(first) <= int(us) - 20_000 + 8000
    assert int(ms) == int(us) // 1000
    assert int(s) == int(us) // 1_000_000
    assert re.fullmatch(r"\d+\.\d{6}", decimal)
    assert int(decimal.replace(".", "")) == int(us)


# The constructor

GOOD: list[Op] = [("literal", b"x")]
BAD: dict[str, Callable[[], Any]] = {
    "no arguments": lambda: _native.AccessLog(),
    "no write": lambda: _native.AccessLog(GOOD, GOOD, schedule=print),
    "no schedule": lambda: _native.AccessLog(GOOD, GOOD, write=print),
    "write is no callable": lambda: Log(GOOD, write=5),
    "schedule is no callable": lambda: Log(GOOD, schedule=None),
    "a third positional": lambda: _native.AccessLog(GOOD, GOOD, print, write=print, schedule=print),
    "an unknown keyword": lambda: Log(GOOD, colour=True),
    "an unknown op": lambda: Log([("client_address", None)]),
    "an op of another case": lambda: Log([("Client", None)]),
    "an empty op": lambda: Log([("", None)]),
    "an op with NUL": lambda: Log([("client\0x", None)]),
    "an op that is bytes": lambda: Log([(b"client", None)]),  # type: ignore[list-item]
    "a surrogate for an op": lambda: Log([("\ud800", None)]),
    "no tuple": lambda: Log(["client"]),  # type: ignore[list-item]
    "one too few": lambda: Log([("client",)]),  # type: ignore[list-item]
    "one too many": lambda: Log([("client", None, None)]),  # type: ignore[list-item]
    "program is no sequence": lambda: _native.AccessLog(5, GOOD, write=print, schedule=print),
    "websocket program is no sequence": lambda: _native.AccessLog(GOOD, 5, write=print, schedule=print),
    "a literal without text": lambda: Log([("literal", None)]),
    "a literal that is str": lambda: Log([("literal", "x")]),  # type: ignore[list-item]
    "a field without a name": lambda: Log([("request_field", None)]),
    "a field that is str": lambda: Log([("request_field", "x")]),  # type: ignore[list-item]
    "an op that takes none": lambda: Log([("client", b"x")]),
    "an argument nobody knows": lambda: Log([("status_text", b"colors")]),
    "an exclude of str": lambda: Log(GOOD, exclude=["/health"]),
    "an exclude that is bytes": lambda: Log(GOOD, exclude=b"/health"),
    "an exclude that is no sequence": lambda: Log(GOOD, exclude=5),
    "a sample below 0": lambda: Log(GOOD, sample=-0.01),
    "a sample above 1": lambda: Log(GOOD, sample=1.01),
    "a sample that is no number": lambda: Log(GOOD, sample=float("nan")),
    "an infinite sample": lambda: Log(GOOD, sample=float("inf")),
    "a sample of str": lambda: Log(GOOD, sample="1"),
    "no buffer": lambda: Log(GOOD, buffer_bytes=-1),
    "a buffer of str": lambda: Log(GOOD, buffer_bytes="64"),
    "a buffer beyond memory": lambda: Log(GOOD, buffer_bytes=1 << 62),
    "a buffer beyond ssize_t": lambda: Log(GOOD, buffer_bytes=1 << 80),
}


def junk(name: str) -> str:
    try:
        BAD[name]()
    except (TypeError, ValueError, OverflowError, MemoryError) as error:
        return "refused" if str(error) or isinstance(error, MemoryError) else "nothing said"
    return "accepted"


@pytest.mark.parametrize("name", BAD)
def test_a_constructor_that_is_given(name: str) -> None:
    assert survives(junk, name) == "refused"


def test_the_type_cannot_be_inherited_or_changed() -> None:
    with pytest.raises(TypeError):
        type("Sub", (_native.AccessLog,), {})
    with pytest.raises(TypeError):
        _native.AccessLog.mark = 1  # type: ignore[attr-defined]
    with pytest.raises(TypeError):
        object.__new__(_native.AccessLog)
    log = Log(GOOD).native
    with pytest.raises(AttributeError):
        log.mark = 1  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        log.lines = 5  # type: ignore[misc]


async def every_op() -> list[int]:
    """Programs of one op, of none, and of a thousand."""
    found = []
    for ops in (OPS[:1], [], OPS * 40, [("literal", b"")], [("literal", b"x" * 200_000)]):
        for as_json in (False, True):
            program = [op for op in ops if not (as_json and op[1] == b"colours")]
            log = Log(program, json=as_json)
            eyes = Eyes(answers(), log=log)
            await eyes.talk(request())
            [line] = log.lines()
            found.append(len(line))
            assert log.native.lines == 1
    return found


def test_programs_of_any_length() -> None:
    one, one_json, none, none_json, many, many_json, empty, _, huge, _ = survives(every_op)
    assert (one, one_json) == (len("127.0.0.1:4711"), len('"127.0.0.1:4711"'))
    assert none == none_json == empty == 0
    assert many > 4000
    assert many_json > 4000
    assert huge == 200_000
