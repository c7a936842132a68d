"""``shardserve.run()`` and what else the package re-exports."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest

import shardserve as package
from shardserve.config.model import Config
from shardserve.errors import AppImportError, ConfigError, ListenError


@pytest.fixture(autouse=True)
def _no_surroundings(monkeypatch):
    monkeypatch.delenv("WEB_CONCURRENCY", raising=False)


def test_the_names_of_the_package():
    assert set(package.__all__) == {"Config", "__version__", "run"}
    assert package.Config is Config
    assert callable(package.run)
    with pytest.raises(AttributeError, match=r"module 'shardserve' has no attribute 'nope'"):
        _ = package.nope


def test_run_takes_uvicorns_keywords(master):
    package.run(
        "main:app", host="::", port=9000, timeout_keep_alive=5, headers=[("X-A", "b")], log_level="debug"
    )
    assert master.calls == [
        (
            Config(
                "main:app",
                host="::",
                port=9000,
                timeout_keep_alive_s=5,
                headers=(("X-A", "b"),),
                log_level="debug",
            ),
            None,
        )
    ]


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
    with pytest.raises(ConfigError, match=r"import string"):
        package.run(object())
    assert master.calls == []
    master.error = ListenError("taken")
    with pytest.raises(ListenError):
        package.run("main:app")


def test_run_refuses_to_start_a_server_in_a_worker(master, monkeypatch):
    """The worker imports the module that called run(); unguarded, it would call it again."""
    main = ModuleType("__main__")
    main.__spec__ = SimpleNamespace(name="shardserve.worker.__main__")  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "__main__", main)
    with pytest.raises(AppImportError, match=r'if __name__ == "__main__":'):
        package.run("main:app")
    assert master.calls == []
