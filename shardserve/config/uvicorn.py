"""What Uvicorn has and we do not: which of its values are taken, and what is said of them.

Rules of this file: the one place that knows what Uvicorn's values mean. Every flag of Uvicorn's is a
setting of ``declared/``, marked there; this is for values that choose between parts of Uvicorn (an event
loop, a parser), which cannot mean the same here. They are no mistake: one warning at start says what
happens instead. Pure functions; who logs is the master.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .model import BY_ATTRIBUTE, Config
from .setting import Setting

# logging's numbers, which Uvicorn takes from Python for log_level.
_LEVELS = {50: "critical", 40: "error", 30: "warning", 20: "info", 10: "debug", 5: "trace"}
# None is "never" for these in Uvicorn; for any other keyword it is the default.
_NEVER = frozenset({"ws_ping_interval_s", "ws_ping_timeout_s"})

_PARSER = "requests are read by shardserve's own parser"
_WEBSOCKETS = "WebSockets are served by shardserve itself"
# Of a setting: values that mean what happens anyway, and what to say of any other.
_CHOICES: Mapping[str, tuple[tuple[object, ...], str]] = {
    "loop": (("auto", "uvloop"), "every worker runs uvloop"),
    "http": (("auto", "httptools"), _PARSER),
    "h11_max_incomplete_event_size": (
        (None,),
        f"{_PARSER}; limit-request-line and limit-request-head say how large a head may be",
    ),
    "ws": (("auto", "none"), _WEBSOCKETS),
    "ssl_version": ((17,), "TLS is spoken from ssl-minimum-version on ({0.ssl_minimum_version})"),
}
_ONLY_WITH_RELOAD = ("reload_dirs", "reload_includes", "reload_excludes")


def compatibility_warnings(config: Config) -> list[str]:
    """One line for each value that was accepted from Uvicorn and does something else here."""
    found = []
    for attribute, (ours, instead) in _CHOICES.items():
        value = getattr(config, attribute)
        if value not in ours:
            one = BY_ATTRIBUTE[attribute]
            given = one.key if value is True else f"{one.key} {one.to_text(value)}"
            found.append(f"{given} is not for shardserve: {instead.format(config)}")
    unused = [BY_ATTRIBUTE[one].flag for one in _ONLY_WITH_RELOAD if getattr(config, one)]
    if unused and not config.reload:
        found.append(f"{', '.join(unused)}: nothing is watched without --reload")
    return found


def keyword(one: Setting, value: object) -> object:
    """A keyword of ``uvicorn.run`` in our form; None is "not given". Checking it is for the kind to do."""
    if value is None:
        return 0.0 if one.attribute in _NEVER else None
    convert = _FORMS.get(one.attribute)
    return value if convert is None else convert(value)


def _level(value: object) -> object:
    return _LEVELS.get(value, value) if isinstance(value, int) else value


def _import_string(value: object) -> object:
    return f"{value.__module__}:{value.__qualname__}" if isinstance(value, type) else value


_FORMS: Mapping[str, Callable[[object], object]] = {
    "log_level": _level,
    "loop": _import_string,
    "http": _import_string,
    "ws": _import_string,
}
