"""``shardserve.Config``: Uvicorn's keywords and attributes, and what becomes of them."""

from __future__ import annotations

import asyncio
import inspect
import io
import logging
import socket
import ssl
import sys
from pathlib import Path
from types import ModuleType

import pytest
import uvicorn
import uvloop
from uvicorn.config import LOGGING_CONFIG

import shardserve
from shardserve.asgi.wsgi import Wsgi
from shardserve.errors import ConfigError
from tests.helpers.certificates import Authority

THEIRS = [name for name in inspect.signature(uvicorn.Config).parameters if name != "app"]
# Each keyword of Uvicorn's with a value that is not its default.
OTHER_VALUES = {
    "host": "0.0.0.0", "port": 9000, "uds": "/tmp/a.sock", "fd": 3, "loop": "asyncio", "http": "h11",
    "http2": True, "ws": "wsproto", "ws_max_size": 1024, "ws_max_queue": 2, "ws_ping_interval": None,
    "ws_ping_timeout": 5.0, "ws_per_message_deflate": False, "lifespan": "off", "env_file": None,
    "log_config": LOGGING_CONFIG, "log_level": logging.WARNING, "access_log": False, "use_colors": True,
    "interface": "wsgi", "reload": True, "reload_dirs": "src", "reload_delay": 1.0,
    "reload_includes": ["*.toml"], "reload_excludes": "*.log", "workers": 4, "proxy_headers": False,
    "server_header": False, "date_header": False, "forwarded_allow_ips": ["10.0.0.1", "::1"],
    "root_path": "/api", "limit_concurrency": 10, "limit_max_requests": 5, "limit_max_requests_jitter": 3,
    "backlog": 16, "timeout_keep_alive": 2, "timeout_notify": 5, "timeout_graceful_shutdown": 3,
    "timeout_worker_healthcheck": 9, "callback_notify": None, "ssl_keyfile": Path("key.pem"),
    "ssl_certfile": Path("cert.pem"), "ssl_keyfile_password": "secret",
    "ssl_version": ssl.PROTOCOL_TLS_SERVER, "ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": "ca.pem",
    "ssl_ciphers": "ECDHE+AESGCM", "ssl_context_factory": None, "headers": [("X-A", "1"), ["X-B", "2"]],
    "factory": True, "h11_max_incomplete_event_size": 1000, "reset_contextvars": True,
}  # fmt: skip
# What cannot be given alone.
TOGETHER = {
    "ssl_keyfile": ["ssl_certfile"], "ssl_keyfile_password": ["ssl_certfile"],
    "ssl_ca_certs": ["ssl_certfile"], "ssl_cert_reqs": ["ssl_certfile", "ssl_ca_certs"],
}  # fmt: skip


async def app(scope, receive, send):
    raise AssertionError("nobody asks it")


def quiet(what=app, **keywords):
    """A Config that leaves logging alone."""
    return shardserve.Config(what, **{"log_config": None, **keywords})


# Uvicorn's signature


def test_the_table_of_this_test_is_complete():
    assert set(OTHER_VALUES) == set(THEIRS)


def test_every_keyword_of_uvicorn_is_taken_with_its_default():
    defaults = {
        name: one.default
        for name, one in inspect.signature(uvicorn.Config).parameters.items()
        if name != "app"
    }
    quiet(**{**defaults, "log_config": None})
    assert set(THEIRS) <= set(inspect.signature(shardserve.Config).parameters)


@pytest.mark.parametrize("name", THEIRS)
def test_every_keyword_of_uvicorn_is_taken_and_is_an_attribute(name):
    given = {word: OTHER_VALUES[word] for word in [name, *TOGETHER.get(name, [])]}
    config = quiet(**given)
    if name not in ("log_config", "forwarded_allow_ips"):
        assert getattr(config, name) == OTHER_VALUES[name]
    assert config.settings() is not None


def test_the_first_ones_may_be_positional_as_in_uvicorn():
    config = shardserve.Config(app, "::1", 9001, None, None, log_config=None)
    assert (config.host, config.port) == ("::1", 9001)


def test_what_means_nothing_here_is_told_once(caplog):
    for _ in range(2):
        quiet(http="h11", ws="wsproto", loop="asyncio")
    told = [one.getMessage() for one in caplog.records if "not for shardserve" in one.getMessage()]
    assert sorted(line.split()[0] for line in told) == ["http", "ws"]  # the loop is what was asked for


def test_parts_of_uvicorn_given_as_classes_are_told_of_too(caplog):
    class MyProtocol(asyncio.Protocol):
        pass

    quiet(http=MyProtocol)
    assert "MyProtocol" in caplog.text


def test_a_wrong_keyword_says_what_was_meant():
    with pytest.raises(ConfigError, match=r"argument prot: unknown setting prot; did you mean port\?"):
        quiet(prot=1)
    with pytest.raises(ConfigError, match=r"argument port: port: 70000 is not an integer from 0 to 65535"):
        quiet(port=70000)


# Attributes and settings


def test_settings_are_uvicorns_values_in_our_words():
    settings = quiet(
        log_level=logging.DEBUG,
        ws_ping_interval=None,
        timeout_graceful_shutdown=None,
        timeout_keep_alive=5,
        forwarded_allow_ips=["10.0.0.1", "unix"],
        headers=[("X-A", "1")],
        host=None,
    ).settings()
    assert settings.log_level == "debug"
    assert settings.ws_ping_interval_s == 0  # never
    assert settings.timeout_graceful_shutdown_s == 30  # our default
    assert settings.timeout_keep_alive_s == 5
    assert settings.forwarded_allow_ips == "10.0.0.1,unix"
    assert settings.headers == (("X-A", "1"),)
    assert settings.host == ""  # every address
    assert settings.workers == 1


def test_what_is_changed_before_the_start_counts():
    config = quiet(port=1)
    config.port = 9009
    config.timeout_keep_alive = 1
    assert config.settings().port == 9009
    assert config.settings().timeout_keep_alive_s == 1
    config.port = -1
    with pytest.raises(ConfigError, match="port"):
        config.settings()


def test_our_own_settings_by_either_name():
    assert quiet(timeout_write_stall_s=3).settings().timeout_write_stall_s == 3
    assert quiet(timeout_write_stall=3).timeout_write_stall == 3
    assert quiet(bind=["127.0.0.1:0", "unix:/tmp/x.sock"]).settings().bind == (
        "127.0.0.1:0",
        "unix:/tmp/x.sock",
    )


def test_the_environment_counts_as_for_uvicorn(monkeypatch):
    monkeypatch.setenv("WEB_CONCURRENCY", "3")
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "10.0.0.9")
    monkeypatch.setenv("PORT", "1234")
    config = quiet()
    assert config.workers == 3
    assert config.use_subprocess
    assert config.settings().forwarded_allow_ips == "10.0.0.9"
    assert config.port == 8000
    assert quiet(workers=1).workers == 1
    assert quiet(forwarded_allow_ips="").settings().forwarded_allow_ips == ""  # nobody


def test_reloading_needs_an_import_string():
    assert quiet("main:app", reload=True).should_reload
    assert not quiet(app, reload=True).should_reload
    assert quiet(app, reload=True).use_subprocess
    assert not quiet(app).use_subprocess


# Loading


def test_an_object_is_the_app():
    config = quiet()
    assert not config.loaded
    config.load()
    assert config.loaded
    assert config.loaded_app is app
    assert config.ssl is None


def test_an_import_string_is_imported(monkeypatch):
    module = ModuleType("a_module_of_this_test")
    module.app = app  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "a_module_of_this_test", module)
    monkeypatch.setattr(sys, "path", list(sys.path))
    config = quiet("a_module_of_this_test:app")
    config.load()
    assert config.loaded_app is app


def test_a_factory_is_called():
    config = quiet(lambda: app, factory=True)
    config.load()
    assert config.loaded_app is app


def test_a_wsgi_object_is_adapted():
    def wsgi_app(environ, start_response):
        return [b""]

    config = quiet(wsgi_app)
    config.load()
    assert isinstance(config.loaded_app, Wsgi)


@pytest.mark.parametrize("what", ["no_such_module_here:app", 42])
def test_an_app_that_cannot_be_loaded_exits_with_3(what, caplog, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as raised:
        quiet(what).load()
    assert raised.value.code == 3
    assert "no_such_module_here" in caplog.text or "int object" in caplog.text


@pytest.mark.parametrize(
    ("loop", "kind"),
    [
        ("auto", uvloop.Loop),
        ("uvloop", uvloop.Loop),
        ("asyncio", asyncio.SelectorEventLoop),
        ("uvloop:new_event_loop", uvloop.Loop),
    ],
)
def test_the_loop_that_was_asked_for(loop, kind):
    factory = quiet(loop=loop).get_loop_factory()
    assert factory is not None
    made = factory()
    assert isinstance(made, kind)
    made.close()


def test_the_loop_may_be_left_to_asyncio_and_must_exist():
    assert quiet(loop="none").get_loop_factory() is None
    with pytest.raises(SystemExit) as raised:
        quiet(loop="nowhere:loop").get_loop_factory()
    assert raised.value.code == 3


# Sockets


def test_bind_socket_has_the_address():
    config = quiet(port=0)
    with config.bind_socket() as sock:
        port = sock.getsockname()[1]
        assert port
        assert sock.get_inheritable()
        with socket.create_connection(("127.0.0.1", port)):
            pass
        with pytest.raises(SystemExit) as raised:
            quiet(port=port).bind_socket()
        assert raised.value.code == 1


def test_bind_socket_on_a_path(tmp_path):
    path = tmp_path / "s"
    with quiet(uds=str(path)).bind_socket() as sock, socket.socket(socket.AF_UNIX) as client:
        assert sock.getsockname() == str(path)
        client.connect(str(path))


# Logging


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append((record.name, record.getMessage()))


@pytest.fixture
def root():
    """What the program's root logger hears."""
    kept = Kept()
    logging.getLogger().addHandler(kept)
    yield kept.records
    logging.getLogger().removeHandler(kept)


def test_logging_is_set_up_unless_log_config_is_none(root):
    """With None it is the program's: records go to its root logger, under Uvicorn's names."""
    quiet()
    logging.getLogger("shardserve.worker").warning("hello")
    assert root == [("uvicorn.error", "hello")]
    shardserve.Config(app)
    ours = logging.getLogger("shardserve")
    assert len(ours.handlers) == 1
    assert not ours.propagate


def test_with_log_config_none_the_level_and_the_access_log_still_count(root):
    quiet(log_level="error", access_log=False)
    logging.getLogger("shardserve.worker").warning("too low")
    logging.getLogger("shardserve.worker").error("heard")
    assert root == [("uvicorn.error", "heard")]
    assert not logging.getLogger("uvicorn.access").hasHandlers()


def test_an_open_log_config_is_read_once():
    text = (
        "[loggers]\nkeys=root\n[handlers]\nkeys=h\n[formatters]\nkeys=\n[logger_root]\nlevel=WARNING\nhandlers=h\n"
        "[handler_h]\nclass=NullHandler\nargs=()\n"
    )
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        config = shardserve.Config(app, log_config=io.StringIO(text))
        config.settings()
        assert any(isinstance(one, logging.NullHandler) for one in root.handlers)
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


# TLS


def test_a_certificate_makes_a_context(tmp_path):
    files = Authority(tmp_path).issue("localhost")
    config = quiet(ssl_certfile=files.cert, ssl_keyfile=files.key)
    assert config.is_ssl
    config.load()
    assert isinstance(config.ssl, ssl.SSLContext)
    assert config.certificates is None  # the worker reads them for itself, and again when they change


def test_a_context_factory_gets_the_config_and_a_default(tmp_path):
    files = Authority(tmp_path).issue("localhost")
    seen = []

    def factory(config, default):
        seen.append(config)
        context = default()
        context.verify_mode = ssl.CERT_OPTIONAL
        return context

    config = quiet(ssl_certfile=files.cert, ssl_keyfile=files.key, ssl_context_factory=factory)
    config.load()
    assert seen == [config]
    assert config.certificates is not None
    assert config.certificates.context_for("any.example") is config.ssl


def test_a_context_of_the_programs_own_is_served():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    config = quiet(ssl_context_factory=lambda config, default: context)
    config.load()
    assert config.certificates is not None
    assert config.certificates.context_for(None) is context
    assert not config.certificates.by_name


@pytest.mark.parametrize("on", [False, True])
def test_a_context_of_the_programs_own_is_told_of_http2(on):
    """What it offers cannot be asked of it; which of its ciphers HTTP/2 must not use can."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    config = quiet(ssl_context_factory=lambda config, default: context, http2=on)
    config.load()
    assert bool(config.certificates.context_for(None).not_for_http2) == on


def test_http2_without_tls_is_warned_of(caplog):
    quiet(http2=True, ssl_context_factory=lambda config, default: default())
    quiet(http2=True, http2_cleartext=True)
    assert caplog.messages == []
    quiet(http2=True)
    (said,) = caplog.messages
    assert said.startswith("http2 does nothing without TLS")


def test_a_context_factory_that_cannot_be_served():
    config = quiet(ssl_context_factory=lambda config, default: "none")
    with pytest.raises(TypeError, match="str object"):
        config.load()
    config = quiet(ssl_context_factory=lambda config, default: default())
    with pytest.raises(ConfigError, match="ssl_certfile"):
        config.load()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sni_callback = lambda *_: None
    config = quiet(ssl_context_factory=lambda config, default: context)
    config.load()
    with pytest.raises(ConfigError, match="sni_callback"):
        _ = config.certificates
