"""Variables for the application, out of a file."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from shardserve.config import envfile
from shardserve.config.load import Loader, from_keywords
from shardserve.config.model import Config
from shardserve.errors import ConfigError

pytest.importorskip("dotenv")


def write(folder: Path, text: str) -> str:
    path = folder / "app.env"
    path.write_text(text)
    return str(path)


def test_what_is_set_stays(tmp_path: Path) -> None:
    path = write(tmp_path, "# a comment\nA=1\nexport B='two words'\nC=3\nNAME_ONLY\n")
    environ = {"C": "kept", "D": "4"}
    envfile.apply(path, environ)
    assert environ == {"A": "1", "B": "two words", "C": "kept", "D": "4"}


def test_no_file_no_change() -> None:
    environ: dict[str, str] = {}
    envfile.apply(None, environ)
    assert environ == {}


def test_it_is_uvicorns_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same variables as load_dotenv() sets, which is what Uvicorn calls."""
    from dotenv import load_dotenv

    path = write(tmp_path, "X_ONE=1\nX_TWO=${X_ONE}/${X_SET}\nX_SET=file\nX_EMPTY=\nX_DEFAULT=${X_NONE:-d}\n")
    names = ("X_ONE", "X_TWO", "X_SET", "X_EMPTY", "X_DEFAULT")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("X_SET", "set")
    ours = dict(os.environ)
    envfile.apply(path, ours)
    for name in set(names) - {"X_SET"}:
        monkeypatch.setenv(name, "")  # so that what load_dotenv() sets is taken back
        monkeypatch.delenv(name)
    load_dotenv(path)
    assert {name: ours[name] for name in names} == {name: os.environ[name] for name in names}
    assert ours["X_TWO"] == "1/set"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "cannot be read: No such file or directory"),
        (lambda path: path.mkdir(), "cannot be read: Is a directory"),
        (lambda path: path.write_bytes(b"A=\xff"), "is not UTF-8 at byte 2"),
    ],
)
def test_a_file_that_cannot_be_read_is_a_mistake(tmp_path: Path, make, reason: str) -> None:
    path = tmp_path / "app.env"
    make(path)
    with pytest.raises(ConfigError, match=r"env_file: .*app\.env " + reason):
        envfile.apply(str(path), {})
    [mistake] = Loader({"env_file": str(path)}, environ={}, directory=tmp_path).read().mistakes
    assert (mistake.origin, mistake.text) == ("flag --env-file", f"env_file: {path} {reason}")


def test_without_python_dotenv_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, "A=1")
    monkeypatch.setitem(sys.modules, "dotenv", None)
    monkeypatch.setitem(sys.modules, "dotenv.main", None)
    with pytest.raises(
        ConfigError, match=r"python-dotenv, which is not installed: pip install python-dotenv"
    ):
        envfile.apply(path, {})


def load(folder: Path, environ: dict[str, str]) -> tuple[Config, dict[str, str]]:
    return Loader({"env_file": str(folder / "app.env")}, environ=environ, directory=folder).load()


def test_settings_are_not_read_from_it(tmp_path: Path) -> None:
    write(tmp_path, "SHARDSERVE_PORT=1\nUVICORN_PORT=2\nPORT=3\nSHARDSERVE_PROT=4\n")
    assert load(tmp_path, {})[0].port == 8000


def test_what_uvicorn_reads_after_it_is_read_from_it(tmp_path: Path) -> None:
    path = write(tmp_path, "WEB_CONCURRENCY=3\nFORWARDED_ALLOW_IPS=10.0.0.1\n")
    config, sources = load(tmp_path, {})
    assert (config.workers, config.forwarded_allow_ips) == (3, "10.0.0.1")
    assert sources["workers"] == f"{path}: WEB_CONCURRENCY"
    assert load(tmp_path, {"WEB_CONCURRENCY": "4"})[0].workers == 4
    assert load(tmp_path, {"UVICORN_WORKERS": "5"})[0].workers == 5
    config = from_keywords("a:b", {"env_file": path}, {"FORWARDED_ALLOW_IPS": "*"})
    assert (config.workers, config.forwarded_allow_ips) == (3, "*")
    write(tmp_path, "WEB_CONCURRENCY=many\n")
    with pytest.raises(ConfigError, match=r'app\.env: WEB_CONCURRENCY: workers: "many" is not an integer'):
        load(tmp_path, {})


def test_the_environment_may_name_it(tmp_path: Path) -> None:
    path = write(tmp_path, "WEB_CONCURRENCY=3\n")
    config, sources = Loader(environ={"UVICORN_ENV_FILE": path}, directory=tmp_path).load()
    assert (config.env_file, config.workers, sources["env_file"]) == (path, 3, "env UVICORN_ENV_FILE")
