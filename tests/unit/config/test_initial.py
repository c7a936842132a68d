"""The text of a first shardserve.toml."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from shardserve.config import initial
from shardserve.config.initial import Host, Wishes
from shardserve.config.load import Loader
from shardserve.config.model import BY_NAME, Config

HOST = Host(
    cores=4, cores_present=8, quota=None, workers=4, somaxconn=4096, descriptors=20_000, container=False
)
WISHES = Wishes("1.2.3")
# A line that is in force, or would be without its "# ".
SETTING = re.compile(r"(# )?([a-z-]+) = (.+)")


def load(folder: Path, text: str) -> Config:
    (folder / "shardserve.toml").write_text(text)
    return Loader(environ={}, directory=folder).load()[0]


@pytest.mark.parametrize(
    "host",
    [
        HOST,
        Host(1, 1, None, 1, None, None, True),
        Host(64, 64, 2.5, 3, 128, 1024, False),
        Host(2, 2, 0.1, 1, 1, 1, True),
    ],
)
def test_it_is_right_for_any_host_and_wish(tmp_path: Path, host: Host) -> None:
    for proxy, app, cert in product((None, True, False), (None, "a:b"), (None, 'c "quoted" é.pem')):
        wishes = Wishes("1", app, proxy, cert, cert and "k.pem")
        config = load(tmp_path, initial.text(host, wishes))
        assert (config.app, config.ssl_certfile) == (app or "", cert)
        assert config.workers == host.workers


def test_a_line_that_is_not_in_force_would_be_right_too(tmp_path: Path) -> None:
    """Each on its own: some exclude each other."""
    text = initial.text(HOST, WISHES)
    lines = [line for line in text.splitlines() if SETTING.fullmatch(line)]
    commented = [line for line in lines if line.startswith("# ")]
    assert len(commented) > 8
    for line in commented:
        beside = "ssl-certfile = 'c'\n" if line.startswith("# ssl-keyfile") else ""
        load(tmp_path, beside + line.removeprefix("# "))


def test_each_setting_has_one_comment(tmp_path: Path) -> None:
    for part in initial.text(HOST, WISHES).split("\n\n"):
        *comment, last = part.splitlines()
        found = SETTING.fullmatch(last)
        assert all(line.startswith("# ") for line in comment)
        assert max(map(len, part.splitlines())) <= initial.COLUMNS
        if found is not None:
            assert BY_NAME[found[2].replace("-", "_")]
            assert comment
            assert not any(SETTING.fullmatch(line) for line in comment)


def test_what_most_people_change_comes_first() -> None:
    names = [found[2] for found in map(SETTING.fullmatch, initial.text(HOST, WISHES).splitlines()) if found]
    assert names[:6] == ["app", "host", "port", "workers", "log-level", "access-log"]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("host", "words"),
    [
        (HOST, "4 usable cores of 8"),
        (replace(HOST, cores=8), "8 usable cores"),
        (replace(HOST, cores=1, cores_present=1), "1 usable core"),
        (replace(HOST, quota=1.5, workers=2), "4 usable cores of 8, a CPU quota of 1.5"),
    ],
)
def test_cores_in_words(host: Host, words: str) -> None:
    assert initial.describe_cores(host) == words
    assert f"for this host: {words}.\n" in initial.text(host, WISHES)


def test_a_quota_is_the_reason_for_fewer_workers(tmp_path: Path) -> None:
    text = initial.text(replace(HOST, quota=1.5, workers=2), WISHES)
    assert "the CPU quota is 1.5" in text
    assert load(tmp_path, text).workers == 2


def test_a_backlog_is_not_more_than_the_kernel_takes(tmp_path: Path) -> None:
    assert load(tmp_path, initial.text(HOST, WISHES)).backlog == 2048
    text = initial.text(replace(HOST, somaxconn=128), WISHES)
    assert load(tmp_path, text).backlog == 128
    assert "sysctl net.core.somaxconn=2048" in text
    assert "sysctl" not in initial.text(HOST, WISHES)


def test_who_is_in_front_decides_who_is_believed(tmp_path: Path) -> None:
    direct = load(tmp_path, initial.text(HOST, replace(WISHES, behind_proxy=False)))
    assert (direct.proxy_headers, direct.forwarded_allow_ips, direct.host) == (False, None, "0.0.0.0")
    behind = load(tmp_path, initial.text(HOST, replace(WISHES, behind_proxy=True)))
    assert (behind.proxy_headers, behind.forwarded_allow_ips) == (True, "127.0.0.1,::1")
    assert behind.host == "127.0.0.1"
    unknown = initial.text(HOST, WISHES)
    assert "\n# proxy-headers = true\n" in unknown
    assert load(tmp_path, unknown).forwarded_allow_ips is None


def test_connections_leave_descriptors_for_the_rest() -> None:
    assert f"# limit-connections = {20_000 - initial.KEPT_DESCRIPTORS}\n" in initial.text(HOST, WISHES)
    assert "20000 open" in initial.text(HOST, WISHES)
