"""What the master says at its start."""

from __future__ import annotations

import resource

import pytest

from shardserve import __version__
from shardserve.master import banner
from shardserve.master.affinity import Cores


def test_the_banner_names_addresses_cores_and_versions() -> None:
    first, second = banner.lines(["http://127.0.0.1:8000", "unix:/run/x"], 2, Cores((0, 2, 1, 3)))
    assert first.startswith(f"shardserve {__version__} on http://127.0.0.1:8000, unix:/run/x")
    assert second.startswith("2 workers on cores 0, 2; uvloop ")
    assert "httptools " in second


@pytest.mark.parametrize(
    ("workers", "cores", "text"),
    [
        (1, Cores((5,)), "1 worker on core 5;"),
        (3, Cores((0, 1)), "3 workers on cores 0, 1;"),
        (2, None, "2 workers, not pinned;"),
    ],
)
def test_who_runs_where(workers: int, cores: Cores | None, text: str) -> None:
    assert banner.lines([], workers, cores)[1].startswith(text)


def test_more_workers_than_cores_are_warned_of() -> None:
    assert banner.crowding_warning(2, Cores((0, 1))) is None
    assert "3 workers share 2 usable cores" in str(banner.crowding_warning(3, Cores((0, 1))))
    assert "a CPU quota of 1.5 cores" in str(banner.crowding_warning(3, Cores((0, 1, 2, 3), 1.5)))


@pytest.mark.parametrize(
    ("limits", "raised", "warns"),
    [
        ((1024, 20_000), 20_000, False),
        ((20_000, 20_000), None, False),
        ((1024, 2048), 2048, True),
        ((1024, 1024), None, True),
        ((1024, resource.RLIM_INFINITY), 1 << 20, False),
        ((1024, 1 << 30), 1 << 20, False),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), None, False),
    ],
)
def test_the_descriptor_limit_is_raised(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], raised: int | None, warns: bool
) -> None:
    changes: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: changes.append(new))
    note, warning = banner.raise_descriptor_limit()
    assert changes == ([] if raised is None else [(raised, limits[1])])
    assert (note is not None) == (raised is not None)
    assert (warning is not None) == warns
