"""What a fuzzed client of HTTP/2 says in fields, right and wrong: REQUESTS, WEBSOCKETS and single FIELDS.

In a value %s is the stream's number: a path that has it says which request an app sees.
"""

from __future__ import annotations

from fuzz_h2_frames import Field

METHOD, SCHEME, AUTHORITY, PATH = (
    (b":method", b"GET"),
    (b":scheme", b"http"),
    (b":authority", b"h"),
    (b":path", b"/s%s"),
)
POST = (b":method", b"POST")
BOMB_BYTES = 3000


def request(*fields: Field, method: bytes = b"GET", path: bytes = b"/s%s") -> list[Field]:
    return [(b":method", method), SCHEME, AUTHORITY, (b":path", path), *fields]


REQUESTS: tuple[list[Field], ...] = (
    request(),
    request(method=b"POST"),
    request(method=b"HEAD"),
    request((b"content-length", b"5"), method=b"POST"),
    request((b"cookie", b"a=1"), (b"x", b"y"), (b"cookie", b"b=2"), (b"accept", b"*/*")),
    request((b"expect", b"100-continue"), (b"content-length", b"10"), method=b"PUT"),
    request((b"te", b"trailers"), path=b"/s%s?q=1&r"),
    request(method=b"OPTIONS", path=b"*"),
    request((b"priority", b"u=1, i"), (b"user-agent", b"fuzz/1"), (b"accept-encoding", b"gzip, deflate")),
    request((b"content-length", b"0"), method=b"DELETE"),
    [METHOD, SCHEME, PATH, (b"host", b"only-host")],
    [METHOD, SCHEME, AUTHORITY, PATH, (b"host", b"h")],
    [(b":method", b"CONNECT"), (b":authority", b"h:1")],
    request((b"expect", b"200-ok"), method=b"POST"),
    request((b"x-long", b"v" * 90), (b"x_under", b"1"), (b"x-under", b"2")),
    request(
        (b"traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        (b"x-request-id", b"id-%s"),
    ),
    # Not to be taken
    [METHOD, SCHEME, AUTHORITY, PATH, (b"host", b"another")],
    [METHOD, SCHEME, PATH],
    [METHOD, AUTHORITY, PATH],
    [SCHEME, AUTHORITY, PATH],
    [METHOD, SCHEME, AUTHORITY],
    request(path=b""),
    request(path=b"no-slash"),
    request((b"content-length", b"5"), (b"content-length", b"6"), method=b"POST"),
    request((b"content-length", b"+5"), method=b"POST"),
    request((b":method", b"GET")),
    request((b":path", b"/late")),
    request((b":status", b"200")),
    request((b":unknown", b"1")),
    request((b"transfer-encoding", b"chunked"), method=b"POST"),
    request(method=b"GE T"),
    request((b":protocol", b"websocket")),
)

CONNECT = [(b":method", b"CONNECT"), (b":protocol", b"websocket"), SCHEME, AUTHORITY, (b":path", b"/s%s")]
VERSION = (b"sec-websocket-version", b"13")
DEFLATE = b"sec-websocket-extensions"
WEBSOCKETS: tuple[list[Field], ...] = (
    [*CONNECT, VERSION],
    [*CONNECT, VERSION, (DEFLATE, b"permessage-deflate; client_max_window_bits")],
    [*CONNECT, VERSION, (DEFLATE, b"permessage-deflate")],
    [*CONNECT, VERSION, (b"sec-websocket-protocol", b"chat, superchat")],
    [*CONNECT, VERSION, (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ==")],
    # Not to be accepted
    [*CONNECT, (b"sec-websocket-version", b"8")],
    CONNECT,
    [*CONNECT, VERSION, (b"content-length", b"3")],
    [(b":method", b"CONNECT"), (b":protocol", b"other"), *CONNECT[2:], VERSION],
    [(b":method", b"CONNECT"), (b":protocol", b"websocket"), AUTHORITY, PATH, VERSION],
)

FIELDS: tuple[Field, ...] = (
    # In an order that makes one of four right in front of a request
    METHOD,
    SCHEME,
    AUTHORITY,
    PATH,
    POST,
    (b":method", b"HEAD"),
    (b":method", b"CONNECT"),
    (b":method", b""),
    (b":method", b"A" * 40),
    (b":method", b"get"),
    (b":scheme", b"https"),
    (b":scheme", b"ftp"),
    (b":scheme", b""),
    (b":authority", b""),
    (b":authority", b"u@h"),
    (b":authority", b"h/x"),
    (b":authority", b"a b"),
    (b":authority", b"[::1]:80"),
    (b":path", b"/s%s?%%41"),
    (b":path", b"/" + b"p" * 80),
    (b":path", b"/" + b"p" * 9000),
    (b":path", b"/a#b"),
    (b":path", b"/a b"),
    (b":path", b"/\x80\xff"),
    (b":path", b"http://h/s%s"),
    (b":path", b"/../s%s//"),
    (b":protocol", b"websocket"),
    (b":protocol", b"connect-udp"),
    (b"host", b"h"),
    (b"host", b"other"),
    (b"host", b""),
    (b"cookie", b"c=%s"),
    (b"cookie", b""),
    (b"content-length", b"0"),
    (b"content-length", b"1"),
    (b"content-length", b"5"),
    (b"content-length", b"100"),
    (b"content-length", b"99999999999999999999"),
    (b"content-length", b"5, 5"),
    (b"content-length", b""),
    (b"expect", b"100-continue"),
    (b"expect", b"100-Continue"),
    (b"expect", b"x"),
    (b"te", b"trailers"),
    (b"te", b"gzip"),
    (b"connection", b"close"),
    (b"connection", b"x"),
    (b"keep-alive", b"1"),
    (b"proxy-connection", b"close"),
    (b"transfer-encoding", b"chunked"),
    (b"upgrade", b"websocket"),
    (b"http2-settings", b"AAAA"),
    (b"X-Upper", b"1"),
    (b"", b"no name"),
    (b"a b", b"1"),
    (b"a:b", b"1"),
    (b"a\r\nb", b"1"),
    (b"a\x00", b"1"),
    (b"\xff", b"1"),
    (b":", b"1"),
    (b"x", b"a\r\nb: c"),
    (b"x", b"a\nb"),
    (b"x", b"a\x00b"),
    (b"x", b" a"),
    (b"x", b"a\t"),
    (b"x", b"\x80\xfe"),
    (b"x", b"\x7f"),
    (b"x", b""),
    (b"x", b"1"),
    (b"x-%s", b"%s"),
    (b"x_y", b"1"),
    (b"x-y", b"1"),
    (b"content_length", b"7"),
    (b"x-forwarded-for", b"1.2.3.4"),
    (b"x-forwarded-proto", b"https"),
    (b"forwarded", b"for=1.2.3.4;host=x"),
    (b"priority", b"u=9"),
    (b"accept", b"*/*"),
    (b"trailer", b"x"),
    (b"n", b"7"),
    (b"long", b"l" * 300),
    (b"longer", b"m" * BOMB_BYTES),
    (b"n" * 200, b"1"),
    (b"sec-websocket-version", b"13"),
    (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="),
    (b"sec-websocket-extensions", b"permessage-deflate"),
    (b"sec-websocket-protocol", b"chat"),
    (b"x-request-id", b"one two"),
    (b"traceparent", b"00-0-0-0"),
    (b"authorization", b"Basic Zm9vOmJhcg=="),
)


def filled(field: Field, stream: int) -> Field:
    name, value = field
    number = b"%d" % stream
    return name.replace(b"%s", number), value.replace(b"%%", b"%").replace(b"%s", number)
