"""Whose frames a traceback shows, through causes, contexts and groups; and what of an exception's text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

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


# What an exception says may be what a client sent

# Each of these, raw, would be obeyed by a terminal or end a line somewhere.
OBEYED = [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"]
OBEYED += ["\u2028", "\u2029", "\u200e", "\u202e", "\u2066", "\ufeff", "\ud800", "\udcff", "\U000e0001"]
FORGED = "INFO:     [worker 0, pid 7] forged"
EVIL = f'x\r\n{FORGED}\x1b[31m\n\n  indented\x9b\n"{FORGED}'


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def last_lines(error: BaseException) -> list[str]:
    """What is behind the frames."""
    lines = tracebacks.trimmed(error).split("\n")
    at = max(number for number, line in enumerate(lines) if line.startswith("  File"))
    return [line for line in lines[at + 1 :] if line.strip(" ^~") and "raise error" not in line]


class ERROR(Exception):
    """A class of an app may have the name of a level."""


class Mute(Exception):
    def __str__(self) -> str:
        raise ValueError(EVIL)


class Nobody(Exception):
    def __bool__(self) -> bool:
        raise ValueError(EVIL)


class Unreadable(Exception):
    def __getattribute__(self, name: str) -> object:
        raise ValueError(EVIL)


@pytest.mark.parametrize("char", OBEYED, ids=lambda char: f"{ord(char):x}")
def test_no_control_gets_out(char):
    error = raised(ValueError(f"a{char}b"))
    error.add_note(f"c{char}d")
    text = tracebacks.trimmed(error)
    assert char not in text
    shown = tracebacks.escaped(char)
    assert shown.isascii()
    assert shown.encode().decode("unicode_escape") == char
    assert text.endswith(f"\nValueError: a{shown}b\n    c{shown}d")


def test_text_that_prints_stays():
    text = "tab\tü€漢 \N{GRINNING FACE} \\x1b"
    assert tracebacks.trimmed(ValueError(text)) == f"ValueError: {text}"


def test_a_message_of_several_lines_is_indented_behind_its_first():
    error = raised(ValueError("2 errors\nfield\n  too short\n\nother\n"))
    assert last_lines(error) == [
        "ValueError: 2 errors",
        "    field",
        "      too short",
        "    other",
    ]


def test_notes_are_indented():
    error = raised(ValueError("x"))
    error.add_note("first\n  more")
    error.add_note(FORGED)
    assert last_lines(error) == ["ValueError: x", "    first", "      more", f"    {FORGED}"]


@pytest.mark.parametrize(
    ("notes", "shown"),
    [
        ("one\ntwo", ["one", "two"]),
        (b"\x1b", ["b'\\x1b'"]),
        ([Mute(), 3], ["<note str() failed>", "3"]),
        ((), []),
    ],
)
def test_notes_may_be_anything(notes, shown):
    error = raised(ValueError("x"))
    error.__notes__ = notes
    assert last_lines(error) == ["ValueError: x", *(f"    {line}" for line in shown)]


def compiling(source: str) -> BaseException:
    try:
        compile(source, f"page\n{FORGED}", "exec")
    except SyntaxError as error:
        return error
    raise AssertionError


def in_a_template() -> BaseException:
    """Its file and its function are named by somebody else."""

    def fail() -> None:
        raise ValueError("x")

    code = fail.__code__.replace(co_filename=f"page\n{FORGED}\x1b", co_name=f"block\n{FORGED}\x1b")
    try:
        exec(code)
    except ValueError as error:
        return error
    raise AssertionError


def with_cause(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = raised(cause)
    return raised(error)


def with_context(error: BaseException, context: BaseException) -> BaseException:
    error.__context__ = raised(context)
    return raised(error)


def with_note(error: BaseException, note: str) -> BaseException:
    error.add_note(note)
    return raised(error)


def nested(error: BaseException, depth: int) -> BaseException:
    for _ in range(depth):
        error = ExceptionGroup(EVIL, [raised(error), ValueError(EVIL)])
    return raised(error)


EVIL_ERRORS = {
    "message": lambda: raised(ValueError(EVIL)),
    "key": lambda: raised(KeyError(EVIL)),
    "bytes": lambda: raised(ValueError(EVIL.encode("latin-1"))),
    "several arguments": lambda: raised(ValueError(EVIL, EVIL)),
    "nothing but a line": lambda: raised(ValueError(f"\n{FORGED}")),
    "note": lambda: with_note(ValueError("x"), FORGED),
    "evil note": lambda: with_note(ValueError("x"), EVIL),
    "cause": lambda: with_cause(ValueError("x"), ValueError(EVIL)),
    "context": lambda: with_context(ValueError("x"), ValueError(EVIL)),
    "group": lambda: nested(ValueError(EVIL), 1),
    "groups in groups": lambda: nested(ValueError(EVIL), 5),
    "more groups than are shown": lambda: nested(ValueError(EVIL), 30),
    "group with causes": lambda: with_cause(nested(with_note(ValueError(EVIL), EVIL), 3), KeyError(EVIL)),
    "syntax": lambda: raised(SyntaxError(EVIL, (EVIL, 2, 3, EVIL))),
    "syntax without a line": lambda: raised(SyntaxError(EVIL, (EVIL, None, None, None))),
    "syntax of odd types": lambda: raised(SyntaxError(EVIL, (EVIL, EVIL, EVIL, 5))),
    "compiled": lambda: compiling(f"x = 1\x1b\n{FORGED}"),
    "frames": in_a_template,
    "a class named as a level": lambda: raised(ERROR(f"    {FORGED}")),
    "a class of any name": lambda: raised(type(EVIL, (Exception,), {})(EVIL)),
    "a class of any module": lambda: raised(type("E", (Exception,), {"__module__": FORGED})(EVIL)),
    "mute": lambda: raised(Mute()),
    "mute in a group": lambda: nested(Mute(), 2),
    "no truth": lambda: raised(Nobody()),
    "unreadable": lambda: raised(Unreadable()),
}


@pytest.mark.parametrize("name", EVIL_ERRORS)
def test_nobody_forges_a_line(name):
    text = tracebacks.trimmed(EVIL_ERRORS[name]())
    assert text
    for line in text.split("\n"):
        assert all(char.isprintable() or char == "\t" for char in line)
        assert not re.match("[A-Z]+: ", line)
        assert not line.startswith("[worker")


def test_what_fails_when_it_is_shown_is_named():
    assert tracebacks.trimmed(raised(Nobody())) == "Nobody, whose traceback cannot be shown (ValueError)"


def test_the_place_of_a_mute_exception_is_shown():
    text = tracebacks.trimmed(raised(Mute()))
    assert "in raised" in text
    assert text.endswith("Mute: <exception str() failed>")


def test_a_message_has_an_end():
    for error in (ValueError("\0" * 10_000_000), with_note(ValueError("x"), "\0" * 10_000_000)):
        text = tracebacks.trimmed(error)
        assert re.search(r"\.\.\. and 99836\d\d characters more$", text)
        assert len(text) < 100_000
