"""Dates, conditions, ranges and codings, each against the text of RFC 9110."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardserve.asgi.static_rules import (
    MOST_RANGES,
    Range,
    Validators,
    codings_for,
    http_date,
    parse_date,
    ranges_of,
    status_of,
)

WHEN = 784111777  # the date of every example in §5.6.7
FILE = Validators(b'"v1"', WHEN)
WEAK = Validators(b'W/"v1"', WHEN)
BEFORE, SAME, AFTER = http_date(WHEN - 1), http_date(WHEN), http_date(WHEN + 1)


# Dates


@pytest.mark.parametrize(
    "text",
    [b"Sun, 06 Nov 1994 08:49:37 GMT", b"Sunday, 06-Nov-94 08:49:37 GMT", b"Sun Nov  6 08:49:37 1994"],
)
def test_the_three_forms_of_a_date(text: bytes) -> None:
    assert parse_date(text) == WHEN


def test_what_we_write_is_an_imf_fixdate() -> None:
    assert http_date(WHEN) == b"Sun, 06 Nov 1994 08:49:37 GMT"


@pytest.mark.parametrize(
    "text",
    [
        b"", b"0", b"yesterday", b"784111777", b"1994-11-06T08:49:37Z", b"Sun, 06 Nov 1994 08:49:37",
        b"Sun, 06 Nov 1994 08:49:37 +0100", b"Sun, 32 Nov 1994 08:49:37 GMT",
        b"Sun, 06 Nov 1994 25:49:37 GMT",
        b"Sun, 06 Nix 1994 08:49:37 GMT", b"Sun, 06 Nov 0000 08:49:37 GMT", b" Sun, 06 Nov 1994 08:49:37 GMT",
        b"Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT",
        b"Sun, \xd9\xa06 Nov 1994 08:49:37 GMT",
    ],
)  # fmt: skip
def test_what_is_no_date(text: bytes) -> None:
    assert parse_date(text) is None


def test_a_year_of_two_digits_is_never_far_ahead() -> None:
    """More than 50 years in the future is the past (§5.6.7)."""
    assert parse_date(b"Sunday, 06-Nov-94 08:49:37 GMT") == WHEN
    years = {parse_date(b"Monday, 01-Jan-%02d 00:00:00 GMT" % year) for year in range(100)}
    assert None not in years
    assert len(years) == 100
    latest, first = max(filter(None, years)), min(year for year in years if year is not None)
    assert latest - first < 100 * 366 * 86400


@given(st.integers(0, 253402300799))
def test_a_date_is_read_as_it_was_written(when: int) -> None:
    assert parse_date(http_date(when)) == when


# Conditions


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        # If-Match compares strongly (§13.1.1)
        (b"if-match", b'"v1"', 200),
        (b"if-match", b'"v0", "v1"', 200),
        (b"if-match", b"*", 200),
        (b"if-match", b'"v0"', 412),
        (b"if-match", b'W/"v1"', 412),
        (b"if-match", b"", 412),
        (b"if-match", b"v1", 412),
        # If-None-Match compares weakly (§13.1.2)
        (b"if-none-match", b'"v1"', 304),
        (b"if-none-match", b'W/"v1"', 304),
        (b"if-none-match", b'"v0",W/"v1" , "v2"', 304),
        (b"if-none-match", b"*", 304),
        (b"if-none-match", b'"v0"', 200),
        (b"if-none-match", b'"v0, v1"', 200),
        (b"if-none-match", b"v1", 200),
        (b"if-none-match", b'"v1', 200),
        # Dates (§13.1.3, §13.1.4)
        (b"if-modified-since", SAME, 304),
        (b"if-modified-since", AFTER, 304),
        (b"if-modified-since", BEFORE, 200),
        (b"if-modified-since", b"nonsense", 200),
        (b"if-unmodified-since", SAME, 200),
        (b"if-unmodified-since", AFTER, 200),
        (b"if-unmodified-since", BEFORE, 412),
        (b"if-unmodified-since", b"nonsense", 200),
    ],
)
def test_one_condition(name: bytes, value: bytes, status: int) -> None:
    assert status_of({name: value}, FILE) == status


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        # 1 before 2: If-Unmodified-Since is not looked at
        ({b"if-match": b'"v1"', b"if-unmodified-since": BEFORE}, 200),
        ({b"if-match": b'"v0"', b"if-unmodified-since": AFTER}, 412),
        # 3 before 4: If-Modified-Since is not looked at
        ({b"if-none-match": b'"v0"', b"if-modified-since": SAME}, 200),
        ({b"if-none-match": b'"v1"', b"if-modified-since": BEFORE}, 304),
        # 1 and 2 before 3 and 4
        ({b"if-match": b'"v0"', b"if-none-match": b'"v1"'}, 412),
        ({b"if-match": b'"v1"', b"if-none-match": b'"v1"'}, 304),
        ({b"if-unmodified-since": BEFORE, b"if-modified-since": AFTER}, 412),
    ],
)
def test_the_order_of_conditions(fields: dict[bytes, bytes], status: int) -> None:
    """§13.2.2."""
    assert status_of(fields, FILE) == status


def test_a_weak_validator() -> None:
    assert status_of({b"if-none-match": b'"v1"'}, WEAK) == 304
    assert status_of({b"if-none-match": b'W/"v1"'}, WEAK) == 304
    assert status_of({b"if-match": b'W/"v1"'}, WEAK) == 412
    assert status_of({b"if-match": b"*"}, WEAK) == 200


# Ranges


def asked(text: bytes, size: int = 100, **more: bytes) -> list[tuple[int, int]] | None:
    fields = {b"range": text, **{name.encode().replace(b"_", b"-"): value for name, value in more.items()}}
    ranges = ranges_of(fields, FILE, size)
    return None if ranges is None else [tuple(one) for one in ranges]


@pytest.mark.parametrize(
    ("text", "ranges"),
    [
        (b"bytes=0-0", [(0, 1)]),
        (b"bytes=0-99", [(0, 100)]),
        (b"bytes=10-19", [(10, 10)]),
        (b"bytes=10-", [(10, 90)]),
        (b"bytes=99-", [(99, 1)]),
        (b"bytes=-1", [(99, 1)]),
        (b"bytes=-1000", [(0, 100)]),
        (b"bytes=90-1000", [(90, 10)]),
        (b"BYTES=0-0", [(0, 1)]),
        (b"bytes=0-0,-1", [(0, 1), (99, 1)]),
        (b"bytes= 50-59 , 0-9\t,", [(50, 10), (0, 10)]),
        (b"bytes=0-9,10-19", [(0, 10), (10, 10)]),
        (b"bytes=0-9,200-", [(0, 10)]),
    ],
)
def test_ranges_that_are_there(text: bytes, ranges: list[tuple[int, int]]) -> None:
    assert asked(text) == ranges


@pytest.mark.parametrize("text", [b"bytes=100-", b"bytes=100-200", b"bytes=-0", b"bytes=500-,-0"])
def test_ranges_that_are_not_there(text: bytes) -> None:
    assert asked(text) == []


@pytest.mark.parametrize(
    "text",
    [
        b"", b"bytes", b"bytes=", b"bytes=-", b"bytes=,", b"bytes=a-b", b"bytes=5", b"bytes=9-5",
        b"bytes=--5", b"bytes=1-2-3", b"bytes=0-1,x", b"lines=0-1", b"bytes 0-1", b"bytes=0x1-2",
        b"bytes=+1-2", b"bytes=0-1, 9-5", b"bytes=" + b"9" * 5000 + b"-", b"bytes=\xd9\xa0-1",
        b"bytes=1 - 2", b"bytes=0-1, bytes=2-3",
    ],
)  # fmt: skip
def test_what_is_no_range_is_ignored(text: bytes) -> None:
    assert asked(text) is None


@pytest.mark.parametrize("text", [b"bytes=0-9,5-14", b"bytes=0-,0-,0-", b"bytes=10-19,-95"])
def test_ranges_that_overlap_get_the_whole(text: bytes) -> None:
    assert asked(text) is None


def test_only_so_many_ranges() -> None:
    def many(count: int) -> bytes:
        return b"bytes=" + b",".join(b"%d-%d" % (2 * one, 2 * one) for one in range(count))

    most = asked(many(MOST_RANGES))
    assert most is not None
    assert len(most) == MOST_RANGES
    assert asked(many(MOST_RANGES + 1)) is None


def test_an_empty_file() -> None:
    assert asked(b"bytes=0-", 0) == []
    assert asked(b"bytes=-5", 0) is None  # the last bytes of nothing are all of it
    assert asked(b"bytes=-0", 0) == []


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        (b'"v1"', True),
        (SAME, True),
        (b'"v0"', False),
        (b'W/"v1"', False),  # compared strongly (§13.1.5)
        (BEFORE, False),
        (AFTER, False),
        (b"Sunday, 06-Nov-94 08:49:37 GMT", False),  # exactly, or not at all
        (b"", False),
    ],
)
def test_if_range(value: bytes, meant: bool) -> None:
    assert asked(b"bytes=0-9", if_range=value) == ([(0, 10)] if meant else None)


@pytest.mark.parametrize("value", [b'"v1"', b'W/"v1"', SAME])
def test_nothing_is_resumed_by_a_weak_validator(value: bytes) -> None:
    fields = {b"range": b"bytes=0-9", b"if-range": value}
    assert ranges_of(fields, WEAK, 100) is None
    assert ranges_of({b"range": b"bytes=0-9"}, WEAK, 100) == [Range(0, 10)]


@given(st.from_regex(rb"bytes=[0-9,\- ]{0,60}", fullmatch=True), st.integers(0, 2000))
def test_nobody_gets_more_than_the_file(text: bytes, size: int) -> None:
    ranges = asked(text, size)
    for first, length in ranges or []:
        assert 0 <= first < first + length <= size
    assert sum(length for _, length in ranges or []) <= size


# Codings


def names(accept_encoding: bytes) -> list[bytes]:
    return [coding.name for coding in codings_for(accept_encoding)]


@pytest.mark.parametrize(
    ("field", "codings"),
    [
        (b"", []),
        (b"gzip", [b"gzip"]),
        (b"br", [b"br"]),
        (b"gzip, deflate, br, zstd", [b"br", b"gzip"]),
        (b"GZip", [b"gzip"]),
        (b"x-gzip", [b"gzip"]),
        (b"*", [b"br", b"gzip"]),
        (b"gzip;q=1.0, br;q=0.5", [b"gzip", b"br"]),
        (b"gzip ; q=0.5,br", [b"br", b"gzip"]),
        (b"br;q=0, *", [b"gzip"]),
        (b"*;q=0", []),
        (b"gzip;q=0", []),
        (b"gzip;Q=0.000", []),
        (b"br;q=0.001", [b"br"]),
        (b"identity", []),
        (b"identity, gzip;q=0.5", []),
        (b"identity;q=0.5, gzip;q=0.5", [b"gzip"]),
        (b"identity;q=0, gzip", [b"gzip"]),
        (b"identity;q=0", []),
        (b"deflate", []),
        (b"gzip;q=2", []),
        (b"gzip;q=-1", []),
        (b"gzip;q=1e-3", []),
        (b"gzip;q=", []),
        (b"gzip;level=9", [b"gzip"]),
        (b",, gzip ,", [b"gzip"]),
        (b";q=1", []),
        (b"\xff\xfe", []),
    ],
)
def test_codings_by_their_weights(field: bytes, codings: list[bytes]) -> None:
    """§12.5.3; a weight that is none is 0."""
    assert names(field) == codings


@given(st.binary(max_size=80))
def test_any_accept_encoding_has_an_answer(field: bytes) -> None:
    assert set(names(field)) <= {b"br", b"gzip"}
