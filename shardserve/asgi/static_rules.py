"""What RFC 9110 says of a file and a request for it: conditions, ranges, codings, dates. Pure.

Rules of this file: bytes in, an answer out; no file, no clock, no message. A field that does not parse is as
if it were not there (§13.1, §14.2), and what a client sends is read in linear time.

Where the RFC leaves it to the server:
- A Range of more than ``MOST_RANGES`` ranges, or with two that overlap, is answered with the whole file
  (§14.2 allows it): nobody gets more bytes out of one request than the file has.
- Which coding among equals: the order of ``CODINGS``. A client that wants nothing that is there gets the
  file as it is (§12.5.3).
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import formatdate
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

Fields = Mapping[bytes, bytes]
"""The request's header fields by their lower-case name; several lines of one are joined with ``, ``."""

MOST_RANGES = 16

CONDITIONS = (b"if-match", b"if-unmodified-since", b"if-none-match", b"if-modified-since")


class Coding(NamedTuple):
    """A content coding, and how the name of a file that has it ends."""

    name: bytes
    suffix: bytes


# The best first.
CODINGS = (Coding(b"br", b".br"), Coding(b"gzip", b".gz"))
_ALIASES = {b"x-gzip": b"gzip"}  # §8.4.1.3

_MONTHS = (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec")
_TIME = rb"(?P<h>\d\d):(?P<m>\d\d):(?P<s>\d\d)"
_DATES = (
    re.compile(rb"[A-Z][a-z]{2}, (?P<day>\d\d) (?P<month>[A-Z][a-z]{2}) (?P<year>\d{4}) " + _TIME + rb" GMT"),
    re.compile(
        rb"[A-Z][a-z]{5,8}, (?P<day>\d\d)-(?P<month>[A-Z][a-z]{2})-(?P<year>\d\d) " + _TIME + rb" GMT"
    ),
    re.compile(rb"[A-Z][a-z]{2} (?P<month>[A-Z][a-z]{2}) (?P<day>[ \d]\d) " + _TIME + rb" (?P<year>\d{4})"),
)
_TAG = re.compile(rb'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')
_RANGE = re.compile(rb"(\d{0,19})-(\d{0,19})")
_WEIGHT = re.compile(rb"(?:0(?:\.\d{0,3})?|1(?:\.0{0,3})?)")


# Dates (§5.6.7)


@lru_cache(maxsize=1024)
def http_date(seconds: int) -> bytes:
    """Seconds since 1970 as an IMF-fixdate."""
    return formatdate(seconds, usegmt=True).encode()


@lru_cache(maxsize=1024)
def parse_date(text: bytes) -> int | None:
    """An HTTP-date, in any of its three forms, as seconds since 1970; None: it is none."""
    for form in _DATES:
        found = form.fullmatch(text)
        if found is not None:
            break
    else:
        return None
    if found["month"] not in _MONTHS:
        return None
    year = int(found["year"])
    if len(found["year"]) == 2:  # what would be more than 50 years ahead has been
        this_year = datetime.now(UTC).year
        year += this_year - this_year % 100
        year -= 100 if year > this_year + 50 else 0
    clock = (int(found["h"]), int(found["m"]), int(found["s"]))
    try:
        when = datetime(year, _MONTHS.index(found["month"]) + 1, int(found["day"]), *clock)
    except ValueError:
        return None
    return calendar.timegm(when.timetuple())


# Conditions (§13)


class Validators(NamedTuple):
    """What tells one version of a file from another."""

    etag: bytes
    """As on the wire: quoted, and behind ``W/`` if it is weak."""
    modified_s: int

    @property
    def weak(self) -> bool:
        return self.etag.startswith(b"W/")


def status_of(fields: Fields, validators: Validators) -> int:
    """200, 304 or 412: the conditions of a GET or HEAD, in the order of §13.2.2."""
    if b"if-match" in fields:
        if not _lists(fields[b"if-match"], validators.etag, weakly=False):
            return 412
    elif b"if-unmodified-since" in fields:
        since = parse_date(fields[b"if-unmodified-since"])
        if since is not None and validators.modified_s > since:
            return 412
    if b"if-none-match" in fields:
        if _lists(fields[b"if-none-match"], validators.etag, weakly=True):
            return 304
    elif b"if-modified-since" in fields:
        since = parse_date(fields[b"if-modified-since"])
        if since is not None and validators.modified_s <= since:
            return 304
    return 200


def _lists(value: bytes, etag: bytes, *, weakly: bool) -> bool:
    """Whether a list of entity tags, or ``*``, has this one (§8.8.3.2)."""
    if value.strip() == b"*":
        return True
    if not weakly and etag.startswith(b"W/"):
        return False
    opaque = etag.removeprefix(b"W/")
    return any(tag == opaque and (weakly or not weak) for weak, tag in _TAG.findall(value))


# Ranges (§14)


class Range(NamedTuple):
    """``length`` bytes from ``first`` on."""

    first: int
    length: int


def ranges_of(fields: Fields, validators: Validators, size: int) -> list[Range] | None:
    """The ranges of a GET that are there, in the order asked for; none: 416. None: the whole file."""
    if b"range" not in fields or not _still_meant(fields.get(b"if-range"), validators):
        return None
    unit, equals, text = fields[b"range"].partition(b"=")
    specs = [spec for spec in (one.strip(b" \t") for one in text.split(b",")) if spec]
    if unit.strip().lower() != b"bytes" or not equals or not specs or len(specs) > MOST_RANGES:
        return None
    found = []
    for spec in specs:
        parts = _RANGE.fullmatch(spec)
        if parts is None or spec == b"-" or (parts[1] and parts[2] and int(parts[2]) < int(parts[1])):
            return None  # invalid (§14.1.1)
        one = _in_file(parts[1], parts[2], size)
        if one is not None:
            found.append(one)
    if size == 0 and any(spec.startswith(b"-") and spec.strip(b"-0") for spec in specs):
        return None  # the last n bytes of nothing are the whole of it
    return None if _overlap(found) else found


def _in_file(first: bytes, last: bytes, size: int) -> Range | None:
    """What there is of one range-spec; None: nothing."""
    if first:
        start, end = int(first), min(int(last), size - 1) if last else size - 1
    else:
        start, end = max(size - int(last), 0), size - 1
    return Range(start, end - start + 1) if start <= end else None


def _overlap(ranges: list[Range]) -> bool:
    return any(one.first + one.length > other.first for one, other in pairwise(sorted(ranges)))


def _still_meant(if_range: bytes | None, validators: Validators) -> bool:
    """If-Range (§13.1.5): whether the client's parts are of this version. Only a strong validator says so."""
    if if_range is None:
        return True
    if validators.weak:
        return False
    return if_range in (validators.etag, http_date(validators.modified_s))


# Codings (§12.5.3)


@lru_cache(maxsize=256)
def codings_for(accept_encoding: bytes) -> tuple[Coding, ...]:
    """The codings of ``CODINGS`` that the client prefers to the file as it is, the best first."""
    weights: dict[bytes, float] = {}
    for element in accept_encoding.lower().split(b","):
        name, *parameters = (part.strip(b" \t") for part in element.split(b";"))
        if name:
            weights[_ALIASES.get(name, name)] = _weight(parameters)
    others = weights.get(b"*", 0.0)
    as_it_is = weights.get(b"identity", 0.0)
    wanted = [
        (weight, coding)
        for coding in CODINGS
        if (weight := weights.get(coding.name, others)) > 0 and weight >= as_it_is
    ]
    wanted.sort(key=lambda one: -one[0])  # stable: among equals the order of CODINGS
    return tuple(coding for _, coding in wanted)


def _weight(parameters: list[bytes]) -> float:
    """``q``, 1 if there is none, and 0 if it is no weight."""
    for parameter in parameters:
        name, _, value = parameter.partition(b"=")
        if name.strip() == b"q":
            return float(value) if _WEIGHT.fullmatch(value) else 0.0
    return 1.0
