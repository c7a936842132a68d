"""systemd's sockets: whom they are meant for, what comes of them, what is wrong with them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from shardserve.config.addresses import FdBind, TcpBind, UnixBind
from shardserve.config.model import Config
from shardserve.errors import ListenError
from shardserve.net import activation, listeners
from shardserve.net.activation import ActivatedBind, activated
from shardserve.net.listeners import Inherited, Listeners

PID = 4711

# Runs as systemd would run us: two sockets at 3 and 4, the variables in the environment.
SERVICE = """
import json, os, socket
from shardserve.config.model import Config
from shardserve.net import listeners
made = listeners.Listeners(listeners.wanted(Config(app="m:app")), slots=2, backlog=8)
print(json.dumps({
    "urls": made.urls,
    "fds": [entry.sock.fileno() for entry in made.shared],
    "inheritable": [entry.sock.get_inheritable() for entry in made.shared],
}))
"""
SYSTEMD = """
import os, socket, sys
first, second = (socket.create_server(("127.0.0.1", 0)) for _ in range(2))
os.dup2(first.fileno(), 20); os.dup2(second.fileno(), 21)
os.dup2(20, 3); os.dup2(21, 4)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="2", LISTEN_FDNAMES="web:admin")
os.execv(sys.executable, [sys.executable, "-c", sys.argv[1]])
"""


@pytest.fixture
def numbered(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], int]]:
    """So many open descriptors in a row; the first one's number."""
    made: list[int] = []

    def opened(count: int) -> int:
        first = 200
        for fd in range(first, first + count):
            os.dup2(2, fd, inheritable=True)
            made.append(fd)
        monkeypatch.setattr(activation, "FIRST_FD", first)
        return first

    yield opened
    for fd in made:
        os.close(fd)


def env(**variables: object) -> dict[str, str]:
    return {name: str(value) for name, value in variables.items()}


def config(**settings: Any) -> Config:
    return Config(app="m:app", **settings)


def test_a_service_gets_its_sockets() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SYSTEMD, SERVICE], capture_output=True, check=True, timeout=30
    )
    found = json.loads(done.stdout)
    assert len(found["urls"]) == 2
    assert found["fds"] == [3, 4]
    assert found["inheritable"] == [False, False]


def test_all_passed_sockets_are_named_and_closed_on_exec(numbered: Callable[[int], int]) -> None:
    first = numbered(2)
    found = activated(env(LISTEN_PID=PID, LISTEN_FDS=2, LISTEN_FDNAMES="web:admin"), PID)
    assert found == [ActivatedBind(first, "web"), ActivatedBind(first + 1, "admin")]
    assert [os.get_inheritable(bind.fd) for bind in found] == [False, False]


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"LISTEN_FDS": 2},
        {"LISTEN_PID": PID},
        {"LISTEN_PID": PID, "LISTEN_FDS": 0},
        {"LISTEN_PID": PID, "LISTEN_FDS": ""},
        {"LISTEN_PID": PID + 1, "LISTEN_FDS": "what our parent got is none of our business"},
    ],
)
def test_what_is_not_meant_for_us_is_none(variables: dict[str, object]) -> None:
    assert activated(env(**variables), PID) == []


@pytest.mark.parametrize(
    ("variables", "text"),
    [
        ({"LISTEN_PID": "x", "LISTEN_FDS": 1}, 'LISTEN_PID is not a number: "x"'),
        ({"LISTEN_FDS": "two"}, 'LISTEN_FDS is not a number: "two"'),
        ({"LISTEN_FDS": "-1"}, 'LISTEN_FDS is not a number: "-1"'),
        ({"LISTEN_FDS": 3}, "LISTEN_FDS promises 3 sockets, but descriptor 202 is not open"),
        ({"LISTEN_FDS": 2, "LISTEN_FDNAMES": "web"}, "LISTEN_FDNAMES has 1 names for 2 sockets"),
    ],
)
def test_what_makes_no_sense_is_refused(
    numbered: Callable[[int], int], variables: dict[str, object], text: str
) -> None:
    numbered(2)
    with pytest.raises(ListenError, match=text):
        activated(env(**{"LISTEN_PID": PID, **variables}), PID)


@pytest.mark.parametrize(
    "settings", [{}, {"host": "::1", "port": 80}, {"uds": "/run/x"}], ids=["default", "host", "uds"]
)
def test_they_replace_host_port_and_uds(numbered: Callable[[int], int], settings: dict[str, Any]) -> None:
    first = numbered(1)
    environ = env(LISTEN_PID=PID, LISTEN_FDS=1)
    assert listeners.wanted(config(**settings), environ, PID) == [ActivatedBind(first)]
    assert listeners.activation_warning(config(**settings), environ, PID) is None


@pytest.mark.parametrize(
    ("settings", "binds", "by"),
    [
        ({"bind": (":80",)}, [TcpBind("", 80)], "bind"),
        ({"fd": 7}, [FdBind(7)], "fd"),
        ({"bind": ("fd://200", "unix:/run/x")}, [FdBind(200), UnixBind("/run/x", 0o666)], "bind"),
    ],
)
def test_an_explicit_bind_or_fd_wins_with_a_warning(
    numbered: Callable[[int], int], settings: dict[str, Any], binds: list[Any], by: str
) -> None:
    numbered(2)
    environ = env(LISTEN_PID=PID, LISTEN_FDS=2, LISTEN_FDNAMES="web:admin")
    assert listeners.wanted(config(**settings), environ, PID) == binds
    warning = listeners.activation_warning(config(**settings), environ, PID)
    assert warning is not None
    assert f"since {by} is set" in warning
    assert "activated://201/admin" in warning
    assert ("activated://200/web" in warning) == (FdBind(200) not in binds)


def test_naming_them_all_is_no_reason_to_warn(numbered: Callable[[int], int]) -> None:
    first = numbered(1)
    assert listeners.activation_warning(config(fd=first), env(LISTEN_PID=PID, LISTEN_FDS=1), PID) is None
    assert listeners.activation_warning(config(fd=first), {}, PID) is None


def test_the_environment_of_this_process_is_what_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "none")
    with pytest.raises(ListenError, match="LISTEN_FDS"):
        listeners.wanted(config())


def test_a_new_master_goes_on_with_them() -> None:
    """The variables that it inherits name the old one's pid."""
    given = socket.create_server(("127.0.0.1", 0))
    with closing(Listeners([ActivatedBind(given.detach(), "a/b")], slots=1, backlog=8)) as old:
        (entry, sock), *_ = old.handover()
        moved = Inherited.from_plain({**entry.to_plain(), "fd": os.dup(sock.fileno())})
        binds = listeners.wanted(
            config(port=80), env(LISTEN_PID=PID, LISTEN_FDS=1), PID + 1, inherited=[moved]
        )
        assert binds == [ActivatedBind(sock.fileno(), "a/b")]
        with closing(Listeners(binds, slots=1, backlog=8, inherited=[moved])) as new:
            assert new.urls == old.urls
            assert new.shared[0].sock.fileno() == moved.fd
