"""Workers that are replaced because they have served enough: one at a time, and nobody notices."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from tests.helpers.load import Load, fresh
from tests.helpers.master_process import until
from tests.helpers.queues import restarts, settled
from tests.helpers.server import Serve, ServerProcess

# What the log says of a replacement, in the order of its life.
BEGINS = re.compile(r"worker (\d) \(pid (\d+)\) is replaced: (.*)")
READY = re.compile(r"worker (\d) \(pid (\d+)\) is ready")
DRAINED = re.compile(r"worker (\d) \(pid (\d+)\) drained")


def replacements(server: ServerProcess) -> int:
    """How many have ended: each before the next began, and each worker drained once its heir was ready."""
    log = server.log()
    slot, old, done = "", "", 0
    ready_for: set[str] = set()
    for line in log[log.index("ready: 2 workers") :].splitlines():
        if begins := BEGINS.search(line):
            assert slot == "", f"two at once: {line}"
            slot, old = begins[1], begins[2]
        elif ready := READY.search(line):
            assert ready[1] == slot, line
            ready_for.add(old)
            slot, done = "", done + 1
        elif drained := DRAINED.search(line):
            assert drained[2] in ready_for, f"it drained before another one was ready: {line}"
    return done


def run_under_load(
    server: ServerProcess, *, until_replaced: int, meanwhile: Callable[[int], object] = lambda port: None
) -> Load:
    """Load until so many were replaced; everything is in order then."""
    with Load.mixed(server.port, pause_s=0.02) as load:

        def enough() -> bool:
            meanwhile(server.port)
            return replacements(server) >= until_replaced

        until(enough, f"{until_replaced} replacements")
        load.goes_on()
    assert load.failed == []
    assert len(load.answers) > 2, "the answers are of the same workers as ever"
    print(f"{replacements(server)} replacements, {load.requests} requests, {len(load.failed)} errors")
    return load


def test_max_requests_under_load(serve: Serve) -> None:
    flags = ("--limit-max-requests", "50", "--limit-max-requests-jitter", "50")
    server = serve("faulty:app", "--workers", "2", *flags, "--no-access-log")
    run_under_load(server, until_replaced=6)
    settled(server, 2)
    assert set(restarts(server)) == {"max-requests"}
    assert restarts(server)["max-requests"] >= 5
    limits = [
        int(found) for found in re.findall(r"it has served \d+ requests, of at most (\d+)", server.log())
    ]
    assert len(set(limits)) > 1, "the jitter is always the same"
    assert all(50 <= limit <= 100 for limit in limits)


def test_lifetime_under_load(serve: Serve) -> None:
    flags = ("--worker-lifetime", "1", "--worker-lifetime-jitter", "1")
    server = serve("faulty:app", "--workers", "2", *flags, "--no-access-log")
    run_under_load(server, until_replaced=2)
    assert set(restarts(server)) == {"lifetime"}
    assert "is replaced: it is as old as it may become" in server.log()


def test_memory_under_load(serve: Serve) -> None:
    server = serve("faulty:app", "--workers", "2", "--worker-max-rss", "200", "--no-access-log")
    run_under_load(server, until_replaced=2, meanwhile=lambda port: fresh(port, "/grow?40"))
    assert set(restarts(server)) == {"max-rss"}
    assert re.search(r"is replaced: it has \d+ MiB resident, more than 200", server.log())


def test_one_that_cannot_be_replaced_goes_on(serve: Serve, notes: Path) -> None:
    """The new version does not start: better an old worker than none. It is not tried again at once."""
    broken = notes / "broken"
    flags = ("--limit-max-requests", "100", "--no-access-log")
    server = serve("faulty:app", "--workers", "2", *flags, env={"BROKEN_IF": str(broken)}, quiet=False)
    before = server.pids()
    broken.touch()
    with Load.mixed(server.port, pause_s=0.02) as load:
        server.saw("replacement abandoned; not replaced: worker 0")
        server.saw("replacement abandoned; not replaced: worker 1")
        load.goes_on(100)
    assert load.failed == []
    settled(server, 2)
    assert server.pids() == before
    assert server.log().count("replacement abandoned") == 2
    assert restarts(server) == {"start": 2}
