"""Errors that nobody caught: each is one entry of our log, and nothing of them is obeyed by a terminal."""

from __future__ import annotations

import gc
import io
import logging
import sys
import threading
from types import SimpleNamespace

import pytest

from shardserve.errors import ClientDisconnected
from shardserve.observe import uncaught

FORGED = "x\r\nINFO:     forged\x1b[31m\x9b"


@pytest.fixture
def out(monkeypatch):
    """What is logged, by a handler of the plainest kind. The hooks are the pristine ones again."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    monkeypatch.setattr(uncaught.log, "handlers", [handler])
    monkeypatch.setattr(uncaught.log, "propagate", False)
    monkeypatch.setattr(uncaught.log, "disabled", False)
    monkeypatch.setattr(uncaught.log, "level", logging.DEBUG)
    uncaught.log.manager._clear_cache()
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)
    yield stream
    uncaught.log.manager._clear_cache()


def harmless(text: str) -> list[str]:
    """Its lines, none of which is forged."""
    lines = text.splitlines()
    assert lines == text.removesuffix("\n").split("\n")
    assert all(line.isprintable() for line in lines)
    assert not any(line.startswith("INFO") for line in lines)
    return lines


class Doomed:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __del__(self) -> None:
        raise self.error


class Mute:
    def __repr__(self) -> str:
        raise ValueError(FORGED)


def named(name: str) -> object:
    return type("Named", (), {"__repr__": lambda self: name})()


def test_an_error_in_a_finalizer(out):
    uncaught.install()
    Doomed(ValueError(FORGED))
    gc.collect()
    lines = harmless(out.getvalue())
    assert lines[0].startswith("ERROR: Exception ignored in: <function Doomed.__del__ at 0x")
    assert lines[1] == "Traceback (most recent call last):"
    assert lines[-2:] == ["ValueError: x\\x0d", "    INFO:     forged\\x1b[31m\\x9b"]


def test_an_error_that_ends_a_thread(out):
    uncaught.install()

    def fail() -> None:
        raise ValueError(FORGED)

    thread = threading.Thread(target=fail, name=FORGED)
    thread.start()
    thread.join()
    lines = harmless(out.getvalue())
    assert lines[0] == "ERROR: Exception in thread x\\x0d\\x0aINFO:     forged\\x1b[31m\\x9b"
    assert lines[-1] == "    INFO:     forged\\x1b[31m\\x9b"


def test_a_thread_may_exit(out):
    uncaught.install()
    thread = threading.Thread(target=sys.exit)
    thread.start()
    thread.join()
    assert out.getvalue() == ""


@pytest.mark.parametrize("key", ["task", "future", "handle"])
def test_an_error_of_the_loop(out, key):
    context = {"message": FORGED, "exception": ValueError(FORGED), key: named(FORGED)}
    uncaught.report_loop_error(None, context)
    lines = harmless(out.getvalue())
    shown = "x\\x0d\\x0aINFO:     forged\\x1b[31m\\x9b"
    assert lines[0] == f"ERROR: {shown} ({shown})"
    assert lines[1:] == ["ValueError: x\\x0d", "    INFO:     forged\\x1b[31m\\x9b"]


@pytest.mark.parametrize(
    ("context", "text"),
    [
        ({"message": "Something"}, "ERROR: Something\n"),
        ({}, "ERROR: Unhandled error in the event loop\n"),
        ({"message": None}, "ERROR: Unhandled error in the event loop\n"),
        ({"message": "Lost", "handle": Mute()}, "ERROR: Lost (<Mute, whose repr() failed>)\n"),
        ({"message": "Lost", "exception": ClientDisconnected()}, "DEBUG: Lost: the client disconnected\n"),
    ],
)
def test_what_the_loop_may_leave_out(out, context, text):
    uncaught.report_loop_error(None, context)
    assert out.getvalue() == text


def test_an_unraisable_error_may_lack_everything(out):
    nothing = SimpleNamespace(exc_type=None, exc_value=None, exc_traceback=None, err_msg=None, object=Mute())
    uncaught.report_unraisable(nothing)
    assert out.getvalue() == "ERROR: Exception ignored in: <Mute, whose repr() failed>\n"


def test_a_client_that_went_is_nobodys_error(out):
    uncaught.install()
    Doomed(ClientDisconnected())
    gc.collect()
    [line] = harmless(out.getvalue())
    assert line.startswith("DEBUG: ")


def test_the_hooks_of_others_stay(out, monkeypatch):
    def unraisable(found: object) -> None: ...

    def in_thread(failed: object) -> None: ...

    monkeypatch.setattr(sys, "unraisablehook", unraisable)
    monkeypatch.setattr(threading, "excepthook", in_thread)
    uncaught.install()
    assert (sys.unraisablehook, threading.excepthook) == (unraisable, in_thread)
