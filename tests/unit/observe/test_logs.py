"""What our loggers print, when in colour, and how wire text is defused."""

from __future__ import annotations

import io
import logging
import logging.config
import os
from dataclasses import dataclass

import pytest

from shardserve.errors import ClientDisconnected
from shardserve.observe import logs


@dataclass
class Settings:
    log_level: str | int = "info"
    use_colors: bool | None = None
    access_log: bool = True
    log_config: object = None
    log_format: str = "text"
    app_dir: str = ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def out() -> io.StringIO:
    return io.StringIO()


def test_a_line_has_uvicorns_shape(out):
    logs.configure(Settings(), stream=out)
    logging.getLogger("shardserve.master").info("Started")
    logging.getLogger("shardserve.error").warning("Careful %s", "now")
    assert out.getvalue() == "INFO:     Started\nWARNING:  Careful now\n"


def test_a_worker_says_which_it_is(out):
    logs.configure(Settings(), slot=2, stream=out)
    logging.getLogger("shardserve.worker").error("Failed")
    assert out.getvalue() == f"ERROR:    [worker 2, pid {os.getpid()}] Failed\n"


def test_levels_including_trace(out):
    logs.configure(Settings("trace"), stream=out)
    logging.getLogger("shardserve").log(logs.TRACE, "small")
    logs.configure(Settings("warning"), stream=out)
    logging.getLogger("shardserve").info("unseen")
    assert out.getvalue() == "TRACE:    small\n"
    assert logs.level_number(None) == logging.INFO
    assert logs.level_number(30) == 30


def test_no_message_gets_out_raw(out):
    """Even if whoever logged it forgot what was in it."""
    logs.configure(Settings(), stream=out)
    logging.getLogger("shardserve.worker").info("a %s", "\x1b[31m\r\x9b\u2028\u202e")
    assert out.getvalue() == "INFO:     a \\x1b[31m\\x0d\\x9b\\u2028\\u202e\n"


def test_neither_does_an_exception(out):
    logs.configure(Settings(), stream=out)
    try:
        raise ValueError("x\nINFO:     forged\x1b")
    except ValueError:
        logging.getLogger("shardserve.worker").exception("Failed")
    assert out.getvalue().startswith("ERROR:    Failed\nTraceback (most recent call last):\n")
    assert out.getvalue().endswith("\nValueError: x\n    INFO:     forged\\x1b\n")


def test_configuring_twice_does_not_double_the_lines(out):
    logs.configure(Settings(), stream=out)
    logs.configure(Settings(), stream=out)
    logging.getLogger("shardserve").info("once")
    assert out.getvalue() == "INFO:     once\n"


def test_the_root_logger_is_left_alone(out):
    root = logging.getLogger()
    before = (root.level, root.handlers[:])
    logs.configure(Settings(), stream=out)
    assert (root.level, root.handlers[:]) == before


def test_an_apps_dict_config_does_not_silence_us(out):
    logs.configure(Settings(), stream=out)
    logging.config.dictConfig({"version": 1})
    assert logging.getLogger("shardserve.worker").disabled
    logs.enable()
    logging.getLogger("shardserve.worker").info("still here")
    assert out.getvalue() == "INFO:     still here\n"


@pytest.mark.parametrize(
    ("terminal", "flag", "environment", "wanted"),
    [
        (True, None, {}, True),
        (False, None, {}, False),
        (True, None, {"NO_COLOR": "1"}, False),
        (True, None, {"NO_COLOR": ""}, True),
        (True, None, {"TERM": "dumb"}, False),
        (True, False, {}, False),
        (False, True, {"NO_COLOR": "1"}, True),
    ],
)
def test_when_there_are_colours(monkeypatch, terminal, flag, environment, wanted):
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert logs.wants_colours(Terminal() if terminal else io.StringIO(), flag) is wanted


def test_a_closed_or_missing_stream_has_no_colours(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    closed = io.StringIO()
    closed.close()
    assert not logs.wants_colours(closed, None)
    assert not logs.wants_colours(None, None)


def test_colours_are_on_the_level_only(out):
    logs.configure(Settings(use_colors=True), stream=out)
    logging.getLogger("shardserve").info("green")
    assert out.getvalue() == "\x1b[32mINFO\x1b[0m:     green\n"


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("/plain path?x=ü", "/plain path?x=ü"),
        ("a\r\nINFO: forged", "a\\x0d\\x0aINFO: forged"),
        ("\x1b[2J\x07\x00\x7f\x9b", "\\x1b[2J\\x07\\x00\\x7f\\x9b"),
        ("\u202egnp.exe\u2028", "\\u202egnp.exe\\u2028"),
        ("\ud800", "\\ud800"),
        ("\U000e0001", "\\U000e0001"),
    ],
)
def test_printable(raw, shown):
    assert logs.printable(raw) == shown


# The reporters


def reporter_lines(out: io.StringIO, level: str = "info"):
    logs.configure(Settings(level), stream=out)
    return logs.app_error_reporter()


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def test_an_app_error_names_the_request_and_shows_the_traceback(out):
    report = reporter_lines(out)
    report(raised(KeyError("x")), "GET", "/a\r\nb", ("10.0.0.1", 5), "500 sent", None)
    first, *rest = out.getvalue().splitlines()
    assert first == "ERROR:    Exception in ASGI application: GET /a\\x0d\\x0ab from 10.0.0.1:5, 500 sent"
    assert rest[0] == "Traceback (most recent call last):"
    assert rest[-1] == "KeyError: 'x'"


def test_an_app_error_without_an_address(out):
    reporter_lines(out)(ValueError("x"), "GET", "/", None, "500 sent", None)
    assert "GET / from a local client" in out.getvalue()


def test_an_app_error_names_the_id_of_its_request(out):
    report = reporter_lines(out)
    report(raised(KeyError("x")), "GET", "/", ("10.0.0.1", 5), "500 sent", "abc-1")
    first = out.getvalue().splitlines()[0]
    assert first.endswith(": GET / from 10.0.0.1:5, 500 sent, request id abc-1")


def chained(cause: BaseException) -> BaseException:
    error = RuntimeError("framework")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "quiet"),
    [
        (ClientDisconnected(), True),
        (chained(ClientDisconnected()), True),
        (chained(chained(ClientDisconnected())), True),
        (ExceptionGroup("tasks", [ClientDisconnected(), chained(ClientDisconnected())]), True),
        (ExceptionGroup("tasks", [ClientDisconnected(), ValueError()]), False),
        (ConnectionResetError(), False),
    ],
)
def test_a_client_that_went_is_nobodys_error(out, error, quiet):
    assert logs.is_disconnect(error) is quiet
    reporter_lines(out)(error, "GET", "/", None, "connection closed early", None)
    assert (out.getvalue() == "") is quiet


def test_a_client_that_went_shows_at_debug(out):
    reporter_lines(out, "debug")(ClientDisconnected(), "GET", "/", None, "connection closed early", None)
    assert (
        out.getvalue()
        == "DEBUG:    Client disconnected: GET / from a local client, connection closed early\n"
    )


def test_rejects_are_one_line_a_second_and_a_count(out):
    logs.configure(Settings(), stream=out)
    now = 100.0
    reject = logs.RejectReporter(clock=lambda: now)
    for _ in range(4):
        reject(400, "bad\nheader", ("10.0.0.1", 5))
    now += 0.5
    reject.flush()
    assert out.getvalue() == "WARNING:  Rejected a request from 10.0.0.1:5: 400 Bad Request: bad\\x0aheader\n"
    now += 1
    reject(431, "too large", None)
    assert out.getvalue().splitlines()[1:] == [
        "WARNING:  Rejected a request from a local client: 431 Request Header Fields Too Large: too large"
        " (3 more since the last such line)"
    ]


def test_rejects_held_back_are_told_even_if_none_follows(out):
    logs.configure(Settings(), stream=out)
    now = 100.0
    reject = logs.RejectReporter(clock=lambda: now)
    for _ in range(3):
        reject(599, "odd", None)
    now += 2
    reject.flush()
    reject.flush()
    assert out.getvalue().splitlines()[1:] == ["WARNING:  Rejected 2 more requests"]
    for _ in range(3):
        reject(400, "odd", None)
    reject.close()
    reject.close()
    assert out.getvalue().splitlines()[2:] == ["WARNING:  Rejected 3 more requests"]


@pytest.mark.parametrize(
    ("status", "shown"),
    [
        (408, "408 Request Timeout"),
        (413, "413 Content Too Large"),  # also where Python calls it Request Entity Too Large
        (414, "414 URI Too Long"),
        (417, "417 Expectation Failed"),
        (505, "505 HTTP Version Not Supported"),
        (599, "599"),
    ],
)
def test_a_rejection_has_the_phrase_that_the_client_got(out, status, shown):
    logs.configure(Settings(), stream=out)
    logs.RejectReporter()(status, "why", None)
    assert out.getvalue() == f"WARNING:  Rejected a request from a local client: {shown}: why\n"


def test_a_connection_closed_without_an_answer_says_so(out):
    logs.configure(Settings(), stream=out)
    logs.RejectReporter()(0, "slow\x1b[2J\nclient", ("10.0.0.1", 5))
    logs.RejectReporter()(0, "slow client", None)
    assert out.getvalue().splitlines() == [
        "WARNING:  Closed the connection of 10.0.0.1:5 without an answer: slow\\x1b[2J\\x0aclient",
        "WARNING:  Closed the connection of a local client without an answer: slow client",
    ]


def test_a_stream_that_was_reset_is_no_closed_connection(out):
    logs.configure(Settings(), stream=out)
    logs.RejectReporter()(-1, "HTTP/2: PROTOCOL_ERROR: a\x1b[2Jnd", ("10.0.0.1", 5))
    assert out.getvalue() == "WARNING:  Reset a stream of 10.0.0.1:5: HTTP/2: PROTOCOL_ERROR: a\\x1b[2Jnd\n"


def test_a_failed_websocket_says_its_close_code(out):
    logs.configure(Settings(), stream=out)
    logs.RejectReporter()(1009, "a frame\x1b[2J\nis too large", ("10.0.0.1", 5))
    logs.RejectReporter()(1000, "why", None)
    logs.RejectReporter()(4999, "why", None)
    assert out.getvalue().splitlines() == [
        "WARNING:  Closed the WebSocket of 10.0.0.1:5 with 1009: a frame\\x1b[2J\\x0ais too large",
        "WARNING:  Closed the WebSocket of a local client with 1000: why",
        "WARNING:  Closed the WebSocket of a local client with 4999: why",
    ]


def test_one_line_a_second_over_all_kinds(out):
    logs.configure(Settings(), stream=out)
    now = 100.0
    reject = logs.RejectReporter(clock=lambda: now)
    for status in (408, 0, -1, 400, 1002):
        reject(status, "why", None)
    now += 1
    reject(0, "why", None)
    assert out.getvalue().splitlines() == [
        "WARNING:  Rejected a request from a local client: 408 Request Timeout: why",
        "WARNING:  Closed the connection of a local client without an answer: why"
        " (4 more since the last such line)",
    ]


@pytest.mark.parametrize(
    ("held_back", "told"),
    [
        ((400,), "Rejected 1 more request"),
        ((0,), "Closed 1 more connection without an answer"),
        ((0, 0), "Closed 2 more connections without an answer"),
        ((0, 413, 0, 400, 431), "Rejected 3 more requests, closed 2 more connections without an answer"),
        ((-1,), "Reset 1 more stream"),
        ((1009,), "Closed 1 more WebSocket"),
        (
            (999, 1000, 0, -1, 1011, -1),
            "Rejected 1 more request, closed 1 more connection without an answer, reset 2 more streams,"
            " closed 2 more WebSockets",
        ),
    ],
)
def test_what_is_held_back_is_counted_by_its_kind(out, held_back, told):
    logs.configure(Settings(), stream=out)
    now = 100.0
    reject = logs.RejectReporter(clock=lambda: now)
    for status in (414, *held_back):
        reject(status, "why", None)
    now += 0.9
    reject.flush()
    assert len(out.getvalue().splitlines()) == 1
    now += 0.2
    reject.flush()
    reject.flush()
    assert out.getvalue().splitlines()[1:] == [f"WARNING:  {told}"]
    reject(400, "why", None)  # what was just told counts as a line
    reject.close()
    assert out.getvalue().splitlines()[2:] == ["WARNING:  Rejected 1 more request"]


def test_flush_survives_a_stream_that_is_gone():
    stream = io.StringIO()
    logs.configure(Settings(), stream=stream)
    stream.close()
    logs.flush()
