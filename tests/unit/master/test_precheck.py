"""What the master finds out before it starts a worker, and the URLs that it tells."""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from shardserve import _native
from shardserve.config.model import Config
from shardserve.errors import ConfigError
from shardserve.master import banner, precheck
from tests.helpers.certificates import Authority


def test_certificates_that_work(tmp_path: Path) -> None:
    files = Authority(tmp_path).issue("localhost")
    precheck.check(Config("a:b", ssl_certfile=str(files.cert), ssl_keyfile=str(files.key)))
    precheck.check(Config("a:b"))


def test_certificates_that_do_not(tmp_path: Path) -> None:
    files = Authority(tmp_path).issue("localhost")
    files.key.write_text("")
    with pytest.raises(ConfigError, match="ssl-keyfile: "):
        precheck.check(Config("a:b", ssl_certfile=str(files.cert), ssl_keyfile=str(files.key)))


def test_a_server_without_tls_does_not_load_it() -> None:
    program = (
        "import sys; from shardserve.config.model import Config; from shardserve.master import precheck; "
        "precheck.check(Config('a:b')); sys.exit('shardserve.net.tls' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_urls_as_clients_write_them() -> None:
    urls = ["http://127.0.0.1:8000", "unix:/run/s"]
    assert banner.spoken(urls, tls=False) == urls
    assert banner.spoken(urls, tls=True) == ["https://127.0.0.1:8000", "unix:/run/s"]


@pytest.mark.parametrize(
    ("said", "complains"),
    [("None", True), ("1.52.0", False), ("", False)],  # "": it could not be asked; a worker will say why
)
@pytest.mark.parametrize("setting", ["http2", "http2_cleartext"])
def test_http2_that_was_not_built(
    said: str, complains: bool, setting: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho {said}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(ConfigError, match="built without HTTP/2") if complains else nullcontext():
        precheck.check(Config("a:b", **{setting: True}))  # type: ignore[arg-type]


def test_a_build_is_not_asked_where_nobody_wants_http2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", None)
    precheck.check(Config("a:b"))


def test_the_build_that_is_here_is_asked() -> None:
    """It says what the extension says."""
    assert precheck._nghttp2_version() == _native.nghttp2_version


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    precheck.check(Config("main:app", static=((("/a"), str(tmp_path / "a")),)))
    with pytest.raises(ConfigError, match="is not a directory"):
        precheck.check(Config("main:app", static=(("/a", str(tmp_path / "a")), ("/b", str(tmp_path / "b")))))


def test_a_file_for_the_access_log_that_can_be_had(tmp_path: Path) -> None:
    (tmp_path / "there.log").touch()
    for target in (tmp_path / "there.log", tmp_path / "new.log", "syslog:/nowhere", "-", "/dev/stdout"):
        precheck.check(Config("a:b", access_log_file=str(target)))
    assert not (tmp_path / "new.log").exists()  # nothing is made before the server starts


def test_a_file_for_the_access_log_that_cannot(tmp_path: Path) -> None:
    wrong = {
        str(tmp_path): "it is a directory",
        str(tmp_path / "missing" / "a.log"): f'"{tmp_path / "missing"}" is not a directory',
    }
    for path, why in wrong.items():
        with pytest.raises(ConfigError) as raised:
            precheck.check(Config("a:b", access_log_file=path))
        assert str(raised.value).startswith(f'access-log-file "{path}": {why}')
