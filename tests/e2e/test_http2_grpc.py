"""gRPC's own client (grpcio) against an ASGI app: trailers, streams both ways, cancellation and deadlines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from tests.helpers.certificates import Authority
from tests.helpers.master_process import PATIENCE_S, until
from tests.helpers.nghttp2 import needs_nghttp2
from tests.helpers.server import ServerProcess

pytestmark = needs_nghttp2

grpc = pytest.importorskip("grpc")
OPTIONS = [("grpc.enable_http_proxy", 0)]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("notes")


@pytest.fixture(scope="module", params=["cleartext", "tls"])
def channel(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, shared: Path
) -> Iterator[Any]:
    """One connection, for all tests."""
    folder, flags = tmp_path_factory.mktemp("grpc"), ["--http2-cleartext"]
    authority = Authority(folder)
    if request.param == "tls":
        flags = ["--http2", *authority.issue("localhost").flags]
    app, env = "grpc_app:app", {"NOTES": str(shared)}
    with ServerProcess(folder / "server", app, "--workers", "1", *flags, env=env) as server:
        address = f"localhost:{server.urls[0].rpartition(':')[2]}"
        if request.param == "tls":
            trust = grpc.ssl_channel_credentials(authority.path.read_bytes())
            channel = grpc.secure_channel(address, trust, OPTIONS)
        else:
            channel = grpc.insecure_channel(address, OPTIONS)
        with channel:
            yield channel
        lines = server.saw_access(r'"POST /test\.Echo/Unary HTTP/2" 200', times=100)
        assert len({line.split()[1] for line in lines}) == 1, "more than one connection"


def call(channel: Any, kind: str, name: str, *arguments: Any, **how: Any) -> Any:
    """``kind``: unary_unary, and so on."""
    return getattr(channel, kind)(f"/test.Echo/{name}")(*arguments, timeout=PATIENCE_S, **how)


@pytest.mark.parametrize("size", [0, 1, 16_379, 70_000, 3_000_000])
def test_one_message_each(channel: Any, size: int) -> None:
    message = bytes(range(256)) * (size // 256) + bytes(size % 256)
    assert call(channel, "unary_unary", "Unary", message) == message[::-1]


def test_initial_and_trailing_metadata(channel: Any) -> None:
    method = channel.unary_unary("/test.Echo/Unary")
    answer, told = method.with_call(b"abc", timeout=PATIENCE_S, metadata=[("x-mine", "1")])
    assert (answer, told.code()) == (b"cba", grpc.StatusCode.OK)
    assert ("x-initial", "metadata") in list(told.initial_metadata())
    assert ("x-final", "metadata") in list(told.trailing_metadata())


def test_a_hundred_at_once(channel: Any) -> None:
    method = channel.unary_unary("/test.Echo/Unary")
    futures = [method.future(b"<%d" % number, timeout=PATIENCE_S) for number in range(100)]
    assert [one.result()[::-1] for one in futures] == [b"<%d" % number for number in range(100)]


def test_a_stream_from_the_server(channel: Any) -> None:
    assert [len(one) for one in call(channel, "unary_stream", "Count", b"500")] == list(range(500))


def test_a_stream_from_the_client(channel: Any) -> None:
    assert call(channel, "stream_unary", "Add", (b"%d" % number for number in range(1000))) == b"499500"


def test_a_conversation(channel: Any) -> None:
    """Each word depends on the answer to the one before: nothing may wait for an end."""
    words: SimpleQueue[bytes | None] = SimpleQueue()
    answers = call(channel, "stream_stream", "Chat", iter(words.get, None))
    said = b"hello"
    for _ in range(20):
        words.put(said)
        assert next(answers) == b"re: " + said
        said = b"again, " + said
    words.put(None)
    assert list(answers) == []
    assert answers.code() == grpc.StatusCode.OK


def test_a_failure_behind_a_message(channel: Any) -> None:
    answers = call(channel, "unary_stream", "Miss", b"")
    assert next(answers) == b"as far as it went"
    with pytest.raises(grpc.RpcError) as error:
        next(answers)
    assert (error.value.code(), error.value.details()) == (grpc.StatusCode.NOT_FOUND, "not there")


def test_a_status_in_the_head(channel: Any) -> None:
    with pytest.raises(grpc.RpcError) as error:
        call(channel, "unary_unary", "Nowhere", b"")
    assert (error.value.code(), error.value.details()) == (grpc.StatusCode.UNIMPLEMENTED, "no such method")


def test_a_cancelled_call_is_told_to_the_app(channel: Any, shared: Path) -> None:
    note = shared / "cancelled"
    note.unlink(missing_ok=True)
    answers = call(channel, "unary_stream", "Forever", b"")
    assert [next(answers) for _ in range(3)] == [b"tick"] * 3
    answers.cancel()
    until(note.exists, "the app to hear of it")
    assert call(channel, "unary_unary", "Unary", b"on") == b"no"  # over the same connection


def test_a_deadline_is_told_to_the_app(channel: Any, shared: Path) -> None:
    note = shared / "cancelled"
    note.unlink(missing_ok=True)
    answers = channel.unary_stream("/test.Echo/Forever")(b"", timeout=0.3)
    with pytest.raises(grpc.RpcError) as error:
        list(answers)
    assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    until(note.exists, "the app to hear of it")
