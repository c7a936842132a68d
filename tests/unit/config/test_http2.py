"""What is said of HTTP/2 where the build or TLS does not go with it."""

from __future__ import annotations

from typing import Any

import pytest

from shardserve.config import http2
from shardserve.config.model import Config
from shardserve.errors import ConfigError

TLS = {"ssl_certfile": "c.pem"}


@pytest.mark.parametrize(
    ("settings", "tls", "begins"),
    [
        ({}, False, None),
        ({"http2": True}, True, None),
        ({"http2_cleartext": True}, False, None),
        ({"http2": True, "http2_cleartext": True}, False, None),
        ({"http2": True, "http2_cleartext": True}, True, None),
        ({"http2": True}, False, "http2 does nothing without TLS: clients get HTTP/1.1. Set ssl-certfile"),
        ({"http2_cleartext": True}, True, "http2-cleartext does nothing with TLS: clients get HTTP/1.1."),
    ],
)
def test_a_setting_that_does_nothing_is_told(settings: dict[str, Any], tls: bool, begins: str | None) -> None:
    said = http2.warning(Config(**settings), tls=tls)
    assert said is None if begins is None else (said or "").startswith(begins)


def test_nothing_is_required_of_a_build_that_nobody_asks_for_http2() -> None:
    http2.require(Config(**TLS), None)
    http2.require(Config(http2=True, http2_cleartext=True), "1.52.0")


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"http2": True}, "http2"),
        ({"http2_cleartext": True}, "http2-cleartext"),
        ({"http2": True, "http2_cleartext": True}, "http2"),
    ],
)
def test_a_build_without_it_says_what_to_install(settings: dict[str, Any], name: str) -> None:
    with pytest.raises(ConfigError) as raised:
        http2.require(Config(**settings), None)
    text = str(raised.value)
    assert text.startswith(f"{name} is set, but this shardserve was built without HTTP/2")
    assert "libnghttp2-dev" in text
    assert "build shardserve again" in text


@pytest.mark.parametrize(
    ("wrong", "phrase"),
    [
        ({"http2_max_concurrent_streams": 0}, "an integer from 1 to 2147483647"),
        ({"http2_initial_stream_window_size_bytes": 65534}, "from 65535 bytes to 2147483647 bytes"),
        ({"http2_initial_connection_window_size_bytes": 2**31}, "from 65535 bytes to 2147483647 bytes"),
        ({"http2_max_frame_size_bytes": 16383}, "from 16 KiB to 16777215 bytes"),
        ({"http2_max_frame_size_bytes": 2**24}, "from 16 KiB to 16777215 bytes"),
        ({"http2_header_table_size_bytes": 65537}, "from 0 to 64 KiB"),
    ],
)
def test_what_rfc_9113_does_not_allow_is_a_mistake(wrong: dict[str, int], phrase: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Config(**wrong)
    assert str(raised.value).endswith(phrase)
