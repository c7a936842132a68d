"""The table of servers, and what is said about one that cannot run."""

from __future__ import annotations

import string
from dataclasses import replace
from pathlib import Path

import pytest

from perf import peer_env
from perf.peer_env import Interpreters, missing
from perf.peers import BASELINE, BY_NAME, SERVERS, Home, Server, requirements
from perf.scenarios import BY_NAME as SCENARIOS
from perf.scenarios import HTTP2, WEBSOCKET

FIELDS = {"python", "app", "port", "workers", "floor", "ws_floor", "h2_floor", "node", "nghttpd", "perf"}
FIELDS |= {"folder", "answer"}


@pytest.mark.parametrize("server", SERVERS, ids=lambda server: server.name)
def test_rows_are_whole(server: Server) -> None:
    fields = {name for part in server.argv for _, name, _, _ in string.Formatter().parse(part) if name}
    assert fields <= FIELDS
    assert "port" in fields
    assert ("python" in fields) == (server.home is not Home.NONE)
    assert bool(server.packages) == (server.home is Home.PEERS)
    assert (server.scenarios or set()) <= SCENARIOS.keys()
    assert server.static is None or any("{static}" in part for part in server.static)
    assert server.tls is None or {"{cert}", "{key}"} <= set(server.tls)
    assert server.http2_tls is None or {"{cert}", "{key}"} <= set(server.http2_tls)
    # A row that names an HTTP/2 scenario speaks HTTP/2, with TLS where the scenario has it.
    assert all(server.protocol(SCENARIOS[name]) is not None for name in HTTP2 & (server.scenarios or set()))


def test_names_are_unique_and_the_baseline_is_among_them() -> None:
    assert len(BY_NAME) == len(SERVERS)
    assert BY_NAME[BASELINE].by_default


def test_the_websocket_scenarios_have_the_baseline_and_the_yardsticks() -> None:
    taking_part = {row.name for row in SERVERS if row.scenarios is None or row.scenarios & WEBSOCKET}
    assert {"ws-floor", "picows", "shardserve", BASELINE, "h2corn", "granian-ws"} <= taking_part
    assert not {"floor", "node", "freastal", "fastpysgi", "granian"} & taking_part


def test_the_http2_scenarios_have_the_peers_and_the_floors() -> None:
    def speaking(name: str) -> set[str]:
        rows = [row for row in SERVERS if row.scenarios is None or name in row.scenarios]
        return {row.name for row in rows if row.by_default and row.protocol(SCENARIOS[name]) is not None}

    peers = {"shardserve", BASELINE, "h2corn", "granian", "hypercorn", "gunicorn", "nghttpd"}
    assert speaking("h2-plain") == speaking("h2-1") == peers | {"h2-floor"}
    assert speaking("h2-tls") == speaking("h2-post-1k") == peers


def test_what_is_added_for_a_protocol_is_that_of_the_scenario() -> None:
    row = BY_NAME["granian"]
    assert row.protocol(SCENARIOS["plain"]) == ()
    assert row.protocol(SCENARIOS["tls"]) == row.tls
    assert row.protocol(SCENARIOS["h2-plain"]) == row.http2 == ("--http", "2")
    assert row.protocol(SCENARIOS["h2-tls"]) == row.http2_tls == (*("--http", "2"), *(row.tls or ()))
    assert BY_NAME["freastal"].protocol(SCENARIOS["h2-plain"]) is None
    assert BY_NAME["floor"].protocol(SCENARIOS["tls"]) is None


def test_every_peer_of_the_comparison_is_there_and_runs_by_default() -> None:
    wanted = {"floor", "shardserve", "uvicorn", "granian", "hypercorn", "gunicorn", "freastal", "fastpysgi"}
    wanted |= {"h2corn", "node"}
    assert wanted <= {server.name for server in SERVERS if server.by_default}
    assert {"shardserve-accesslog", "shardserve-metrics"} <= BY_NAME.keys()


def test_every_asgi_peer_can_have_workers() -> None:
    scaling = {server.name for server in SERVERS if server.scales}
    assert {"shardserve", "uvicorn", "granian", "hypercorn", "gunicorn", "freastal", "fastpysgi"} <= scaling
    assert not {"floor", "ws-floor", "picows", "node"} & scaling


def test_a_row_known_to_be_broken_is_missing_for_that_reason(tmp_path: Path) -> None:
    server = replace(BY_NAME["shardserve"], broken="it does not build: error: x")
    assert missing(server, Interpreters.find(tmp_path)) == "it does not build: error: x"


def test_every_python_server_listens_on_loopback_only() -> None:
    for server in SERVERS:
        line = " ".join(server.argv)
        assert "127.0.0.1" in line or "perf.launch" in line or server.home is Home.NONE


def test_requirements_name_each_package_once() -> None:
    names = requirements()
    assert len(set(names)) == len(names)
    assert {"uvicorn", "granian", "fastapi", "django"} <= set(names)


def test_without_the_peers_environment_the_line_names_the_package_and_the_command(tmp_path: Path) -> None:
    interpreters = Interpreters.find(tmp_path / "none")
    why = missing(BY_NAME["granian"], interpreters)
    assert why is not None
    assert "package granian is not installed" in why
    assert "python -m perf peers install" in why


def test_a_package_missing_from_the_environment_is_named(tmp_path: Path) -> None:
    python = tmp_path / "python"
    interpreters = Interpreters(ours=python, peers=python, _versions={python: {"granian": "1.0"}})
    assert "package uvloop is not installed" in (missing(BY_NAME["granian"], interpreters) or "")
    interpreters.versions(BY_NAME["granian"])["uvloop"] = "1.0"
    assert missing(BY_NAME["granian"], interpreters) is None
    assert interpreters.version(BY_NAME["granian"]) == "1.0"


def test_a_scenario_can_need_a_package_too(tmp_path: Path) -> None:
    python = tmp_path / "python"
    interpreters = Interpreters(ours=python, peers=None, _versions={python: {}})
    why = missing(BY_NAME["shardserve"], interpreters, ("fastapi",))
    assert "`pip install fastapi`" in (why or "")


def test_a_program_that_is_not_on_path_is_named(tmp_path: Path) -> None:
    server = replace(BY_NAME["floor"], program="no-such-compiler")
    assert "no-such-compiler is not on PATH; install it" in (
        missing(server, Interpreters.find(tmp_path)) or ""
    )


def test_one_package_that_fails_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.touch()
    monkeypatch.setattr(
        peer_env, "_pip_install", lambda python, name: "no wheel" if name == "granian" else None
    )
    said: list[str] = []
    assert peer_env.install(said.append, tmp_path) == ["granian"]
    assert "granian: FAILED: no wheel" in said
    assert len(said) == len(requirements())
