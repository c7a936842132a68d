"""What is wrong with a configuration: one mistake, all of them as text, and settings that exclude each other.

Rules of this file: settings are known by their attributes only, values are taken for checked. What
one value may be is ``values.py``; where mistakes are gathered is ``load.py`` and ``Config`` itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Mistake:
    """``origin`` is where it was written: "/etc/shardserve.toml:3", "env SHARDSERVE_PORT", "flag --port"."""

    origin: str
    text: str


def describe(mistakes: Iterable[Mistake]) -> str:
    """Every mistake, one to a line, as the text of a ConfigError."""
    lines = [f"{mistake.origin}: {mistake.text}" for mistake in mistakes]
    count = "1 mistake" if len(lines) == 1 else f"{len(lines)} mistakes"
    return "\n".join([f"the configuration has {count}:", *(f"  {line}" for line in lines)])


def conflicts(given: Mapping[str, Any], origins: Mapping[str, str]) -> list[Mistake]:
    """What is wrong between settings that are each valid. ``given`` has only what was set explicitly."""
    if not given.get("bind"):
        return []
    return [
        Mistake(
            origins[attribute],
            f"{attribute} cannot be given together with bind ({origins['bind']}); add it to bind",
        )
        for attribute in ("host", "port", "uds", "fd")
        if attribute in given
    ]
