"""``shardserve.run()``: import strings go to the master, objects are served here; the package's names."""

from __future__ import annotations

import inspect
import sys
from types import ModuleType, SimpleNamespace

import pytest
import uvicorn

import shardserve as package
from shardserve.config.model import Config as Settings
from shardserve.errors import AppImportError, ConfigError, ListenError
from shardserve.integrations import embedded


async def app(scope, receive, send):
    raise AssertionError("nobody asks it")


@pytest.fixture
def served(monkeypatch):
    """Servers that would have been run in this process."""
    found = []

    def run(self, sockets=None):
        found.append(self)
        self.started = True

    monkeypatch.setattr(embedded.Server, "run", run)
    return found


def test_the_names_of_the_package():
    assert set(package.__all__) == {"Config", "Server", "ShardWorker", "__version__", "run"}
    assert package.Config.__module__ == "shardserve.integrations.settings"
    assert package.Server is embedded.Server
    assert package.ShardWorker.__name__ == "ShardWorker"
    with pytest.raises(AttributeError, match=r"module 'shardserve' has no attribute 'nope'"):
        _ = package.nope


def test_run_takes_uvicorns_keywords(master):
    package.run(
        "main:app", host="::", port=9000, timeout_keep_alive=5, headers=[("X-A", "b")], log_level="debug"
    )
    expected = Settings(
        "main:app",
        host="::",
        port=9000,
        timeout_keep_alive_s=5,
        headers=(("X-A", "b"),),
        log_level="debug",
    )
    assert master.calls == [expected]


def test_every_keyword_of_uvicorn_run_is_taken_with_its_default(master):
    theirs = {
        name: one.default for name, one in inspect.signature(uvicorn.run).parameters.items() if name != "app"
    }
    package.run("main:app", **theirs)
    for name, value in theirs.items():
        package.run("main:app", **{name: value})
    assert len(master.calls) == 1 + len(theirs)
    assert set(theirs) <= set(inspect.signature(package.run).parameters)


def test_run_exits_with_the_masters_code(master):
    master.exit_code = 3
    with pytest.raises(SystemExit) as raised:
        package.run("main:app")
    assert raised.value.code == 3


def test_run_raises_what_a_program_can_catch(master):
    with pytest.raises(ConfigError, match=r"argument prot: unknown setting prot; did you mean port\?"):
        package.run("main:app", prot=1)
    with pytest.raises(ConfigError, match=r"app is empty"):
        package.run("")
    assert master.calls == []
    master.error = ListenError("taken")
    with pytest.raises(ListenError):
        package.run("main:app")


def test_what_only_an_embedded_server_can_do_is_told_once(master, caplog):
    async def notify():
        return None

    for _ in range(2):
        package.run("main:app", callback_notify=notify, timeout_notify=5)
    told = [one.getMessage() for one in caplog.records]
    assert [line.split()[0] for line in told] == ["callback_notify", "timeout_notify"]
    assert len(master.calls) == 2


def test_an_object_is_served_in_this_process(master, served):
    package.run(app, port=0, log_config=None)
    assert master.calls == []
    [server] = served
    assert server.config.app is app
    assert server.config.port == 0


def test_a_context_factory_keeps_an_import_string_in_this_process(master, served):
    package.run("main:app", ssl_context_factory=lambda config, default: default(), log_config=None)
    assert master.calls == []
    assert served[0].config.app == "main:app"


@pytest.mark.parametrize("keywords", [{"workers": 2}, {"reload": True}])
def test_an_object_cannot_be_sent_to_other_processes(served, caplog, keywords):
    with pytest.raises(SystemExit) as raised:
        package.run(app, log_config=None, **keywords)
    assert raised.value.code == 3
    assert "pass it as an import string" in caplog.text
    assert served == []


def test_nor_can_it_if_the_environment_asks_for_workers(served, monkeypatch):
    monkeypatch.setenv("WEB_CONCURRENCY", "4")
    with pytest.raises(SystemExit):
        package.run(app, log_config=None)
    package.run(app, workers=1, log_config=None)
    assert len(served) == 1


def test_run_refuses_to_start_a_server_in_a_worker(master, served, monkeypatch):
    """The worker imports the module that called run(); unguarded, it would call it again."""
    main = ModuleType("__main__")
    main.__spec__ = SimpleNamespace(name="shardserve.worker.__main__")  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "__main__", main)
    for what in ("main:app", app):
        with pytest.raises(AppImportError, match=r'if __name__ == "__main__":'):
            package.run(what)
    assert master.calls == []
    assert served == []
