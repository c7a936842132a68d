"""The declaration itself: names, defaults, checks, and the way to the worker and back."""

from __future__ import annotations

import dataclasses
import io
import json
import subprocess
import sys
from configparser import ConfigParser
from typing import Any, get_type_hints

import pytest

from shardserve import control
from shardserve.config.model import (
    BY_ATTRIBUTE,
    BY_NAME,
    GROUPS,
    SETTINGS,
    Config,
    Setting,
    adopt,
    from_json,
    nearest,
    to_json,
)
from shardserve.config.values import Size
from shardserve.errors import ConfigError

# A value of every setting that is not its default.
OTHER: dict[str, Any] = {
    "app": "main:app",
    "app_dir": "/srv",
    "factory": True,
    "lifespan": "on",
    "root_path": "/api",
    "reset_contextvars": True,
    "interface": "asgi2",
    "wsgi_threads": 1000,
    "env_file": "/srv/.env",
    "static": (("/assets", "public"), ("/", "/srv/www")),
    "static_max_age_s": 31536000,
    "host": "::",
    "port": 0,
    "uds": "/run/a.sock",
    "uds_permissions": 0o600,
    "fd": 3,
    "bind": (":80", "unix:/b"),
    "backlog": 5,
    "ssl_certfile": "/tls/cert.pem",
    "ssl_keyfile": "/tls/key.pem",
    "ssl_keyfile_password": "geheim",
    "ssl_version": 5,
    "ssl_minimum_version": "TLSv1.3",
    "ssl_cert_reqs": 2,
    "ssl_ca_certs": "/tls/ca.pem",
    "ssl_ciphers": "ECDHE+AESGCM",
    "ssl_sni": (("a.example.org", "/tls/a.pem", None), ("*.example.org", "/tls/b.pem", "/tls/b.key")),
    "proxy_headers": False,
    "forwarded_allow_ips": "10.0.0.0/8,unix",
    "forwarded_fields": "forwarded",
    "proxy_protocol": "v2",
    "workers": 3,
    "affinity": False,
    "balance": "cpu",
    "preload": True,
    "reload_parallel": 2,
    "limit_max_requests": 1000,
    "limit_max_requests_jitter": 100,
    "worker_lifetime_s": 3600.0,
    "worker_lifetime_jitter_s": 60.0,
    "worker_max_rss_mib": 512,
    "reload": True,
    "reload_dirs": ("src", "templates"),
    "reload_includes": ("*.html",),
    "reload_excludes": ("build/*",),
    "reload_delay_s": 0.0,
    "limit_concurrency": 50,
    "limit_connections": 10_000,
    "limit_keep_alive_requests": 1000,
    "limit_request_line_bytes": 256,
    "limit_request_fields": 1,
    "limit_request_field_size_bytes": 8190,
    "limit_request_head_bytes": 2**24,
    "limit_request_body_bytes": 0,
    "limit_pipelined_bytes": 2**20,
    "underscore_headers": "reject",
    "timeout_first_byte_s": 5.0,
    "timeout_ssl_handshake_s": 0.0,
    "timeout_request_head_s": 0.0,
    "min_request_body_rate_bytes_per_s": 0,
    "timeout_request_body_grace_s": 2.5,
    "timeout_write_stall_s": 604800.0,
    "timeout_keep_alive_s": 0.1,
    "timeout_graceful_shutdown_s": 604800.0,
    "timeout_drain_idle_s": 0.0,
    "timeout_drain_streams_s": 1.0,
    "timeout_worker_startup_s": 0.0,
    "timeout_worker_healthcheck_s": 10.0,
    "loop_lag_warn_s": 0.5,
    "http2": True,
    "http2_cleartext": True,
    "http2_max_concurrent_streams": 1,
    "http2_initial_stream_window_size_bytes": 65535,
    "http2_initial_connection_window_size_bytes": 2**31 - 1,
    "http2_max_frame_size_bytes": 2**24 - 1,
    "http2_max_header_list_size_bytes": 256,
    "http2_header_table_size_bytes": 0,
    "http2_ping_interval_s": 0.0,
    "http2_ping_timeout_s": 1.5,
    "ws": "none",
    "ws_max_size_bytes": 2**20,
    "ws_max_queue": 1,
    "ws_max_fragments": 2**31 - 1,
    "ws_ping_interval_s": 0.0,
    "ws_ping_timeout_s": 0.5,
    "ws_per_message_deflate": False,
    "timeout_ws_idle_s": 300.0,
    "timeout_ws_close_s": 0.0,
    "control_socket": "/run/c.sock",
    "pid": "/run/a.pid",
    "log_level": "trace",
    "access_log": False,
    "use_colors": False,
    "log_config": "/srv/logging.ini",
    "log_format": "json",
    "access_log_format": '%(h)s "%(r)s" %({request_id}x)s',
    "access_log_file": "syslog:[::1]:5514",
    "access_log_exclude": ("/health*", "*.css"),
    "access_log_sample": 0.25,
    "request_id_header": "X-Request-ID",
    "traceparent": "make",
    "metrics": "127.0.0.1:9100",
    "server_header": False,
    "date_header": False,
    "headers": (("X-A", "ü"), ("X-A", "")),
    "loop": "asyncio",
    "http": "package.module:Protocol",
    "h11_max_incomplete_event_size": 16384,
}
# What a setting needs beside it to mean anything.
TLS = {"ssl_certfile": "/tls/cert.pem"}
BESIDE: dict[str, dict[str, Any]] = {
    "ssl_keyfile": TLS,
    "ssl_keyfile_password": TLS,
    "ssl_cert_reqs": TLS | {"ssl_ca_certs": "/tls/ca.pem"},
    "ssl_ca_certs": TLS,
    "ssl_sni": TLS,
}


@pytest.mark.parametrize("one", SETTINGS, ids=lambda one: one.attribute)
class TestEverySetting:
    def test_has_all_facts(self, one: Setting) -> None:
        assert one.help.endswith(".")
        assert one.group
        assert one.metavar or one.negative_flag
        assert one.flag.startswith("--") or one.argument
        assert one.env[0] == f"SHARDSERVE_{one.name.upper()}"

    def test_default_is_a_checked_value(self, one: Setting) -> None:
        if one.default is not None:
            checked = one.kind.check(one.default)
            assert checked == one.default
            assert type(checked) is type(one.default)

    def test_unit_is_in_the_attribute_only(self, one: Setting) -> None:
        assert one.attribute == (f"{one.name}_{one.suffix}" if one.suffix else one.name)
        assert not one.unit or one.suffix == one.unit.replace("/", "_per_")

    def test_a_size_is_in_bytes_and_nothing_else_is(self, one: Setting) -> None:
        assert isinstance(one.kind, Size) == (one.suffix == "bytes")

    def test_optional_is_what_the_annotation_says(self, one: Setting) -> None:
        hint = get_type_hints(Config)[one.attribute]
        assert (type(None) in getattr(hint, "__args__", ())) == (one.default is None)

    def test_is_carried_to_the_worker(self, one: Setting) -> None:
        config = Config(**{one.attribute: OTHER[one.attribute], **BESIDE.get(one.attribute, {})})
        assert getattr(config, one.attribute) == OTHER[one.attribute] != one.default
        back = from_json(json.loads(json.dumps(to_json(config))))
        assert back == config
        assert type(getattr(back, one.attribute)) is type(getattr(config, one.attribute))


def test_flags_and_variables_are_unique() -> None:
    flags = [flag for one in SETTINGS for flag in (one.flag, one.negative_flag) if flag]
    assert len(set(flags)) == len(flags)
    variables = [variable for one in SETTINGS for variable in one.env]
    assert len(set(variables)) == len(variables)


def test_json_travels_in_a_start_message() -> None:
    config = Config("main:app", headers=(("A", "b"),), timeout_keep_alive_s=7)
    start = control.Start(slot=0, generation=1, core=None, config=to_json(config))
    received = control.decode(control.encode(start))
    assert isinstance(received, control.Start)
    assert from_json(received.config) == config


def test_from_json_of_another_version() -> None:
    with pytest.raises(ConfigError, match=r"unknown to this version of shardserve: colour, speed; restart"):
        from_json({"speed": 1, "app": "a:b", "colour": 2})


def test_the_constructor_names_every_wrong_field() -> None:
    with pytest.raises(ConfigError) as raised:
        Config("main", port=70000, timeout_keep_alive_s=-1, use_colors=None, workers=True)
    assert str(raised.value).splitlines() == [
        "the configuration has 4 mistakes:",
        '  app: "main" names no attribute; for example "main:app"',
        "  port: 70000 is not an integer from 0 to 65535",
        "  workers: true is not an integer from 1 to 1024",
        "  timeout_keep_alive: -1 is not a number of seconds from 0 to 604800",
    ]


def test_the_constructor_refuses_bind_beside_port() -> None:
    with pytest.raises(ConfigError, match=r"port cannot be given together with bind"):
        Config(bind=(":80",), port=81)


def test_the_constructor_normalises() -> None:
    settings: dict[str, Any] = {"headers": [["A", "b"]], "timeout_keep_alive_s": 5, "log_level": "INFO"}
    assert Config(**settings) == Config(headers=(("A", "b"),), timeout_keep_alive_s=5.0, log_level="info")


def test_a_size_may_be_text_also_in_python() -> None:
    settings: dict[str, Any] = {"limit_request_body_bytes": "2G", "limit_request_line_bytes": "16KiB"}
    assert Config(**settings) == Config(limit_request_body_bytes=2**31, limit_request_line_bytes=16384)


def test_limits_never_contradict_each_other() -> None:
    """The smaller of two decides: nobody has to raise two settings in the right order."""
    Config(limit_request_field_size_bytes="1M", limit_request_head_bytes="256", limit_request_line_bytes="1M")
    Config(min_request_body_rate_bytes_per_s=0, timeout_request_body_grace_s=10)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("limit_request_line_bytes", 255),
        ("limit_request_line_bytes", 2**24 + 1),
        ("limit_request_field_size_bytes", 255),
        ("limit_request_field_size_bytes", 2**24 + 1),
        ("limit_request_head_bytes", 255),
        ("limit_request_head_bytes", 2**24 + 1),
        ("limit_request_fields", 0),
        ("limit_request_fields", 100_001),
        ("limit_request_body_bytes", -1),
        ("limit_request_body_bytes", 2**50 + 1),
        ("limit_pipelined_bytes", 1023),
        ("limit_pipelined_bytes", 2**30 + 1),
        ("limit_connections", 0),
        ("limit_connections", 2**31),
        ("limit_keep_alive_requests", 0),
        ("limit_keep_alive_requests", 2**31),
        ("underscore_headers", "maybe"),
        ("min_request_body_rate_bytes_per_s", -1),
        ("min_request_body_rate_bytes_per_s", 10**9 + 1),
        ("timeout_first_byte_s", -0.1),
        ("timeout_request_head_s", 604801),
        ("timeout_request_body_grace_s", -1),
        ("timeout_write_stall_s", float("nan")),
        ("wsgi_threads", 0),
        ("wsgi_threads", 1001),
        ("static_max_age_s", -1),
        ("static_max_age_s", 2**31),
        ("reload_delay_s", -0.1),
        ("ssl_cert_reqs", 3),
        ("ssl_minimum_version", "TLSv1.1"),
        ("proxy_protocol", "v3"),
        ("interface", "rsgi"),
        ("loop", "trio"),
        ("http", "h2"),
        ("ws", "websocket"),
        ("ws_max_size_bytes", -1),
        ("ws_max_size_bytes", 2**50 + 1),
        ("ws_max_queue", 0),
        ("ws_max_queue", 2**31),
        ("ws_max_fragments", 0),
        ("ws_max_fragments", 2**31),
        ("ws_ping_interval_s", -1),
        ("ws_ping_timeout_s", 604801),
        ("timeout_ws_idle_s", -0.1),
        ("timeout_ws_close_s", float("inf")),
    ],
)
def test_a_limit_has_bounds(setting: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=BY_ATTRIBUTE[setting].name):
        Config(**{setting: value})


def test_a_secret_is_carried_and_not_printed() -> None:
    config = Config(ssl_certfile="c", ssl_keyfile_password="geheim")
    assert to_json(config)["ssl_keyfile_password"] == "geheim"
    assert "geheim" not in repr(config)
    with pytest.raises(ConfigError) as raised:
        Config(ssl_certfile="c", ssl_keyfile_password="geheim\0")
    assert "geheim" not in str(raised.value)


def test_log_config_of_a_program_is_carried_if_it_can_be() -> None:
    plain = {"version": 1, "loggers": {"uvicorn": {"level": "INFO"}}}
    assert from_json(json.loads(json.dumps(to_json(Config(log_config=plain))))).log_config == plain
    text = io.StringIO("[loggers]\nkeys=root\n[formatter_x]\nformat=%(message)s\n")
    config = Config(log_config=text)  # type: ignore[arg-type]
    back = from_json(json.loads(json.dumps(to_json(config)))).log_config
    assert isinstance(back, ConfigParser)
    assert back.sections() == ["loggers", "formatter_x"]
    assert back.get("formatter_x", "format", raw=True) == "%(message)s"
    assert hash(config) == hash(dataclasses.replace(config, log_config=plain)) == hash(Config())


def test_log_config_with_an_object_in_it_stays_in_its_process() -> None:
    config = Config(log_config={"version": 1, "handlers": {"a": {"stream": sys.stderr}}})
    with pytest.raises(ConfigError, match=r"log_config: it has an object in it .*ext://sys.stderr"):
        to_json(config)


def test_every_group_is_the_class_it_is_declared_in() -> None:
    groups = list(dict.fromkeys(one.group for one in SETTINGS))
    assert groups == [one.__name__ for one in GROUPS]
    assert {one.attribute for one in SETTINGS} == {field.name for field in dataclasses.fields(Config)}
    assert not hasattr(Config(), "__dict__")


def test_config_is_frozen_and_hashable() -> None:
    config = Config(bind=(":80",))
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.port = 1  # type: ignore[misc]
    assert hash(config) == hash(Config(bind=(":80",)))


def test_adopt_keeps_what_a_running_master_cannot_change() -> None:
    running = Config("old:app", bind=(":80",), workers=2)
    wanted = Config("new:app", port=81, workers=3, log_level="debug")
    adopted, waiting = adopt(running, wanted)
    assert adopted == Config("new:app", bind=(":80",), workers=2, log_level="debug")
    assert waiting == ("port", "bind", "workers")
    assert adopt(running, dataclasses.replace(running, app="x:y"))[1] == ()


def test_what_the_master_made_at_its_start_needs_a_restart() -> None:
    fixed = {one.attribute for one in SETTINGS if not one.reloadable}
    assert fixed == {
        "host", "port", "uds", "uds_permissions", "fd", "bind", "backlog", "workers", "balance", "preload",
        "control_socket", "pid", "reload", "reload_dirs", "reload_includes", "reload_excludes",
        "reload_delay_s", "metrics",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("word", "meant"),
    [("wokers", "workers"), ("timeout-keepalive", "timeout_keep_alive"), ("LOG-LEVL", "log_level"),
     ("header", "headers"), ("zzz", None)],
)  # fmt: skip
def test_nearest(word: str, meant: str | None) -> None:
    assert nearest(word) == meant


def uvicorn_params() -> dict[str, Any]:
    """The options of the Uvicorn that is installed, by the names of its parameters."""
    uvicorn = pytest.importorskip("uvicorn.main")
    return {param.name: param for param in uvicorn.main.params}


def test_uvicorn_names() -> None:
    """A setting is marked as Uvicorn's exactly if Uvicorn has it, and goes by the same flag."""
    theirs = uvicorn_params()
    del theirs["version"]  # no setting
    assert {one.name for one in SETTINGS if one.uvicorn} == set(theirs)
    for name, param in theirs.items():
        if not BY_NAME[name].argument:
            assert param.opts == [BY_NAME[name].flag]


def test_uvicorn_variables() -> None:
    for name in uvicorn_params():
        if name != "version":
            assert BY_NAME[name].env[1] == f"UVICORN_{name.upper()}"
    assert not [one for one in SETTINGS if not one.uvicorn and any("UVICORN" in name for name in one.env)]


def test_uvicorn_defaults() -> None:
    """The same default as the Uvicorn that is installed, or a reason here."""
    different = {
        "workers",  # None is 1 there
        "timeout_keep_alive_s",  # 5 there
        "timeout_graceful_shutdown_s",  # no limit there
        "timeout_worker_healthcheck_s",  # 5 there, answered by a thread; ours by the event loop itself
        "log_level",  # None there, and that means info
    }
    for name, param in uvicorn_params().items():
        one = BY_NAME.get(name)
        if one is not None and not one.argument and one.attribute not in different:
            default = param.to_info_dict()["default"]
            assert (default or None) == (one.default or None), name


def test_importing_the_model_stays_cheap() -> None:
    """Every worker imports it before it can say anything."""
    code = (
        "import sys, shardserve.config.model;"
        "heavy = {'asyncio', 'uvloop', 'httptools', 'click', 'tomllib', 'logging'} & set(sys.modules);"
        "sys.exit(','.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_setting_has_another_value_here() -> None:
    assert set(OTHER) == set(BY_ATTRIBUTE)
