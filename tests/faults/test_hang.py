"""An event loop that does not turn: it is told once and why, killed at the limit, and never by mistake."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from pathlib import Path

from tests.helpers.load import Load, fresh
from tests.helpers.master_process import until
from tests.helpers.queues import Asking, ask, read_all, restarts, settled, succeeded, workers
from tests.helpers.server import Ended, Serve, ServerProcess

# The one line that a stall is told with, in either of its forms.
STALL = r"^WARNING:  worker \d \(pid \d+\): its event loop (?:has not turned|did not turn) for .*"
# A verdict that needs no fault of ours: the machine that runs the tests may be busy.
BY_HOST = "starved of CPU by other processes"
FRAME = r'File "\S*faulty\.py", line \d+ in {}$'


def stalls(server: ServerProcess) -> list[str]:
    """The lines that tell of stalls, but for those that the machine is to blame for."""
    return [line for line in re.findall(STALL, server.log(), re.MULTILINE) if BY_HOST not in line]


def connect_many(port: int) -> list[socket.socket]:
    """Twenty connections, dealt out by the kernel: about half of them wait for the worker that hangs."""
    return [ask(port) for _ in range(20)]


def verdict_of(server: ServerProcess, path: str) -> str:
    """Stall a worker; what is said of it, its stack included. It must be said once."""
    before, since = len(stalls(server)), len(server.log())
    with Asking(server.port, path) as asking:
        pass
    assert asking.answer.startswith(b"HTTP/1.1 200 ")
    text = server.saw(STALL, since=since)
    worker = re.search(r"worker (\d) ", text)
    assert worker
    # Its loop turns again: whatever else there were to say of this stall has been said by now.
    beats_again(server, int(worker[1]))
    assert len(stalls(server)) == before + (BY_HOST not in text), server.log(since)
    return server.log(since)


def beats_again(server: ServerProcess, slot: int) -> None:
    """Wait until this slot's loop ticks in time."""

    def lag_ms() -> float:
        return next(float(one["loop_lag_ms"]) for one in workers(server) if one["slot"] == slot)

    until(lambda: lag_ms() < 250, "a tick in time")


def test_a_stall_is_told_once_with_its_stack_and_its_reason(serve: Serve) -> None:
    flags = ("--workers", "2", "--loop-lag-warn", "0.3", "--timeout-worker-healthcheck", "60")
    server = serve("faulty:app", *flags, "--no-access-log")
    before = server.pids()
    text = verdict_of(server, "/block?1.5")
    assert "waiting in a blocking call" in text
    assert re.search(FRAME.format("block"), text, re.MULTILINE)
    text = until_verdict(server, "/spin?1.5", "busy (a computation or an endless loop)")
    assert re.search(FRAME.format("spin"), text, re.MULTILINE)
    print(f"{len(stalls(server))} stalls, each told once")
    assert max(one["loop_lag_max_ms"] for one in workers(server)) >= 1000  # of 1.5 s at least 1.25 s
    assert server.pids() == before
    assert restarts(server) == {}


def until_verdict(server: ServerProcess, path: str, words: str) -> str:
    """Stall until this is said, and not that the machine is busy."""
    for _ in range(5):
        text = verdict_of(server, path)
        if words in text:
            return text
        assert BY_HOST in text, text
    raise AssertionError(f"never said {words!r}")


def numbers_for(seconds: float) -> int:
    """How many numbers sum() adds up in so long, on this machine as it is now."""
    sample = 2_000_000
    started = time.thread_time()
    sum(range(sample))
    return int(sample * seconds / (time.thread_time() - started))


def test_a_thread_that_holds_the_gil_is_named(serve: Serve) -> None:
    flags = ("--workers", "1", "--loop-lag-warn", "0.3", "--timeout-worker-healthcheck", "60")
    server = serve("faulty:app", *flags, "--no-access-log")
    text = ""
    for _ in range(5):  # as in until_verdict
        since = len(server.log())
        assert read_all(ask(server.port, f"/hog?{numbers_for(2.0)}")).startswith(b"HTTP/1.1 200 ")
        text = server.saw(STALL, since=since)
        assert succeeded([ask(server.port)]) == 1  # it is over
        if "starved by thread" in text:
            break
        assert BY_HOST in text, text
    assert re.search(r"it (?:is|was) starved by thread \S+ \(tid \d+\), which holds the GIL", text), text
    text = server.log(since)
    assert re.search(r"  Thread \S+ \(tid \d+\):", text), text
    assert re.search(FRAME.format("<lambda>"), text, re.MULTILINE), text
    assert restarts(server) == {}


def test_a_loop_that_hangs_for_good_is_killed_and_its_clients_are_served(serve: Serve) -> None:
    flags = ("--workers", "2", "--loop-lag-warn", "0.3", "--timeout-worker-healthcheck", "2")
    server = serve("faulty:app", *flags, "--no-access-log", quiet=False)
    with Asking(server.port, "/block?1000") as blocked:
        found = re.search(r"worker (\d) \(pid (\d+)\): its event loop has not", server.saw("has not turned"))
        assert found
        waiting = connect_many(server.port)
        answered = succeeded(waiting)
    print(f"{len(waiting)} connections, {len(waiting) - answered} lost")
    assert answered == len(waiting)
    assert blocked.answer == b""
    slot, pid = found[1], found[2]
    log = server.saw(rf"worker {slot} \(pid {pid}\) ended \(killed by the master: hung\)")
    assert len(stalls(server)) == 2  # the warning, and the last words
    assert re.search(
        rf"worker {slot} \(pid {pid}\): its event loop has not turned for \d+\.\d s: it is waiting in a "
        r"blocking call\. It is killed \(--timeout-worker-healthcheck\)\.",
        log,
    )
    dump = log[log.index("its Python stack at the end") :]
    assert re.search(FRAME.format("block"), dump, re.MULTILINE)
    settled(server, 2)
    assert restarts(server) == {"hung": 1}
    assert int(pid) not in server.pids()


def test_a_gil_that_is_never_given_up_is_no_way_to_stay(serve: Serve) -> None:
    """No Python code runs in this worker any more, not even that of its other threads."""
    flags = ("--workers", "2", "--loop-lag-warn", "0", "--timeout-worker-healthcheck", "1")
    server = serve("faulty:app", *flags, "--no-access-log", quiet=False)
    with Asking(server.port, f"/hog?{10**15}"):
        waiting = connect_many(server.port)
        assert succeeded(waiting) == len(waiting)
    log = server.saw(r"ended \(killed by the master: hung\)")
    assert re.search(FRAME.format("<lambda>"), log[log.index("its Python stack at the end") :], re.MULTILINE)
    settled(server, 2)
    assert restarts(server) == {"hung": 1}


def test_a_stopped_worker_is_killed_and_named_as_stopped(serve: Serve) -> None:
    flags = ("--workers", "2", "--loop-lag-warn", "0.3", "--timeout-worker-healthcheck", "1")
    server = serve("faulty:app", *flags, "--no-access-log", quiet=False)
    victim = fresh(server.port)["pid"]
    os.kill(victim, signal.SIGSTOP)
    waiting = connect_many(server.port)
    assert succeeded(waiting) == len(waiting)
    server.saw(rf"worker \d \(pid {victim}\): its event loop .* stopped \(SIGSTOP or a debugger\)")
    settled(server, 2)
    assert restarts(server) == {"hung": 1}
    assert victim not in server.pids()


def test_a_long_import_is_no_hang(serve: Serve) -> None:
    """The limit of a start is another one, also at a reload, with the load on the old workers."""
    flags = ("--workers", "2", "--timeout-worker-healthcheck", "1", "--reload-parallel", "2")
    server = serve("faulty:app", *flags, "--no-access-log", env={"IMPORT_S": "1.5"})
    with Load.mixed(server.port, pause_s=0.02) as load:
        server.ctl("reload")
    assert load.failed == []
    assert restarts(server) == {"reload": 2}
    assert "killed" not in server.log()


STARTUP_HANGS = re.compile(
    r"worker \d \(pid \d+\): not ready \d+ s after its start: it is in lifespan startup\. It is killed\. "
    r"If it needs longer, raise --timeout-worker-startup\.\n(?:.*\n)*?.*faulty\.py\", line \d+ in lifespan\n"
)


def test_a_startup_that_hangs_is_killed_and_ends_the_first_start(tmp_path: Path) -> None:
    flags = ("--workers", "2", "--timeout-worker-startup", "2")
    ended = Ended(tmp_path, "faulty:app", *flags, env={"STARTUP_HANGS": str(tmp_path / "nothing")})
    assert ended.code == 3
    assert STARTUP_HANGS.search(ended.text), ended.text
    assert re.search(r"CRITICAL: the app did not start \(start\): worker \d .* slow start", ended.text)
    assert ended.left == []


def test_a_startup_that_hangs_at_a_reload_leaves_the_old_one(serve: Serve, notes: Path) -> None:
    go = notes / "go"
    go.touch()
    flags = ("--workers", "2", "--timeout-worker-startup", "3", "--no-access-log")
    server = serve("faulty:app", *flags, env={"STARTUP_HANGS": str(go)}, quiet=False)
    before = server.pids()
    go.unlink()
    with Load.mixed(server.port, pause_s=0.02) as load:
        refused = server.run_ctl("reload")
        settled(server, 2)
        load.goes_on()
    assert refused.returncode == 1
    assert "slow start" in refused.stderr
    assert load.failed == []
    assert server.pids() == before
    assert STARTUP_HANGS.search(server.log())
    assert "reload abandoned; not reloaded: worker 0, 1" in server.log()


def test_a_master_that_was_stopped_blames_nobody(serve: Serve) -> None:
    """Alone, and then with its workers, as when a whole container is frozen: hearts stood still, unseen."""
    flags = ("--workers", "2", "--timeout-worker-healthcheck", "1", "--loop-lag-warn", "0.7")
    server = serve("faulty:app", *flags, "--no-access-log")
    before = server.pids()
    for stopped in ([server.pid], [server.pid, *before]):
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        at = time.monotonic()
        until(lambda at=at: time.monotonic() - at > 1.5, "more than the limit")
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
            settled(server, 2)  # it answers ctl at the end of a turn: it has looked before the others go on
        for _ in range(3):
            assert succeeded(connect_many(server.port)) == 20
    assert server.pids() == before
    assert restarts(server) == {}
    assert stalls(server) == []
