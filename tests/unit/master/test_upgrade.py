"""USR2: a new master takes the listeners over, or it fails and the old one goes on. With real processes.

Time is an argument of the old side, so a deadline passes here when a test says so.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from shardserve.errors import StartupError
from shardserve.master import upgrade as module
from shardserve.master.pidfile import PidFile
from shardserve.master.upgrade import (
    KILL_AFTER_S,
    LEAVE_S,
    VARIABLE,
    Failed,
    Outcome,
    Taken,
    Takeover,
    Upgrade,
    decode,
    encode,
)
from tests.helpers.master_process import until

BEGIN = """
import json, os, select, signal, socket, subprocess, sys, time
from shardserve.master.pidfile import PidFile
from shardserve.master.upgrade import Takeover
def write(found):
    with open(sys.argv[1] + ".part", "w") as file:
        json.dump(found, file)
    os.rename(sys.argv[1] + ".part", sys.argv[1])
"""
TAKE = BEGIN + "takeover = Takeover.from_environ(os.environ)\n"
WAIT_FOR_THE_OLD = """
while not takeover.old_is_gone:
    select.select([takeover], [], [])
    takeover.turn()
"""
SERVE_ONE = """
sock = socket.socket(fileno=takeover.listeners[0]["fd"])
peer, _ = sock.accept()
peer.sendall(b"from the new master")
"""


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """Where a child writes what it finds, as its first argument says."""
    return tmp_path / "report.json"


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def start(program: str, report: Path, **rest: Any) -> Upgrade:
    options: dict[str, Any] = {"handover": [], "pid_file": None, "environ": os.environ, "now": 0.0, **rest}
    upgrade = Upgrade.start(
        options.pop("handover"),
        options.pop("pid_file"),
        command=[sys.executable, "-c", program, str(report)],
        **options,
    )
    _started.append(upgrade)
    return upgrade


def outcome_of(upgrade: Upgrade, now: float = 0.0) -> Outcome:
    found: list[Outcome] = []

    def probe() -> bool:
        outcome = upgrade.turn(now)
        if outcome is not None:
            found.append(outcome)
        return bool(found)

    until(probe, "an outcome")
    return found[0]


_started: list[Upgrade] = []


@pytest.fixture(autouse=True)
def see_them_off() -> Iterator[None]:
    """Nobody else waits for a child that took over, and a test may fail half-way."""
    yield
    while _started:
        end(_started.pop())


def end(upgrade: Upgrade) -> None:
    upgrade.close()
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        if os.waitpid(upgrade.pid, os.WNOHANG) == (0, 0):
            os.kill(upgrade.pid, signal.SIGKILL)
            os.waitpid(upgrade.pid, 0)


def read(report: Path) -> Any:
    until(report.exists, "the child's report")
    return json.loads(report.read_text())


# It takes over


def test_the_new_master_takes_over(report: Path, listener: socket.socket) -> None:
    program = TAKE + "takeover.ready()" + SERVE_ONE + WAIT_FOR_THE_OLD
    port = listener.getsockname()[1]
    upgrade = start(program, report, handover=[({"bind": "127.0.0.1:0", "url": "u", "slot": 0}, listener)])
    assert upgrade.open
    assert isinstance(outcome_of(upgrade), Taken)
    assert isinstance(upgrade.turn(1e9), Taken)  # and no deadline counts any more
    assert upgrade.deadline is None
    assert not upgrade.open
    with socket.create_connection(("127.0.0.1", port), 20) as client:
        assert client.recv(100) == b"from the new master"
    pid = upgrade.pid
    upgrade.close()  # which the new master sees
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_ready_and_a_closed_handshake(report: Path) -> None:
    """A new master need not keep it."""
    upgrade = start(TAKE + "takeover.ready()\ntakeover.close()\nwrite(1)\nsignal.pause()", report)
    read(report)
    assert isinstance(upgrade.turn(0.0), Taken)


def test_what_is_handed_over_arrives_and_nothing_else(
    report: Path, listener: socket.socket, tmp_path: Path
) -> None:
    program = (
        TAKE
        + """
fds = []
for number in os.listdir("/proc/self/fd"):
    try:
        os.fstat(int(number))
        fds.append(int(number))
    except OSError:
        pass  # the listing's own
below = subprocess.run([sys.executable, "-c", "import os; print(*os.listdir('/proc/self/fd'))"],
                       close_fds=False, capture_output=True, text=True).stdout.split()
names = [socket.socket(fileno=os.dup(entry["fd"])).getsockname()[1] for entry in takeover.listeners]
write(dict(
    fds=fds, below=below, names=names, listeners=takeover.listeners, pid_file_fd=takeover.pid_file_fd,
    old_pid=takeover.old_pid, handshake=takeover.fileno(), environ=dict(os.environ), session=os.getsid(0),
    group=os.getpgid(0), folder=os.getcwd(), parent=os.getppid(),
))
takeover.ready()
"""
        + WAIT_FOR_THE_OLD
    )
    pid_file = PidFile.claim(str(tmp_path / "server.pid"))
    environ = dict(os.environ) | {
        "MINE": "yes", "NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "5", "WATCHDOG_PID": "7",
        "LISTEN_FDS": "1", "LISTEN_PID": "7", "LISTEN_FDNAMES": "x",
    }  # fmt: skip
    with socket.create_server(("127.0.0.1", 0)) as second, socket.socket() as stranger:
        stranger.set_inheritable(True)  # somebody else's carelessness
        handover = [
            ({"bind": "127.0.0.1:0", "url": "a", "slot": 0, "shared": False}, listener),
            ({"bind": "unix:/x", "url": "b", "slot": None, "fd": 99}, second),
        ]
        upgrade = start(program, report, handover=handover, pid_file=pid_file, environ=environ)
        assert isinstance(outcome_of(upgrade), Taken)
        ports = [listener.getsockname()[1], second.getsockname()[1]]
        fds = [listener.fileno(), second.fileno()]
        assert not any(map(os.get_inheritable, [*fds, pid_file.fd]))  # not for workers of ours either
        assert handover[1][0]["fd"] == 99  # the caller's own is left as it is
    found = read(report)
    assert found["names"] == ports
    assert found["listeners"] == [
        {"bind": "127.0.0.1:0", "url": "a", "slot": 0, "shared": False, "fd": fds[0]},
        {"bind": "unix:/x", "url": "b", "slot": None, "fd": fds[1]},
    ]
    assert set(found["fds"]) == {0, 1, 2, found["handshake"], pid_file.fd, *fds}
    assert len(set(found["below"])) == 4  # the standard three and the listing: nothing goes on to workers
    assert found["pid_file_fd"] == pid_file.fd
    assert found["old_pid"] == found["parent"] == os.getpid()
    assert found["session"] == os.getsid(0)
    assert found["group"] == os.getpgid(0)
    assert found["folder"] == os.getcwd()
    assert found["environ"]["MINE"] == "yes"
    assert found["environ"]["NOTIFY_SOCKET"] == "/n"
    assert found["environ"]["WATCHDOG_USEC"] == "5"
    gone = {VARIABLE, "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"}
    assert not gone & set(found["environ"])
    pid_file.close(unlink=True)


def test_standard_streams_are_passed_on(report: Path) -> None:
    program = (
        TAKE
        + """
write([os.readlink(f"/proc/self/fd/{n}") for n in range(3)])
takeover.ready()
"""
        + WAIT_FOR_THE_OLD
    )
    upgrade = start(program, report)
    assert isinstance(outcome_of(upgrade), Taken)
    assert read(report) == [os.readlink(f"/proc/self/fd/{n}") for n in range(3)]


def test_the_pid_file_is_the_new_masters(report: Path, tmp_path: Path) -> None:
    path = str(tmp_path / "server.pid")
    program = (
        TAKE + f"held = PidFile.inherit({path!r}, takeover.pid_file_fd)\nheld.write()\ntakeover.ready()\n"
    )
    program += WAIT_FOR_THE_OLD + "write('alone')\nsignal.pause()\n"
    held = PidFile.claim(path)
    upgrade = start(program, report, pid_file=held)
    assert isinstance(outcome_of(upgrade), Taken)
    held.close(unlink=True)
    upgrade.close()
    assert read(report) == "alone"
    assert Path(path).read_text() == f"{upgrade.pid}\n"
    with pytest.raises(StartupError, match=f"pid {upgrade.pid}"):
        PidFile.claim(path)
    end(upgrade)
    PidFile.claim(path).close(unlink=True)


def test_the_command_is_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "shardserve", "app:app"])
    assert module.own_command() == [sys.executable, "-m", "shardserve", "app:app"]


def test_nobody_complains_at_the_end_of_the_old_master(report: Path) -> None:
    """Python warns of a child that still runs. This one is meant to."""
    new = TAKE + "takeover.ready()\n" + WAIT_FOR_THE_OLD + "write('alone')"
    old = f"""
import os, select, sys
from shardserve.master.upgrade import Taken, Upgrade
command = [sys.executable, "-c", {new!r}, {str(report)!r}]
upgrade = Upgrade.start([], None, command=command, environ=os.environ, now=0.0)
while upgrade.turn(0.0) is None:
    select.select([upgrade], [], [])
assert isinstance(upgrade.turn(0.0), Taken)
upgrade.close()
"""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "always", "-c", old], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert read(report) == "alone"


# It fails


def test_one_that_says_why(report: Path) -> None:
    upgrade = start(TAKE + "takeover.failed('no module named x')\nsys.exit(3)", report)
    assert outcome_of(upgrade) == Failed("no module named x")
    assert not psutil.pid_exists(upgrade.pid)  # reaped: another upgrade may be tried
    assert not upgrade.open
    upgrade.close()


def test_one_that_says_why_is_waited_for(report: Path) -> None:
    """It still has to see its own workers off. Not for ever."""
    program = (
        TAKE
        + "takeover.failed('why')\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nwrite(1)\nsignal.pause()"
    )
    upgrade = start(program, report, now=100.0)
    read(report)
    assert upgrade.turn(101.0) is None
    assert upgrade.deadline == 101.0 + LEAVE_S
    assert upgrade.turn(100.9 + LEAVE_S) is None
    assert upgrade.turn(101.0 + LEAVE_S) is None  # TERM, which it ignores
    assert upgrade.deadline == 101.0 + LEAVE_S + KILL_AFTER_S
    assert outcome_of(upgrade, 101.0 + LEAVE_S + KILL_AFTER_S) == Failed("why")
    upgrade.close()


@pytest.mark.parametrize(
    ("limit_s", "until_s"), [(0.0, 1.0 + LEAVE_S), (2.0 * LEAVE_S, 1.0 + LEAVE_S), (5.0, 5.0)]
)
def test_one_that_hangs_up_without_a_word(report: Path, limit_s: float, until_s: float) -> None:
    program = TAKE + "takeover.close()\nwrite(1)\nsignal.pause()"
    upgrade = start(program, report, now=0.0, limit_s=limit_s)
    read(report)
    assert upgrade.turn(1.0) is None
    assert not upgrade.open  # looking at it would find the same again and again
    assert upgrade.deadline == until_s
    assert outcome_of(upgrade, until_s) == Failed("the new master hung up")
    upgrade.close()


def test_the_last_words_come_before_the_death() -> None:
    """They are there when it is reaped, even if they were not a moment before."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    class Dying:
        pid, returncode = 4711, 3

        def poll(self) -> int:
            if theirs.fileno() != -1:
                theirs.send(encode(Failed("why")))
                theirs.close()
            return self.returncode

    process: Any = Dying()
    upgrade = Upgrade(process, ours, deadline=None, limit_s=0.0)
    assert upgrade.turn(0.0) == Failed("why")
    upgrade.close()


def test_one_that_dies_with_an_exit_code(report: Path) -> None:
    upgrade = start(BEGIN + "sys.exit(2)", report)
    outcome = outcome_of(upgrade)
    assert outcome == Failed("the new master ended before it was ready: exit code 2")
    upgrade.close()


def test_one_that_dies_by_a_signal(report: Path) -> None:
    upgrade = start(TAKE + "os.kill(os.getpid(), signal.SIGSEGV)", report)
    assert outcome_of(upgrade) == Failed("the new master ended before it was ready: killed by SIGSEGV")
    upgrade.close()


def test_one_that_dies_after_it_said_ready(report: Path) -> None:
    upgrade = start(TAKE + "takeover.ready()\nos._exit(9)", report)
    until(lambda: psutil.Process(upgrade.pid).status() == psutil.STATUS_ZOMBIE)
    assert outcome_of(upgrade) == Failed("the new master ended as soon as it was ready: exit code 9")
    upgrade.close()


def test_one_that_hangs(report: Path) -> None:
    upgrade = start(TAKE + "write(1)\nsignal.pause()", report, now=50.0, limit_s=600.0)
    read(report)
    assert upgrade.deadline == 650.0
    assert upgrade.turn(649.9) is None
    outcome = outcome_of(upgrade, 650.0)
    assert outcome == Failed("the new master was not ready within 600 s")
    assert not psutil.pid_exists(upgrade.pid)
    upgrade.close()


def test_one_that_hangs_and_ignores_term(report: Path) -> None:
    program = TAKE + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwrite(1)\nsignal.pause()"
    upgrade = start(program, report, limit_s=5.0)
    read(report)
    assert upgrade.turn(5.0) is None
    assert upgrade.turn(4.9 + KILL_AFTER_S) is None
    assert psutil.Process(upgrade.pid).is_running()
    assert outcome_of(upgrade, 5.0 + KILL_AFTER_S) == Failed("the new master was not ready within 5 s")
    upgrade.close()


def test_ready_after_it_was_called_off_does_not_count(report: Path) -> None:
    """It is stopping by then: somebody has to serve."""
    program = (
        TAKE
        + """
def late(*_):
    takeover.ready()
    write("ready after all")
signal.signal(signal.SIGTERM, late)
print(file=open(sys.argv[1] + ".begun", "w"))
while True:
    signal.pause()
"""
    )
    upgrade = start(program, report, limit_s=5.0)
    until(Path(f"{report}.begun").exists, "the child's handler")
    assert upgrade.turn(5.0) is None
    assert read(report) == "ready after all"
    assert upgrade.turn(5.0) is None
    assert outcome_of(upgrade, 5.0 + KILL_AFTER_S) == Failed("the new master was not ready within 5 s")
    upgrade.close()


def test_without_a_limit(report: Path) -> None:
    upgrade = start(TAKE + "signal.pause()", report, limit_s=0.0)
    assert upgrade.deadline is None
    assert upgrade.turn(1e9) is None
    upgrade.abandon(1e9)
    assert isinstance(outcome_of(upgrade, 1e9), Failed)
    upgrade.close()


def test_one_that_is_abandoned(report: Path) -> None:
    """The old master is told to stop meanwhile: then the server is to stop, not to go on in the new one."""
    program = (
        TAKE
        + """
def stop(*_):
    write("told to stop")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
takeover.ready()
os.close(sys.stdin.fileno())
time.sleep(60)
"""
    )
    upgrade = start(program, report)
    until(lambda: psutil.Process(upgrade.pid).status() == psutil.STATUS_SLEEPING and _is_readable(upgrade))
    upgrade.abandon(7.0)
    upgrade.abandon(8.0)  # once is enough
    assert upgrade.deadline == 7.0 + KILL_AFTER_S
    assert outcome_of(upgrade, 8.0) == Failed("the old master was told to stop")
    assert read(report) == "told to stop"
    upgrade.close()


def test_abandoning_the_dead_is_nothing(report: Path) -> None:
    upgrade = start(BEGIN + "sys.exit(2)", report)
    outcome = outcome_of(upgrade)
    upgrade.abandon(1.0)
    assert upgrade.turn(1.0) == outcome
    assert upgrade.deadline is None
    upgrade.close()


def test_a_message_that_is_none_is_ignored(report: Path, caplog: pytest.LogCaptureFixture) -> None:
    program = (
        TAKE
        + "socket.socket(fileno=os.dup(takeover.fileno())).send(b'?')\ntakeover.ready()\n"
        + WAIT_FOR_THE_OLD
    )
    upgrade = start(program, report)
    assert isinstance(outcome_of(upgrade), Taken)
    assert "ignored" in caplog.text


def test_a_command_that_is_not_there(listener: socket.socket) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(StartupError, match=r"/nowhere/python.*No such file"):
        Upgrade.start(
            [({"slot": 0}, listener)], None, command=["/nowhere/python"], environ=os.environ, now=0.0
        )
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_the_first_process_of_a_container_cannot_be_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel ends the container with it, and so the new master."""
    monkeypatch.setattr(module.os, "getpid", lambda: 1)
    with pytest.raises(StartupError, match="process 1"):
        Upgrade.start([], None, command=[sys.executable, "-c", ""], environ={}, now=0.0)


def test_closing_lets_a_running_one_go_on(report: Path) -> None:
    """The old master dies of a mistake of its own: better a new master than none."""
    upgrade = start(TAKE + WAIT_FOR_THE_OLD + "write('alone')\nsignal.pause()", report)
    upgrade.close()
    upgrade.close()
    assert read(report) == "alone"


# The old master dies


def test_a_new_master_goes_on_alone(report: Path, listener: socket.socket) -> None:
    new = TAKE + WAIT_FOR_THE_OLD + "takeover.turn()\ntakeover.ready()\nwrite(os.getpid())" + SERVE_ONE
    old = f"""
import os, signal, socket, sys
from shardserve.master.upgrade import Upgrade
listener = socket.socket(fileno={listener.fileno()})
Upgrade.start([({{"slot": 0}}, listener)], None, command=[sys.executable, "-c", {new!r}, {str(report)!r}],
              environ=os.environ, now=0.0)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", old], pass_fds=[listener.fileno()], timeout=60)
    assert done.returncode == -signal.SIGKILL
    pid = read(report)
    address = listener.getsockname()
    listener.close()
    with socket.create_connection(address, 20) as client:
        assert client.recv(100) == b"from the new master"
    until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


def taken_over() -> tuple[Takeover, socket.socket]:
    """A Takeover in this very process, and the old master's end."""
    old, new = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    facts = {"fd": new.detach(), "pid": 4711, "pid_file_fd": None, "listeners": []}
    takeover = Takeover.from_environ({VARIABLE: json.dumps(facts)})
    assert takeover is not None
    return takeover, old


def test_the_end_of_the_old_master_is_noticed_once(caplog: pytest.LogCaptureFixture) -> None:
    takeover, old = taken_over()
    with old:
        takeover.turn()
        assert takeover.open
        assert not takeover.old_is_gone
    takeover.turn()
    takeover.turn()
    assert takeover.old_is_gone
    assert not takeover.open
    assert caplog.text.count("4711") == 1
    takeover.ready()  # no one to tell
    takeover.failed("x")
    takeover.close()
    takeover.close()


def test_ready_is_said_once() -> None:
    takeover, old = taken_over()
    takeover.ready()
    takeover.ready()
    takeover.failed("too late: it drains already")
    takeover.close()
    with old:
        assert decode(old.recv(1000)) == Taken()
        assert old.recv(1000) == b""


def test_a_long_reason_is_cut() -> None:
    takeover, old = taken_over()
    takeover.failed("\udcffx" * 1_000_000)
    takeover.close()
    with old:
        message = decode(old.recv(1_000_000))
    assert isinstance(message, Failed)
    assert 1000 < len(message.text) < 100_000


# The variable


def test_without_the_variable_there_is_no_takeover() -> None:
    assert Takeover.from_environ({}) is None
    environ = {VARIABLE: "", "PATH": "/bin"}
    assert Takeover.from_environ(environ) is None
    assert environ == {"PATH": "/bin"}


GOOD: dict[str, Any] = {"fd": 0, "pid": 1, "pid_file_fd": None, "listeners": []}


@pytest.mark.parametrize(
    "text",
    [
        "?",
        "[]",
        "1",
        "{}",
        json.dumps(GOOD | {"fd": "3"}),
        json.dumps(GOOD | {"fd": True}),
        json.dumps(GOOD | {"fd": -1}),
        json.dumps(GOOD | {"fd": 99999}),
        json.dumps(GOOD | {"pid": None}),
        json.dumps(GOOD | {"pid_file_fd": 99999}),
        json.dumps(GOOD | {"listeners": {}}),
        json.dumps(GOOD | {"listeners": [1]}),
        json.dumps(GOOD | {"listeners": ["fd"]}),
        json.dumps(GOOD | {"listeners": [{"slot": 0}]}),
        json.dumps(GOOD | {"listeners": [{"fd": None}]}),
        json.dumps(GOOD | {"listeners": [{"fd": 2**70}]}),
    ],
)
def test_a_variable_that_no_master_wrote(text: str) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        text = text.replace('"fd": 0', f'"fd": {theirs.fileno()}')
        environ = {VARIABLE: text}
        with pytest.raises(StartupError, match=VARIABLE):
            Takeover.from_environ(environ)
        assert environ == {}
        theirs.send(b"still open")


def test_a_handshake_that_is_something_else(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file, socket.socket() as tcp:
        for fd in (file.fileno(), tcp.fileno()):
            with pytest.raises(StartupError, match=VARIABLE):
                Takeover.from_environ({VARIABLE: json.dumps(GOOD | {"fd": fd})})
        assert os.fstat(tcp.fileno())
        assert os.fstat(file.fileno())


# Messages


@pytest.mark.parametrize("message", [Taken(), Failed("why"), Failed("")])
def test_a_message_is_what_it_was(message: Outcome) -> None:
    assert decode(encode(message)) == message


@pytest.mark.parametrize(
    "data", [b"", b"?", b"[]", b'{"type":"X"}', b'{"type":"FAILED"}', b"\xff", b'{"type":[]}']
)
def test_what_is_no_message(data: bytes) -> None:
    assert decode(data) is None


def _is_readable(upgrade: Upgrade) -> bool:
    return bool(select.select([upgrade], [], [], 0)[0])
