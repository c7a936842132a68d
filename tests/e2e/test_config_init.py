"""``shardserve config init`` as a person runs it: on a terminal, and a server from what it wrote."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.server import APPS, Ended, Serve, clean_environment, client_of

ESC = "\x1b["


class Terminal:
    """``shardserve config init`` with a terminal at all three of its ends."""

    def __init__(self, folder: Path, *args: str, **env: str) -> None:
        self._ours, theirs = os.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "shardserve", "config", "init", *args],
            cwd=folder,
            env=clean_environment(SHARDSERVE_CONTROL_SOCKET="off", **env),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        self.text = ""

    def read_until(self, end: str | None) -> str:
        """What it says up to this, or up to its end."""
        while end is None or end not in self.text:
            try:
                data = os.read(self._ours, 65536)
            except OSError:  # EIO: it has ended
                break
            self.text += data.decode()
        assert end is None or end in self.text, self.text
        return self.text

    def say(self, line: str) -> None:
        os.write(self._ours, f"{line}\n".encode())

    def ended(self) -> int:
        self.read_until(None)
        os.close(self._ours)
        return self._process.wait(60)


@pytest.mark.parametrize(("answer", "line"), [("n", "proxy-headers = false"), ("", "proxy-headers = true")])
def test_a_terminal_is_asked_about_the_proxy(tmp_path: Path, answer: str, line: str) -> None:
    terminal = Terminal(tmp_path)
    terminal.read_until("in front of this server? [Y/n]")
    terminal.say(answer)
    assert terminal.ended() == 0, terminal.text
    assert f"\n{line}\n" in (tmp_path / "shardserve.toml").read_text()


def test_who_has_said_it_is_not_asked(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, "--behind-proxy")
    assert terminal.ended() == 0
    assert "?" not in terminal.text


def test_an_interrupted_question_writes_nothing(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path)
    terminal.read_until("[Y/n]")
    terminal.say("\x04")  # the end of input
    assert terminal.ended() == 1
    assert not (tmp_path / "shardserve.toml").exists()


@pytest.mark.parametrize(("env", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colours(tmp_path: Path, env: dict[str, str], coloured: bool) -> None:
    terminal = Terminal(tmp_path, "--behind-proxy", **env)
    assert terminal.ended() == 0
    assert (ESC in terminal.text) == coloured
    assert "wrote shardserve.toml" in terminal.text


def test_a_server_starts_with_what_was_written(serve: Serve, tmp_path: Path) -> None:
    folder = tmp_path / "server"
    folder.mkdir()
    args = ("config", "init", "--no-behind-proxy", "--app", "probe:app")
    written = Ended(folder, *args, app_dir=None, choose_port=False)
    assert written.code == 0, written.text
    checked = Ended(folder, "config", "check", app_dir=None, choose_port=False)
    assert (checked.code, checked.out) == (0, f"{folder}/shardserve.toml: no mistakes\n")
    # --bind excludes host and port, which the file has; its host is every interface.
    server = serve(None, "--host", "127.0.0.1", "--app-dir", str(APPS), app_dir=None, folder=folder)
    with client_of(server) as client:
        assert client.get("/").status_code == 200
