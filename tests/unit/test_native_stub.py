"""shardserve/_native.pyi says what the module has, and nothing else."""

from __future__ import annotations

import ast
import asyncio
import contextvars
from pathlib import Path
from typing import Any

import pytest

import shardserve
from shardserve import _native

STUB = ast.parse((Path(shardserve.__file__).parent / "_native.pyi").read_text())

ASYNCIO = {"connection_made", "data_received", "eof_received", "connection_lost"}
ASYNCIO |= {"pause_writing", "resume_writing"}
HTTPTOOLS = {
    "on_message_begin",
    "on_url",
    "on_header",
    "on_headers_complete",
    "on_body",
    "on_message_complete",
}
IMPLEMENTS = {"Connection": ASYNCIO | HTTPTOOLS}
"""Methods that a class has for asyncio and httptools, which the stub leaves to their protocols."""

REQUIRED = {"loop", "context", "state", "on_app_error", "on_reject"}


def classes() -> dict[str, ast.ClassDef]:
    return {node.name: node for node in STUB.body if isinstance(node, ast.ClassDef)}


def methods(node: ast.ClassDef) -> dict[str, ast.FunctionDef]:
    return {item.name: item for item in node.body if isinstance(item, ast.FunctionDef)}


def is_property(function: ast.FunctionDef) -> bool:
    return any(isinstance(mark, ast.Name) and mark.id == "property" for mark in function.decorator_list)


def exported() -> list[str]:
    for node in STUB.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return sorted(ast.literal_eval(node.value))
    raise AssertionError("the stub has no __all__")


def test_the_names() -> None:
    assert sorted(name for name in vars(_native) if not name.startswith("_")) == exported()


@pytest.mark.parametrize("name", sorted(classes()))
def test_the_members_of_a_class(name: str) -> None:
    kind = getattr(_native, name)
    stub = methods(classes()[name])
    public = {item for item in vars(kind) if not item.startswith("_")} - IMPLEMENTS.get(name, set())
    assert public == {item for item in stub if not item.startswith("_")}
    assert IMPLEMENTS.get(name, set()) <= set(vars(kind))
    for item, function in stub.items():
        descriptor = type(vars(kind)[item]).__name__ if item in vars(kind) else None
        if is_property(function):
            assert descriptor == "getset_descriptor", item
        elif not item.startswith("__"):
            assert descriptor == "method_descriptor", item


def arguments() -> dict[str, Any]:
    return {
        "loop": asyncio.get_running_loop(),
        "context": contextvars.copy_context(),
        "state": {},
        "scheme": "https",
        "root_path": "/root",
        "headers": [(b"a", b"b")],
        "server_header": False,
        "date_header": False,
        "on_app_error": print,
        "on_reject": print,
        "access": print,
        "max_fd": 1000,
        "on_crowded": print,
        "underscore_headers": "drop",
        "websocket": object(),
        "tls_info": print,
        "proxy": object(),
        "static": [(b"/static", print)],
        "on_debug": print,
        "figures": None,
        "duration_bounds_us": (10, 100),
        "size_bounds_bytes": (10, 100),
        "request_id_field": b"X-Request-ID",
        "make_traceparent": True,
        "limit_request_line": 1000,
        "limit_request_head": 1000,
        "limit_request_field_size": 1000,
        "limit_request_fields": 10,
        "limit_request_body": 1000,
        "limit_pipelined": 1000,
        "limit_keep_alive_requests": 10,
        "limit_connections": 10,
        "limit_concurrency": 100,
        "first_byte_ms": 1000,
        "keep_alive_ms": 1000,
        "head_ms": 1000,
        "body_window_ms": 1000,
        "body_min_rate": 1000,
        "write_stall_ms": 1000,
        "ws_max_size": 1000,
        "ws_max_queue": 10,
        "ws_compress_min": 1000,
        "ws_ping_interval_ms": 1000,
        "ws_ping_timeout_ms": 1000,
        "ws_idle_ms": 1000,
        "ws_close_ms": 1000,
        "http2": _native.nghttp2_version is not None,
        "http2_cleartext": _native.nghttp2_version is not None,
        "http2_max_concurrent_streams": 10,
        "http2_initial_stream_window_size": 65535,
        "http2_initial_connection_window_size": 65535,
        "http2_max_frame_size": 16384,
        "http2_max_header_list_size": 1000,
        "http2_header_table_size": 1000,
        "http2_ping_interval_ms": 1000,
        "http2_ping_timeout_ms": 1000,
    }


def stub_parameters() -> dict[str, bool]:
    """Name -> whether it has a default, of the keyword-only parameters of the factory."""
    init = methods(classes()["ProtocolFactory"])["__init__"].args
    return {
        arg.arg: default is not None for arg, default in zip(init.kwonlyargs, init.kw_defaults, strict=True)
    }


async def test_the_parameters_of_the_factory() -> None:
    assert list(stub_parameters()) == list(arguments())
    assert {name for name, optional in stub_parameters().items() if not optional} == REQUIRED
    _native.ProtocolFactory(print, **arguments()).close()
    required = {name: value for name, value in arguments().items() if name in REQUIRED}
    _native.ProtocolFactory(print, **required).close()


@pytest.mark.parametrize("name", sorted(REQUIRED))
async def test_a_required_parameter_is_required(name: str) -> None:
    given = arguments()
    del given[name]
    with pytest.raises(TypeError):
        _native.ProtocolFactory(print, **given)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("context", 5),
        ("head_ms", "long"),
        ("limit_request_body", 1 << 70),
        ("underscore_headers", "keep"),
        ("state", []),
        ("scheme", b"http"),
        ("root_path", None),
        ("headers", 5),
        ("headers", [("a", "b")]),
        ("headers", [[b"a", b"b"]]),
        ("headers", [(b"a",)]),
        ("keep_alive_ms", "1"),
        ("keep_alive_ms", 1 << 70),
        ("nonsense", 1),
    ],
)
async def test_a_wrong_argument_is_refused(name: str, value: Any) -> None:
    with pytest.raises((TypeError, OverflowError, ValueError)):
        _native.ProtocolFactory(print, **(arguments() | {name: value}))


@pytest.mark.parametrize("header", [(b"a b", b""), (b"", b""), (b"a", b"b\r\nc: d"), (b"a", b"\0")])
async def test_a_header_that_cannot_go_on_the_wire_is_refused(header: tuple[bytes, bytes]) -> None:
    with pytest.raises(ValueError, match="wire"):
        _native.ProtocolFactory(print, **(arguments() | {"headers": [header]}))


@pytest.mark.parametrize("name", [b"content-length", b"Transfer-Encoding", b"connection"])
async def test_a_header_that_frames_is_refused(name: bytes) -> None:
    """The server frames: such a field on every response breaks every response."""
    with pytest.raises(ValueError):
        _native.ProtocolFactory(print, **(arguments() | {"headers": [(name, b"1")]}))


async def test_arguments_are_by_name_only() -> None:
    with pytest.raises(TypeError):
        _native.ProtocolFactory(print, asyncio.get_running_loop(), None, None)
    factory = _native.ProtocolFactory(print, **arguments())
    with pytest.raises(TypeError):
        factory(1)
    with pytest.raises(TypeError):
        factory.drain(print, 5)
    with pytest.raises(TypeError):
        factory.drain()
    for name in ("tick", "abort", "close"):
        with pytest.raises(TypeError):
            getattr(factory, name)(1)
    factory.drain(lambda: None, grace_ms=0)
    with pytest.raises(RuntimeError):
        factory.drain(lambda: None)
    factory.close()


async def test_the_extreme_keep_alive_does_not_overflow() -> None:
    _native.ProtocolFactory(print, **(arguments() | {"keep_alive_ms": (1 << 63) - 1})).close()


@pytest.mark.skipif(_native.nghttp2_version is not None, reason="HTTP/2 was built")
@pytest.mark.parametrize("name", ["http2", "http2_cleartext"])
async def test_http2_is_refused_where_it_was_not_built(name: str) -> None:
    with pytest.raises(ValueError, match="libnghttp2-dev"):
        _native.ProtocolFactory(print, **(arguments() | {name: True}))


def test_the_version_of_nghttp2_is_that_of_a_library() -> None:
    version = _native.nghttp2_version
    assert version is None or [int(part) for part in version.split(".")[:2]] >= [1, 48]


def test_debug_build_is_a_bool() -> None:
    assert isinstance(_native.debug_build, bool)
