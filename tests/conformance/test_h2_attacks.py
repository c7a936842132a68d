"""The attacks of tests/helpers/h2_attacks.py are what they are called: nghttpd, a server of others, says so.

Rules of this file: nothing of ours is asked. What is to be the end of a connection is that for nghttpd, too,
with the same code; of what is hostile only in numbers, a few are no mistake.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import socket
import subprocess
from collections.abc import Iterator

import pytest

from tests.helpers.h2_attacks import (
    BAD_BLOCKS,
    CONTROL,
    ENDS,
    GET,
    MALFORMED,
    RESETS,
    Code,
    headers,
    request,
)
from tests.helpers.h2_clients import HOST, told
from tests.helpers.master_process import until

pytestmark = pytest.mark.skipif(shutil.which("nghttpd") is None, reason="nghttpd is not installed")


@pytest.fixture(scope="module")
def nghttpd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a server of nghttp2's own, which serves one file."""
    folder = tmp_path_factory.mktemp("nghttpd")
    (folder / "index.html").write_text("hello")
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        port: int = sock.getsockname()[1]
    command = ["nghttpd", "--no-tls", "--address", HOST, "--htdocs", str(folder), str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: process.poll() is not None or reachable(port), "nghttpd")
        assert process.poll() is None
        yield port
    finally:
        process.terminate()
        process.wait()


def reachable(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((HOST, port)):
        return True
    return False


@pytest.mark.parametrize("name", ENDS)
def test_mistakes_of_the_connection_are_such(nghttpd: int, name: str) -> None:
    said, code = ENDS[name]
    assert told(nghttpd, said).code == code


@pytest.mark.parametrize("name", BAD_BLOCKS)
def test_bad_blocks_are_such(nghttpd: int, name: str) -> None:
    piece = BAD_BLOCKS[name]
    assert told(nghttpd, headers(1, piece + GET if name.startswith("table") else GET + piece)).code == 9


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_requests_are_such(nghttpd: int, name: str) -> None:
    answers = told(nghttpd, headers(1, MALFORMED[name]), request(3))
    assert answers.resets == {1: Code.PROTOCOL_ERROR}
    assert answers.statuses == {3: 200}


@pytest.mark.parametrize("name", RESETS)
def test_floods_of_resets_are_no_mistakes_of_the_connection(nghttpd: int, name: str) -> None:
    """Each ends one stream; it is the number of them that is hostile."""
    answers = told(nghttpd, *itertools.islice(RESETS[name](), 3))
    assert answers.goaways == []
    if not name.startswith("rapid"):
        assert list(answers.resets) == [1, 3, 5]
        assert set(answers.resets.values()) <= {Code.PROTOCOL_ERROR, Code.FLOW_CONTROL_ERROR}


@pytest.mark.parametrize("name", CONTROL)
def test_floods_of_control_frames_are_no_mistakes(nghttpd: int, name: str) -> None:
    """Each is right; it is the number of them that is hostile."""
    answers = told(nghttpd, *itertools.islice(CONTROL[name](), 500))
    assert answers.goaways == []
    assert answers.resets == {}
