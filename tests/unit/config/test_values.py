"""Each kind of value: what it takes by which door, what it says when it does not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from shardserve.config.values import (
    BindAddress,
    Choice,
    ControlPath,
    FileMode,
    FilePath,
    Header,
    ImportString,
    Integer,
    Kind,
    Many,
    Seconds,
    Size,
    Switch,
    Text,
    UnixPath,
)

COLOURS = Choice(("red", "green"))


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Text(), " a b", " a b"),
        (Integer(0, 9), "9", 9),
        (Integer(0), " 12 ", 12),
        (Size(), "65536", 65536),
        (Size(), "64K", 65536),
        (Size(), "64KiB", 65536),
        (Size(), "64kib", 65536),
        (Size(), " 64 KiB ", 65536),
        (Size(), "1m", 2**20),
        (Size(), "2MiB", 2**21),
        (Size(), "3G", 3 * 2**30),
        (Size(), "1GiB", 2**30),
        (Size(), "1T", 2**40),
        (Size(), "0", 0),
        (Size(), "0K", 0),
        (Size(), "100B", 100),
        (Size(), "100 bytes", 100),
        (Size(), "1 byte", 1),
        (Size(256, 512), "256", 256),
        (Size(256, 512), "512 bytes", 512),
        (Size(), "1024T", 2**50),
        (Seconds(), "75", 75.0),
        (Seconds(), "0.5", 0.5),
        (Seconds(), ".5", 0.5),
        (Switch(), "Yes", True),
        (Switch(), "off", False),
        (Switch(), "1", True),
        (COLOURS, "GREEN", "green"),
        (FileMode(), "660", 0o660),
        (FileMode(), "0o600", 0o600),
        (Header(), "X-A:  b c ", ("X-A", "b c")),
        (Header(), "X-A:", ("X-A", "")),
        (Header(), "X-Time: 10:30", ("X-Time", "10:30")),
        (Many(BindAddress(), ","), ":80, unix:/a ,", (":80", "unix:/a")),
        (Many(Header(), "\n"), "A: 1, 2\n\nB: 3\r\n", (("A", "1, 2"), ("B", "3"))),
        (ImportString(), "a.b:c.d", "a.b:c.d"),
        (ImportString(), "", ""),
        (ControlPath(), "AUTO", "auto"),
        (ControlPath(), "off", "off"),
        (ControlPath(), "/run/Off", "/run/Off"),
        (ControlPath(), "./auto", "./auto"),
    ],
)
def test_from_text(kind: Kind, text: str, value: object) -> None:
    assert kind.from_text(text) == value


@pytest.mark.parametrize(
    ("kind", "text", "complaint"),
    [
        (Integer(0, 9), "10", "10 is not an integer from 0 to 9"),
        (Integer(0, 9), "-1", "-1 is not an integer from 0 to 9"),
        (Integer(1), "x", '"x" is not an integer, at least 1'),
        (Integer(0), "1_000", '"1_000" is not'),
        (Integer(0), "1.5", '"1.5" is not'),
        (Integer(0), "٣", "is not an integer"),
        (
            Size(256, 2**20),
            "many",
            '"many" is not a size such as 65536, 64K or 1GiB, from 256 bytes to 1 MiB',
        ),
        (Size(), "", '"" is not a size such as 65536, 64K or 1GiB, from 0 to 1024 TiB'),
        (Size(), "K", '"K" is not a size'),
        (Size(), "1.5M", '"1.5M" is not a size'),
        (Size(), "-1", '"-1" is not a size'),
        (Size(), "+1", '"+1" is not a size'),
        (Size(), "1_000", '"1_000" is not a size'),
        (Size(), "0x10", '"0x10" is not a size'),
        (Size(), "1e6", '"1e6" is not a size'),
        (Size(), "1P", '"1P" is not a size'),
        (Size(), "1iB", '"1iB" is not a size'),
        (Size(), "1K 2", '"1K 2" is not a size'),
        (Size(), "٣", "is not a size"),
        (Size(), "64K", "is not a size"),  # the Kelvin sign, a K that is none
        (Size(), "9" * 15 + "T", "is not a size"),
        (Size(), "9" * 5000, "is not a size"),
        (Size(), "64KB", '"64KB" is ambiguous; write 64KiB, which is 65536 bytes'),
        (Size(), "1 gb", '"1 gb" is ambiguous; write 1GiB, which is 1073741824 bytes'),
        (
            Size(256, 512),
            "255",
            '"255" is not a size such as 65536, 64K or 1GiB, from 256 bytes to 512 bytes',
        ),
        (Size(256, 512), "1K", '"1K" is not a size'),
        (Seconds(), "-1", "-1.0 is not a number of seconds from 0 to 604800"),
        (Seconds(), "604801", "604801.0 is not a number"),
        (Seconds(), "nan", '"nan" is not'),
        (Seconds(), "inf", '"inf" is not'),
        (Seconds(), "30s", '"30s" is not'),
        (Switch(), "maybe", '"maybe" is not true or false'),
        (COLOURS, "blue", '"blue" is not one of red, green'),
        (FileMode(), "888", '"888" is not an octal file mode'),
        (FileMode(), "7777", "is not an octal file mode"),
        (Text(), "a\x00b", "is not text without control characters"),
        (Header(), "X-A", '"X-A" is not a header'),
        (Header(), "X A: b", '"X A" is not a header name (RFC 9110'),
        (Header(), ": b", '"" is not a header name'),
        (Header(), "X-A: b\nSet-Cookie: c", "the value of X-A has a character"),
        (Header(), "X-A: b\rc", "the value of X-A has a character"),
        (Header(), "X-A: b\x00c", "the value of X-A has a character"),
        (Header(), "X-A: \u20ac", "the value of X-A has a character"),
        (Header(), "Content-Length: 5", "Content-Length frames the message"),
        (Header(), "transfer-encoding: chunked", "transfer-encoding frames the message"),
        (Header(), "Connection: close", "Connection frames the message"),
        (ImportString(), "main", 'names no attribute; for example "main:app"'),
        (ImportString(), "main:", 'names no attribute; for example "main::app"'.replace("::", ":")),
        (ImportString(), ":app", 'names no module; for example "main:app"'),
        (ImportString(), "main.py", 'name the module: "main:app"'),
        (ImportString(), "./src/main.py:api", 'name the module: "src.main:api"'),
        (ControlPath(), "", '"" is not auto, off, or a path'),
        (ControlPath(), "/a\nb", "is not auto, off, or a path"),
        (ControlPath(), "/" + "x" * 107, "at most 107 bytes, this one is 108"),
        (UnixPath(), "/" + "x" * 107, "at most 107 bytes, this one is 108"),
        (UnixPath(), "/" + "é" * 60, "at most 107 bytes, this one is 121"),
    ],
)
def test_from_text_refuses(kind: Kind, text: str, complaint: str) -> None:
    with pytest.raises(ValueError) as raised:
        kind.from_text(text)
    assert complaint in str(raised.value)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Integer(0, 9), True),
        (Integer(0, 9), "5"),
        (Integer(0, 9), 5.0),
        (Integer(0, 9), None),
        (Size(), True),
        (Size(), 5.0),
        (Size(), -1),
        (Size(), 2**50 + 1),
        (Size(256), 255),
        (Size(), None),
        (Size(), [1]),
        (Seconds(), math.inf),
        (Seconds(), math.nan),
        (Seconds(), False),
        (Seconds(), "5"),
        (Switch(), 1),
        (Switch(), "true"),
        (COLOURS, True),
        (FileMode(), 0o1000),
        (FileMode(), "660"),
        (FileMode(), True),
        (Text(), 5),
        (ControlPath(), False),
        (ControlPath(), None),
        (Header(), ("a", 1)),
        (Header(), ("a", "b", "c")),
        (Many(Text(), ","), "abc"),
        (Many(Text(), ","), {"a": 1}),
    ],
)
def test_check_refuses_what_only_looks_right(kind: Kind, value: object) -> None:
    with pytest.raises(ValueError):
        kind.check(value)


def test_check_normalises() -> None:
    assert Size().check("64K") == Size().check(65536) == 65536
    assert isinstance(Seconds().check(5), float)
    assert FilePath().check(Path("/a")) == "/a"
    assert ControlPath().check(Path("/a")) == "/a"
    assert Many(Header(), "\n").check([["A", "1"], "B: 2"]) == (("A", "1"), ("B", "2"))


def test_a_file_writes_a_mode_as_text() -> None:
    """400 in TOML is decimal: as bits it is 0o620, which nobody meant."""
    assert FileMode().from_file("400") == 0o400
    with pytest.raises(ValueError, match=r"in quotes"):
        FileMode().from_file(400)


def test_a_size_is_an_integer_or_text_in_a_file_and_a_number_in_json() -> None:
    assert Size().from_file("1GiB") == Size().from_file(2**30) == 2**30
    assert Size().from_flag("1GiB") == 2**30
    assert Size().to_json(2**30) == 2**30


@pytest.mark.parametrize("value", [0, 1, 2, 1023, 1024, 1025, 65536, 2**20 - 1, 2**30, 3 * 2**40, 2**50])
def test_a_size_that_is_printed_can_be_read(value: int) -> None:
    assert Size().from_text(Size().to_text(value)) == value


def test_a_lone_entry_is_told_how_to_be_a_list() -> None:
    with pytest.raises(ValueError, match=r'":80" is not a list; write \[":80"\]'):
        Many(BindAddress(), ",").from_file(":80")


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        (Size(), 0, "0"),
        (Size(), 256, "256 bytes"),
        (Size(), 1024, "1 KiB"),
        (Size(), 65536, "64 KiB"),
        (Size(), 65537, "65537 bytes"),
        (Size(), 3 * 2**19, "1536 KiB"),
        (Size(), 2**30, "1 GiB"),
        (Size(), 2**50, "1024 TiB"),
        (Seconds(), 75.0, "75"),
        (Seconds(), 0.25, "0.25"),
        (FileMode(), 0o60, "060"),
        (Switch(), True, "true"),
        (Text(), "", '""'),
        (Many(Header(), "\n"), (("A", "1"), ("B", "2")), "A: 1, B: 2"),
        (Many(Header(), "\n"), (), "none"),
    ],
)
def test_to_text(kind: Kind, value: Any, text: str) -> None:
    assert kind.to_text(value) == text
