"""One process: what it inherits, where it runs, in what words it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys

import pytest

from shardserve import control
from shardserve.errors import ControlError
from shardserve.master import affinity
from shardserve.master.spawn import cause_of, describe_exit, start_worker
from tests.helpers.master_process import until

# Reads START and answers FAILED with what it finds, so that no other program is needed.
REPORTER = """
import json, os, socket, sys
sys.path.insert(0, {root!r})
before = sorted(os.sched_getaffinity(0))
from shardserve import control
pipe = socket.socket(fileno=int(sys.argv[1]))
start = control.decode(pipe.recv(200000))
found = dict(
    cores=sorted(os.sched_getaffinity(0)), session=os.getsid(0) == os.getpid(), slot=start.slot,
    names=[socket.socket(fileno=entry.fd).getsockname()[1] for entry in start.listeners],
    stdin=os.readlink("/proc/self/fd/0"),
    fds=sorted(os.listdir("/proc/self/fd")),
)
pipe.send(control.encode(control.Failed("test", json.dumps(found))))
"""


def command() -> list[str]:
    return [sys.executable, "-c", REPORTER.format(root=os.getcwd())]


def test_a_worker_gets_its_sockets_its_core_and_nothing_else() -> None:
    core = affinity.usable().order[-1]
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as other:
        other.set_inheritable(True)  # somebody else's carelessness
        start = control.Start(3, 0, core, {}, [control.Listener(listener.fileno(), "u")])
        worker = start_worker(start, 0.0, sockets=[listener], command=command())
        until(lambda: worker.handle.poll() is not None)
        assert worker.handle.poll() == 0
        (answer,) = worker.channel.receive()
        port = listener.getsockname()[1]
        mine = {str(listener.fileno())}
    assert isinstance(answer, control.Failed)
    found = json.loads(answer.text)
    assert found["cores"] == [core]
    assert found["session"] is True
    assert found["slot"] == 3
    assert found["names"] == [port]
    assert found["stdin"] == "/dev/null"
    # The standard three, the pipe, the page, the listener, and the folder that is being listed.
    assert len(set(found["fds"]) - {"0", "1", "2"} - mine) == 3
    assert not worker.channel.open
    worker.channel.close()
    worker.page.close()


def test_a_command_that_is_not_there_leaves_nothing_open() -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="nowhere"):
        start_worker(control.Start(0, 0, None, {}), 0.0, sockets=[], command=["/nowhere"])
    assert os.listdir("/proc/self/fd") == before


def test_a_start_that_is_too_large_starts_nothing() -> None:
    start = control.Start(0, 0, None, {"headers": "x" * control.MAX_DATAGRAM_BYTES})
    with pytest.raises(ControlError):
        start_worker(start, 0.0, sockets=[], command=["/nowhere"])


@pytest.mark.parametrize(
    ("returncode", "text", "cause"),
    [
        (0, "exit code 0", "exit 0"),
        (3, "exit code 3", "exit 3"),
        (-signal.SIGSEGV, "killed by SIGSEGV", "SIGSEGV"),
        (-signal.SIGKILL, "killed by SIGKILL, perhaps for want of memory", "SIGKILL"),
        (-99, "killed by signal 99", "signal 99"),
    ],
)
def test_an_end_in_words(returncode: int, text: str, cause: str) -> None:
    assert describe_exit(returncode) == text
    assert cause_of(returncode) == cause
