"""What a field block over HTTP/2 is: a request, certainly none, or may be either (RFC 9113 §8).

Right is only what is boring, too, so that no server could find anything in it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from fuzz_h2_frames import Field

TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
VALUE = re.compile(rb"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?")
PLAIN_PATH = re.compile(rb"/[!$&-;=?-~]*")
PLAIN_HOST = re.compile(rb"[a-z0-9.\-]+(?::[0-9]+)?")
METHOD = re.compile(rb"[A-Z]{1,20}")
CONNECTION_FIELDS = {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
KNOWN_PSEUDO = {b":method", b":scheme", b":authority", b":path", b":protocol"}
RIGHT, WRONG, EITHER = "right", "wrong", "either"


class Block(NamedTuple):
    """One field block."""

    fields: list[Field]
    end: bool  # END_STREAM
    number: int  # the how many-th of the connection

    def of(self, name: bytes) -> list[bytes]:
        return [value for one, value in self.fields if one == name]


def judge_field(name: bytes, value: bytes) -> str:
    """RFC 9113 §8.2.1, §8.2.2"""
    if TOKEN.fullmatch(name) is None or VALUE.fullmatch(value) is None:
        return WRONG
    if name in CONNECTION_FIELDS or (name == b"te" and value.lower() != b"trailers"):
        return WRONG
    return RIGHT


def judge_head(block: Block) -> str:
    """RFC 9113 §8.3.1, RFC 8441 §4"""
    pseudo: dict[bytes, bytes] = {}
    regular = False
    verdict = RIGHT
    for name, value in block.fields:
        if name.startswith(b":") and name in KNOWN_PSEUDO:
            if regular or name in pseudo or VALUE.fullmatch(value) is None:
                return WRONG
            pseudo[name] = value
            continue
        regular = True
        if judge_field(name, value) == WRONG:
            return WRONG
        if b"_" in name or name in (b"expect", b"te"):
            verdict = EITHER
    judged = judge_pseudo(pseudo)
    lengths = block.of(b"content-length")
    if any(not value.isdigit() for value in lengths) or len(set(lengths)) > 1:
        return WRONG
    hosts = block.of(b"host")
    if len(lengths) > 1 or (hosts and (len(hosts) > 1 or hosts[0] != pseudo.get(b":authority", hosts[0]))):
        return max(judged, EITHER, key=(RIGHT, EITHER, WRONG).index)
    if not hosts and b":authority" not in pseudo and judged == RIGHT:
        judged = EITHER
    if lengths and len(lengths[0]) > 15:
        judged = EITHER if judged == RIGHT else judged
    return max(judged, verdict, key=(RIGHT, EITHER, WRONG).index)


def judge_pseudo(pseudo: dict[bytes, bytes]) -> str:
    method = pseudo.get(b":method")
    if method is None or not method:
        return WRONG
    if method == b"CONNECT" or b":protocol" in pseudo:
        # A tunnel: who is to open it decides the rest.
        right = method == b"CONNECT" and set(pseudo) in (KNOWN_PSEUDO, {b":method", b":authority"})
        return EITHER if right else WRONG
    if not {b":scheme", b":path"} <= set(pseudo) or not pseudo[b":path"]:
        return WRONG
    path, host = pseudo[b":path"], pseudo.get(b":authority")
    if METHOD.fullmatch(method) is None or pseudo[b":scheme"] not in (b"http", b"https"):
        return EITHER
    if host is not None and PLAIN_HOST.fullmatch(host) is None:
        return EITHER
    if path == b"*":
        return RIGHT if method == b"OPTIONS" else EITHER
    return RIGHT if PLAIN_PATH.fullmatch(path) else EITHER


def judge_trailers(block: Block) -> str:
    if not block.end or any(name.startswith(b":") for name, _ in block.fields):
        return WRONG
    return WRONG if any(judge_field(*field) == WRONG for field in block.fields) else RIGHT
