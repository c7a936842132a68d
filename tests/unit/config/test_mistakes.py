"""Settings that are each valid and cannot be together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shardserve.config.load import Loader
from shardserve.config.model import Config
from shardserve.errors import ConfigError


def complaints(**settings: Any) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        Config(**settings)
    return [line.strip() for line in str(raised.value).splitlines()[1:]]


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("ssl_keyfile", "k"),
        ("ssl_keyfile_password", "geheim"),
        ("ssl_cert_reqs", 1),
        ("ssl_ca_certs", "ca"),
        ("ssl_sni", ("a=b",)),
    ],
)
def test_what_asks_for_tls_needs_a_certificate(attribute: str, value: object) -> None:
    [complaint] = complaints(**{attribute: value})
    expected = f"{attribute} needs ssl_certfile: without it the server speaks plain HTTP"
    assert complaint == f"{attribute}: {expected}"


def test_what_changes_nothing_needs_no_certificate() -> None:
    Config(ssl_cert_reqs=0, ssl_sni=(), ssl_version=17, ssl_ciphers="ALL", ssl_minimum_version="TLSv1.3")


def test_client_certificates_need_an_authority() -> None:
    for how in (1, 2):
        [complaint] = complaints(ssl_certfile="c", ssl_cert_reqs=how)
        assert complaint.startswith(f"ssl_cert_reqs: ssl_cert_reqs {how} needs ssl_ca_certs: ")
    Config(ssl_certfile="c", ssl_cert_reqs=2, ssl_ca_certs="ca")


def test_reload_and_preload() -> None:
    [complaint] = complaints(reload=True, preload=True)
    assert complaint.startswith("reload: reload cannot be given together with preload (preload): ")
    Config(reload=True, workers=3)


def test_a_name_is_given_once() -> None:
    assert complaints(static=("/a=x", "/b=y", "/a/=z", "/a=x")) == ["static: static has /a twice"]
    assert complaints(ssl_certfile="c", ssl_sni=("a.org=x", "A.org=y")) == [
        "ssl_sni: ssl_sni has a.org twice"
    ]


def test_every_conflict_is_named_with_its_origin(tmp_path: Path) -> None:
    (tmp_path / "shardserve.toml").write_text("preload = true\nssl-keyfile = 'k'\n")
    reading = Loader({"reload": True}, environ={"UVICORN_SSL_CERT_REQS": "2"}, directory=tmp_path).read()
    assert [mistake.origin for mistake in reading.mistakes] == [
        f"{tmp_path}/shardserve.toml:2",
        "env UVICORN_SSL_CERT_REQS",
        "flag --reload",
    ]
    assert f"preload ({tmp_path}/shardserve.toml:1)" in reading.mistakes[-1].text
