"""A flat TOML file as statements that know their line.

tomllib is the authority on TOML but keeps no line numbers. So each statement is cut out as the
shortest run of lines that tomllib parses alone: an unclosed string or array parses nowhere, so a
run that parses is the whole statement. What tomllib refuses, it refuses here in its own words.

Rules of this file: text in, statements and mistakes out. It knows TOML and no setting.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

# How tomllib.TOMLDecodeError ends, 3.11 to 3.14.
_POSITION = re.compile(r"\s*\(at (?:line (\d+), column (\d+)|end of document)\)$")
# What it says of a key given twice. The syntax is fine then, and the statements can still be told apart.
_REPEATED = ("Cannot overwrite a value", "Cannot declare", "Cannot redefine")


@dataclass(frozen=True, slots=True)
class Statement:
    """``key = value`` at the top level, or a ``[table]`` header with ``value`` None."""

    line: int
    key: str
    value: Any

    @property
    def is_table_header(self) -> bool:
        return self.value is None


def parse(text: str) -> tuple[list[Statement], list[tuple[int, str]]]:
    """The statements of a file, and tomllib's complaint, if any, as (line, text)."""
    lines = text.replace("\r\n", "\n").split("\n")
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        complaint = _complaint(error, last_line=len(lines))
        if not complaint[1].startswith(_REPEATED):
            return [], [complaint]
        statements = list(_statements(lines))
        # Keys given twice are for the caller to report: it knows that a-b and a_b are one.
        keys = [one.key for one in statements]
        return statements, [] if len(set(keys)) < len(keys) else [complaint]
    return list(_statements(lines)), []


def _statements(lines: list[str]) -> Iterator[Statement]:
    first = 0
    in_table = False
    while first < len(lines):
        length, found = _shortest(lines, first)
        header = lines[first].lstrip().startswith("[")
        in_table = in_table or header
        for key, value in found.items():
            if header or not in_table:
                yield Statement(first + 1, key, None if header else value)
        first += length


def _shortest(lines: list[str], first: int) -> tuple[int, dict[str, Any]]:
    """How many lines the statement at ``first`` has, and what tomllib makes of it."""
    for end in range(first + 1, len(lines) + 1):
        try:
            return end - first, tomllib.loads("\n".join(lines[first:end]))
        except tomllib.TOMLDecodeError:
            continue
    return len(lines) - first, {}


def _complaint(error: tomllib.TOMLDecodeError, last_line: int) -> tuple[int, str]:
    found = _POSITION.search(str(error))
    text = _POSITION.sub("", str(error))
    if found is None or found[1] is None:
        return last_line, text
    return int(found[1]), f"{text} (column {found[2]})"
