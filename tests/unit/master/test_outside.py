"""When the metrics address is opened and let go: at the start, and from one master to the next."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from shardserve.config.model import Config
from shardserve.errors import ListenError
from shardserve.master import scrapes
from shardserve.master.notify import Notifier
from shardserve.master.outside import METRICS_RETRY_S, Outside
from shardserve.master.upgrade import Taken


class Takeover:
    """The new master's end, with nobody at the other one."""

    pid_file_fd = None
    old_pid = 7
    open = False
    old_is_gone = False

    def ready(self) -> None: ...
    def close(self) -> None: ...


class Upgrade:
    """The old master's end, once the new one serves."""

    pid = 7
    open = False
    deadline = None

    def turn(self, now: float) -> Taken:
        return Taken()

    def close(self) -> None: ...


@pytest.fixture(autouse=True)
def told(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When somebody could have been answered."""
    found: list[float] = []
    monkeypatch.setattr(scrapes, "tell", lambda supervisor, requests, now: found.append(now))
    return found


@pytest.fixture
def taken() -> Iterator[socket.socket]:
    """A port that somebody has."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other


def outside(other: socket.socket | None = None, **how: Any) -> Outside:
    port = other.getsockname()[1] if other is not None else 0
    config = Config(app="m:app", control_socket="off", metrics=f"127.0.0.1:{port}")
    return Outside(config, notifier=Notifier(None), **how)


def tell(one: Outside, now: float) -> None:
    one.tell_figures(None, now)  # type: ignore[arg-type]


def test_a_first_master_has_it_from_the_start(told: list[float]) -> None:
    one = outside()
    try:
        assert len(one.watched()) == 1
        tell(one, 1.0)
        assert told == [1.0]
    finally:
        one.close()
    assert one.watched() == []


def test_a_first_master_does_not_start_without_it(taken: socket.socket) -> None:
    with pytest.raises(ListenError, match="metrics: cannot listen"):
        outside(taken)


def test_a_new_master_waits_until_it_serves(told: list[float]) -> None:
    one = outside(takeover=Takeover())
    try:
        tell(one, 1.0)
        assert (one.watched(), told) == ([], [])
        one.serving()
        at = one.next_deadline()
        assert at is not None
        tell(one, at - 0.01)
        assert told == []
        tell(one, at)
        assert told == [at]
        assert one.next_deadline() is None
    finally:
        one.close()


def test_a_new_master_tries_until_the_old_one_has_let_go(
    taken: socket.socket, told: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    one = outside(taken, takeover=Takeover())
    try:
        one.serving()
        for tries in range(1, 11):
            at = one.next_deadline()
            assert at is not None
            tell(one, at)
            later = one.next_deadline()
            assert later is not None
            assert later - at == pytest.approx(METRICS_RETRY_S[min(tries, len(METRICS_RETRY_S)) - 1])
        assert told == []
        errors = [one.message for one in caplog.records if one.levelno == logging.ERROR]
        assert len(errors) == 1  # once, not once a second
        assert "no metrics yet: metrics: cannot listen" in errors[0]
        taken.close()
        tell(one, later)
        assert told == [later]
        assert one.next_deadline() is None
    finally:
        one.close()


def test_an_old_master_lets_go_when_the_new_one_serves(told: list[float]) -> None:
    one = outside()
    try:
        [(fd, _)] = one.watched()
        one._upgrade = Upgrade()  # type: ignore[assignment]
        assert one.taken_over(1.0)
        assert fd not in [watched for watched, _ in one.watched()]
        tell(one, 2.0)
        assert told == []
    finally:
        one.close()
