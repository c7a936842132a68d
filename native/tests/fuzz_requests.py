"""What must hold of every request that an app sees, whatever the client sent."""

from __future__ import annotations

import re
from base64 import b64decode
from typing import Any

from fuzz_apps import MADE, Call
from fuzz_responses import must

TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
METHOD = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}")
NAME = rb"[!#$%&'*+\-.^_`|~0-9a-z]+"
VALUE = rb"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?"
FIELDS = re.compile(rb"(?:%s:%s\n)*" % (NAME, VALUE))
TARGET = re.compile(rb"[^\x00-\x20#\x7f]*")
HOST = re.compile(rb"[^\s/?#@\\<>\"]*")


def check_scope(scope: dict[str, Any], settings: dict[str, Any]) -> None:
    path, version = scope["raw_path"], scope["http_version"]
    if scope["type"] == "websocket":
        check_handshake(scope)
    method = scope.get("method", "GET")
    must(METHOD.fullmatch(method) and method != "CONNECT", "method", method)
    root = settings.get("root_path", "").encode()
    must(path.startswith(root + b"/") or (path == root + b"*" and method == "OPTIONS"), "path", path)
    must(
        b"?" not in path and TARGET.fullmatch(path) and TARGET.fullmatch(scope["query_string"]),
        "target",
        scope,
    )
    must(version in ("1.0", "1.1"), "version", version)
    headers = scope["headers"]
    must(FIELDS.fullmatch(b"".join([b"%s:%s\n" % field for field in headers])), "fields", headers)
    check_framing(headers, version)
    if settings:
        check_limits(headers, settings)


def check_handshake(scope: dict[str, Any]) -> None:
    """What the scope of a WebSocket has instead, and that it is one (RFC 6455 §4.2.1)."""
    fields = scope["headers"]
    must("method" not in scope and scope["scheme"] == "ws" and scope["http_version"] == "1.1", "scope", scope)
    must(all(TOKEN.fullmatch(name) for name in scope["subprotocols"]), "subprotocols", scope)
    extensions = set(scope["extensions"]) - {"shardserve.request_id"}
    must(extensions == {"websocket.http.response"}, "extensions", scope)
    keys = [value for name, value in fields if name == b"sec-websocket-key"]
    versions = [value for name, value in fields if name == b"sec-websocket-version"]
    must(len(keys) == 1 and len(b64decode(keys[0], validate=True)) == 16, "key", keys)
    must(versions == [b"13"], "version", versions)
    for name, member in ((b"upgrade", b"websocket"), (b"connection", b"upgrade")):
        values = b",".join(value for key, value in fields if key == name)
        must(member in [part.strip().lower() for part in values.split(b",")], "upgrade", fields)
    must((b"transfer-encoding" not in dict(fields)), "a body", fields)
    must(not dict(fields).get(b"content-length", b"").strip(b"0"), "a body", fields)


def check_framing(headers: list[tuple[bytes, bytes]], version: str) -> None:
    lengths = [value for name, value in headers if name == b"content-length"]
    codings = [value for name, value in headers if name == b"transfer-encoding"]
    hosts = [value for name, value in headers if name == b"host"]
    must(len(lengths) + len(codings) <= 1, "two framings", lengths, codings)
    must(not lengths or lengths[0].isdigit(), "length", lengths)
    must(not codings or (codings[0].lower() == b"chunked" and version == "1.1"), "coding", codings)
    must(len(hosts) == 1 or (version == "1.0" and not hosts), "host", hosts)
    must(not hosts or HOST.fullmatch(hosts[0]), "host", hosts)


def check_limits(headers: list[tuple[bytes, bytes]], settings: dict[str, Any]) -> None:
    sizes = [len(name) + len(value) + 4 for name, value in headers if name not in MADE]
    must(len(sizes) <= (settings.get("limit_request_fields") or len(sizes)), "fields", headers)
    must(max(sizes, default=0) <= (settings.get("limit_request_field_size") or 1 << 30), "field", headers)
    if settings.get("underscore_headers") in ("drop", "reject"):
        must(not any(b"_" in name for name, _ in headers), "underscore", headers)


def check_body(call: Call, settings: dict[str, Any]) -> None:
    """After the connection: what the app got of the body."""
    length = sum(map(len, call.body))
    must(length <= (settings.get("limit_request_body") or length), "more than limit_request_body", call)
    for name, value in call.scope["headers"]:
        if name == b"content-length":
            must(length == int(value) if call.complete else length <= int(value), "length of the body", call)
        elif name == b"transfer-encoding":
            return
    framed = any(name == b"content-length" for name, _ in call.scope["headers"])
    must(framed or length == 0, "a body without framing", call)
