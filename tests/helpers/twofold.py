"""One conversation, held twice: with a framework's own test client, and with our server over a socket.

Rules of this file: a conversation is a function of a client that returns responses; both are
``httpx.Client``. What is compared is what the app is the author of: not the date, the server's name, or how a
body is framed; nor what comes out otherwise at each run.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import httpx

Talk = Callable[[httpx.Client], list[httpx.Response]]

OURS = {"connection", "date", "server", "transfer-encoding"}


def fields(response: httpx.Response) -> list[tuple[str, str]]:
    return sorted(
        (name, _settled(name, value)) for name, value in response.headers.multi_items() if name not in OURS
    )


def _settled(name: str, value: str) -> str:
    if name == "allow":  # a set, written down
        return ", ".join(sorted(value.split(", ")))
    if name == "set-cookie":  # now, or so many seconds from now
        return re.sub(r"expires=[^;]+", "expires=…", value)
    return value


def same(talk: Talk, expected_of: httpx.Client, real: httpx.Client) -> list[httpx.Response]:
    """Hold it with both, compare each response; those of the server."""
    expected, found = talk(expected_of), talk(real)
    assert len(found) == len(expected)
    for theirs, ours in zip(expected, found, strict=True):
        where = f"{ours.request.method} {ours.request.url}"
        assert ours.status_code == theirs.status_code, (
            f"{where}: {ours.status_code}, not {theirs.status_code}"
        )
        assert ours.content == theirs.content, (
            f"{where}: {ours.content[:500]!r}, not {theirs.content[:500]!r}"
        )
        our_fields = fields(ours)
        if "content-length" not in theirs.headers:  # the server knows it without being told
            our_fields = [one for one in our_fields if one[0] != "content-length"]
        assert our_fields == fields(theirs), f"{where}: {our_fields}, not {fields(theirs)}"
    return found
