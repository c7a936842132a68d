"""Requests, and what can go wrong with them: the same ones for the same seed, on every machine.

``request(dice)`` is one that HTTP allows, ``mutate(dice, raw, others)`` is ``raw`` with a few faults in it.
Dice is a random.Random; who wants one input again makes it of the same seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import pairwise

TOKENS = [
    b"\r", b"\n", b"\0", b" ", b"\t", b":", b",", b";", b"=", b"#", b"?", b"@", b"/", b"*", b"_", b"-",
    b"+", b"%", b"\x7f", b"\x80", b"\xff", b"0", b"1", b"5", b"9", b"a", b"A", b"f", b"x", b"\r\n",
    b"\r\n\r\n", b"\n\n", b"\r\n ", b"\r\n\t", b"\r\r\n", b"0\r\n\r\n", b"0\r\n", b"5\r\nhello\r\n",
    b"1;a=b\r\nx\r\n", b";a", b";a=\"b\"", b"00000000000000005\r\n", b"ffffffffffffffff\r\n",
    b"10000000000000000\r\n", b"-1\r\n", b"0x5\r\n", b"chunked", b"Chunked", b"gzip", b"identity",
    b", chunked", b"gzip, ", b"close", b"keep-alive", b"upgrade", b"100-continue", b"Content-Length: 5\r\n",
    b"Content-Length: 0\r\n", b"Content-Length: 5, 5\r\n", b"Content-Length: +5\r\n", b"Content-Length: ",
    b"Content-Length : 5\r\n", b"Content_Length: 5\r\n", b"content-length:5\r\n",
    b"Content-Length: 18446744073709551616\r\n", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: ",
    b"Transfer-Encoding:chunked\r\n", b"Transfer-Encoding : chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n", b"Transfer-Encoding: identity\r\n",
    b"Transfer_Encoding: chunked\r\n", b"Host: a\r\n", b"Host: \r\n", b"Host: a b\r\n",
    b"Host: [::1]:1\r\n", b"Host:a:1\r\n", b"Connection: close\r\n", b"Connection: keep-alive\r\n",
    b"Connection: upgrade\r\n", b"Upgrade: h2c\r\n", b"Expect: 100-continue\r\n", b"Expect: x\r\n",
    b"X-A: b\r\n", b": b\r\n", b"X-A\r\n", b" X-A: b\r\n", b"GET ", b"POST ", b"HEAD ", b"FOO ", b"get ",
    b"OPTIONS * ", b"CONNECT a:1 ", b"PRI ", b" / ", b" HTTP/1.1", b" HTTP/1.0", b" HTTP/2.0", b"http://b/",
    b"HTTPS://b:2?c", b"http://u@b/", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi",
]  # fmt: skip

METHODS = [
    b"GET", b"POST", b"HEAD", b"PUT", b"OPTIONS", b"DELETE", b"PATCH", b"FOO", b"PROPFIND", b"get",
    b"M-SEARCH", b"SETUP",
]  # fmt: skip
TARGETS = [
    b"/", b"/a", b"/a/b?c=d&e", b"/%2F%zz?", b"//a", b"/a?http://b/", b"http://b", b"http://b:1/c?d",
    b"https://[::1]/?", b"/" + b"a" * 90,
]  # fmt: skip
NAMES = [
    b"X-A", b"x-b", b"Accept", b"Cookie", b"User-Agent", b"X_C", b"!#$%&'*+-.^_`|~", b"TE", b"Trailer",
    b"Keep-Alive", b"Range",
]  # fmt: skip
VALUES = [
    b"", b"a", b"a b\tc", b"\xe9\xff", b'a, b;c="d"', b"1", b"chunked", b"x" * 70, b"a: b",
    b'"\\"',
]  # fmt: skip
LENGTHS = [0, 1, 2, 5, 9, 10, 16, 17, 64, 300]


def fields(dice: random.Random) -> list[bytes]:
    found = [b"Host: " + dice.choice([b"a", b"a:80", b"", b"[::1]", b"127.0.0.1:1", b"a-b.c"])]
    for _ in range(dice.choice([0, 0, 1, 2, 4])):
        space = dice.choice([b"", b" ", b"\t", b"  "])
        found.append(dice.choice(NAMES) + b":" + space + dice.choice(VALUES) + dice.choice([b"", b"", b" "]))
    if dice.random() < 0.1:
        found.append(b"Connection: " + dice.choice([b"keep-alive", b"close", b"te", b"Close, x"]))
    if dice.random() < 0.05:
        found.append(dice.choice([b"Expect: 100-continue", b"expect: 100-Continue"]))
    if dice.random() < 0.05:
        found += [b"Connection: Upgrade", b"Upgrade: " + dice.choice([b"IRC/6.9", b"h2c"])]
    dice.shuffle(found)
    return found


def chunks(dice: random.Random) -> bytes:
    parts = []
    for _ in range(dice.choice([0, 1, 2, 3])):
        data = dice.randbytes(dice.choice(LENGTHS[1:]))
        size = dice.choice([b"%x", b"%X", b"%04x"]) % len(data)
        parts += [
            size,
            dice.choice([b"", b"", b";a", b";a=b", b';a="b c"', b";a;b=c"]),
            b"\r\n",
            data,
            b"\r\n",
        ]
    trailers = dice.choice([b"", b"", b"X-T: a\r\n", b"X-T: a\r\nX-U:\r\n"])
    return b"".join(parts) + dice.choice([b"0", b"000"]) + b"\r\n" + trailers + b"\r\n"


def request(dice: random.Random) -> bytes:
    """One request that we take, and everybody."""
    method, target, version = dice.choice(METHODS), dice.choice(TARGETS), b"1.1"
    if method == b"OPTIONS" and dice.random() < 0.5:
        target = b"*"
    lines, body = fields(dice), b""
    kind = dice.choice("nnlllcc")
    if kind == "l":
        body = dice.randbytes(dice.choice(LENGTHS))
        lines.insert(
            dice.randrange(len(lines) + 1), b"Content-Length: " + dice.choice([b"%d", b"%03d"]) % len(body)
        )
    elif kind == "c":
        body = chunks(dice)
        lines.insert(
            dice.randrange(len(lines) + 1), b"Transfer-Encoding: " + dice.choice([b"chunked", b"Chunked"])
        )
    elif dice.random() < 0.15:
        version = b"1.0"
    return b"\r\n".join([method + b" " + target + b" HTTP/" + version, *lines, b"", body])


def pipeline(dice: random.Random) -> bytes:
    """One to three requests, sometimes with an empty line before one."""
    blank = [b"", b"", b"", b"", b"\r\n", b"\r\n\r\n"]
    return b"".join(dice.choice(blank) + request(dice) for _ in range(dice.choice([1, 1, 2, 3])))


# Faults


def place(dice: random.Random, raw: bytes) -> int:
    """Anywhere, but more often where something ends or begins."""
    marks = [at for at, byte in enumerate(raw) if byte in b"\r\n :;"]
    if marks and dice.random() < 0.5:
        return min(len(raw), dice.choice(marks) + dice.choice([0, 0, 1, 2]))
    return dice.randrange(len(raw) + 1)


def flip(dice: random.Random, raw: bytes, others: Sequence[bytes]) -> bytes:
    at = place(dice, raw)
    return raw[:at] + bytes(byte ^ (1 << dice.randrange(8)) for byte in raw[at : at + 1]) + raw[at + 1 :]


def replace(dice: random.Random, raw: bytes, others: Sequence[bytes]) -> bytes:
    at = place(dice, raw)
    return raw[:at] + dice.randbytes(1) + raw[at + 1 :]


def insert(dice: random.Random, raw: bytes, others: Sequence[bytes]) -> bytes:
    at = place(dice, raw)
    return raw[:at] + dice.choice(TOKENS) + raw[at:]


def overwrite(dice: random.Random, raw: bytes, others: Sequence[bytes]) -> bytes:
    at, token = place(dice, raw), dice.choice(TOKENS)
    return raw[:at] + token + raw[at + len(token) :]


def insert_line(dice: random.Random, raw: bytes, others: Sequence[bytes]) -> bytes:
    lines = raw.split(b"\r\n")
    token = dice.choice([token for token in TOKENS if token.endswith(b"\r\n")])
    lines.insert(dice.randrange(1, len(lines) + 1), token[:-2])
    return b"\r\n".join(lines)


def delete(dice: random.Random, raw: bytes, others: Sequence[bytes]) -> bytes:
    at = place(dice, raw)
    return raw[:at] + raw[at + dice.choice([1, 1, 1, 2, 5]) :]


def duplicate(dice: random.Random, raw: bytes, others: Sequence[bytes]) -> bytes:
    at, length = place(dice, raw), dice.choice([1, 1, 2, 8, 30])
    return raw[: at + length] + raw[at : at + length] + raw[at + length :]


def swap_lines(dice: random.Random, raw: bytes, others: Sequence[bytes]) -> bytes:
    lines = raw.split(b"\r\n")
    a, b = dice.randrange(len(lines)), dice.randrange(len(lines))
    lines[a], lines[b] = lines[b], lines[a]
    return b"\r\n".join(lines)


def repeat_line(dice: random.Random, raw: bytes, others: Sequence[bytes]) -> bytes:
    lines = raw.split(b"\r\n")
    at = dice.randrange(len(lines))
    return b"\r\n".join([*lines[: at + 1], *lines[at:]])


def drop_line(dice: random.Random, raw: bytes, others: Sequence[bytes]) -> bytes:
    lines = raw.split(b"\r\n")
    del lines[dice.randrange(len(lines))]
    return b"\r\n".join(lines)


def change_case(dice: random.Random, raw: bytes, others: Sequence[bytes]) -> bytes:
    at, length = place(dice, raw), dice.choice([1, 4, 20])
    return raw[:at] + raw[at : at + length].swapcase() + raw[at + length :]


def splice(dice: random.Random, raw: bytes, others: Sequence[bytes]) -> bytes:
    other = dice.choice(others)
    return raw[: place(dice, raw)] + other[place(dice, other) :]


def cut(dice: random.Random, raw: bytes, others: Sequence[bytes]) -> bytes:
    return raw[: place(dice, raw)]


def append(dice: random.Random, raw: bytes, others: Sequence[bytes]) -> bytes:
    return raw + dice.choice(others)


FAULTS: list[Callable[[random.Random, bytes, Sequence[bytes]], bytes]] = [
    flip, replace, insert, insert, insert, overwrite, insert_line, insert_line, delete, duplicate,
    swap_lines, repeat_line, drop_line, change_case, splice, cut, append,
]  # fmt: skip


def mutate(dice: random.Random, raw: bytes, others: Sequence[bytes]) -> bytes:
    """``raw`` with one to four faults. ``others``: what it may be mixed with."""
    for _ in range(dice.choice([1, 1, 1, 2, 2, 3, 4])):
        raw = dice.choice(FAULTS)(dice, raw, others)
    return raw


def pieces(dice: random.Random, raw: bytes) -> list[bytes]:
    """``raw`` as the network may deliver it."""
    edges = sorted({0, len(raw), *(dice.randrange(len(raw) + 1) for _ in range(dice.choice([1, 2, 4, 9])))})
    return [raw[a:b] for a, b in pairwise(edges)]
