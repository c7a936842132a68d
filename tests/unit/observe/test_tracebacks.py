"""Whose frames a traceback shows, through causes, contexts and groups."""

from __future__ import annotations

from pathlib import Path

from shardserve.observe import tracebacks

PACKAGE = Path(tracebacks.__file__).parent.parent


def failing(text: str, filename: str) -> None:
    exec(compile(f"raise ValueError({text!r})", filename, "exec"))


def caught(filename: str) -> ValueError:
    try:
        failing("wrong", filename)
    except ValueError as error:
        return error
    raise AssertionError


def test_our_own_files_are_ours_and_the_demo_is_an_app():
    assert tracebacks.is_ours(str(PACKAGE / "worker" / "server.py"))
    assert tracebacks.is_ours("<frozen importlib._bootstrap>")
    assert not tracebacks.is_ours(str(PACKAGE / "demo.py"))
    assert not tracebacks.is_ours(str(PACKAGE / "middleware" / "static.py"))
    assert not tracebacks.is_ours(str(PACKAGE) + "_app.py")


def test_our_frames_are_left_out_and_the_apps_stay():
    ours = str(PACKAGE / "worker" / "server.py")
    assert ours not in tracebacks.trimmed(caught(ours))
    text = tracebacks.trimmed(caught("/srv/app.py"))
    assert "/srv/app.py" in text
    assert text.endswith("ValueError: wrong")


def test_causes_and_group_members_are_trimmed_too():
    ours = str(PACKAGE / "worker" / "server.py")
    error = ExceptionGroup("many", [caught(ours), caught("/srv/app.py")])
    error.__cause__ = caught(ours)
    text = tracebacks.trimmed(error)
    assert ours not in text
    assert text.count("/srv/app.py") == 1
    assert text.count("ValueError: wrong") == 3


def test_chain_ends_in_spite_of_a_cycle():
    first, second = ValueError(1), ValueError(2)
    first.__context__, second.__cause__ = second, first
    assert tracebacks.chain(first) == [first, second]


def test_raised_by_app_is_about_frames_below_ours():
    assert tracebacks.raised_by_app(caught("/srv/app.py"))
    assert not tracebacks.raised_by_app(ValueError("never raised"))
