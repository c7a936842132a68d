"""For all tests: certificates, and ``serve(app, *flags)``: real servers. A failed test reports their logs."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.helpers.certificates import Authority, Files
from tests.helpers.server import Serve, ServerProcess, alive

FAILED = pytest.StashKey[bool]()

# The same examples in every run, however slow the machine is: a run that fails tells of a change. New inputs
# are the fuzzers' to find (native/tests).
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts its jobs in the background like that (POSIX, "Asynchronous Lists"), and every
    # program that a test starts would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    report = yield
    if report.when == "call":
        item.stash[FAILED] = report.failed
    if report.failed:
        shown = [server for server in alive if server.test in ("", item.nodeid)]
        report.sections += [("log of the server", server.report()) for server in shown]
    return report


@pytest.fixture(scope="module", autouse=True)
def _forget_old_servers() -> Iterator[None]:
    yield
    alive.clear()


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """The folder in which app and test leave files for each other."""
    folder = tmp_path / "notes"
    folder.mkdir()
    return folder


@pytest.fixture
def serve(tmp_path: Path, notes: Path, request: pytest.FixtureRequest) -> Iterator[Serve]:
    """Starts servers that end with the test."""
    with ExitStack() as stack:

        def start(app: str | None, *flags: str, **how: Any) -> ServerProcess:
            folder = how.pop("folder", tmp_path / f"server-{len(alive)}")
            env = {"NOTES": str(notes), **how.pop("env", {})}
            server = ServerProcess(folder, app, *flags, env=env, **how)
            server.test = request.node.nodeid
            return stack.enter_context(server)

        yield start
        if request.node.stash.get(FAILED, False):  # one failure is enough: no checks at the end
            stack.pop_all()
            for server in alive:
                if server.test == request.node.nodeid:
                    server.kill()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def files(authority: Authority) -> Files:
    """What a server on this machine shows."""
    return authority.issue("localhost", "127.0.0.1", file="server")
