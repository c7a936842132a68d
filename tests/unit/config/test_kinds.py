"""The kinds of value that one setting has, or two."""

from __future__ import annotations

import io
import logging
import ssl
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest

from shardserve.config.kinds import (
    AccessFormat,
    ChoiceOrImport,
    FieldName,
    Glob,
    LogConfig,
    LogTarget,
    MetricsAddress,
    Secret,
    Share,
    SniEntry,
    StaticRoute,
    TrustedPeers,
)
from shardserve.config.values import BindAddress, Choice, FilePath, Integer, Kind, Many, Switch, Text

LOOP = ChoiceOrImport(("auto", "uvloop"))


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (LOOP, "UVLOOP", "uvloop"),
        (LOOP, "Package.module:Loop", "Package.module:Loop"),
        (Secret(), " a\nb ", " a\nb "),
        (StaticRoute(), "/assets=public", ("/assets", "public")),
        (StaticRoute(), "/assets/=/srv/a=b", ("/assets", "/srv/a=b")),
        (StaticRoute(), "/a/b=.", ("/a/b", ".")),
        (StaticRoute(), "/=public", ("/", "public")),
        (StaticRoute(), "/ä b=public", ("/ä b", "public")),
        (SniEntry(), "Example.org=c.pem", ("example.org", "c.pem", None)),
        (SniEntry(), "*.example.org=c.pem:k.pem", ("*.example.org", "c.pem", "k.pem")),
        (SniEntry(), "xn--bcher-kva.example=/a b/c.pem", ("xn--bcher-kva.example", "/a b/c.pem", None)),
        (SniEntry(), "localhost=c", ("localhost", "c", None)),
        (Many(SniEntry(), ","), "a=b, c=d:e", (("a", "b", None), ("c", "d", "e"))),
        (TrustedPeers(), "10.0.0.0/8, unix", "10.0.0.0/8, unix"),
        (LogConfig(), "logging.ini", "logging.ini"),
        (AccessFormat(), " Combined ", "combined"),
        (AccessFormat(), "%(h)s\t%(D)s 100%% ü", "%(h)s\t%(D)s 100%% ü"),
        (LogTarget(), "access.log", "access.log"),
        (LogTarget(), "syslog:", "syslog:"),
        (LogTarget(), "syslog:/run/log", "syslog:/run/log"),
        (LogTarget(), "-", None),
        (Glob(), "*.css", "*.css"),
        (Many(Glob(), ","), "/health*,/metrics", ("/health*", "/metrics")),
        (Share(), " .25 ", 0.25),
        (Share(), "1", 1.0),
        (FieldName(), "X-Request-ID", "X-Request-ID"),
        (MetricsAddress(), "9100", "127.0.0.1:9100"),
        (MetricsAddress(), "[::]:9100", "[::]:9100"),
        (MetricsAddress(), ":9100", ":9100"),
        (MetricsAddress(), "unix:///run/m.sock", "unix:/run/m.sock"),
        (Choice(("TLSv1.2", "TLSv1.3")), "tlsv1.3", "TLSv1.3"),
        (Switch(), "T", True),
        (Switch(), "n", False),
    ],
)
def test_from_text(kind: Kind, text: str, value: object) -> None:
    assert kind.from_text(text) == value


@pytest.mark.parametrize(
    ("kind", "text", "complaint"),
    [
        (LOOP, "trio", '"trio" is not one of auto, uvloop, or an import string'),
        (LOOP, "package:", "names no attribute"),
        (Secret(), "gehe\0im", "the value has a NUL character"),
        (StaticRoute(), "public", '"public" is not a route and a directory such as "/assets=public"'),
        (StaticRoute(), "assets=public", 'does not begin with a slash; write "/assets=public"'),
        (StaticRoute(), "/assets=", 'the route "/assets" names no directory'),
        (StaticRoute(), "/a//b=c", "has an empty or a dotted segment"),
        (StaticRoute(), "/a/../b=c", "has an empty or a dotted segment"),
        (StaticRoute(), "/a%20b=c", "as it is decoded"),
        (StaticRoute(), "/a?b=c", "as it is decoded"),
        (StaticRoute(), "/a\0=c", "control characters"),
        (SniEntry(), "example.org", "is not a host name and its files"),
        (SniEntry(), "example.org=", "has no certificate file"),
        (SniEntry(), "example.org=c:", "is not a host name and its files"),
        (SniEntry(), "bücher.example=c", "write the host name as clients send it, xn--"),
        (SniEntry(), "example.org.=c", "is not a host name"),
        (SniEntry(), "a.*.org=c", "is not a host name"),
        (SniEntry(), "*=c", "is not a host name"),
        (SniEntry(), "a b=c", "is not a host name"),
        (SniEntry(), "=c", "is not a host name"),
        (SniEntry(), f"{'a' * 64}.org=c", "is not a host name"),
        (SniEntry(), ".".join(["a" * 60] * 5) + "=c", "is not a host name"),
        (LogConfig(), "", "is not the path of a .ini, .json or .yaml file"),
        (AccessFormat(), "combine", "neither one of uvicorn, common, combined, json nor a format string"),
        (AccessFormat(), "", "neither one of"),
        (AccessFormat(), "%(h)s\n", "is not one of uvicorn, common, combined, json, or a format string"),
        (AccessFormat(), "%(h)s \x1b", "is not one of"),
        (AccessFormat(), "%(h)s %(y)s", "unknown atom %(y)s at character 7; there are h l u t r"),
        (LogTarget(), "", 'is not a path, "-" for stdout, or "syslog:"'),
        (LogTarget(), "a\nb", "is not a path"),
        (LogTarget(), "syslog:::1", 'write "syslog:", "syslog:/path"'),
        (Glob(), "health*", '"health*" matches no path; write "/health*" or "*health*"'),
        (Glob(), "", "matches no path"),
        (Glob(), "/a\n", "is not a pattern of paths"),
        (Share(), "1.01", "1.01 is not a share from 0 to 1"),
        (Share(), "-0.1", "is not a share"),
        (Share(), "nan", "is not a share"),
        (Share(), "10%", "is not a share"),
        (FieldName(), "X Request", "is not the name of a field"),
        (FieldName(), "X-Id:", "is not the name of a field"),
        (FieldName(), "", "is not the name of a field"),
        (FieldName(), "Content-length", "Content-length has a meaning of its own in HTTP"),
        (FieldName(), "host", "host has a meaning of its own in HTTP"),
        (MetricsAddress(), "65536", 'write "9100", "127.0.0.1:9100"'),
        (MetricsAddress(), "::1:9100", "an IPv6 address goes in brackets"),
        (MetricsAddress(), "fd://3", "cannot have metrics"),
        (MetricsAddress(), "unix:", "a Unix socket needs a path"),
        (MetricsAddress(), "", "is not an address"),
    ],
)
def test_from_text_refuses(kind: Kind, text: str, complaint: str) -> None:
    with pytest.raises(ValueError) as raised:
        kind.from_text(text)
    assert complaint in str(raised.value)


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (StaticRoute(), ["/a", Path("/b")], ("/a", "/b")),
        (SniEntry(), ("a.org", Path("/c")), ("a.org", "/c", None)),
        (SniEntry(), ["a.org", "/c", Path("/k")], ("a.org", "/c", "/k")),
        (TrustedPeers(), ["127.0.0.1", "::1"], "127.0.0.1,::1"),
        (LogConfig(), Path("/a.ini"), "/a.ini"),
        (LogTarget(), Path("/a.log"), "/a.log"),
        (Share(), 1, 1.0),
        (MetricsAddress(), 9100, "127.0.0.1:9100"),
        (Integer(0, 2), ssl.CERT_REQUIRED, 2),
        (Many(FilePath(), ",", lone=True), "src", ("src",)),
        (Many(Text(), ",", lone=True), ["a", "b"], ("a", "b")),
    ],
)
def test_check_of_python_values(kind: Kind, value: object, expected: object) -> None:
    checked = kind.check(value)
    assert checked == expected
    assert type(checked) is type(expected)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (LOOP, 1),
        (Secret(), b"geheim"),
        (StaticRoute(), ("/a",)),
        (StaticRoute(), ("/a", 1)),
        (SniEntry(), ("a", "b", "c", "d")),
        (SniEntry(), ("a", None)),
        (TrustedPeers(), [1]),
        (LogConfig(), 1),
        (AccessFormat(), None),
        (LogTarget(), 1),
        (Glob(), b"/a"),
        (Share(), True),
        (Share(), float("nan")),
        (FieldName(), None),
        (MetricsAddress(), True),
        (MetricsAddress(), -1),
        (Many(Text(), ","), "lone"),
    ],
)
def test_check_refuses(kind: Kind, value: object) -> None:
    with pytest.raises(ValueError):
        kind.check(value)


def test_what_is_said_of_a_wrong_secret_does_not_tell_it() -> None:
    for wrong in (b"geheim", 4711, ["geheim"], "geheim\0"):
        with pytest.raises(ValueError) as raised:
            Secret().check(wrong)
        assert "geheim" not in str(raised.value)
        assert "4711" not in str(raised.value)
    assert Secret().to_text("geheim") == "(given, not shown)"


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Many(FilePath(), ","), "src:/srv/a b:", ("src", "/srv/a b")),
        (Many(Text(), ","), "*.html  *.css\n", ("*.html", "*.css")),
        (Many(BindAddress(), ","), ":80 :81", (":80", ":81")),
        (Integer(0), "5", 5),
        (Switch(), "yes", True),
    ],
)
def test_a_variable_of_uvicorns_has_its_form_of_lists(kind: Kind, text: str, value: object) -> None:
    """click's: paths as in $PATH, anything else by white space."""
    assert kind.from_uvicorn(text) == value


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        (StaticRoute(), ("/a", "b"), "/a=b"),
        (SniEntry(), ("a", "b", None), "a=b"),
        (SniEntry(), ("a", "b", "c"), "a=b:c"),
        (LogConfig(), "a.ini", "a.ini"),
        (LogConfig(), {"version": 1}, "(dict)"),
        (LogConfig(), ConfigParser(), "(ConfigParser)"),
    ],
)
def test_to_text(kind: Kind, value: Any, text: str) -> None:
    assert kind.to_text(value) == text


INI = """
[DEFAULT]
name = a.log
[loggers]
keys = root
[handlers]
keys = null
[formatters]
keys =
[logger_root]
level = WARNING
handlers = null
[handler_null]
class = NullHandler
args = ()
"""


def test_a_config_parser_is_carried_with_its_interpolation() -> None:
    parser = ConfigParser()
    parser.read_string(INI + "other = %(name)s\nformat = %%(message)s\n")
    back = LogConfig().check(LogConfig().to_json(parser))
    assert back.get("handler_null", "other") == "a.log"
    assert back.get("handler_null", "format", raw=True) == "%%(message)s"


def test_an_open_file_is_read_once_and_can_be_used_again() -> None:
    kind = LogConfig()
    parser = kind.check(io.StringIO(INI))
    assert kind.check(parser).sections() == kind.check(kind.to_json(parser)).sections()
    assert parser.get("logger_root", "level") == logging.getLevelName(logging.WARNING)


def test_a_file_in_another_format_is_told() -> None:
    with pytest.raises(ValueError, match=r"not in the format of logging\.config\.fileConfig"):
        LogConfig().check(io.StringIO("version: 1"))


def test_a_dict_is_taken_as_it_is() -> None:
    given = {"version": 1, "handlers": {"a": {"stream": object()}}}
    assert LogConfig().check(given) is given
    with pytest.raises(ValueError, match=r"import string"):
        LogConfig().to_json(given)


def test_a_file_of_settings_names_a_path_only() -> None:
    with pytest.raises(ValueError, match=r"is not the path of"):
        LogConfig().from_file({"version": 1})
