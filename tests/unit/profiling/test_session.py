"""The parts of a session that need no server: its flags, its load, its table, its progress."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from shardserve.profiling.frames import Frame, Layer
from shardserve.profiling.load import Answered, Plan, lua, parsed, request_text, wish
from shardserve.profiling.programs import ProfileError
from shardserve.profiling.progress import Progress
from shardserve.profiling.server import overriding, workers_of
from shardserve.profiling.stacks import Stacks, shares
from shardserve.profiling.table import table

HERE = Path("/f")


def test_the_server_listens_where_the_profiler_says() -> None:
    flags = overriding(["main:app"], set(), HERE)
    assert flags[:4] == ["--host", "127.0.0.1", "--port", "0"]
    assert flags[-2:] == ["--workers", "1"]
    assert overriding(["main:app"], {"bind"}, HERE)[:2] == ["--bind", "127.0.0.1:0"]
    assert "--workers" not in overriding(["main:app", "--workers=3"], set(), HERE)
    assert "--pid" in overriding(["main:app"], {"pid"}, HERE)


def test_what_cannot_be_overridden_is_refused() -> None:
    with pytest.raises(ProfileError, match="sets uds"):
        overriding(["main:app"], {"uds"}, HERE)
    with pytest.raises(ProfileError, match="--port"):
        overriding(["main:app", "--port", "80"], set(), HERE)


def test_a_process_that_is_not_there() -> None:
    with pytest.raises(ProfileError, match="no process 2147483000"):
        workers_of(2147483000)


PLAN = Plan(
    paths=("/a", "/b?c=\"'"), method="POST", headers=(("X-One", "1"),), body=b"\x00\xffbody", connections=7
)


def test_both_tools_are_told_the_same() -> None:
    text = request_text(PLAN, "/a", "127.0.0.1:80")
    assert text.encode("latin-1") == (
        b"POST /a HTTP/1.1\r\nHost: 127.0.0.1:80\r\nX-One: 1\r\nContent-Length: 6\r\n\r\n\x00\xffbody"
    )
    asked = wish("https://127.0.0.1:80", PLAN)
    assert asked["requests"] == [text, request_text(PLAN, "/b?c=\"'", "127.0.0.1:80")]
    assert (asked["tls"], asked["port"], asked["connections"]) == (True, 80, 7)
    assert json.loads(json.dumps(asked)) == asked
    script = lua(PLAN)
    assert 'wrk.method = "POST"' in script
    assert '"\\047b\\063c\\061\\034\\039"' in script, "a quote cannot end the literal"


def test_a_host_of_one_s_own() -> None:
    plan = Plan(headers=(("host", "example.test"),))
    assert request_text(plan, "/", "127.0.0.1:80").count("ost: ") == 1


def test_what_the_tools_report() -> None:
    wrk = "  100 requests in 2.00s, 3MB read\n  Socket errors: connect 1, read 2, write 0, timeout 4\n"
    assert parsed(wrk) == Answered(100, 0, 7)
    assert parsed(wrk + "  Non-2xx or 3xx responses: 9\n") == Answered(100, 9, 7)
    own = {"statuses": {"200": 5, "404": 2}, "errors": {"ConnectionResetError": 1}}
    assert parsed(json.dumps(own)) == Answered(7, 2, 1)
    assert parsed("wrk was killed") is None


def test_the_table() -> None:
    stacks = Stacks()
    app = Frame("app", "main.py", Layer.APP, "your code", python=True)
    stacks.add([app], 3)
    stacks.add([app, Frame("tcp_sendmsg", "kernel", Layer.KERNEL)], 1)
    lines = [line.split() for line in table(shares(stacks)).splitlines()]
    shown = {line[0]: line[1:5] for line in lines[1:]}
    assert shown["kernel"] == ["25.0", "%", "0.0", "%"]
    assert shown["app"] == ["75.0", "%", "100.0", "%"]
    assert shown["your"][1:4] == ["75.0", "%", "100.0"]
    assert "unknown" not in shown
    many = Stacks()
    for number in range(20):
        many.add([Frame("f", "f.py", Layer.APP, f"package{number}", python=True)])
    assert "8 others" in table(shares(many))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_has_no_control_characters_without_a_terminal() -> None:
    stream = io.StringIO()
    progress = Progress(stream)
    progress.wait("warming up", 0.0)
    progress.note("one\ntwo \x1b[31m")
    progress.part("recording", 0.5)
    progress.close()
    assert stream.getvalue() == "warming up\none\ntwo \\x1b[31m\n"


@pytest.mark.parametrize("plain", [True, False])
def test_no_color_leaves_the_line_without_colour(plain: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1" if plain else "")
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    progress = Progress(stream)
    progress.part("recording", 0.5)
    progress.close()
    assert "recording [############------------]" in stream.getvalue()
    assert ("\x1b[2m" not in stream.getvalue()) is plain
    assert stream.getvalue().endswith("\r\x1b[2K")
