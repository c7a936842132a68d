"""Precedence, origins, and every mistake with its place."""

from __future__ import annotations

import logging
import ssl
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from shardserve.config.load import Loader, from_keywords
from shardserve.config.model import SETTINGS, Config
from shardserve.errors import ConfigError

Env = dict[str, str] | None


def load(
    tmp_path: Path, file: str | None = None, env: Env = None, **flags: object
) -> tuple[Config, dict[str, str]]:
    if file is not None:
        (tmp_path / "shardserve.toml").write_text(file)
    return Loader(flags, environ=env or {}, directory=tmp_path).load()


def mistakes(
    tmp_path: Path, file: str | None = None, env: dict[str, str] | None = None, **flags: object
) -> list[str]:
    """Each mistake as "origin: text", the directory taken out."""
    with pytest.raises(ConfigError) as raised:
        load(tmp_path, file, env, **flags)
    first, *rest = str(raised.value).replace(f"{tmp_path}/", "").splitlines()
    assert first == f"the configuration has {len(rest)} mistake{'s' if len(rest) > 1 else ''}:"
    return [line.removeprefix("  ") for line in rest]


# Precedence and origins


def test_nothing_given(tmp_path: Path) -> None:
    config, sources = load(tmp_path)
    assert config == Config()
    assert sources == {one.attribute: "default" for one in SETTINGS}


def test_flag_over_env_over_file_over_default(tmp_path: Path) -> None:
    file = "port = 1\nbacklog = 2\n\nlog-level = 'debug'\n"
    env = {"SHARDSERVE_PORT": "10", "SHARDSERVE_BACKLOG": "20"}
    config, sources = load(tmp_path, file, env, port="100")
    assert (config.port, config.backlog, config.log_level, config.host) == (100, 20, "debug", "127.0.0.1")
    assert sources["port"] == "flag --port"
    assert sources["backlog"] == "env SHARDSERVE_BACKLOG"
    assert sources["log_level"] == f"{tmp_path}/shardserve.toml:4"
    assert sources["host"] == "default"


def test_a_stronger_source_may_say_the_default(tmp_path: Path) -> None:
    config, sources = load(tmp_path, "affinity = false\nport = 9", {"SHARDSERVE_PORT": "8000"}, affinity=True)
    assert (config.affinity, config.port) == (True, 8000)
    assert (sources["affinity"], sources["port"]) == ("flag --affinity", "env SHARDSERVE_PORT")


@pytest.mark.parametrize("key", ["timeout-keep-alive", "timeout_keep_alive", "'timeout-keep-alive'"])
def test_both_spellings_of_a_key(tmp_path: Path, key: str) -> None:
    assert load(tmp_path, f"{key} = 3")[0].timeout_keep_alive_s == 3.0


def test_every_setting_can_come_from_a_file(tmp_path: Path) -> None:
    file = """
    app = "a:b"
    app_dir = "/srv"
    factory = true
    lifespan = "off"
    root_path = "/x"
    reset_contextvars = true
    interface = "wsgi"
    wsgi_threads = 20
    static = ["/a=b"]
    static_max_age = 60
    ssl_certfile = "/c"
    ssl_keyfile = "/k"
    ssl_keyfile_password = "geheim"
    ssl_version = 5
    ssl_minimum_version = "TLSv1.3"
    ssl_cert_reqs = 2
    ssl_ca_certs = "/ca"
    ssl_ciphers = "ALL"
    ssl_sni = ["a.org=/c:/k"]
    proxy_headers = false
    forwarded_allow_ips = ["10.0.0.1", "unix"]
    forwarded_fields = ["Forwarded", "x-forwarded-prefix"]
    proxy_protocol = "auto"
    reload = true
    reload_dirs = ["src"]
    reload_includes = ["*.html"]
    reload_excludes = ["build"]
    reload_delay = 1
    timeout_ssl_handshake = 3
    log_config = "/l.ini"
    log_format = "json"
    loop = "asyncio"
    http = "h11"
    h11_max_incomplete_event_size = 1
    host = "::1"
    port = 1
    uds = "/u"
    uds_permissions = "600"
    fd = 3
    backlog = 7
    workers = 4
    affinity = false
    balance = "random"
    reload_parallel = 2
    limit_max_requests = 100
    limit_max_requests_jitter = 10
    worker_lifetime = 60
    worker_lifetime_jitter = 5.5
    worker_max_rss = 300
    limit_concurrency = 9
    limit_connections = 11
    limit_keep_alive_requests = 12
    limit_request_line = "4K"
    limit_request_fields = 13
    limit_request_field_size = "8 KiB"
    limit_request_head = 32768
    limit_request_body = "2GiB"
    limit_pipelined = "128k"
    underscore_headers = "drop"
    timeout_first_byte = 7
    timeout_request_head = 8
    min_request_body_rate = 1000
    timeout_request_body_grace = 9.5
    timeout_write_stall = 0
    timeout_keep_alive = 1
    timeout_graceful_shutdown = 2.5
    timeout_drain_idle = 3
    timeout_drain_streams = 4
    timeout_worker_startup = 5
    timeout_worker_healthcheck = 6
    loop_lag_warn = 0
    http2 = true
    http2_cleartext = true
    http2_max_concurrent_streams = 20
    http2_initial_stream_window_size = "1MiB"
    http2-initial-connection-window-size = "2 MiB"
    http2_max_frame_size = 16385
    http2_max_header_list_size = "8K"
    http2_header_table_size = 0
    http2_ping_interval = 21
    http2_ping_timeout = 22.5
    ws = "none"
    ws_max_size = "1MiB"
    ws_max_queue = 14
    ws_max_fragments = 15
    ws_ping_interval = 16
    ws_ping_timeout = 17.5
    ws_per_message_deflate = false
    timeout_ws_idle = 18
    timeout_ws_close = 19
    control_socket = "off"
    pid = "/p"
    log_level = "error"
    access_log = false
    use_colors = true
    access_log_format = "Common"
    access_log_file = "/var/log/access.log"
    access_log_exclude = ["/health*", "/metrics"]
    access_log_sample = 0
    request_id_header = "X-Request-ID"
    traceparent = "MAKE"
    metrics = 9100
    server_header = false
    date_header = false
    headers = ["A: b"]
    """
    config, sources = load(tmp_path, file)
    # bind excludes host, preload excludes reload, and an env file must be there.
    assert [name for name, origin in sources.items() if origin == "default"] == [
        "env_file",
        "bind",
        "preload",
    ]
    assert config.log_config == "/l.ini"  # which takes no part in a comparison
    assert config == Config(
        "a:b", app_dir="/srv", factory=True, lifespan="off", root_path="/x", reset_contextvars=True,
        host="::1", port=1, uds="/u", uds_permissions=0o600, fd=3, backlog=7, workers=4, affinity=False,
        balance="random", reload_parallel=2, limit_max_requests=100,
        limit_max_requests_jitter=10, worker_lifetime_s=60, worker_lifetime_jitter_s=5.5,
        worker_max_rss_mib=300, limit_concurrency=9, limit_connections=11,
        limit_keep_alive_requests=12, limit_request_line_bytes=4096, limit_request_fields=13,
        limit_request_field_size_bytes=8192, limit_request_head_bytes=32768,
        limit_request_body_bytes=2**31, limit_pipelined_bytes=2**17, underscore_headers="drop",
        timeout_first_byte_s=7, timeout_request_head_s=8, min_request_body_rate_bytes_per_s=1000,
        timeout_request_body_grace_s=9.5, timeout_write_stall_s=0, timeout_keep_alive_s=1,
        timeout_graceful_shutdown_s=2.5, timeout_drain_idle_s=3, timeout_drain_streams_s=4,
        timeout_worker_startup_s=5, timeout_worker_healthcheck_s=6, loop_lag_warn_s=0,
        http2=True, http2_cleartext=True, http2_max_concurrent_streams=20,
        http2_initial_stream_window_size_bytes=2**20, http2_initial_connection_window_size_bytes=2**21,
        http2_max_frame_size_bytes=16385, http2_max_header_list_size_bytes=8192,
        http2_header_table_size_bytes=0, http2_ping_interval_s=21, http2_ping_timeout_s=22.5,
        ws="none", ws_max_size_bytes=2**20, ws_max_queue=14, ws_max_fragments=15, ws_ping_interval_s=16,
        ws_ping_timeout_s=17.5, ws_per_message_deflate=False, timeout_ws_idle_s=18, timeout_ws_close_s=19,
        control_socket="off", pid="/p", log_level="error", access_log=False, use_colors=True,
        server_header=False, date_header=False, headers=(("A", "b"),), interface="wsgi", wsgi_threads=20,
        static=(("/a", "b"),), static_max_age_s=60, ssl_certfile="/c", ssl_keyfile="/k",
        ssl_keyfile_password="geheim", ssl_version=5, ssl_minimum_version="TLSv1.3", ssl_cert_reqs=2,
        ssl_ca_certs="/ca", ssl_ciphers="ALL", ssl_sni=(("a.org", "/c", "/k"),), proxy_headers=False,
        forwarded_allow_ips="10.0.0.1,unix", forwarded_fields="forwarded,x-forwarded-prefix",
        proxy_protocol="auto", reload=True, reload_dirs=("src",),
        reload_includes=("*.html",), reload_excludes=("build",), reload_delay_s=1, timeout_ssl_handshake_s=3,
        log_format="json", loop="asyncio", http="h11", h11_max_incomplete_event_size=1,
        access_log_format="common", access_log_file="/var/log/access.log",
        access_log_exclude=("/health*", "/metrics"), access_log_sample=0.0, request_id_header="X-Request-ID",
        traceparent="make", metrics="127.0.0.1:9100",
    )  # fmt: skip


def test_a_size_by_every_way(tmp_path: Path) -> None:
    file = "limit-request-line = '1K'\nlimit-request-body = 5\nlimit-request-head = '8MiB'"
    env = {"SHARDSERVE_LIMIT_REQUEST_BODY": "6M", "SHARDSERVE_LIMIT_PIPELINED": "1MiB"}
    config, sources = load(tmp_path, file, env, limit_request_head_bytes="2M")
    assert config.limit_request_line_bytes == 1024
    assert config.limit_request_body_bytes == 6 * 2**20
    assert config.limit_pipelined_bytes == 2**20
    assert config.limit_request_head_bytes == 2**21
    assert sources["limit_request_head_bytes"] == "flag --limit-request-head"
    assert sources["limit_request_body_bytes"] == "env SHARDSERVE_LIMIT_REQUEST_BODY"


def test_a_wrong_size_says_what_to_write(tmp_path: Path) -> None:
    env = {"SHARDSERVE_LIMIT_REQUEST_LINE": "8 kilobytes"}
    found = mistakes(tmp_path, "limit-request-body = '1GB'\n", env, limit_pipelined_bytes="1")
    assert found == [
        'shardserve.toml:1: limit_request_body: "1GB" is ambiguous; write 1GiB, which is 1073741824 bytes',
        'env SHARDSERVE_LIMIT_REQUEST_LINE: limit_request_line: "8 kilobytes" is not a size such as 65536, '
        "64K or 1GiB, from 256 bytes to 16 MiB",
        'flag --limit-pipelined: limit_pipelined: "1" is not a size such as 65536, 64K or 1GiB, from 1 KiB '
        "to 16 MiB",
    ]


def test_limits_by_keyword() -> None:
    config = from_keywords("a:b", {"limit_request_body": "1M", "limit_request_line_bytes": 300}, {})
    assert (config.limit_request_body_bytes, config.limit_request_line_bytes) == (2**20, 300)


def test_environment_lists(tmp_path: Path) -> None:
    env = {"SHARDSERVE_BIND": ":80, unix:/a", "SHARDSERVE_HEADERS": "A: 1, 2\nB: 3"}
    config, _ = load(tmp_path, env=env)
    assert config.bind == (":80", "unix:/a")
    assert config.headers == (("A", "1, 2"), ("B", "3"))


def test_flag_lists_replace_those_of_weaker_sources(tmp_path: Path) -> None:
    config, _ = load(tmp_path, "headers = ['A: 1', 'B: 2']", headers=("C: 3",))
    assert config.headers == (("C", "3"),)


def test_an_empty_variable_is_not_set(tmp_path: Path) -> None:
    config, sources = load(tmp_path, "port = 9", {"SHARDSERVE_PORT": "", "SHARDSERVE_WORKERS": ""})
    assert (config.port, sources["workers"]) == (9, "default")


def test_web_concurrency_is_the_weaker_variable(tmp_path: Path) -> None:
    config, sources = load(tmp_path, "workers = 1", {"WEB_CONCURRENCY": "2"})
    assert (config.workers, sources["workers"]) == (2, "env WEB_CONCURRENCY")
    config, sources = load(tmp_path, None, {"WEB_CONCURRENCY": "2", "SHARDSERVE_WORKERS": "3"})
    assert (config.workers, sources["workers"]) == (3, "env SHARDSERVE_WORKERS")


def test_uvicorns_variables_are_weaker_than_ours_and_stronger_than_those_of_hosts(tmp_path: Path) -> None:
    env = {"PORT": "1", "UVICORN_PORT": "2", "SHARDSERVE_PORT": "3"}
    assert load(tmp_path, "port = 4", env, port="5")[1]["port"] == "flag --port"
    for variable in ("SHARDSERVE_PORT", "UVICORN_PORT", "PORT"):
        config, sources = load(tmp_path, "port = 4", env)
        assert (config.port, sources["port"]) == (int(env.pop(variable)), f"env {variable}")
    assert load(tmp_path, "port = 4", env)[0].port == 4


def test_uvicorns_variables_are_read_as_uvicorn_reads_them(tmp_path: Path) -> None:
    env = {
        "UVICORN_APP": "a:b", "UVICORN_RELOAD": "t", "UVICORN_RELOAD_DIRS": "src:/srv/a b",
        "UVICORN_RELOAD_INCLUDES": "*.html *.css", "UVICORN_HEADERS": "A:1 B:2", "UVICORN_WORKERS": "",
        "UVICORN_WS_PER_MESSAGE_DEFLATE": "false", "UVICORN_FORWARDED_ALLOW_IPS": "10.0.0.1, unix",
        "WEB_CONCURRENCY": "3",
    }  # fmt: skip
    assert load(tmp_path, env=env)[0] == Config(
        "a:b", reload=True, reload_dirs=("src", "/srv/a b"), reload_includes=("*.html", "*.css"),
        headers=(("A", "1"), ("B", "2")), workers=3, ws_per_message_deflate=False,
        forwarded_allow_ips="10.0.0.1, unix",
    )  # fmt: skip


def test_a_setting_that_uvicorn_has_not_has_no_variable_of_its(tmp_path: Path) -> None:
    env = {"UVICORN_BIND": ":80", "UVICORN_PRELOAD": "true", "UVICORN_CONFIG": "x.toml", "UVICORN_PROT": "1"}
    assert load(tmp_path, env=env)[0] == Config()


def test_the_port_of_a_host_gives_way_to_bind(tmp_path: Path) -> None:
    config, sources = load(tmp_path, "bind = [':80']", {"PORT": "5000"})
    assert (config.bind, config.port, sources["port"]) == ((":80",), 8000, "default")
    [mistake] = mistakes(tmp_path, "bind = [':80']", {"PORT": "5000", "UVICORN_PORT": "5001"})
    assert mistake.startswith("env UVICORN_PORT: port cannot be given together with bind")


def test_forwarded_allow_ips_of_the_environment(tmp_path: Path) -> None:
    env = {"FORWARDED_ALLOW_IPS": "*"}
    assert load(tmp_path, env=env)[0].forwarded_allow_ips == "*"
    assert load(tmp_path, env=env, forwarded_allow_ips="10.0.0.1")[0].forwarded_allow_ips == "10.0.0.1"


def test_the_process_environment_is_the_default_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARDSERVE_PORT", "77")
    monkeypatch.chdir(tmp_path)
    assert Loader().load()[0].port == 77


# Which file


def test_the_file_of_the_flag_wins_over_the_variable(tmp_path: Path) -> None:
    (tmp_path / "flag.toml").write_text("port = 1")
    (tmp_path / "env.toml").write_text("port = 2")
    (tmp_path / "shardserve.toml").write_text("port = 3")
    env = {"SHARDSERVE_CONFIG": "env.toml"}
    assert Loader(file="flag.toml", environ=env, directory=tmp_path).load()[0].port == 1
    assert Loader(environ=env, directory=tmp_path).load()[0].port == 2
    assert Loader(environ={}, directory=tmp_path).load()[0].port == 3


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothere\.toml: there is no such file"):
        Loader(file="nothere.toml", environ={}, directory=tmp_path).load()


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "shardserve.toml").mkdir()
    assert mistakes(tmp_path) == ["shardserve.toml: cannot be read: Is a directory"]


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "shardserve.toml").write_bytes(b"app = '\xff'")
    assert mistakes(tmp_path) == ["shardserve.toml: is not UTF-8 at byte 7"]


# Mistakes


@pytest.mark.parametrize(
    ("file", "line", "expected"),
    [
        ("\nwokers = 2", 2, "unknown setting wokers; did you mean workers?"),
        ("timeout_keepalive = 2", 1, "unknown setting timeout_keepalive; did you mean timeout-keep-alive?"),
        ("log_level_s = ''", 1, "unknown setting log_level_s; did you mean log-level?"),
        ("qqq = 2", 1, "unknown setting qqq"),
        ("port = '80'", 1, 'port: "80" is not an integer from 0 to 65535'),
        ("port = true", 1, "port: true is not an integer from 0 to 65535"),
        ("port = [\n1]", 1, "port: a list is not an integer from 0 to 65535"),
        ("port.x = 1", 1, "port: a table is not an integer from 0 to 65535"),
        ("port = 1979-05-27", 1, "port: 1979-05-27 is not an integer from 0 to 65535"),
        (
            "timeout-keep-alive = inf",
            1,
            "timeout_keep_alive: inf is not a number of seconds from 0 to 604800",
        ),
        ("bind = ':80'", 1, 'bind: ":80" is not a list; write [[]":80"]'),
        ("uds-permissions = 660", 1, "uds_permissions: 660 is not text; write the octal mode in quotes,*"),
        ("headers = ['Connection: x']", 1, "headers: Connection frames the message;*"),
        ("port = 1\n\nport = 2", 3, "port is set twice; it is also on line 1"),
        ("log-level = 'info'\nlog_level = 'info'", 2, "log_level is set twice; it is also on line 1"),
        ("[x]\nport = 1", 1, "[[]x] is a table; settings are keys at the top level, without tables"),
        ("port = \n", 1, "Invalid value (column 8)"),
    ],
)
def test_one_mistake_in_a_file(tmp_path: Path, file: str, line: int, expected: str) -> None:
    [mistake] = mistakes(tmp_path, file)
    # A * stands for the rest; ? stands for itself too.
    assert fnmatchcase(mistake, f"shardserve.toml:{line}: {expected}")


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"SHARDSERVE_PORT": "x"}, 'env SHARDSERVE_PORT: port: "x" is not an integer from 0 to 65535'),
        ({"WEB_CONCURRENCY": "0"}, "env WEB_CONCURRENCY: workers: 0 is not an integer from 1 to 1024"),
        (
            {"SHARDSERVE_PROT": "1"},
            "env SHARDSERVE_PROT: there is no such variable; did you mean SHARDSERVE_PORT?",
        ),
        (
            {"SHARDSERVE_BACKLOGS": "1"},
            "env SHARDSERVE_BACKLOGS: there is no such variable; did you mean SHARDSERVE_BACKLOG?",
        ),
    ],
)
def test_one_mistake_in_the_environment(tmp_path: Path, env: dict[str, str], expected: str) -> None:
    assert mistakes(tmp_path, env=env) == [expected]


def test_variables_of_others_are_let_be(tmp_path: Path) -> None:
    env = {"SHARDSERVE_FOO": "1", "SHARDSERVE_SERVICE_PORT": "80", "SHARDSERVE_PORT_80_TCP": "x"}
    assert load(tmp_path, env=env)[0] == Config()


def test_a_kubernetes_service_link_is_recognised(tmp_path: Path) -> None:
    [mistake] = mistakes(tmp_path, env={"SHARDSERVE_PORT": "tcp://10.0.0.1:80"})
    assert "enableServiceLinks: false" in mistake


def test_all_mistakes_of_all_sources_at_once(tmp_path: Path) -> None:
    file = "port = 99999\nwokers = 2\nlifespan = 'maybe'\nbacklog = 1\nbacklog = 2\n[x]\n"
    env = {"SHARDSERVE_PORT": "x", "SHARDSERVE_ACCESS_LOG": "perhaps"}
    assert mistakes(tmp_path, file, env, app="main", port="80", headers=("A",)) == [
        "shardserve.toml:1: port: 99999 is not an integer from 0 to 65535",
        "shardserve.toml:2: unknown setting wokers; did you mean workers?",
        'shardserve.toml:3: lifespan: "maybe" is not one of auto, on, off',
        "shardserve.toml:5: backlog is set twice; it is also on line 4",
        "shardserve.toml:6: [x] is a table; settings are keys at the top level, without tables",
        'env SHARDSERVE_PORT: port: "x" is not an integer from 0 to 65535',
        'env SHARDSERVE_ACCESS_LOG: access_log: "perhaps" is not true or false (also 1, 0, yes, no, on, off)',
        'argument APP: app: "main" names no attribute; for example "main:app"',
        'flag --header: headers: "A" is not a header such as "X-Frame-Options: DENY"',
    ]


def test_a_syntax_error_does_not_hide_the_other_sources(tmp_path: Path) -> None:
    found = mistakes(tmp_path, "port = 1\nwhat is this", {"SHARDSERVE_FD": "x"}, workers="0")
    assert [line.split(": ")[0] for line in found] == [
        "shardserve.toml:2",
        "env SHARDSERVE_FD",
        "flag --workers",
    ]


@pytest.mark.parametrize(("attribute", "raw"), [("host", "::"), ("port", "8000"), ("uds", "/a"), ("fd", "3")])
def test_bind_excludes_the_single_address(tmp_path: Path, attribute: str, raw: str) -> None:
    [mistake] = mistakes(tmp_path, "bind = [':80']", **{attribute: raw})
    expected = f"{attribute} cannot be given together with bind (shardserve.toml:1); add it to bind"
    assert mistake == f"flag --{attribute}: {expected}"


# Reading again


def test_reload_sees_the_new_file_and_keeps_the_flags(tmp_path: Path) -> None:
    path = tmp_path / "shardserve.toml"
    path.write_text("app = 'a:b'\nport = 1\nlog-level = 'info'")
    loader = Loader({"port": "9"}, environ={}, directory=tmp_path)
    before, _ = loader.load()
    path.write_text("app = 'a:c'\nport = 2\nlog-level = 'debug'")
    after = loader.reload()
    assert (before.app, before.port, before.log_level) == ("a:b", 9, "info")
    assert (after.app, after.port, after.log_level) == ("a:c", 9, "debug")


def test_reload_refuses_mistakes_and_a_vanished_file_or_app(tmp_path: Path) -> None:
    path = tmp_path / "shardserve.toml"
    path.write_text("app = 'a:b'")
    loader = Loader(environ={}, directory=tmp_path)
    loader.load()
    path.write_text("app = 'a:b'\nport = -1")
    with pytest.raises(ConfigError, match=r"shardserve\.toml:2: port: -1"):
        loader.reload()
    path.write_text("")
    with pytest.raises(ConfigError, match=r"no app"):
        loader.reload()
    path.unlink()
    with pytest.raises(ConfigError, match=r"no such file"):
        loader.reload()


def test_reload_stays_in_its_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shardserve.toml").write_text("app = 'a:b'")
    monkeypatch.chdir(tmp_path)
    loader = Loader(environ={})
    loader.load()
    monkeypatch.chdir("/")
    assert loader.reload().app == "a:b"


# From Python


def test_keywords_go_by_attribute_or_by_name() -> None:
    config = from_keywords("a:b", {"timeout_keep_alive": 5, "timeout_drain_idle_s": 1, "port": 1}, {})
    assert config == Config("a:b", timeout_keep_alive_s=5.0, timeout_drain_idle_s=1.0, port=1)


def test_keywords_read_the_variables_that_uvicorn_run_reads() -> None:
    environ = {
        "WEB_CONCURRENCY": "3", "FORWARDED_ALLOW_IPS": "10.0.0.1", "SHARDSERVE_PORT": "1",
        "SHARDSERVE_PROT": "1", "UVICORN_PORT": "2", "PORT": "3",
    }  # fmt: skip
    assert from_keywords("a:b", {}, environ) == Config("a:b", workers=3, forwarded_allow_ips="10.0.0.1")
    assert from_keywords("a:b", {"workers": 2}, environ).workers == 2


def test_keywords_in_uvicorns_forms() -> None:
    class Protocol:
        pass

    given = {
        "log_level": logging.WARNING, "ws_ping_interval": None, "ws_ping_timeout": None, "headers": None,
        "app_dir": None, "reload_dirs": "src", "ssl_certfile": Path("c.pem"), "ssl_ca_certs": Path("ca.pem"),
        "ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_version": ssl.PROTOCOL_TLS_SERVER, "ws": Protocol,
        "timeout_graceful_shutdown": None, "forwarded_allow_ips": ["10.0.0.1", "unix"], "workers": None,
    }  # fmt: skip
    config = from_keywords("a:b", given, {})
    assert (config.log_level, config.reload_dirs, config.ssl_certfile) == ("warning", ("src",), "c.pem")
    assert (config.ws_ping_interval_s, config.ws_ping_timeout_s) == (0.0, 0.0)
    assert (config.ssl_cert_reqs, config.ssl_version) == (2, 17)
    assert config.ws == f"{__name__}:test_keywords_in_uvicorns_forms.<locals>.Protocol"
    assert (config.headers, config.app_dir, config.timeout_graceful_shutdown_s) == ((), "", 30.0)
    assert (config.forwarded_allow_ips, config.workers) == ("10.0.0.1,unix", None)


def test_an_unknown_number_is_no_log_level() -> None:
    with pytest.raises(ConfigError, match=r"log_level: 15 is not one of critical"):
        from_keywords("a:b", {"log_level": 15}, {})


def test_wrong_keywords_are_named_together() -> None:
    with pytest.raises(ConfigError) as raised:
        from_keywords("a", {"prot": 1, "port": "80"}, {})
    assert str(raised.value).splitlines()[1:] == [
        '  argument app: app: "a" names no attribute; for example "a:app"',
        "  argument prot: unknown setting prot; did you mean port?",
        '  argument port: port: "80" is not an integer from 0 to 65535',
    ]
