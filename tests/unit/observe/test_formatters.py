"""Formatters: ours as JSON, and those that existing configs name, held against Uvicorn's own."""

from __future__ import annotations

import json
import logging
import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

import shardserve.logging
from shardserve.observe.formatters import (
    TRACE,
    AccessFormatter,
    DefaultFormatter,
    JsonFormatter,
    become,
    json_text,
)

ACCESS = ("127.0.0.1:5", "GET", "/x?y=1", "1.1", 200)


def record(
    message: str = "text",
    *args: object,
    name: str = "shardserve.error",
    level: int = logging.INFO,
    **more: object,
) -> logging.LogRecord:
    made = logging.LogRecord(name, level, "", 0, message, args, None)
    made.__dict__.update(more)
    return made


def access(*arguments: object, name: str = "uvicorn.access") -> logging.LogRecord:
    return record('%s - "%s %s HTTP/%s" %d', *arguments, name=name)


# As JSON


def test_a_record_as_json():
    become(1)
    made = record("Started %s", "up", level=logging.WARNING, created=1_795_435_118.5)
    assert json.loads(JsonFormatter().format(made)) == {
        "ts": "2026-11-23T11:58:38.500Z",
        "type": "server",
        "level": "warning",
        "logger": "shardserve.error",
        "pid": os.getpid(),
        "worker": 1,
        "message": "Started up",
    }


def test_an_exception_is_text_in_a_field():
    try:
        raise LookupError("x\nINFO:     forged\x1b")
    except LookupError:
        made = record("Failed", exc_info=sys.exc_info())
    line = JsonFormatter().format(made)
    assert "\n" not in line
    found = json.loads(line)
    assert found["message"] == "Failed"
    assert found["exception"].startswith("Traceback (most recent call last):\n")
    assert found["exception"].endswith("LookupError: x\n    INFO:     forged\\x1b")


def test_an_access_record_has_its_fields():
    found = json.loads(JsonFormatter().format(access(*ACCESS)))
    assert found["type"] == "access"
    assert "message" not in found
    assert [found[key] for key in ("client", "method", "target", "http_version", "status")] == [*ACCESS]


@given(st.text())
def test_any_text_is_one_harmless_line(text):
    line = JsonFormatter().format(record("%s", text))
    assert line.isascii()
    assert line.isprintable()
    found = json.loads(line)["message"]
    found.encode()  # no lone surrogate is left for the reader to trip over
    if text.isprintable() or not any("\ud800" <= char <= "\udfff" for char in text):
        assert found == text


def test_a_value_that_json_does_not_know():
    class Odd:
        def __str__(self) -> str:
            raise ValueError

    assert json.loads(json_text({"a": {1}, "b": "x"})) == {"a": "{1}", "b": "x"}
    assert json.loads(json_text({"a": Odd()}))["a"].endswith("Odd'>")


# Those of Uvicorn

FORMATS = [
    "%(levelprefix)s %(message)s",
    "%(levelprefix)s|%(name)s|%(levelname)s|%(message)s",
    '%(levelprefix)s %(client_addr)s - "%(request_line)s" %(status_code)s',
]


@pytest.mark.parametrize("colours", [True, False])
@pytest.mark.parametrize("level", [TRACE, 7, *range(10, 60, 10)])
def test_the_default_formatter_writes_what_uvicorns_writes(level, colours):
    theirs = pytest.importorskip("uvicorn.logging").DefaultFormatter
    logging.addLevelName(TRACE, "TRACE")
    for fmt in FORMATS[:2]:
        for made in (
            record("a %s", "b", level=level),
            record("a", level=level, color_message="\x1b[1mbold\x1b[0m"),
        ):
            expected = theirs(fmt, use_colors=colours).format(made)
            assert DefaultFormatter(fmt, use_colors=colours).format(made) == expected


@pytest.mark.parametrize("colours", [True, False])
@pytest.mark.parametrize("status", [100, 200, 204, 299, 302, 404, 500, 599, 799])
def test_the_access_formatter_writes_what_uvicorns_writes(status, colours):
    theirs = pytest.importorskip("uvicorn.logging").AccessFormatter
    made = access(*ACCESS[:4], status)
    for fmt in FORMATS:
        expected = theirs(fmt, use_colors=colours).format(made)
        assert AccessFormatter(fmt, use_colors=colours).format(made) == expected


def test_a_websocket_has_no_version_and_is_accepted():
    formatter = AccessFormatter(FORMATS[2], use_colors=False)
    arguments = ("127.0.0.1:5", "WebSocket", "/ws", "1.1")
    assert formatter.format(access(*arguments, 101)) == 'INFO:     127.0.0.1:5 - "WebSocket /ws" [accepted]'
    assert formatter.format(access(*arguments, 403)) == 'INFO:     127.0.0.1:5 - "WebSocket /ws" 403'


def test_a_record_of_an_app_on_the_access_logger_is_shown_too():
    """Uvicorn's raises in its place, and what was to be said is lost."""
    formatter = AccessFormatter(FORMATS[2], use_colors=False)
    assert formatter.format(record("a word", name="uvicorn.access")) == 'INFO:      - "a word" '


def test_formatting_leaves_the_record_as_it_was():
    made = access(*ACCESS)
    AccessFormatter(FORMATS[2], use_colors=True).format(made)
    assert "levelprefix" not in made.__dict__
    assert "status_code" not in made.__dict__


def test_defaults_of_a_format_string():
    """Which a config may name from Python 3.12 on."""
    formatter = DefaultFormatter("%(levelprefix)s %(custom)s", use_colors=False, defaults={"custom": "x"})
    assert formatter.format(record()) == "INFO:     x"


def test_what_can_be_imported_in_the_place_of_uvicorn_logging():
    theirs = pytest.importorskip("uvicorn.logging")
    assert shardserve.logging.TRACE_LOG_LEVEL == theirs.TRACE_LOG_LEVEL
    for name in ("ColourizedFormatter", "DefaultFormatter", "AccessFormatter"):
        assert issubclass(getattr(shardserve.logging, name), logging.Formatter)
        assert hasattr(theirs, name)
