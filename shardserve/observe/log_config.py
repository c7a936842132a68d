"""``--log-config``: an ini, JSON or YAML file, or a dict, a ConfigParser or an open file of a program.

Rules of this file: ``logging.config`` does the work, and what it makes of a config is what the user gets.
Here is what surrounds it, with Uvicorn's semantics: which form a config has; formatters of Uvicorn's, whose
place ours take, so that neither the master nor a host without Uvicorn imports it; ``--use-colors``,
``--log-level`` and ``--no-access-log``, which are applied to what the config has set up.
Every mistake is a ConfigError that says what is wrong with which file.
"""

from __future__ import annotations

import configparser
import importlib
import json
import logging
import logging.config
import logging.handlers
import os
import sys
from collections.abc import Iterator, Mapping
from typing import IO, Any

from ..errors import ConfigError
from . import names

# A dict; a path, or the text of an ini file; a parsed or open ini file.
Source = Mapping[str, Any] | str | os.PathLike[str] | configparser.RawConfigParser | IO[Any]

log = logging.getLogger("shardserve")

# What "nothing" is called: logging is left as somebody else has set it up.
NONE = "none"

_FORMATTERS = ("ColourizedFormatter", "DefaultFormatter", "AccessFormatter")
_REPLACED = {f"uvicorn.logging.{name}": f"shardserve.logging.{name}" for name in _FORMATTERS}


def apply(
    source: Source, *, level: int | None, access_log: bool, use_colors: bool | None, app_dir: str = ""
) -> None:
    """Set up ``logging`` as the config says, and route our records to it. Raises ConfigError.

    ``level``: of ``--log-level``, if it was given. ``app_dir``: where its classes may be, like the app's.
    """
    if source == NONE:
        names.leave()
    else:
        config = read(source)
        names.reset()
        _add_to_path(app_dir)
        # Uvicorn hands this flag to the formatters of a dict only: a file says for itself what it wants.
        _configure(config, use_colors if isinstance(source, Mapping) else None, origin=_named(source))
        names.enable()
        if not names_ours(config) and speaks_of_uvicorn(config):
            names.forward()
    for name in (names.THEIR_LOGGERS[1:] if names.is_forwarded() else names.OUR_LOGGERS) if level else ():
        logging.getLogger(name).setLevel(level or logging.NOTSET)
    if not access_log:
        access = names.target_of(names.OUR_ACCESS)
        access.handlers[:] = []
        access.propagate = False


def _add_to_path(app_dir: str) -> None:
    """Where the app's import looks first (``asgi/importer.py``), its config's classes are found too."""
    directory = os.path.abspath(app_dir or os.getcwd())
    if sys.path[:1] != [directory]:
        sys.path.insert(0, directory)


# Reading


def read(source: Source) -> dict[str, Any] | configparser.RawConfigParser:
    """The config in one of the two forms that ``logging.config`` has. Raises ConfigError."""
    if isinstance(source, configparser.RawConfigParser):  # which is a Mapping too
        return source
    if isinstance(source, Mapping):
        return dict(source)
    try:
        if not isinstance(source, str | os.PathLike):
            return _ini(source.read(), "the log config")
        path = os.fspath(source)
        if "\n" in path:  # the text of a file that a program had open
            return _ini(path, "the log config")
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except OSError as error:
        raise ConfigError(f"log-config {_named(source)}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"log-config {_named(source)} is not UTF-8 at byte {error.start}") from None
    if path.endswith(".json"):
        return _json(text, path)
    if path.endswith((".yaml", ".yml")):
        return _yaml(text, path)
    return _ini(text, path)


def _json(text: str, path: str) -> dict[str, Any]:
    try:
        return _mapping(json.loads(text), path)
    except ValueError as error:
        raise ConfigError(f"log-config {path} is not JSON: {error}") from None


def _yaml(text: str, path: str) -> dict[str, Any]:
    try:
        yaml: Any = importlib.import_module("yaml")
    except ImportError:
        raise ConfigError(
            f"log-config {path} needs PyYAML, which is not installed: pip install PyYAML, or write it as JSON"
        ) from None
    try:
        return _mapping(yaml.safe_load(text), path)
    except yaml.YAMLError as error:
        raise ConfigError(f"log-config {path} is not YAML: {error}") from None


def _mapping(found: object, path: str) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise ConfigError(f"log-config {path} is not a mapping, as logging's dictConfig wants")
    return found


def _ini(text: str | bytes, path: str) -> configparser.RawConfigParser:
    parser = configparser.ConfigParser()
    try:
        parser.read_string(text if isinstance(text, str) else text.decode())
    except (configparser.Error, UnicodeDecodeError) as error:
        raise ConfigError(f"log-config {path} is not an ini file: {_one_line(error)}") from None
    if not parser.has_section("loggers"):
        raise ConfigError(
            f"log-config {path} has no section [loggers], as logging's fileConfig wants; "
            "JSON and YAML are told by the file's ending: .json, .yaml, .yml"
        )
    return parser


def _named(source: Source) -> str:
    if isinstance(source, str | os.PathLike) and "\n" not in (path := os.fspath(source)):
        return path
    return "given by the program"


# Setting up


def _configure(
    config: dict[str, Any] | configparser.RawConfigParser, use_colors: bool | None, *, origin: str
) -> None:
    try:
        if isinstance(config, dict):
            logging.config.dictConfig(_adapted(config, use_colors))
        else:
            logging.config.fileConfig(_adapted_ini(config), disable_existing_loggers=False)
    except Exception as error:  # whatever its classes and factories raise, too
        raise ConfigError(f"log-config {origin}: {_reasons(error)}") from error


def _adapted(config: dict[str, Any], use_colors: bool | None) -> dict[str, Any]:
    """The config with our formatters in the place of Uvicorn's; the caller's own is left as it is.

    ``use_colors`` goes to the formatters "default" and "access".
    """
    formatters = config.get("formatters")
    if not isinstance(formatters, Mapping):
        return config
    changed: dict[str, Any] = {}
    for name, one in formatters.items():
        changed[name] = one
        if not isinstance(one, Mapping):
            continue
        changed[name] = found = dict(one)
        for key in ("()", "class"):
            if isinstance(found.get(key), str):
                found[key] = _REPLACED.get(found[key], found[key])
        if use_colors is not None and name in ("default", "access") and "()" in found:
            found["use_colors"] = use_colors
    return {**config, "formatters": changed}


def _adapted_ini(config: configparser.RawConfigParser) -> configparser.RawConfigParser:
    for section in config.sections():
        replacement = _REPLACED.get(config.get(section, "class", raw=True, fallback=""))
        if section.startswith("formatter_") and replacement:
            config.set(section, "class", replacement)
    return config


def _reasons(error: BaseException) -> str:
    """``Unable to configure handler 'file': [Errno 2] No such file or directory: '/x'``."""
    found: list[str] = []
    one: BaseException | None = error
    while one is not None and len(found) < 5:
        text = _one_line(one)
        if not found or text not in found[-1]:  # some say what their cause says
            found.append(text if isinstance(one, ValueError | OSError) else f"{type(one).__name__}: {text}")
        one = one.__cause__
    return ": ".join(found)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


# What a config names


def logger_names(config: dict[str, Any] | configparser.RawConfigParser) -> set[str]:
    if isinstance(config, dict):
        return {str(name) for name in config.get("loggers") or ()}
    return {config.get(one, "qualname", raw=True, fallback="") for one in config.sections()}


def names_ours(config: dict[str, Any] | configparser.RawConfigParser) -> bool:
    return any(f"{name}.".startswith("shardserve.") for name in logger_names(config))


def speaks_of_uvicorn(config: dict[str, Any] | configparser.RawConfigParser) -> bool:
    """Whether it names anything of Uvicorn's: a logger, a filter's logger, a class."""
    if isinstance(config, configparser.RawConfigParser):
        words = (value for one in config.sections() for _, value in config.items(one, raw=True))
        return any(f"{word.strip()}.".startswith("uvicorn.") for value in words for word in value.split(","))
    return any(f"{word}.".startswith("uvicorn.") for word in _words(config))


def _words(found: object) -> Iterator[str]:
    if isinstance(found, str):
        yield found
    elif isinstance(found, Mapping):
        for key, value in found.items():
            yield from _words(key)
            yield from _words(value)
    elif isinstance(found, list | tuple):
        for one in found:
            yield from _words(one)


# Files that are moved away


def reopen() -> None:
    """Open the files of all handlers again, the app's too: logrotate has renamed them. Never raises.

    None is truncated, whatever its mode; a WatchedFileHandler sees to itself.
    """
    for handler in set(_handlers()):
        if not isinstance(handler, logging.FileHandler) or handler.stream is None:
            continue
        if isinstance(handler, logging.handlers.WatchedFileHandler):
            continue
        handler.acquire()
        try:
            handler.mode = handler.mode.replace("w", "a")
            before = handler.setStream(handler._open())
            if before is not None:
                before.close()
        except (OSError, ValueError) as error:  # ValueError: it was closed meanwhile
            log.error("Cannot open %s again: %s. It goes on as before.", handler.baseFilename, error)
        finally:
            handler.release()


# What may surprise


def rotation_warning(processes: int) -> str | None:
    """What to say of files that several processes would rotate under each other."""
    files = {
        one.baseFilename
        for one in _handlers()
        if isinstance(one, logging.handlers.RotatingFileHandler | logging.handlers.TimedRotatingFileHandler)
    }
    if not files:
        return None
    return (
        f"{processes} processes write to {', '.join(sorted(files))}, and each rotates it for itself: lines "
        "get lost. Use logging.handlers.WatchedFileHandler and logrotate"
    )


def access_warning(config: Any) -> str | None:
    """What to say of settings of the access log that a log config leaves without effect."""
    names = ("access_log_format", "access_log_file", "access_log_exclude", "access_log_sample")
    unused = [name for name in names if getattr(config, name) not in (None, (), 1.0)]
    if config.log_config is None or not unused:
        return None
    flags = ", ".join(f"--{name.replace('_', '-')}" for name in unused)
    return f"{flags}: without effect, because --log-config decides what becomes of access lines"


def _handlers() -> Iterator[logging.Handler]:
    for logger in (logging.root, *logging.root.manager.loggerDict.values()):
        if isinstance(logger, logging.Logger):  # else a place where one may be made
            yield from logger.handlers
