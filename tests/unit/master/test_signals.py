"""Signals arrive as data, in order, and leave no trace behind."""

from __future__ import annotations

import os
import select
import signal

from shardserve.master.signals import HANDLED, Signals


def test_signals_arrive_in_order_and_wake_the_selector() -> None:
    with Signals() as signals:
        assert signals.take() == []
        for number in (signal.SIGHUP, signal.SIGTTIN, signal.SIGHUP):
            os.kill(os.getpid(), number)
        assert select.select([signals], [], [], 5)[0]
        assert signals.take() == [signal.SIGHUP, signal.SIGTTIN, signal.SIGHUP]
        assert signals.take() == []


def test_everything_is_put_back() -> None:
    handlers = [signal.getsignal(number) for number in HANDLED]
    open_fds = os.listdir("/proc/self/fd")
    with Signals():
        assert signal.getsignal(signal.SIGINT) is not handlers[HANDLED.index(signal.SIGINT)]
    assert [signal.getsignal(number) for number in HANDLED] == handlers
    assert os.listdir("/proc/self/fd") == open_fds
    assert signal.set_wakeup_fd(-1) == -1
