"""From a scope to an environ: PEP 3333's table, and what must not get in."""

from __future__ import annotations

import io
import sys
from wsgiref.validate import check_environ

import pytest

from shardserve.asgi.wsgi_environ import MOST_NAMES, Environs
from shardserve.asgi.wsgi_files import FileWrapper
from tests.helpers.wsgi import scope_of


def make(path="/", *, underscores=False, multithread=True, **scope):
    return Environs(multithread=multithread, underscores=underscores).make(scope_of(path, **scope))


def test_everything_of_an_ordinary_request():
    scope = scope_of("/a/b?c=d", headers=[(b"host", b"example.org"), (b"x-one", b"1")])
    found = Environs(multithread=True, underscores=False).make(scope)
    assert found.pop("SERVER_SOFTWARE").startswith("shardserve/")
    assert found == {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/a/b",
        "QUERY_STRING": "c=d",
        "RAW_URI": "/a/b?c=d",
        "REQUEST_URI": "/a/b?c=d",
        "SERVER_NAME": "198.51.100.1",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "192.0.2.1",
        "REMOTE_PORT": "50000",
        "HTTP_HOST": "example.org",
        "HTTP_X_ONE": "1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.file_wrapper": FileWrapper,
        "wsgi.input_terminated": True,
        "shardserve.scope": scope,
    }


def test_the_standard_library_s_validator_has_nothing_to_say():
    environ = make("/a?b", headers=[(b"content-length", b"5"), (b"content-type", b"text/plain")])
    check_environ({**environ, "wsgi.input": io.BytesIO()})


def test_one_request_does_not_see_another_one():
    environs = Environs(multithread=True, underscores=False)
    environs.make(scope_of(headers=[(b"x-one", b"1")]))
    assert "HTTP_X_ONE" not in environs.make(scope_of())


def test_one_thread_is_not_multithread():
    assert make(multithread=False)["wsgi.multithread"] is False


# Paths


@pytest.mark.parametrize(
    ("raw", "root", "script", "info"),
    [
        (b"/", "", "", "/"),
        (b"/%C3%BC", "", "", "/\xc3\xbc"),
        (b"/\xc3\xbc", "", "", "/\xc3\xbc"),
        (b"/%FF%fe", "", "", "/\xff\xfe"),  # no UTF-8: ASGI's path has lost these
        (b"/%2F%25", "", "", "//%"),
        (b"/100%", "", "", "/100%"),
        (b"/api/x", "/api", "/api", "/x"),
        (b"/api", "/api", "/api", ""),
        (b"/%C3%BC/x", "/ü", "/\xc3\xbc", "/x"),
        (b"/elsewhere", "/api", "/api", "/elsewhere"),
        (b"*", "", "", "*"),
    ],
)
def test_paths(raw, root, script, info):
    found = make(raw_path=raw, path=raw.decode("utf-8", "replace"), root_path=root)
    assert (found["SCRIPT_NAME"], found["PATH_INFO"]) == (script, info)
    assert found["REQUEST_URI"] == raw.decode("latin-1")


def test_a_scope_without_a_raw_path():
    found = make(raw_path=None, path="/ü", query_string=b"a=%20\xff")
    assert found["PATH_INFO"] == "/\xc3\xbc"
    assert found["QUERY_STRING"] == "a=%20\xff"
    assert found["REQUEST_URI"] == "/\xc3\xbc?a=%20\xff"


# Fields


def test_fields_that_come_twice():
    headers = [
        (b"cookie", b"a=1"), (b"accept", b"x"), (b"cookie", b"b=2"), (b"accept", b"y"),
        (b"content-length", b"3"), (b"content-length", b"3"),
    ]  # fmt: skip
    found = make(headers=headers)
    assert found["HTTP_COOKIE"] == "a=1; b=2"
    assert found["HTTP_ACCEPT"] == "x,y"
    assert found["CONTENT_LENGTH"] == "3"


def test_content_type_and_length_have_names_of_their_own():
    found = make(headers=[(b"content-type", b"text/plain"), (b"content-length", b"5")])
    assert (found["CONTENT_TYPE"], found["CONTENT_LENGTH"]) == ("text/plain", "5")
    assert "HTTP_CONTENT_TYPE" not in found
    assert "HTTP_CONTENT_LENGTH" not in found
    assert "wsgi.input_terminated" not in found
    assert "CONTENT_TYPE" not in make()


def test_values_are_latin_1():
    assert make(headers=[(b"x-one", b"\xc3\xbc")])["HTTP_X_ONE"] == "\xc3\xbc"


@pytest.mark.parametrize("underscores", [True, False])
def test_no_client_sets_http_proxy(underscores):
    assert "HTTP_PROXY" not in make(headers=[(b"proxy", b"http://evil")], underscores=underscores)


@pytest.mark.parametrize("name", [b"x_user", b"x_user-name", b"content_length", b"_"])
def test_names_with_an_underscore_are_left_out(name):
    plain = make()
    assert make(headers=[(name, b"1")]).keys() == plain.keys()


def test_unless_they_are_wanted_but_never_for_the_length_or_type():
    headers = [(b"x_user", b"1"), (b"content_length", b"5"), (b"content_type", b"text/plain")]
    found = make(headers=headers, underscores=True)
    assert found["HTTP_X_USER"] == "1"
    assert not [name for name in found if "CONTENT" in name]


def test_names_that_clients_make_up_fill_no_memory():
    environs = Environs(multithread=True, underscores=False)
    for number in range(2 * MOST_NAMES):
        found = environs.make(scope_of(headers=[(b"x-%d" % number, b"1")]))
        assert found[f"HTTP_X_{number}"] == "1"
    assert len(environs._names) == MOST_NAMES


# Addresses


@pytest.mark.parametrize(
    ("scheme", "host", "name", "port"),
    [
        ("http", b"example.org", "example.org", "80"),
        ("https", b"example.org", "example.org", "443"),
        ("http", b"example.org:8080", "example.org", "8080"),
        ("http", b"[::1]", "[::1]", "80"),
        ("http", b"[::1]:81", "[::1]", "81"),
        ("http", None, "localhost", "80"),
        ("http", b"", "localhost", "80"),
    ],
)
@pytest.mark.parametrize("server", [("/run/app.sock", None), None])
def test_a_unix_socket_has_the_name_that_the_client_asked_for(server, scheme, host, name, port):
    headers = [] if host is None else [(b"host", host)]
    found = make(scheme=scheme, headers=headers, server=server, client=None)
    assert (found["SERVER_NAME"], found["SERVER_PORT"]) == (name, port)
    assert found["REMOTE_ADDR"] == ""
    assert "REMOTE_PORT" not in found
    assert found["wsgi.url_scheme"] == scheme


def test_versions():
    assert make(http_version="1.0")["SERVER_PROTOCOL"] == "HTTP/1.0"
    assert make(http_version="2")["SERVER_PROTOCOL"] == "HTTP/2"
