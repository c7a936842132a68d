"""HTTP/2 connections of a worker that is to go: every stream is answered whole, or provably was not begun.

RFC 9113 §6.8: GOAWAY(2^31-1) first, so that nobody opens more; what was on its way is still taken, until the
PING beside it has come back; then GOAWAY with the last stream that counts.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.apps.h2_app import pattern
from tests.helpers.certificates import Authority
from tests.helpers.h2_load import ANY_STREAM, H2Client, Multiplexed, Unprocessed, account, connected
from tests.helpers.load import Load
from tests.helpers.master_process import until
from tests.helpers.nghttp2 import needs_nghttp2
from tests.helpers.server import Serve, ServerProcess

pytestmark = needs_nghttp2

ONE = ("--workers", "1", "--http2-cleartext")
# Longer than any test waits: what ends before has not been cut.
LONG = (*ONE, "--timeout-graceful-shutdown", "60", "--timeout-drain-idle", "60")
NO_ERROR = 0
BIG = 1_000_000


def stops(server: ServerProcess) -> None:
    """Begin to."""
    since = len(server.log())
    server.send(signal.SIGTERM)
    server.saw(r"stopping: requests in flight get", since=since)


def reloads(server: ServerProcess) -> None:
    since = len(server.log())
    server.send(signal.SIGHUP)
    server.saw(r"^INFO:     reloaded$", since=since)


def over(server: ServerProcess, old: set[int]) -> None:
    """The old workers go, or all of the server."""
    until(lambda: not server.running or not old & server.pids(), "the old worker to go")
    if not server.pids():
        assert server.ended() == 0


both = pytest.mark.parametrize("go_away", [stops, reloads])


def here(notes: Path, *names: object) -> None:
    """Wait until the app has these."""
    until(lambda: all((notes / f"here-{name}").exists() for name in names), f"{names} to reach the app")


def ends_properly(client: H2Client) -> None:
    """The last GOAWAY is of no error, and the connection ends with a FIN behind whole frames."""
    client.to_the_end()
    assert client.goaways[-1][1] == NO_ERROR


@both
def test_streams_in_flight_are_answered(
    serve: Serve, notes: Path, go_away: Callable[[ServerProcess], None]
) -> None:
    server = serve("h2_app:app", *LONG)
    old = server.pids()
    with connected(server.port) as client:
        streams = [client.open(f"/hold?{number}") for number in range(16)]
        here(notes, *range(16))
        go_away(server)
        client.until(lambda: len(client.goaways) >= 2, "both GOAWAYs")
        assert client.goaways == [(ANY_STREAM, NO_ERROR), (streams[-1].number, NO_ERROR)]
        assert not any(one.over for one in streams)
        (notes / "go").touch()
        assert {bytes(client.answer(one).body) for one in streams} == {b"went on"}
        ends_properly(client)
    over(server, old)


def test_streams_that_were_on_their_way_are_answered(serve: Serve, notes: Path) -> None:
    """Those that a client opened before it saw the first GOAWAY."""
    server = serve("h2_app:app", *LONG)
    old = server.pids()
    with connected(server.port, answers_pings=False) as client:
        first = client.open("/hold?first")
        here(notes, "first")
        stops(server)
        client.until(lambda: client.goaways and client.pings, "the first GOAWAY, and its PING")
        assert client.goaways == [(ANY_STREAM, NO_ERROR)]
        late = [client.open_anyway(), client.open_anyway(body=b"x" * 20_000)]
        assert [client.answer(one).json()["size"] for one in late] == [0, 20_000]
        client.answer_pings()
        client.until(lambda: len(client.goaways) == 2, "the last GOAWAY")
        assert client.goaways[1] == (late[-1].number, NO_ERROR)
        (notes / "go").touch()
        client.answer(first)
        ends_properly(client)
    over(server, old)


def test_streams_behind_the_last_goaway_reach_no_app(serve: Serve, notes: Path) -> None:
    ledger = notes / "ledger"
    server = serve("h2_app:app", *LONG, env={"LEDGER": str(ledger)})
    with connected(server.port) as client:
        first = client.open("/hold?first", headers=[("x-number", "first")])
        here(notes, "first")
        reloads(server)
        client.until(lambda: len(client.goaways) == 2, "the last GOAWAY")
        late = [client.open_anyway(headers=[("x-number", f"late-{number}")]) for number in range(3)]
        (notes / "go").touch()
        assert client.answer(first).body == b"went on"
        client.to_the_end()
        for one in late:
            assert one.status == 0
            with pytest.raises(Unprocessed):
                client.answer(one)
    assert ledger.read_text() == "first\n"
    with connected(server.port) as again:
        again.ask(headers=[("x-number", "late-0")])
    assert ledger.read_text() == "first\nlate-0\n"


def test_who_never_answers_the_ping_holds_nothing_up_beyond_the_grace(serve: Serve) -> None:
    server = serve("h2_app:app", *ONE, "--timeout-graceful-shutdown", "60", "--timeout-drain-idle", "0.3")
    with connected(server.port, answers_pings=False) as client:
        client.ask()
        stops(server)
        ends_properly(client)
    assert server.ended() == 0
    assert "Cut" not in server.log()


@both
def test_an_idle_connection_is_told_and_closed(
    serve: Serve, go_away: Callable[[ServerProcess], None]
) -> None:
    server = serve("h2_app:app", *ONE, "--timeout-graceful-shutdown", "60", "--timeout-drain-idle", "0.3")
    old = server.pids()
    with connected(server.port) as asked, connected(server.port) as silent:
        stream = asked.ask()
        silent.until(lambda: silent.h2.remote_settings.max_concurrent_streams == 128, "its SETTINGS")
        go_away(server)
        ends_properly(asked)
        ends_properly(silent)
    assert (asked.goaways[-1], silent.goaways[-1]) == ((stream.number, NO_ERROR), (0, NO_ERROR))
    over(server, old)


def test_a_response_that_has_begun_is_finished(serve: Serve, notes: Path) -> None:
    server = serve("h2_app:app", *LONG)
    old = server.pids()
    with connected(server.port) as client:
        stream = client.open("/halves?one")
        client.until(lambda: stream.body == b"first half, ", "the first half")
        stops(server)
        client.until(lambda: len(client.goaways) == 2, "the last GOAWAY")
        (notes / "go").touch()
        assert client.answer(stream).body == b"first half, second half"
        ends_properly(client)
    over(server, old)


def test_an_upload_that_has_begun_is_finished(serve: Serve) -> None:
    """More than all windows hold: they open while the worker drains."""
    server = serve("h2_app:app", *LONG)
    old = server.pids()
    with connected(server.port) as client:
        stream = client.open(body=b"x" * 1000, end=False)
        client.until(lambda: client.h2.remote_settings.max_concurrent_streams == 128, "its SETTINGS")
        reloads(server)
        client.until(lambda: len(client.goaways) == 2, "the last GOAWAY")
        client.send(stream, b"y" * BIG, end=True)
        assert client.answer(stream).json()["size"] == BIG + 1000
        ends_properly(client)
    over(server, old)


@pytest.mark.parametrize("tls", [False, True])
def test_large_responses_lose_nothing_at_the_close(serve: Serve, tmp_path: Path, tls: bool) -> None:
    """A client's WINDOW_UPDATEs are on their way when the server closes: a reset would take the rest of the
    response out of the client's buffer.
    """
    flags, context = LONG, None
    if tls:
        authority = Authority(tmp_path)
        flags = (*LONG, "--http2", *authority.issue("localhost").flags)
        context = authority.client_context()
    server = serve("h2_app:app", *flags)
    port = int(server.urls[0].rpartition(":")[2])
    failed: list[BaseException] = []
    begun = threading.Barrier(5)

    def download() -> None:
        try:
            with connected(port, context) as client:
                stream = client.open(f"/large?{BIG}")
                client.until(lambda: len(stream.body) > 50_000, "the beginning")
                begun.wait(30)
                assert client.answer(stream).body == pattern(BIG)
        except BaseException as error:
            begun.abort()
            failed.append(error)

    threads = [threading.Thread(target=download) for _ in range(4)]
    for thread in threads:
        thread.start()
    begun.wait(30)
    stops(server)
    for thread in threads:
        thread.join(30)
    assert failed == []
    assert server.ended() == 0


def test_events_without_an_end_are_told_and_end_properly(serve: Serve, notes: Path) -> None:
    server = serve("h2_app:app", *LONG, "--timeout-drain-streams", "0.2")
    old = server.pids()
    with connected(server.port) as client:
        streams = [client.open(f"/events?{number}") for number in range(3)]
        client.until(lambda: all(one.body for one in streams), "events")
        reloads(server)
        assert all(bytes(client.answer(one).body).endswith(b"\n\ndata: bye\n\n") for one in streams)
        ends_properly(client)
    over(server, old)


def test_who_does_not_listen_is_cut_at_the_deadline(serve: Serve) -> None:
    """Not with an END_STREAM: the client is to know."""
    server = serve("h2_app:app", *ONE, "--timeout-graceful-shutdown", "0.7", quiet=False)
    with connected(server.port) as client:
        stream = client.open("/stubborn")
        client.until(lambda: stream.body, "something")
        stops(server)
        try:
            client.until(lambda: client.closed or stream.over)
        except ConnectionResetError:
            pass
        assert not stream.ended
        assert server.ended() == 0


def test_limit_keep_alive_requests(serve: Serve, notes: Path) -> None:
    """As many as one connection may have, then the next one; nothing is lost on the way."""
    ledger = notes / "ledger"
    server = serve("h2_app:app", *LONG, "--limit-keep-alive-requests", "10", env={"LEDGER": str(ledger)})
    client = Multiplexed(server.port, streams=3)
    until(lambda: client() and client.connections == 5, "the fifth connection")
    client.finish()
    account(ledger, [client])
    assert len(client.answered) >= 4 * 10


def test_the_connection_of_one_request(serve: Serve) -> None:
    server = serve("h2_app:app", *LONG, "--limit-keep-alive-requests", "1")
    with connected(server.port) as client:
        stream = client.ask()
        assert stream.status == 200
        ends_properly(client)
    assert client.goaways[-1] == (stream.number, NO_ERROR)


def test_keep_alive_timeout(serve: Serve) -> None:
    server = serve("h2_app:app", *ONE, "--timeout-keep-alive", "0.3")
    with connected(server.port) as client:
        for _ in range(3):
            stream = client.ask()
        ends_properly(client)
    assert client.goaways[-1] == (stream.number, NO_ERROR)


def test_no_keep_alive_timeout_while_a_stream_is_open(serve: Serve, notes: Path) -> None:
    """The clock runs only while there are none."""
    server = serve("h2_app:app", *ONE, "--timeout-keep-alive", "0.2")
    with connected(server.port) as client, connected(server.port) as idle:
        stream = client.open("/halves?one")
        client.until(lambda: stream.body, "the first half")
        idle.ask()
        ends_properly(idle)  # so the time has passed
        (notes / "go").touch()
        assert client.answer(stream).body == b"first half, second half"
        assert client.goaways == []


def test_every_request_that_an_app_got_is_answered_at_a_stop_under_load(serve: Serve, notes: Path) -> None:
    ledger = notes / "ledger"
    server = serve(
        "h2_app:app", "--workers", "2", "--http2-cleartext", "--no-access-log", env={"LEDGER": str(ledger)}
    )
    uploads = Multiplexed(server.port, streams=2, body=b"x" * 20_000)
    clients = [Multiplexed(server.port), Multiplexed(server.port, streams=1), uploads]
    with Load(*clients) as load:
        load.goes_on(300)
        server.stop()
    # Nobody listens any more. Who was in the queue of a listener at its end was never accepted: no GOAWAY.
    gone = ("ConnectionRefusedError", "ConnectionResetError")
    failed = {one for one in load.failed if not one.startswith(gone)}
    assert {one for one in failed if not one.endswith("[], closed True")} == set()
    account(ledger, clients)
