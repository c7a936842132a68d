"""Uvicorn's keywords, as programs write them, where they are no settings of ours.

Rules of this file: what Uvicorn's values mean is ``config/uvicorn.py``'s to say, and whether one is valid
``config/``'s. A keyword that Uvicorn has and that is no setting (it cannot be written in a file, or sent to
another process) is in ``API_ONLY``, and nowhere else.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from typing import Any

from ..config.model import BY_ATTRIBUTE, SETTINGS
from ..observe import log_config

# What Uvicorn's Config takes beyond its flags, and the defaults.
API_ONLY: Mapping[str, object] = {
    "ssl_context_factory": None,
    "callback_notify": None,
    "timeout_notify": 30,
}

log = logging.getLogger("shardserve.master")
_told: set[str] = set()


def settings_among(keywords: Mapping[str, object]) -> dict[str, object]:
    """The keywords that ``config.load.from_keywords`` knows, or should complain of."""
    found = {word: value for word, value in keywords.items() if word not in API_ONLY}
    if "host" in found and found["host"] is None:
        found["host"] = ""  # all addresses, as asyncio has it
    if "log_config" in found and found["log_config"] is None:
        found["log_config"] = log_config.NONE  # not "the default"
    return found


def name_of(word: str) -> str:
    """A setting by Uvicorn's name, also where the word is our attribute with its unit."""
    one = BY_ATTRIBUTE.get(word)
    return word if one is None else one.name


def warn_once(text: str) -> None:
    """A warning that a process logs once, however many servers it makes."""
    if text not in _told:
        _told.add(text)
        log.warning("%s", text)


def signature(*positional: str) -> inspect.Signature:
    """What ``help()`` shows of a function that takes every setting. ``positional`` come behind ``app``."""
    defaults: dict[str, Any] = {one.name: one.default for one in SETTINGS if not one.argument}
    defaults |= API_ONLY
    kinds = inspect.Parameter
    first = [kinds("app", kinds.POSITIONAL_OR_KEYWORD)]
    first += [kinds(one, kinds.POSITIONAL_OR_KEYWORD, default=defaults.pop(one)) for one in positional]
    rest = [kinds(name, kinds.KEYWORD_ONLY, default=value) for name, value in defaults.items()]
    return inspect.Signature([*first, *rest])
