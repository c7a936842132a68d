"""What one value may be: each kind of value reads itself from text, checks itself, writes itself.

Rules of this file: a ``Kind`` knows nothing of the setting it belongs to. It raises ValueError with
a whole phrase ('"x" is not an integer from 0 to 65535'); who asked puts the setting's name before
it. A value comes in by one of five doors and leaves normalised, so that equal settings are equal:

    from_text    an environment variable or a flag: always a str
    from_uvicorn a variable of Uvicorn's, which has lists in another form
    from_flag    what click hands over: a str, a bool for a switch, a tuple for a repeatable flag
    from_file    what tomllib made of it
    check        a Python value: a keyword of ``Config`` or an entry of the START message
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from typing import Any

from .addresses import check_unix_path, parse_bind

# A week: milliseconds of it fit the 32 bits that timers have in C.
LONGEST_S = 7 * 24 * 3600.0
# RFC 9110 §5.6.2: token = 1*tchar
TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
# RFC 9110 §5.5: a field value holds visible characters, SP, HTAB and obs-text; "field values
# containing CR, LF, or NUL characters are invalid and dangerous".
_FIELD_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
# The server frames every message itself; a fixed value could only contradict it.
FRAMING_HEADERS = frozenset({"connection", "content-length", "transfer-encoding"})
_SIZE_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# A number, and a unit of bytes: K, KiB, or the ambiguous KB; B and bytes are what to_text writes.
_SIZE = re.compile(r"\s*([0-9]{1,15})\s*(?:([KMGT])(iB|B)?|B|bytes?)?\s*", re.IGNORECASE | re.ASCII)
# t, y, f and n are click's, and so Uvicorn's.
BOOLEAN_WORDS = {
    "1": True, "true": True, "yes": True, "on": True, "t": True, "y": True,
    "0": False, "false": False, "no": False, "off": False, "f": False, "n": False,
}  # fmt: skip


def quote(value: object) -> str:
    """A value as a person wrote it, for a message."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list | tuple):
        return "a list"
    return str(value)


class Kind:
    """The base: a kind is itself plus what ``check`` accepts."""

    metavar = "VALUE"
    phrase = "a value"

    def check(self, value: object) -> Any:
        """The value, normalised. Raises ValueError if it is not one of this kind."""
        raise NotImplementedError

    def from_text(self, text: str) -> Any:
        return self.check(text)

    def from_uvicorn(self, text: str) -> Any:
        return self.from_text(text)

    def from_flag(self, raw: object) -> Any:
        return self.from_text(raw) if isinstance(raw, str) else self.check(raw)

    def from_file(self, value: object) -> Any:
        return self.check(value)

    def to_json(self, value: Any) -> Any:
        return value

    def to_text(self, value: Any) -> str:
        return str(value)

    def _wrong(self, value: object) -> ValueError:
        return ValueError(f"{quote(value)} is not {self.phrase}")


@dataclass(frozen=True)
class Text(Kind):
    metavar: str = "TEXT"
    phrase: str = "text without control characters"

    def check(self, value: object) -> str:
        if not isinstance(value, str) or any(ord(c) < 0x20 or ord(c) == 0x7F for c in value):
            raise self._wrong(value)
        return value

    def to_text(self, value: Any) -> str:
        return str(value) or '""'


@dataclass(frozen=True)
class FilePath(Text):
    metavar: str = "PATH"
    phrase: str = "a path"

    def check(self, value: object) -> str:
        return super().check(os.fspath(value) if isinstance(value, os.PathLike) else value)


@dataclass(frozen=True)
class UnixPath(FilePath):
    def check(self, value: object) -> str:
        return check_unix_path(super().check(value))


@dataclass(frozen=True)
class ControlPath(FilePath):
    """``auto``, ``off``, or the path of a Unix socket."""

    metavar: str = "[auto|off|PATH]"
    phrase: str = "auto, off, or a path"

    def check(self, value: object) -> str:
        text = super().check(value)
        if text.lower() in ("auto", "off"):
            return text.lower()
        if not text:
            raise self._wrong(value)
        return check_unix_path(text)


@dataclass(frozen=True)
class ImportString(Text):
    """``module:attribute``. Empty means not given; whether that is an error is the caller's to say."""

    metavar: str = "APP"
    phrase: str = 'an import string such as "main:app"'

    def check(self, value: object) -> str:
        text = super().check(value)
        module, _, attribute = text.partition(":")
        if text and ("/" in module or module.endswith(".py")):
            dotted = module.removesuffix(".py").strip("./").replace("/", ".")
            raise ValueError(f'{quote(text)} is a file; name the module: "{dotted}:{attribute or "app"}"')
        if text and not attribute:
            raise ValueError(f'{quote(text)} names no attribute; for example "{module}:app"')
        if text and not module:
            raise ValueError(f'{quote(text)} names no module; for example "main:{attribute}"')
        return text


@dataclass(frozen=True)
class Integer(Kind):
    low: int
    high: int | None = None
    metavar: str = "INTEGER"

    @property
    def phrase(self) -> str:  # type: ignore[override]
        return "an integer" + _bounds(self.low, self.high)

    def check(self, value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < self.low:
            raise self._wrong(value)
        if self.high is not None and value > self.high:
            raise self._wrong(value)
        return int(value)  # ssl.CERT_REQUIRED and its like are ints with a name

    def from_text(self, text: str) -> int:
        if not re.fullmatch(r"\s*[+-]?[0-9]{1,18}\s*", text):
            raise self._wrong(text)
        return self.check(int(text))


@dataclass(frozen=True)
class Size(Kind):
    """A number of bytes: an integer, or text that may have a unit. 1K is 1024, as in nginx and systemd."""

    low: int = 0
    high: int = 2**50  # fits every integer on the way to C
    metavar: str = "SIZE"

    @property
    def phrase(self) -> str:  # type: ignore[override]
        bounds = f"from {self.to_text(self.low)} to {self.to_text(self.high)}"
        return f"a size such as 65536, 64K or 1GiB, {bounds}"

    def check(self, value: object) -> int:
        if isinstance(value, str):
            return self.from_text(value)
        if not isinstance(value, int) or isinstance(value, bool) or not self.low <= value <= self.high:
            raise self._wrong(value)
        return value

    def from_text(self, text: str) -> int:
        found = _SIZE.fullmatch(text)
        if found is None:
            raise self._wrong(text)
        number, letter, ending = found.groups()
        size = int(number) * _SIZE_UNITS.get((letter or "").upper(), 1)
        if ending is not None and len(ending) == 1:  # KB: 1000 or 1024, depending on whom one asks
            write = f"{int(number)}{letter.upper()}iB"
            raise ValueError(f"{quote(text)} is ambiguous; write {write}, which is {size} bytes")
        if not self.low <= size <= self.high:
            raise self._wrong(text)
        return size

    def to_text(self, value: Any) -> str:
        for letter, factor in reversed(_SIZE_UNITS.items()):
            if value and value % factor == 0:
                return f"{value // factor} {letter}iB"
        return f"{value} bytes" if value else "0"


@dataclass(frozen=True)
class Seconds(Kind):
    low: float = 0.0
    high: float = LONGEST_S
    metavar: str = "SECONDS"

    @property
    def phrase(self) -> str:  # type: ignore[override]
        return "a number of seconds" + _bounds(self.low, self.high)

    def check(self, value: object) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise self._wrong(value)
        if not self.low <= value <= self.high:  # nan is neither
            raise self._wrong(value)
        return float(value)

    def from_text(self, text: str) -> float:
        if not re.fullmatch(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)\s*", text):
            raise self._wrong(text)
        return self.check(float(text))

    def to_text(self, value: Any) -> str:
        return str(value).removesuffix(".0")


@dataclass(frozen=True)
class Switch(Kind):
    metavar: str = ""
    phrase: str = "true or false"

    def check(self, value: object) -> bool:
        if not isinstance(value, bool):
            raise self._wrong(value)
        return value

    def from_text(self, text: str) -> bool:
        if text.strip().lower() not in BOOLEAN_WORDS:
            raise ValueError(f"{quote(text)} is not true or false (also 1, 0, yes, no, on, off)")
        return BOOLEAN_WORDS[text.strip().lower()]

    def to_text(self, value: Any) -> str:
        return quote(value)


@dataclass(frozen=True)
class Choice(Kind):
    choices: tuple[str, ...]

    @property
    def metavar(self) -> str:  # type: ignore[override]
        return f"[{'|'.join(self.choices)}]"

    @property
    def phrase(self) -> str:  # type: ignore[override]
        return f"one of {', '.join(self.choices)}"

    def check(self, value: object) -> str:
        for word in self.choices if isinstance(value, str) else ():
            if word.lower() == str(value).strip().lower():
                return word
        raise self._wrong(value)


@dataclass(frozen=True)
class FileMode(Kind):
    """Permission bits: octal as text ("660"), an int in Python."""

    metavar: str = "OCTAL"
    phrase: str = 'an octal file mode such as "660"'

    def check(self, value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 0o777:
            raise self._wrong(oct(value) if isinstance(value, int) else value)
        return value

    def from_text(self, text: str) -> int:
        if not re.fullmatch(r"\s*(0o)?[0-7]{1,4}\s*", text):
            raise self._wrong(text)
        return self.check(int(text, 8))

    def from_file(self, value: object) -> int:
        # A bare 400 in TOML is decimal, 0o620: valid, and nothing like what was meant.
        if not isinstance(value, str):
            raise ValueError(f'{quote(value)} is not text; write the octal mode in quotes, as in "660"')
        return self.from_text(value)

    def to_text(self, value: Any) -> str:
        return f"{value:03o}"


@dataclass(frozen=True)
class BindAddress(Text):
    """One entry of ``bind``; stays text, so that messages show what was written."""

    metavar: str = "ADDRESS"
    phrase: str = "an address"

    def check(self, value: object) -> str:
        text = super().check(value)
        parse_bind(text)
        return text


@dataclass(frozen=True)
class Header(Kind):
    """``Name: value`` as text, a (name, value) pair in Python."""

    metavar: str = '"NAME: VALUE"'
    phrase: str = 'a header such as "X-Frame-Options: DENY"'

    def check(self, value: object) -> tuple[str, str]:
        if isinstance(value, str):
            return self.from_text(value)
        match value:
            case [str() as name, str() as content]:
                return self._pair(name, content)
        raise self._wrong(value)

    def from_text(self, text: str) -> tuple[str, str]:
        name, colon, content = text.partition(":")
        if not colon:
            raise self._wrong(text)
        # RFC 9112 §5: field-line = field-name ":" OWS field-value OWS
        return self._pair(name, content.strip(" \t"))

    def to_json(self, value: Any) -> Any:
        return list(value)

    def to_text(self, value: Any) -> str:
        return f"{value[0]}: {value[1]}"

    @staticmethod
    def _pair(name: str, content: str) -> tuple[str, str]:
        if not TOKEN.fullmatch(name):
            raise ValueError(f"{quote(name)} is not a header name (RFC 9110 §5.6.2)")
        if not _FIELD_VALUE.fullmatch(content):
            raise ValueError(f"the value of {name} has a character no header may carry (RFC 9110 §5.5)")
        if name.lower() in FRAMING_HEADERS:
            raise ValueError(f"{name} frames the message; the server writes it and it cannot be fixed")
        return name, content


@dataclass(frozen=True)
class Many(Kind):
    """A repeatable flag, a list in the file, ``separator``-separated in the environment.

    ``lone``: in Python, as with Uvicorn, text is a list of one.
    """

    item: Kind
    separator: str
    lone: bool = False

    @property
    def metavar(self) -> str:  # type: ignore[override]
        return self.item.metavar

    @property
    def phrase(self) -> str:  # type: ignore[override]
        return f"a list, each entry {self.item.phrase}"

    def check(self, value: object) -> tuple[Any, ...]:
        entries = [value] if self.lone and isinstance(value, str) else self._entries(value)
        return tuple(self.item.check(entry) for entry in entries)

    def from_text(self, text: str) -> tuple[Any, ...]:
        pieces = (piece.strip() for piece in text.split(self.separator))
        return tuple(self.item.from_text(piece) for piece in pieces if piece)

    def from_uvicorn(self, text: str) -> tuple[Any, ...]:
        # click's rule: paths as in $PATH, anything else by white space.
        pieces = text.split(os.pathsep) if isinstance(self.item, FilePath) else text.split()
        return tuple(self.item.from_text(piece) for piece in pieces if piece)

    def from_flag(self, raw: object) -> tuple[Any, ...]:
        return tuple(self.item.from_flag(entry) for entry in self._entries(raw))

    def from_file(self, value: object) -> tuple[Any, ...]:
        return tuple(self.item.from_file(entry) for entry in self._entries(value))

    def to_json(self, value: Any) -> Any:
        return [self.item.to_json(entry) for entry in value]

    def to_text(self, value: Any) -> str:
        return ", ".join(self.item.to_text(entry) for entry in value) or "none"

    def _entries(self, value: object) -> list[object] | tuple[object, ...]:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{quote(value)} is not a list; write [{quote(value)}]")
        return value


def _bounds(low: float, high: float | None) -> str:
    return f", at least {low:g}" if high is None else f" from {low:.10g} to {high:.10g}"
