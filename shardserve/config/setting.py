"""What is known of one setting, and how one is declared.

Rules of this file: it knows no setting. Which there are is ``model.py``, what a value may be is
``values.py``. Every other name of a setting follows from its attribute, here and nowhere else.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from .kinds import LogConfig, Secret
from .values import Kind, Switch

ENV_PREFIX = "SHARDSERVE_"
UVICORN_PREFIX = "UVICORN_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The facts about one field of Config. ``default`` is the checked value, never text."""

    attribute: str
    kind: Kind
    default: Any
    help: str
    group: str
    unit: str  # written behind a value, unless its kind writes one
    suffix: str  # the unit as the attribute's name ends in it
    reloadable: bool  # a HUP adopts a change; otherwise it waits for a restart
    argument: bool  # a positional argument of the command line, not a flag
    flag_name: str  # without dashes; "" means the file key
    uvicorn: bool  # Uvicorn has it, under the same name
    fallback_env: tuple[str, ...]  # other people's variables, read after our own and Uvicorn's
    unset: str  # what None means, in words

    @property
    def name(self) -> str:
        """The attribute without its unit: how everything but Python code calls it."""
        return self.attribute.removesuffix(f"_{self.suffix}") if self.suffix else self.attribute

    @property
    def key(self) -> str:
        return self.name.replace("_", "-")

    @property
    def flag(self) -> str:
        return self.metavar if self.argument else f"--{self.flag_name or self.key}"

    @property
    def negative_flag(self) -> str | None:
        """Every switch can be switched off again: the file or the environment may have it on."""
        return f"--no-{self.flag_name or self.key}" if isinstance(self.kind, Switch) else None

    @property
    def metavar(self) -> str:
        return self.kind.metavar

    @property
    def env(self) -> tuple[str, ...]:
        """The variables that set it, the strongest first."""
        own = (ENV_PREFIX + self.name.upper(),)
        return own + ((self.uvicorn_env,) if self.uvicorn else ()) + self.fallback_env

    @property
    def uvicorn_env(self) -> str:
        """What click calls the variable: by Uvicorn's parameter, which is our name."""
        return UVICORN_PREFIX + self.name.upper()

    def check(self, value: object) -> Any:
        """A Python value, normalised. Raises ValueError."""
        return None if value is None and self.default is None else self.kind.check(value)

    def to_text(self, value: Any) -> str:
        return self.unset if value is None else self.kind.to_text(value)


def setting(
    default: Any,
    kind: Kind,
    *,
    help: str,
    unit: str = "",
    suffix: str = "",
    reloadable: bool = True,
    argument: bool = False,
    flag_name: str = "",
    uvicorn: bool = False,
    fallback_env: tuple[str, ...] = (),
    unset: str = "none",
) -> Any:
    """Declare one field of Config. Its group is the class that it stands in."""
    facts = {
        "kind": kind, "default": default, "help": help, "unit": unit,
        "suffix": suffix or unit, "reloadable": reloadable, "argument": argument, "flag_name": flag_name,
        "uvicorn": uvicorn, "fallback_env": fallback_env, "unset": unset,
    }  # fmt: skip
    return dataclasses.field(
        default=default,
        kw_only=not argument,
        repr=not isinstance(kind, Secret),
        # It may be a dict, which has no hash, or a ConfigParser, which cannot be compared.
        compare=not isinstance(kind, LogConfig),
        metadata=facts,
    )
