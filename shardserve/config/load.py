"""Where settings come from: flags over the environment over a file over the defaults.

    flags        as the command line gave them
    environment  SHARDSERVE_*, then UVICORN_* of what Uvicorn has, then PORT, WEB_CONCURRENCY and
                 FORWARDED_ALLOW_IPS; an empty variable counts as not set
    env file     only WEB_CONCURRENCY and FORWARDED_ALLOW_IPS (``envfile.py`` says why)
    file         --config FILE, or SHARDSERVE_CONFIG, or ./shardserve.toml if there is one
    default      config/model.py

Rules of this file: every source is read to its end and every mistake is kept, also in a value that
a stronger source overrides; one ConfigError then names them all, each with its origin. A source
becomes a ``Layer`` and layers know nothing of each other. What a setting is, is ``model.py``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from . import envfile, tomlfile
from .mistakes import Mistake, conflicts, describe
from .model import BY_ATTRIBUTE, BY_NAME, SETTINGS, Config, nearest
from .setting import ENV_PREFIX, UVICORN_PREFIX, Setting
from .uvicorn import keyword

FILE_NAME = "shardserve.toml"
FILE_ENV = ENV_PREFIX + "CONFIG"

# What uvicorn.run() reads of the environment, and what it reads after it has loaded an env file.
_OF_UVICORN_RUN = ("WEB_CONCURRENCY", "FORWARDED_ALLOW_IPS")
# A host's wish, for whoever has not said where to listen. It never stands against ``bind``.
_HOSTS_PORT = "env PORT"

# How alike an unknown SHARDSERVE_ variable must be to a setting to be taken for a slip of the
# keyboard: PROT and PORT are 0.75 alike. Any other belongs to somebody else and is let be.
_SLIP = 0.75


@dataclass(slots=True)
class Layer:
    """What one source says."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)

    def read(self, one: Setting, origin: str, read: Callable[[Any], Any], raw: object) -> None:
        """Take a raw value, or the mistake in it."""
        try:
            self.values[one.attribute] = read(raw)
        except ValueError as error:
            self.mistakes.append(Mistake(origin, f"{one.name}: {error}"))
        self.origins[one.attribute] = origin


@dataclass(frozen=True, slots=True)
class Reading:
    """All layers together. ``config`` is None exactly when there are mistakes."""

    config: Config | None
    sources: dict[str, str]
    mistakes: tuple[Mistake, ...]
    path: Path | None


class Loader:
    """Remembers the flags, and reads the file and the environment as often as asked.

    ``flags`` maps attributes to what click handed over; ``file`` is the argument of --config.
    """

    def __init__(
        self,
        flags: Mapping[str, object] | None = None,
        *,
        file: str | None = None,
        environ: Mapping[str, str] | None = None,
        directory: Path | None = None,
    ) -> None:
        self._flags = dict(flags or {})
        self._environ = os.environ if environ is None else environ
        self._directory = Path.cwd() if directory is None else directory
        self._file = file or self._environ.get(FILE_ENV) or None
        self._loaded_path: Path | None = None

    @property
    def path(self) -> Path | None:
        """The file that was read last, if there was one."""
        return self._loaded_path

    def load(self) -> tuple[Config, dict[str, str]]:
        """The config and the origin of each of its settings. Raises ConfigError with every mistake."""
        reading = self.read()
        if reading.config is None:
            raise ConfigError(describe(reading.mistakes))
        return reading.config, reading.sources

    def reload(self) -> Config:
        """Read again, as at HUP. Raises ConfigError, also for a config that could not be served."""
        config, _ = self.load()
        if not config.app:
            raise ConfigError("no app is configured any more")
        return config

    def read(self) -> Reading:
        """The config, or every mistake. Raises nothing."""
        path, file_layer = self._read_file()
        layers = (file_layer, _from_environment(self._environ), _from_flags(self._flags))
        env_file = _from_env_file(layers, self._environ)
        reading = _combine((file_layer, env_file, *layers[1:]), path)
        if reading.config is not None and path is not None:
            self._loaded_path = path
        return reading

    def _read_file(self) -> tuple[Path | None, Layer]:
        path = self._directory / (self._file or FILE_NAME)
        try:
            # Strict UTF-8: TOML v1.0.0, "A TOML file must be a valid UTF-8 encoded Unicode document".
            text = path.read_bytes().decode()
        except FileNotFoundError:
            # A file that was there at start and is gone at HUP must not silently mean defaults.
            if self._file is None and self._loaded_path is None:
                return None, Layer()
            return path, Layer(mistakes=[Mistake(str(path), "there is no such file")])
        except OSError as error:
            return path, Layer(mistakes=[Mistake(str(path), f"cannot be read: {error.strerror}")])
        except UnicodeDecodeError as error:
            return path, Layer(mistakes=[Mistake(str(path), f"is not UTF-8 at byte {error.start}")])
        return path, _from_file(text, str(path))


def from_keywords(app: object, settings: Mapping[str, object], environ: Mapping[str, str]) -> Config:
    """The config of ``shardserve.run(app, **settings)``. Raises ConfigError with every mistake.

    A keyword is a setting's attribute or its name, so that Uvicorn's keywords fit. The program has
    the say here: of file and environment only WEB_CONCURRENCY and FORWARDED_ALLOW_IPS count, as for
    ``uvicorn.run``. None is "not given", as it is there wherever our default is something else.
    """
    layer = Layer()
    layer.read(BY_ATTRIBUTE["app"], "argument app", BY_ATTRIBUTE["app"].check, app)
    for word, value in settings.items():
        one = BY_ATTRIBUTE.get(word) or BY_NAME.get(word)
        if one is None:
            layer.mistakes.append(Mistake(f"argument {word}", _unknown(word, dashes=False)))
        elif (value := keyword(one, value)) is not None:
            layer.read(one, f"argument {word}", one.check, value)
    foreign = _from_environment({name: environ[name] for name in _OF_UVICORN_RUN if name in environ})
    config = _combine((_from_env_file((foreign, layer), environ), foreign, layer), None)
    if config.config is None:
        raise ConfigError(describe(config.mistakes))
    return config.config


# The layers


def _from_file(text: str, path: str) -> Layer:
    layer = Layer()
    statements, complaints = tomlfile.parse(text)
    layer.mistakes += [Mistake(f"{path}:{line}", complaint) for line, complaint in complaints]
    first_line: dict[str, int] = {}
    for statement in statements:
        origin = f"{path}:{statement.line}"
        name = statement.key.replace("-", "_")
        one = BY_NAME.get(name)
        if statement.is_table_header:
            text = f"[{statement.key}] is a table; settings are keys at the top level, without tables"
            layer.mistakes.append(Mistake(origin, text))
        elif one is None:
            layer.mistakes.append(Mistake(origin, _unknown(statement.key)))
        elif name in first_line:
            text = f"{statement.key} is set twice; it is also on line {first_line[name]}"
            layer.mistakes.append(Mistake(origin, text))
        else:
            first_line[name] = statement.line
            layer.read(one, origin, one.kind.from_file, statement.value)
    return layer


def _from_environment(environ: Mapping[str, str]) -> Layer:
    layer = Layer()
    for one in SETTINGS:
        for variable in one.env:
            if text := environ.get(variable):
                read = one.kind.from_uvicorn if variable.startswith(UVICORN_PREFIX) else one.kind.from_text
                layer.read(one, f"env {variable}", _environment_reader(read), text)
                break
    known = {variable for one in SETTINGS for variable in one.env} | {FILE_ENV}
    for variable in sorted(environ):
        if variable.startswith(ENV_PREFIX) and variable not in known:
            meant = nearest(variable.removeprefix(ENV_PREFIX), cutoff=_SLIP)
            if meant is not None:
                text = f"there is no such variable; did you mean {BY_NAME[meant].env[0]}?"
                layer.mistakes.append(Mistake(f"env {variable}", text))
    return layer


def _environment_reader(read_text: Callable[[str], Any]) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            return read_text(text)
        except ValueError as error:
            # A Kubernetes service called "shardserve" puts SHARDSERVE_PORT=tcp://10.0.0.1:80 into
            # every pod of its namespace.
            if text.startswith("tcp://"):
                hint = "Kubernetes sets this for a service of that name; set enableServiceLinks: false"
                raise ValueError(f"{error} ({hint})") from None
            raise

    return read


def _from_env_file(layers: tuple[Layer, ...], environ: Mapping[str, str]) -> Layer:
    """What the env file that these layers name says of our settings, or why it cannot."""
    layer = Layer()
    named = [one for one in layers if one.values.get("env_file")]
    if not named:
        return layer
    path, origin = named[-1].values["env_file"], named[-1].origins["env_file"]
    try:
        variables = envfile.read(path)
    except ValueError as error:
        layer.mistakes.append(Mistake(origin, f"env_file: {error}"))
        return layer
    for one in SETTINGS:
        for variable in set(one.fallback_env) & set(_OF_UVICORN_RUN):
            if variable not in environ and (text := variables.get(variable)):
                layer.read(one, f"{path}: {variable}", one.kind.from_text, text)
    return layer


def _from_flags(flags: Mapping[str, object]) -> Layer:
    layer = Layer()
    for attribute, raw in flags.items():
        one = BY_ATTRIBUTE[attribute]
        layer.read(one, flag_origin(one), one.kind.from_flag, raw)
    return layer


def flag_origin(one: Setting) -> str:
    return f"argument {one.flag}" if one.argument else f"flag {one.flag}"


def _combine(layers: tuple[Layer, ...], path: Path | None) -> Reading:
    """Lay them over each other, the weakest first."""
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in layers:
        values |= layer.values
        origins |= layer.origins
    if origins.get("port") == _HOSTS_PORT and values.get("bind"):
        del values["port"], origins["port"]
    mistakes = [mistake for layer in layers for mistake in layer.mistakes]
    mistakes += conflicts(values, origins)
    sources = {one.attribute: origins.get(one.attribute, "default") for one in SETTINGS}
    config = None if mistakes else Config(**values)
    return Reading(config, sources, tuple(mistakes), path)


def _unknown(word: str, *, dashes: bool = True) -> str:
    meant = nearest(word)
    text = f"unknown setting {word}"
    return text if meant is None else f"{text}; did you mean {meant.replace('_', '-') if dashes else meant}?"
