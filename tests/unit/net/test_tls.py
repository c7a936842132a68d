"""From TLS settings to contexts: mistakes with their settings' names, host names, files that change."""

from __future__ import annotations

import logging
import os
import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography.x509.oid import NameOID

from shardserve.errors import ConfigError
from shardserve.net import tls
from tests.helpers.certificates import Authority, Files
from tests.helpers.opened import tls_settings as settings


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def files(authority: Authority) -> Files:
    return authority.issue("localhost")


def shake_hands(
    server: ssl.SSLContext, client: ssl.SSLContext, name: str = "localhost"
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Both ends, once both are through; the server's first. Raises ssl.SSLError."""
    one, other = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        server.wrap_bio(one, other, server_side=True),
        client.wrap_bio(other, one, server_hostname=name),
    ]
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert ends[1].version() is not None
    return ends[0], ends[1]


def mistake(given: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        tls.check(given)
    return str(caught.value)


# Mistakes


def test_nothing_is_wrong(files: Files) -> None:
    tls.check(settings())
    assert not tls.is_on(settings())
    tls.check(settings(files))
    assert tls.is_on(settings(files))


def test_certificate_and_key_in_one_file(files: Files) -> None:
    files.cert.write_text(files.key.read_text() + files.cert.read_text())
    tls.check(settings(files, ssl_keyfile=None))


def test_files_that_are_not_there(files: Files, tmp_path: Path) -> None:
    gone = str(tmp_path / "gone")
    assert mistake(settings(files, ssl_certfile=gone)) == (
        f"ssl-certfile: cannot read {gone}: No such file or directory"
    )
    assert mistake(settings(files, ssl_keyfile=gone)).startswith(f"ssl-keyfile: cannot read {gone}: ")
    assert mistake(settings(files, ssl_ca_certs=gone)).startswith(f"ssl-ca-certs: cannot use {gone}: ")
    assert mistake(settings(files, ssl_sni=[("a.org", gone, None)])).startswith(
        "ssl-sni a.org: ssl-certfile: "
    )


def test_files_that_are_something_else(files: Files, tmp_path: Path) -> None:
    junk = tmp_path / "junk"
    junk.write_bytes(b"\xff\x00 no PEM")
    assert "has no certificate in PEM form" in mistake(settings(files, ssl_certfile=str(junk)))
    assert "has no private key in PEM form" in mistake(settings(files, ssl_keyfile=str(junk)))
    assert "ssl-ca-certs: cannot use" in mistake(settings(files, ssl_ca_certs=str(junk)))
    assert mistake(settings(files, ssl_keyfile=None)).endswith(
        "has no private key in PEM form; ssl-keyfile is not set"
    )
    half = files.cert.read_text()
    files.cert.write_text(half[: len(half) // 2])
    assert mistake(settings(files)).startswith("ssl-certfile: ")


def test_a_broken_key(files: Files) -> None:
    files.key.write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    assert mistake(settings(files)).startswith(f"ssl-keyfile: cannot use {files.key} ")


def test_a_key_of_another_certificate(authority: Authority, files: Files) -> None:
    other = authority.issue("other")
    assert mistake(settings(files, ssl_keyfile=str(other.key))) == (
        f"ssl-keyfile: the private key in {other.key} does not belong to the certificate in {files.cert}"
    )


def test_an_encrypted_key(authority: Authority) -> None:
    """Without a password OpenSSL would ask on the terminal: this test would hang."""
    files = authority.issue("localhost", password="secret")
    tls.check(settings(files, ssl_keyfile_password="secret"))
    assert mistake(settings(files)).endswith("is encrypted; set ssl-keyfile-password")
    for wrong in ("wrong", ""):
        text = mistake(settings(files, ssl_keyfile_password=wrong))
        assert text == f"ssl-keyfile-password: it does not open the private key in {files.key}"


def test_ciphers_that_do_not_exist(files: Files) -> None:
    assert mistake(settings(files, ssl_ciphers="BOGUS")).startswith("ssl-ciphers: no cipher can be selected")


def test_settings_that_need_others(files: Files) -> None:
    assert mistake(settings(files, ssl_cert_reqs=2)).startswith("ssl-cert-reqs 2 needs ssl-ca-certs")
    assert mistake(settings(files, ssl_cert_reqs=7, ssl_ca_certs=str(files.cert))).startswith(
        "ssl-cert-reqs: 7"
    )
    assert mistake(settings(ssl_keyfile=str(files.key))) == "ssl-certfile is not set, but ssl-keyfile is"
    sni = [("a.org", str(files.cert), str(files.key))]
    assert mistake(settings(ssl_sni=sni)) == "ssl-certfile is not set, but ssl-sni is"


def test_authorities_in_a_folder(authority: Authority, files: Files, tmp_path: Path) -> None:
    tls.check(settings(files, ssl_cert_reqs=2, ssl_ca_certs=str(tmp_path)))


# What a context does


@pytest.mark.parametrize("minimum", ["TLSv1.2", "TLSv1.3"])
def test_the_lowest_version(authority: Authority, files: Files, minimum: str) -> None:
    server = tls.Certificates(settings(files, ssl_minimum_version=minimum)).context_for(None)
    old = authority.client_context()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    assert shake_hands(server, authority.client_context())[1].version() == "TLSv1.3"
    if minimum == "TLSv1.2":
        assert shake_hands(server, old)[1].version() == "TLSv1.2"
    else:
        with pytest.raises(ssl.SSLError, match=r"(?i)protocol"):
            shake_hands(server, old)


def test_ciphers(authority: Authority, files: Files) -> None:
    server = tls.Certificates(settings(files, ssl_ciphers="ECDHE-ECDSA-AES256-GCM-SHA384")).context_for(None)
    client = authority.client_context()
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    cipher = shake_hands(server, client)[1].cipher()
    assert cipher is not None
    assert cipher[0] == "ECDHE-ECDSA-AES256-GCM-SHA384"


@pytest.mark.parametrize(("offered", "chosen"), [(["h2", "http/1.1"], "http/1.1"), (["h2"], None)])
def test_alpn(authority: Authority, files: Files, offered: list[str], chosen: str | None) -> None:
    client = authority.client_context()
    client.set_alpn_protocols(offered)
    server = tls.Certificates(settings(files)).context_for(None)
    assert shake_hands(server, client)[1].selected_alpn_protocol() == chosen


# HTTP/2 (RFC 9113 §9.2)

GOOD, BAD = "ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-SHA256"  # BAD: of RFC 9113 Appendix A


def old_client(authority: Authority, ciphers: str) -> ssl.SSLContext:
    """Of TLS 1.2, which prefers HTTP/2."""
    client = authority.client_context()
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers(ciphers)
    client.set_alpn_protocols(["h2", "http/1.1"])
    return client


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [(["h2", "http/1.1"], "h2"), (["http/1.1", "h2"], "h2"), (["http/1.1"], "http/1.1"), (["h3"], None)],
)
def test_alpn_with_http2(authority: Authority, files: Files, offered: list[str], chosen: str | None) -> None:
    client = authority.client_context()
    client.set_alpn_protocols(offered)
    server = tls.Certificates(settings(files, http2=True)).context_for(None)
    assert shake_hands(server, client)[1].selected_alpn_protocol() == chosen


def test_every_name_offers_http2(authority: Authority, files: Files) -> None:
    entry = ("www.example.org", str(files.cert), str(files.key))
    server = tls.Certificates(settings(files, http2=True, ssl_sni=[entry])).context_for("www.example.org")
    client = authority.client_context()
    client.set_alpn_protocols(["h2"])
    assert shake_hands(server, client)[1].selected_alpn_protocol() == "h2"


@pytest.mark.parametrize("ciphers", [None, f"{BAD}:{GOOD}"])
def test_a_cipher_that_http2_may_use_goes_first(
    authority: Authority, files: Files, ciphers: str | None
) -> None:
    server = tls.Certificates(settings(files, http2=True, ssl_ciphers=ciphers)).context_for(None)
    mine, theirs = shake_hands(server, old_client(authority, f"{BAD}:{GOOD}"))
    assert (theirs.selected_alpn_protocol(), theirs.cipher()) == ("h2", (GOOD, "TLSv1.2", 128))
    assert tls.unfit_for_http2(mine) is None


def test_a_client_with_nothing_better_is_served_http_1_1_only(authority: Authority, files: Files) -> None:
    server = tls.Certificates(settings(files, http2=True)).context_for(None)
    client = old_client(authority, BAD)
    assert tls.unfit_for_http2(shake_hands(server, client)[0]) == BAD
    client.set_alpn_protocols(["http/1.1"])
    mine, theirs = shake_hands(server, client)
    assert (theirs.cipher() or ("",))[0] == BAD
    assert tls.unfit_for_http2(mine) is None


def test_without_http2_the_order_is_as_it_was_given(authority: Authority, files: Files) -> None:
    server = tls.Certificates(settings(files, ssl_ciphers=f"{BAD}:{GOOD}")).context_for(None)
    mine, theirs = shake_hands(server, old_client(authority, f"{BAD}:{GOOD}"))
    assert (theirs.cipher() or ("",))[0] == BAD
    assert tls.unfit_for_http2(mine) is None


def test_no_order_drops_a_cipher(files: Files) -> None:
    def names(**given: Any) -> list[str]:
        return [
            one["name"] for one in tls.Certificates(settings(files, **given)).context_for(None).get_ciphers()
        ]

    every = "ALL:COMPLEMENTOFALL:@SECLEVEL=0"
    assert sorted(names(http2=True, ssl_ciphers=every)) == sorted(names(ssl_ciphers=every))
    assert names(http2=True, ssl_minimum_version="TLSv1.3") == names(ssl_minimum_version="TLSv1.3")


@pytest.mark.parametrize(
    "ciphers", ["AES128-SHA", "AES128-GCM-SHA256", BAD, "ADH-AES128-GCM-SHA256:@SECLEVEL=0"]
)
def test_ciphers_none_of_which_http2_may_use(files: Files, ciphers: str) -> None:
    assert mistake(settings(files, http2=True, ssl_ciphers=ciphers)) == (
        f"ssl-ciphers: {ciphers!r} has no cipher that HTTP/2 may use (RFC 9113 Appendix A); "
        "add ECDHE+AESGCM, or set ssl-minimum-version TLSv1.3"
    )
    tls.check(settings(files, http2=True, ssl_ciphers=ciphers, ssl_minimum_version="TLSv1.3"))
    tls.check(settings(files, ssl_ciphers=ciphers))


def test_a_context_that_a_program_made(authority: Authority, files: Files) -> None:
    def context() -> ssl.SSLContext:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.load_cert_chain(files.cert, files.key)
        made.set_ciphers(f"{BAD}:{GOOD}")
        return made

    client = old_client(authority, f"{BAD}:{GOOD}")
    mine, theirs = shake_hands(tls.Given(context()).context_for(None), client)
    assert theirs.selected_alpn_protocol() is None
    mine, theirs = shake_hands(tls.Given(context(), http2=True).context_for(None), client)
    assert theirs.selected_alpn_protocol() == "h2"
    assert tls.unfit_for_http2(mine) == BAD  # its order is the program's


def test_no_callback_of_the_ssl_module_is_set(
    files: Files, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The transport has no object of that module for them, and they would crash the process."""
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    context = tls.Certificates(settings(files)).context_for(None)
    assert context.sni_callback is None
    assert context.keylog_filename is None
    assert context._msg_callback is None  # type: ignore[attr-defined]


@pytest.mark.parametrize(("required", "shown"), [(1, False), (1, True), (2, True)])
def test_a_client_s_certificate(authority: Authority, files: Files, required: int, shown: bool) -> None:
    client = authority.issue("client", file="client") if shown else None
    given = settings(files, ssl_cert_reqs=required, ssl_ca_certs=str(authority.path))
    server = tls.Certificates(given).context_for(None)
    mine, _ = shake_hands(server, authority.client_context(client))
    found = mine.getpeercert(True)
    assert found == (client.der if client else None)


@pytest.mark.parametrize("required", [1, 2])
def test_a_client_s_certificate_of_somebody_else(
    authority: Authority, files: Files, tmp_path: Path, required: int
) -> None:
    (tmp_path / "other").mkdir()
    stranger = Authority(tmp_path / "other", "Other CA").issue("client")
    given = settings(files, ssl_cert_reqs=required, ssl_ca_certs=str(authority.path))
    with pytest.raises(ssl.SSLCertVerificationError) as caught:
        shake_hands(tls.Certificates(given).context_for(None), authority.client_context(stranger))
    assert tls.failure(caught.value).startswith("the client's certificate is not accepted: ")


def test_no_certificate_where_one_is_required(authority: Authority, files: Files) -> None:
    given = settings(files, ssl_cert_reqs=2, ssl_ca_certs=str(authority.path))
    with pytest.raises(ssl.SSLError) as caught:
        shake_hands(tls.Certificates(given).context_for(None), authority.client_context())
    assert tls.failure(caught.value) == "peer did not return a certificate"


# Names


def test_the_certificate_for_a_name(authority: Authority, files: Files) -> None:
    entries = [
        (host, str(one.cert), str(one.key))
        for host in ("www.example.org", "*.Example.org", "example.com")
        for one in [authority.issue(host, file=host.replace("*", "any"))]
    ]
    found = tls.Certificates(settings(files, ssl_sni=entries))
    assert found.by_name
    assert not tls.Certificates(settings(files)).by_name

    def whose(name: str | None) -> str:
        return next(
            path
            for path, context in (
                ("default", found.context_for(None)),
                *((entry[0], found.context_for(entry[0])) for entry in entries),
            )
            if context is found.context_for(name)
        )

    assert whose("WWW.example.org") == "www.example.org"
    assert whose("www.example.org.") == "www.example.org"
    assert whose("api.example.org") == "*.Example.org"
    for other in ("example.org", "a.b.example.org", "www.example.com", "org", "", None):
        assert whose(other) == "default", other
    assert found.context_for("api.example.org").server_cert == Path(entries[1][1]).read_text()


# Files that change


def looked(certificates: tls.Certificates, times: int = 2) -> None:
    for _ in range(times):
        looked.now += tls.LOOK_EVERY_S  # type: ignore[attr-defined]
        certificates.look(looked.now)  # type: ignore[attr-defined]


looked.now = 1000.0  # type: ignore[attr-defined]


def test_new_files_are_loaded_at_the_second_look(authority: Authority, files: Files) -> None:
    certificates = tls.Certificates(settings(files))
    old = certificates.context_for(None)
    looked(certificates, 3)
    assert certificates.context_for(None) is old
    files.replace_by(authority.issue("localhost", file="next"))
    looked(certificates, 1)
    assert certificates.context_for(None) is old
    looked(certificates, 1)
    assert certificates.context_for(None).server_cert == files.pem != old.server_cert
    new = certificates.context_for(None)
    looked(certificates, 3)
    assert certificates.context_for(None) is new


def test_it_does_not_look_all_the_time(authority: Authority, files: Files) -> None:
    certificates = tls.Certificates(settings(files))
    old = certificates.context_for(None)
    looked(certificates, 1)
    files.replace_by(authority.issue("localhost", file="next"))
    for step in range(1, 10):
        certificates.look(looked.now + step * tls.LOOK_EVERY_S / 10)  # type: ignore[attr-defined]
    assert certificates.context_for(None) is old


def test_links_that_lead_elsewhere(authority: Authority, tmp_path: Path) -> None:
    """As Kubernetes (``..data``) and certbot (``live/``) do it: the files that are named are links."""
    for version in ("v1", "v2"):
        one = authority.issue("localhost", file=version)
        (tmp_path / f"dir-{version}").mkdir()
        os.rename(one.cert, tmp_path / f"dir-{version}/tls.crt")
        os.rename(one.key, tmp_path / f"dir-{version}/tls.key")
    data = tmp_path / "..data"
    data.symlink_to("dir-v1")
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    certificates = tls.Certificates(settings(Files(tmp_path / "tls.crt", tmp_path / "tls.key")))
    (tmp_path / "..new").symlink_to("dir-v2")
    os.replace(tmp_path / "..new", data)
    looked(certificates)
    assert certificates.context_for(None).server_cert == (tmp_path / "dir-v2/tls.crt").read_text()


def test_a_new_certificate_without_its_key_waits_for_it(
    authority: Authority, files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    certificates = tls.Certificates(settings(files))
    old = certificates.context_for(None)
    new = authority.issue("localhost", file="next")
    files.cert.write_bytes(new.cert.read_bytes())
    looked(certificates, 6)
    assert certificates.context_for(None) is old
    (said,) = [one for one in caplog.records if one.levelno >= logging.ERROR]
    assert "the old ones stay in use: ssl-keyfile: the private key in" in said.getMessage()
    files.key.write_bytes(new.key.read_bytes())
    looked(certificates)
    assert certificates.context_for(None).server_cert == new.pem


@pytest.mark.parametrize("damage", ["half", "empty", "gone"])
def test_a_damaged_file_changes_nothing_and_is_told_once(
    authority: Authority, files: Files, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    certificates = tls.Certificates(settings(files))
    old, text = certificates.context_for(None), files.cert.read_bytes()
    if damage == "gone":
        files.cert.unlink()
    else:
        files.cert.write_bytes(text[: len(text) // 2] if damage == "half" else b"")
    looked(certificates, 6)
    assert certificates.context_for(None) is old
    assert len([one for one in caplog.records if one.levelno >= logging.ERROR]) == 1
    files.cert.write_bytes(text)
    looked(certificates)
    assert certificates.context_for(None).server_cert == old.server_cert


def test_one_broken_name_does_not_keep_the_others_old(authority: Authority, files: Files) -> None:
    one, other = authority.issue("a.org"), authority.issue("b.org")
    entries = [(each.cert.stem, str(each.cert), str(each.key)) for each in (one, other)]
    certificates = tls.Certificates(settings(files, ssl_sni=entries))
    old = certificates.context_for("a.org")
    one.cert.write_text("broken")
    other.replace_by(authority.issue("b.org", file="next"))
    looked(certificates)
    assert certificates.context_for("a.org") is old
    assert certificates.context_for("b.org").server_cert == other.pem


def test_new_authorities_are_loaded(authority: Authority, files: Files, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other", "Other CA")
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(other.path.read_bytes())
    certificates = tls.Certificates(settings(files, ssl_cert_reqs=2, ssl_ca_certs=str(trusted)))
    client = authority.client_context(authority.issue("client", file="client"))
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(certificates.context_for(None), client)
    trusted.write_bytes(other.path.read_bytes() + authority.path.read_bytes())
    looked(certificates)
    shake_hands(certificates.context_for(None), client)


# The tls extension


def test_a_connection_without_a_client_s_certificate(authority: Authority, files: Files) -> None:
    server, _ = shake_hands(tls.Certificates(settings(files)).context_for(None), authority.client_context())
    told = tls.info(server)
    assert told == {
        "server_cert": files.pem,
        "client_cert_chain": [],
        "client_cert_name": None,
        "client_cert_error": None,
        "tls_version": 0x0304,
        "cipher_suite": 0x1302,  # TLS_AES_256_GCM_SHA384
    }
    assert tls.info(server) is told  # nothing is put together twice


def test_the_numbers_of_tls_1_2(authority: Authority, files: Files) -> None:
    client = authority.client_context()
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
    server, _ = shake_hands(tls.Certificates(settings(files)).context_for(None), client)
    told = tls.info(server)
    assert (told["tls_version"], told["cipher_suite"]) == (0x0303, 0xC02B)


def test_every_cipher_has_its_number(files: Files) -> None:
    context = tls.Certificates(settings(files, ssl_ciphers="ALL:@SECLEVEL=0")).context_for(None)
    known = {"TLS_AES_128_GCM_SHA256": 0x1301, "TLS_CHACHA20_POLY1305_SHA256": 0x1303}
    assert known.items() <= context.cipher_numbers.items()
    assert all(0 < number <= 0xFFFF for number in context.cipher_numbers.values())


def test_a_client_s_certificate_is_told(authority: Authority, files: Files) -> None:
    subject = [(NameOID.ORGANIZATION_NAME, "Example, Inc."), (NameOID.COMMON_NAME, "alice")]
    client = authority.issue("client", subject=subject)
    given = settings(files, ssl_cert_reqs=1, ssl_ca_certs=str(authority.path))
    context = tls.Certificates(given).context_for(None)
    told = tls.info(shake_hands(context, authority.client_context(client))[0])
    assert told["client_cert_chain"][0] == client.pem  # OpenSSL's client adds the authority, or does not
    assert told["client_cert_name"] == r"CN=alice,O=Example\, Inc."
    assert told["client_cert_error"] is None
    other = tls.info(shake_hands(context, authority.client_context())[0])
    assert (other["client_cert_chain"], other["client_cert_name"]) == ([], None)


# Handshakes that fail, in words


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ("NO_SHARED_CIPHER", "no shared cipher"),
        ("TLSV1_ALERT_UNKNOWN_CA", "the client refused it: unknown ca"),
        ("SSLV3_ALERT_BAD_CERTIFICATE", "the client refused it: bad certificate"),
    ],
)
def test_openssl_s_reasons(reason: str, text: str) -> None:
    error = ssl.SSLError()
    error.reason = reason
    assert tls.failure(error) == text


def test_clients_that_go() -> None:
    assert tls.failure(ConnectionResetError()) == "the client closed the connection"
