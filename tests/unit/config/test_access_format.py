"""Formats of the access log: from a preset or a format string to the programs of the native side."""

from __future__ import annotations

import pytest

from shardserve.config.access_format import (
    ATOMS,
    EXTRAS,
    PRESETS,
    VARIABLES,
    Process,
    check,
    compiled,
    parse,
)

HERE = Process(pid=71, slot=3)


def written(program: tuple[tuple[str, bytes | None], ...]) -> str:
    """A program as one text, with operations in brackets. The native side ends the line."""
    parts = []
    for op, argument in program:
        if op == "literal":
            assert argument
            parts.append(argument.decode())
        else:
            parts.append(f"<{op}>" if argument is None else f"<{op} {argument.decode()}>")
    text = "".join(parts)
    assert "\n" not in text
    return text


REQUEST = "<method> <target> HTTP/<version>"
COMMON = f'<host> - <user> <time_clf> "{REQUEST}" <status> <response_bytes_clf>'


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("uvicorn", f'INFO:     <client> - "{REQUEST}" <status_text >'),
        ("common", COMMON),
        ("combined", COMMON + ' "<request_field referer>" "<request_field user-agent>"'),
    ],
)
def test_presets(text: str, line: str) -> None:
    found = compiled(text, HERE)
    assert written(found.program) == line
    assert not found.json


def test_uvicorns_line_of_a_websocket_is_another_one() -> None:
    found = compiled("uvicorn", HERE)
    assert written(found.websocket_program) == 'INFO:     <client> - "WebSocket <target>" <ws_outcome>'


def test_uvicorns_colours() -> None:
    found = compiled("uvicorn", HERE, colours=True)
    start, bold, plain = "\x1b[32mINFO\x1b[0m:     ", "\x1b[1m", "\x1b[0m"
    line = f'{start}<client> - "{bold}{REQUEST}{plain}" <status_text colours>'
    assert written(found.program) == line
    websocket = f'{start}<client> - "WebSocket <target>" <ws_outcome>'
    assert written(found.websocket_program) == websocket


def test_json_is_an_object_of_these_keys_in_this_order() -> None:
    found = compiled("json", HERE)
    assert found.json
    line = written(found.program)
    assert line == (
        '{"ts":<time_iso>,"type":"access","level":"info","logger":"shardserve.access","pid":71,"worker":3,'
        '"client":<client>,"method":<method>,"target":<target>,"http_version":<version>,"status":<status>,'
        '"response_bytes":<response_bytes>,"duration_us":<duration_us>,"first_byte_us":<first_byte_us>,'
        '"request_id":<request_id>,"trace_id":<trace_id>,"tls_version":<tls_version>}'
    )
    assert written(found.websocket_program) == line.replace("<method>", '"WebSocket"')


def test_json_outside_of_a_worker() -> None:
    assert '"pid":1,"worker":null,' in written(compiled("json", Process(pid=1, slot=None)).program)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("%(h)s", "<host>"),
        ("%%%(h)s%%", "%<host>%"),
        ("a%(l)sb", "a-b"),
        ("%(r)s", REQUEST),
        ("%(H)s", "HTTP/<version>"),
        ("%(U)s?%(q)s", "<path>?<query>"),
        ("%(T)s %(D)s %(M)s %(L)s", "<duration_s> <duration_us> <duration_ms> <duration_decimal>"),
        ("%(B)s %(b)s", "<response_bytes> <response_bytes_clf>"),
        ("%(p)s %({pid}x)s %({worker}x)s", "<71> 71 3"),
        ("%({X-Forwarded-For}i)s", "<request_field x-forwarded-for>"),
        ("%({content-type}o)s", "<response_field content-type>"),
        ("%({REMOTE_ADDR}e)s %({HTTP_X_REAL_IP}e)s", "<host> <request_field x-real-ip>"),
        ("%({request_id}x)s/%({trace_id}x)s", "<request_id>/<trace_id>"),
        ("%({status_text}x)s", "<status_text >"),
        ("ü\t%(s)s", "ü\t<status>"),
    ],
)
def test_format_strings(text: str, line: str) -> None:
    assert check(text) == text
    found = compiled(text, HERE)
    assert written(found.program) == written(found.websocket_program) == line


def test_no_worker_has_no_number() -> None:
    assert written(parse("%({worker}x)s", Process(pid=1, slot=None))) == "-"


def test_every_atom_can_be_written() -> None:
    text = " ".join(
        [
            *(f"%({atom})s" for atom in (*ATOMS, "p")),
            *(f"%({{{name}}}x)s" for name in (*EXTRAS, "pid", "worker")),
            *(f"%({{{name}}}e)s" for name in VARIABLES),
        ]
    )
    assert check(text) == text
    assert "%" not in written(parse(text, HERE))


@pytest.mark.parametrize("text", ["Common", " JSON ", "uvicorn"])
def test_names_of_presets_are_normalised(text: str) -> None:
    assert check(text) in PRESETS


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("combine", '"combine" is neither one of uvicorn, common, combined, json nor a format string'),
        ("", "nor a format string with atoms such as %(h)s"),
        (
            "%(h)s %(y)s",
            "unknown atom %(y)s at character 7; there are h l u t r m U q H s B b f a T D M L p, ",
        ),
        ("%(hh)s", "unknown atom %(hh)s at character 1"),
        ("%h %u", '"%h" at character 1 is Apache\'s way to write an atom; here it is %(h)s'),
        ("a %>s", '"%s" at character 3 is Apache\'s way'),
        ("%(h)10s", '"%(h)" at character 1 has no name, or no plain s behind it'),
        ("%(h)d", "has no name, or no plain s behind it; write %(h)s or %({name}i)s"),
        ("%()s", '"%()" at character 1 has no name'),
        ("%({a b}i)s", '"a b" in %({a b}i)s at character 1 is not the name of a field'),
        ("%({}i)s", '"" in %({}i)s at character 1 is not the name of a field'),
        ("%({wsgi.input}e)s", "%({wsgi.input}e)s at character 1 cannot be had; there are REMOTE_ADDR, "),
        ("%({HTTP_}e)s", "cannot be had"),
        ("%({uptime}x)s", "unknown name in %({uptime}x)s at character 1; there are client, client_port, "),
        ("%({x}z)s", "unknown kind z in %({x}z)s at character 1; there are i "),
        ("%(h)s 100%", "the percent sign at character 10 begins no atom; write %% for a percent sign"),
        ("%(h", "the percent sign at character 1 begins no atom"),
    ],
)
def test_mistakes_are_named_and_found(text: str, complaint: str) -> None:
    with pytest.raises(ValueError) as raised:
        check(text)
    assert complaint in str(raised.value)
