"""wrk's script and output, without running wrk."""

from __future__ import annotations

import pytest

from perf import wrk
from perf.load import RESULT_MARK, Latency, LoadError
from perf.scenarios import BY_NAME, Scenario

RESULT = (
    '{"requests":61320,"duration_us":1002341,"bytes":9013040,'
    '"connect":0,"read":2,"write":0,"status":0,"timeout":5,"p50_us":512.0,"p90_us":700.0,"p99_us":1840.0,"p999_us":8000.0,"max_us":9000.0}'
)
OUTPUT = f"Running 1s test @ http://127.0.0.1:1/\n  1 threads\n{RESULT_MARK}{RESULT}\n"


def test_parse_reads_the_done_line() -> None:
    load = wrk.parse(OUTPUT)
    assert (load.requests, load.duration_us, load.response_bytes) == (61320, 1002341, 9013040)
    assert load.latency == Latency(512.0, 700.0, 1840.0, 8000.0, 9000.0)


def test_parse_keeps_only_the_errors_that_happened() -> None:
    assert wrk.parse(OUTPUT).errors == {"read": 2, "timeout": 5}


def test_parse_leaves_out_latency_of_pipelined_requests() -> None:
    load = wrk.parse(OUTPUT, pipelined=True)
    assert load.latency == Latency(None, None, None, None, None)
    assert load.requests == 61320


@pytest.mark.parametrize(
    ("output", "last"), [("", "nothing"), ("a\nunable to connect\n", "unable to connect")]
)
def test_parse_without_a_result_says_wrks_last_words(output: str, last: str) -> None:
    with pytest.raises(LoadError, match=last):
        wrk.parse(output)


def test_script_of_a_plain_request_defines_no_request_function() -> None:
    script = wrk.script(BY_NAME["plain"])
    assert "request = function" not in script
    assert "done = function" in script


def test_script_pipelines_whole_batches() -> None:
    assert "string.rep(one, 16)" in wrk.script(BY_NAME["pipelined-16"])


def test_script_quotes_what_lua_would_read_otherwise() -> None:
    odd = Scenario(
        name="odd", what="", app="", expect_body=b"", headers=(("x", 'a"b\\c'),), body=b"\x000\n\xff"
    )
    script = wrk.script(odd)
    assert 'wrk.headers["x"] = "a\\034b\\092c"' in script
    assert 'wrk.body = "\\0000\\010\\255"' in script


def test_script_does_not_spell_out_a_mebibyte() -> None:
    script = wrk.script(BY_NAME["post-1m"])
    assert 'wrk.body = string.rep("p", 1048576)' in script
    assert len(script) < 2000


def test_wrk_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(LoadError, match="install the Debian package wrk"):
        wrk.Wrk.version()
