"""What gunicorn's settings become, without any process of gunicorn's."""

from __future__ import annotations

import logging
import os
import socket
import sys

import pytest
from gunicorn.config import Config

from shardserve.config.model import Config as Defaults
from shardserve.integrations import gunicorn as integration
from shardserve.integrations.gunicorn import ShardWorker
from shardserve.integrations.settings import Config as Embedded


class Log:
    """Of gunicorn's logger what the worker uses."""

    def __init__(self):
        self.error_log = logging.getLogger("gunicorn.error.of_this_test")
        self.access_log = logging.getLogger("gunicorn.access.of_this_test")
        self.warnings = []

    def warning(self, message, *args):
        self.warnings.append(message % args)


def worker(kind=ShardWorker, **settings):
    cfg = Config()
    for name, value in settings.items():
        cfg.set(name, value)
    return kind(1, os.getpid(), [], None, cfg.timeout / 2, cfg, Log())


def settings(kind=ShardWorker, **given):
    """All the way: what a worker would be told."""

    async def app(scope, receive, send):
        raise AssertionError("nobody asks it")

    return Embedded(app, **worker(kind, **given).keywords()).settings()


def test_the_settings_of_gunicorn():
    found = settings(
        keepalive=7, graceful_timeout=20, max_requests=0, backlog=99, limit_request_line=4000,
        limit_request_fields=50, limit_request_field_size=8000, threads=3, worker_connections=17,
        forwarded_allow_ips="10.0.0.1, ::1", proxy_protocol="v2", root_path="/api", asgi_lifespan="off",
        websocket_max_message_size=1000, header_map="refuse",
    )  # fmt: skip
    assert found.timeout_keep_alive_s == 7
    assert found.timeout_graceful_shutdown_s == 18  # so that gunicorn need not kill
    assert found.limit_max_requests is None
    assert found.backlog == 99
    assert found.limit_request_line_bytes == 4000
    assert found.limit_request_fields == 50
    assert found.limit_request_field_size_bytes == 8000
    assert found.wsgi_threads == 3
    assert found.limit_connections == 17
    assert found.forwarded_allow_ips == "10.0.0.1,::1"
    assert found.proxy_protocol == "v2"
    assert found.root_path == "/api"
    assert found.lifespan == "off"
    assert found.ws_max_size_bytes == 1000
    assert found.underscore_headers == "reject"
    assert found.workers == 1


def test_gunicorns_defaults():
    found = settings()
    assert found.timeout_keep_alive_s == 2
    assert found.timeout_graceful_shutdown_s == 28
    assert found.limit_request_line_bytes == 4094
    assert found.wsgi_threads == 1
    assert found.limit_connections is None  # 1000 in gunicorn, which its ASGI workers do not enforce
    assert found.forwarded_allow_ips == "127.0.0.1,::1"
    assert found.proxy_protocol == "off"
    assert found.underscore_headers == "drop"


def test_no_limit_is_our_largest_and_a_short_grace_is_halved():
    found = settings(limit_request_line=0, limit_request_field_size=100, graceful_timeout=2)
    assert found.limit_request_line_bytes == 2**24
    assert found.limit_request_field_size_bytes == 256
    assert found.timeout_graceful_shutdown_s == 1


def test_max_requests_with_its_jitter():
    limit = settings(max_requests=10, max_requests_jitter=5).limit_max_requests
    assert limit is not None
    assert 10 <= limit <= 15


def test_tls():
    found = settings(
        certfile="c.pem", keyfile="k.pem", ca_certs="ca.pem", cert_reqs=2, ciphers="ECDHE+AESGCM"
    )
    assert (found.ssl_certfile, found.ssl_keyfile, found.ssl_ca_certs) == ("c.pem", "k.pem", "ca.pem")
    assert found.ssl_cert_reqs == 2
    assert found.ssl_ciphers == "ECDHE+AESGCM"


def test_a_subclass_has_the_last_word():
    class Mine(ShardWorker):
        CONFIG_KWARGS = {"timeout_keep_alive": 60, "limit_request_body": 5}  # noqa: RUF012

    found = settings(Mine, keepalive=7)
    assert found.timeout_keep_alive_s == 60
    assert found.limit_request_body_bytes == 5


def test_what_has_no_effect_is_told():
    cfg, log = Config(), Log()
    ShardWorker.check_config(cfg, log)
    assert log.warnings == []
    cfg.set("access_log_format", "%(h)s")
    cfg.set("pre_request", lambda worker, request: None)
    cfg.set("protocol", "uwsgi")
    cfg.set("proxy_protocol", "v1")
    cfg.set("proxy_allow_ips", "10.0.0.1")
    ShardWorker.check_config(cfg, log)
    assert [line.split()[0] for line in log.warnings] == [
        "access_log_format", "pre_request", "protocol", "proxy_allow_ips",
    ]  # fmt: skip


def test_http2_is_gunicorns_to_switch_on():
    assert not settings().http2
    assert not settings(http2_cleartext="prior-knowledge").http2_cleartext  # without "h2" it is ignored there
    found = settings(http_protocols="h2,h1", certfile="c.pem", http2_cleartext="both")
    assert (found.http2, found.http2_cleartext) == (True, False)
    found = settings(http_protocols="h2", http2_cleartext="prior-knowledge")
    assert (found.http2, found.http2_cleartext) == (True, True)
    ours = Defaults()
    assert found.http2_max_concurrent_streams == ours.http2_max_concurrent_streams
    assert found.http2_initial_stream_window_size_bytes == ours.http2_initial_stream_window_size_bytes


def test_the_sizes_of_http2_within_our_bounds():
    found = settings(
        http_protocols="h2", certfile="c.pem", http2_max_concurrent_streams=7, http2_max_frame_size=32768,
        http2_initial_window_size=1000, http2_max_header_list_size=0,
    )  # fmt: skip
    assert found.http2_max_concurrent_streams == 7
    assert found.http2_max_frame_size_bytes == 32768
    assert found.http2_initial_stream_window_size_bytes == 65535
    assert found.http2_max_header_list_size_bytes == 2**24


def test_an_upgrade_to_http2_is_told_not_to_be_taken():
    for mechanism, told in (("off", 0), ("prior-knowledge", 0), ("upgrade", 1), ("both", 1)):
        cfg, log = Config(), Log()
        cfg.set("http2_cleartext", mechanism)
        ShardWorker.check_config(cfg, log)
        assert len(log.warnings) == told


def test_a_socket_that_only_we_have_is_not_served_after_us():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        assert not integration._is_served_after_us(os.getppid(), [sock])
        # An arbiter that is gone serves nobody.
        assert not integration._is_served_after_us(os.getpid(), [sock])


def test_a_socket_that_our_parent_has_is():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            answer = b"x"
            try:
                answer = b"1" if integration._is_served_after_us(os.getppid(), [sock]) else b"0"
            finally:
                os.write(writing, answer)
                os._exit(0)
        os.close(writing)
        try:
            assert os.read(reading, 1) == b"1"
        finally:
            os.close(reading)
            os.waitpid(child, 0)


def test_an_arbiter_that_cannot_be_looked_at_is_taken_to_go_on(monkeypatch):
    def refuse(path):
        raise PermissionError(path)

    monkeypatch.setattr(integration.os, "listdir", refuse)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        assert integration._is_served_after_us(os.getppid(), [sock])


def test_where_it_stands_begins_behind_our_own_frames():
    def app():
        return sys._getframe()

    text = integration._below_us(app())
    assert "in app" in text
    assert integration._below_us(None)


@pytest.mark.parametrize(("size", "ours"), [(0, 2**24), (1, 256), (4094, 4094)])
def test_sizes(size, ours):
    assert integration._bytes(size) == ours
