"""The frozen ``Config`` made of all settings, and the table of them.

Rules of this file: a setting is one field of a class in ``declared/``, and of nothing else. Its flag,
environment variable, file key, help, documentation, check and JSON form all follow from that field;
a second place that lists settings is a bug. The names follow from the attribute:

    attribute    timeout_keep_alive_s            units are in attribute names only
    flag         --timeout-keep-alive            Uvicorn's name wherever Uvicorn has one
    file key     timeout-keep-alive              timeout_keep_alive reads the same
    environment  SHARDSERVE_TIMEOUT_KEEP_ALIVE

A ``Config`` that exists is valid: the constructor checks every field. Reading files, variables and
flags is ``load.py``; no I/O, no logging and no click here.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError
from .declared.application import Application, Development
from .declared.edge import TLS, Proxies
from .declared.http2 import Http2
from .declared.limits import Limits, Timeouts
from .declared.logs import Control, Logs, Metrics
from .declared.processes import Address, Processes, Recycling
from .declared.protocols import Responses, Uvicorn, WebSocket
from .mistakes import Mistake, conflicts, describe
from .setting import Setting

# What the other rooms find here.
__all__ = [
    "BY_ATTRIBUTE", "BY_NAME", "SETTINGS", "Config", "Setting", "adopt", "describe", "from_json", "nearest",
    "to_json",
]  # fmt: skip

# Sections of --help and of the reference, in this order.
GROUPS = (
    Application, Address, TLS, Proxies, Processes, Recycling, Development, Limits, Timeouts, Http2,
    WebSocket, Control, Logs, Metrics, Responses, Uvicorn,
)  # fmt: skip


# A dataclass takes the fields of its last base first.
@dataclass(frozen=True, slots=True)
class Config(
    Uvicorn, Responses, Metrics, Logs, Control, WebSocket, Http2, Timeouts, Limits, Development,
    Recycling, Processes, Proxies, TLS, Address, Application,
):  # fmt: skip
    """Every setting of one server. Raises ConfigError, naming every wrong field, if it is not valid."""

    def __post_init__(self) -> None:
        mistakes = []
        for one in SETTINGS:
            try:
                object.__setattr__(self, one.attribute, one.check(getattr(self, one.attribute)))
            except ValueError as error:
                mistakes.append(Mistake(one.name, str(error)))
        if not mistakes:
            changed = {
                one.attribute: one.name for one in SETTINGS if getattr(self, one.attribute) != one.default
            }
            mistakes = conflicts({attribute: getattr(self, attribute) for attribute in changed}, changed)
        if mistakes:
            raise ConfigError(describe(mistakes))


SETTINGS: tuple[Setting, ...] = tuple(
    Setting(attribute=field.name, group=group.__name__, **field.metadata)
    for group in GROUPS
    for field in dataclasses.fields(group)
)
BY_ATTRIBUTE: Mapping[str, Setting] = {one.attribute: one for one in SETTINGS}
BY_NAME: Mapping[str, Setting] = {one.name: one for one in SETTINGS}


def nearest(word: str, *, cutoff: float = 0.6) -> str | None:
    """The name of the setting that ``word`` probably meant, or None. Either spelling of dashes."""
    close = difflib.get_close_matches(word.replace("-", "_").lower(), BY_NAME, n=1, cutoff=cutoff)
    return close[0] if close else None


# A Config as data


def to_json(config: Config) -> dict[str, Any]:
    """Every setting, as the START message carries it, secrets too. ``from_json`` gives back an equal Config.
    Raises ConfigError for a log_config that cannot be carried.
    """
    data = {}
    for one in SETTINGS:
        value = getattr(config, one.attribute)
        try:
            data[one.attribute] = None if value is None else one.kind.to_json(value)
        except ValueError as error:
            raise ConfigError(describe([Mistake(one.name, str(error))])) from None
    return data


def from_json(data: Mapping[str, Any]) -> Config:
    """The Config that ``to_json`` wrote. Raises ConfigError for a setting this version does not have."""
    unknown = sorted(set(data) - set(BY_ATTRIBUTE))
    if unknown:
        # The package was replaced under a running master.
        names = ", ".join(unknown)
        raise ConfigError(f"settings unknown to this version of shardserve: {names}; restart the master")
    return Config(**data)


def adopt(running: Config, wanted: Config) -> tuple[Config, tuple[str, ...]]:
    """What a reload may adopt of ``wanted``, and the names of the changes that wait for a restart."""
    waiting = tuple(
        one
        for one in SETTINGS
        if not one.reloadable and getattr(wanted, one.attribute) != getattr(running, one.attribute)
    )
    kept = {one.attribute: getattr(running, one.attribute) for one in waiting}
    return dataclasses.replace(wanted, **kept), tuple(one.key for one in waiting)
