"""Uvicorn's loggers without a log config: set up like it does, and watched for who turns them round."""

from __future__ import annotations

import io
import logging
import logging.config

import pytest

from shardserve.observe import access_sink, logs, names
from tests.unit.observe.test_logs import Settings

CLIENT = ("127.0.0.1", 5)


def started() -> io.StringIO:
    """Our log. Begun in the test itself: pytest has handlers of its own on loggers that exist before."""
    stream = io.StringIO()
    logs.configure(Settings(), stream=stream)
    return stream


class Batches:
    """As much of an AccessLog as is looked at."""

    def __init__(self):
        self.lines = object()


def test_what_an_app_says_on_uvicorns_logger_is_in_our_log():
    out = started()
    logging.getLogger("uvicorn.error").info("a word \x1b[1mof the app\x1b[0m")
    logging.getLogger("uvicorn").debug("too small")
    assert out.getvalue() == "INFO:     a word \x1b[1mof the app\x1b[0m\n"


def test_untouched_it_is_batches():
    started()
    access = Batches()
    assert access_sink.settled(access) is access.lines
    assert not names.is_forwarded()


@pytest.mark.parametrize("name", ["uvicorn.access", "shardserve.access"])
def test_each_way_to_touch_it_is_seen(name):
    out = started()
    logger = logging.getLogger(name)
    [handler] = logger.handlers
    ways = [
        lambda: logger.addFilter(lambda record: True),
        lambda: logger.addHandler(logging.NullHandler()),
        lambda: logger.setLevel(logging.DEBUG),
        lambda: setattr(logger, "disabled", True),
        lambda: setattr(logger, "propagate", True),
        lambda: handler.setFormatter(logging.Formatter()),
        lambda: handler.setLevel(logging.ERROR),
        lambda: handler.addFilter(lambda record: True),
        lambda: handler.setStream(io.StringIO()),
        lambda: logging.disable(logging.INFO),
    ]
    for way in ways:
        logger.filters.clear()
        logging.disable(logging.NOTSET)
        logs.configure(Settings(), stream=out)
        [handler] = logger.handlers
        access = Batches()
        assert access_sink.settled(access) is access.lines
        way()
        assert isinstance(access_sink.settled(access), access_sink.LoggedAccess)


def test_a_filter_that_was_there_before_us_counts():
    out = started()
    logging.getLogger("uvicorn.access").addFilter(lambda record: record.args[2] != "/healthz")
    logs.configure(Settings(), stream=out)
    assert isinstance(access_sink.settled(Batches()), access_sink.LoggedAccess)


def test_no_handlers_no_lines_and_no_cost():
    started()
    logging.getLogger("uvicorn.access").handlers.clear()
    assert access_sink.settled(Batches()) is None


def test_a_logger_that_is_disabled_in_passing_is_not_meant():
    out = started()
    logging.config.dictConfig({"version": 1})
    assert logging.getLogger("uvicorn.access").disabled
    access = Batches()
    assert access_sink.settled(access) is access.lines
    logging.getLogger("uvicorn.error").info("still here")
    logging.getLogger("shardserve.worker").info("we too")
    assert out.getvalue() == "INFO:     still here\nINFO:     we too\n"


def test_a_server_log_that_was_touched_gets_ours_under_its_name():
    out = started()
    names_seen = []
    logging.getLogger("uvicorn").addFilter(lambda record: True)
    logging.getLogger("uvicorn.error").addFilter(lambda record: not names_seen.append(record.name))
    access_sink.settled(Batches())
    logging.getLogger("shardserve.worker").info("x")
    assert names_seen == ["uvicorn.error"]
    assert out.getvalue() == "INFO:     x\n"


def test_whoever_touched_ours_has_the_last_word():
    started()
    logging.getLogger("uvicorn").handlers.clear()
    logging.getLogger("shardserve").handlers.clear()
    access_sink.settled(Batches())
    assert not names.is_forwarded()
    assert logging.getLogger("shardserve").handlers == []


@pytest.mark.parametrize(
    ("changes", "written"),
    [
        ({}, True),
        ({"access_log": False}, False),
        ({"log_level": "warning"}, False),
        ({"log_level": "trace"}, True),
    ],
)
def test_when_there_are_access_lines(changes, written):
    settings = Settings(**changes)
    logs.configure(settings, stream=io.StringIO())
    assert access_sink.wanted(settings) is written


def test_trace_is_the_level_of_the_server_log():
    logs.configure(Settings("trace"), stream=io.StringIO())
    assert logs.traces()
    logs.configure(Settings("debug"), stream=io.StringIO())
    assert not logs.traces()


def test_json_is_the_shape_of_all_of_them(capsys):
    settings = Settings()
    settings.log_format = "json"
    logs.configure(settings)
    logging.getLogger("uvicorn.error").info("the app's")
    logging.getLogger("shardserve.worker").info("ours")
    lines = capsys.readouterr().err.splitlines()
    assert [line.startswith('{"ts":"') for line in lines] == [True, True]
