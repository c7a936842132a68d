"""TLS: from the settings to contexts, which of them a connection gets, and what the app is told of it.

Rules of this file: no sockets and no event loop. The master only asks whether the settings would do
(``check``); a worker makes its own contexts and reads the files again when they change. Whatever is
wrong is a ConfigError that names the setting, and nothing ever prompts for a password.

Contexts are made by hand, not by ``ssl.create_default_context``, and get no callback that wants the ``ssl``
module's own connection object (``sni_callback``, ``keylog_filename``): the transport, aiofastnet, drives
OpenSSL itself, and such a callback would crash the process. So the certificate is chosen before the
handshake begins (``client_hello.py``).
"""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from ..errors import ConfigError
from . import certificates

# What is spoken here (RFC 7301), the best first. Who offers only other protocols is served HTTP/1.1.
ALPN = ["http/1.1"]
ALPN_WITH_HTTP2 = ["h2", *ALPN]
# The files are looked at this often; what has changed is loaded once two looks in a row saw the same.
LOOK_EVERY_S = 2.0

_MINIMUM = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}
_EPHEMERAL = ("kx-ecdhe", "kx-dhe", "kx-ecdhe-psk", "kx-dhe-psk")
_VERSION_NUMBERS = {"TLSv1": 0x0301, "TLSv1.1": 0x0302, "TLSv1.2": 0x0303, "TLSv1.3": 0x0304}
_ULPS = Path("/proc/sys/net/ipv4/tcp_available_ulp")
_TLS_MODULE = Path("/sys/module/tls")

log = logging.getLogger("shardserve.worker")

Signature = tuple[tuple[int, int, int, int] | None, ...]


class TlsSettings(Protocol):
    """The settings this file reads; ``config.model.Config`` has them."""

    @property
    def ssl_certfile(self) -> Any: ...
    @property
    def ssl_keyfile(self) -> Any: ...
    @property
    def ssl_keyfile_password(self) -> str | None: ...
    @property
    def ssl_minimum_version(self) -> Any: ...
    @property
    def ssl_cert_reqs(self) -> int: ...
    @property
    def ssl_ca_certs(self) -> Any: ...
    @property
    def ssl_ciphers(self) -> str | None: ...
    @property
    def ssl_sni(self) -> Any: ...
    @property
    def http2(self) -> bool: ...


def is_on(settings: TlsSettings) -> bool:
    """Whether connections are to speak TLS."""
    return bool(settings.ssl_certfile or settings.ssl_keyfile or settings.ssl_sni)


def check(settings: TlsSettings) -> None:
    """Raises ConfigError if a worker could not serve TLS with these settings; does nothing if it is off."""
    if is_on(settings):
        Certificates(settings)


# Contexts


class ServerContext(ssl.SSLContext):
    """One certificate, with everything that connections with it have in common."""

    server_cert: str | None
    cipher_numbers: dict[str, int]
    # Ciphers of TLS 1.2 with which HTTP/2 must not be spoken; empty where it is not offered.
    not_for_http2: frozenset[str]
    # The tls extension for a version and a cipher, as far as no client's certificate is in it.
    told: dict[tuple[str | None, str | None], dict[str, Any]]

    @property  # type: ignore[override]
    def verify_mode(self) -> ssl.VerifyMode:
        """Not OpenSSL's, see ``demand``. The transport asks only to know whether to decode the client's
        certificate after each handshake, for which it writes a temporary file. ``info`` decodes it.
        """
        return ssl.CERT_NONE

    @verify_mode.setter
    def verify_mode(self, mode: ssl.VerifyMode) -> None:
        self.demand(mode)

    def demand(self, mode: ssl.VerifyMode) -> None:
        """Whether clients must have a certificate. Their sessions are not resumed: a resumed one would
        neither bring its chain nor be verified again.
        """
        ssl.SSLContext.__dict__["verify_mode"].__set__(self, mode)
        if mode is not ssl.CERT_NONE:
            self.options |= ssl.OP_NO_TICKET
            self.num_tickets = 0


def make_context(settings: TlsSettings, certfile: str, keyfile: str | None) -> ServerContext:
    """A context with this certificate and what the settings say otherwise. Raises ConfigError."""
    context = ServerContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _MINIMUM[settings.ssl_minimum_version]
    context.options |= ssl.OP_NO_RENEGOTIATION  # RFC 9325 §3.5; only TLS 1.2 has it
    if _kernel_has_tls():
        context.options |= getattr(ssl, "OP_ENABLE_KTLS", 0)
    context.set_alpn_protocols(ALPN_WITH_HTTP2 if settings.http2 else ALPN)
    text = _read("ssl-certfile", certfile)
    context.server_cert = certificates.first_pem(text)
    if context.server_cert is None:
        raise ConfigError(f"ssl-certfile: {certfile} has no certificate in PEM form")
    _load_key(context, settings, certfile, keyfile)
    _load_authorities(context, settings)
    if settings.ssl_ciphers:
        try:
            context.set_ciphers(settings.ssl_ciphers)
        except ssl.SSLError as error:
            raise ConfigError(
                f"ssl-ciphers: {_reason(error)}: {settings.ssl_ciphers!r} (OpenSSL's cipher list format)"
            ) from None
    context.not_for_http2 = _order_for_http2(context, settings) if settings.http2 else frozenset()
    context.cipher_numbers = {one["name"]: one["id"] & 0xFFFF for one in context.get_ciphers()}
    context.told = {}
    return context


def _order_for_http2(context: ssl.SSLContext, settings: TlsSettings) -> frozenset[str]:
    """Put the ciphers with which HTTP/2 must not be spoken behind the others, and return them. ALPN is
    settled without regard to the cipher, so this is what keeps a browser from getting both; they stay for
    clients of HTTP/1.1 that have nothing better. Raises ConfigError if there are no others.
    """
    if context.minimum_version is ssl.TLSVersion.TLSv1_3:
        return frozenset()
    allowed, forbidden = _ciphers_for_http2(context)
    if not allowed:
        raise ConfigError(
            f"ssl-ciphers: {settings.ssl_ciphers!r} has no cipher that HTTP/2 may use (RFC 9113 Appendix A); "
            "add ECDHE+AESGCM, or set ssl-minimum-version TLSv1.3"
        )
    if forbidden:
        context.set_ciphers(":".join([*allowed, *forbidden]))
    return frozenset(forbidden)


def _ciphers_for_http2(context: ssl.SSLContext) -> tuple[list[str], list[str]]:
    """The ciphers of TLS 1.2, in their order: those that RFC 9113 §9.2.2 allows, and those of its Appendix A,
    which lack authenticated encryption, ephemeral keys or a server's certificate.
    """
    allowed: list[str] = []
    forbidden: list[str] = []
    for one in context.get_ciphers():
        if one["protocol"] != "TLSv1.3":
            good = one["aead"] and one["kea"] in _EPHEMERAL and one["auth"] != "auth-null"
            (allowed if good else forbidden).append(one["name"])
    return allowed, forbidden


def _load_key(context: ServerContext, settings: TlsSettings, certfile: str, keyfile: str | None) -> None:
    where, path = ("ssl-keyfile", keyfile) if keyfile else ("ssl-certfile", certfile)
    asked = False

    def password() -> str:
        # Without this function OpenSSL would ask on the terminal.
        nonlocal asked
        asked = True
        return settings.ssl_keyfile_password or ""

    text = _read(where, path)
    if "PRIVATE KEY-----" not in text:
        hint = "" if keyfile else "; ssl-keyfile is not set"
        raise ConfigError(f"{where}: {path} has no private key in PEM form{hint}")
    try:
        context.load_cert_chain(certfile, keyfile, password)
    except (OSError, ValueError) as error:  # SSLError is an OSError
        raise ConfigError(_key_problem(error, settings, certfile, where, path, asked)) from None


def _key_problem(
    error: Exception, settings: TlsSettings, certfile: str, where: str, path: str, asked: bool
) -> str:
    if asked and settings.ssl_keyfile_password is None:
        return f"{where}: the private key in {path} is encrypted; set ssl-keyfile-password"
    if asked:
        return f"ssl-keyfile-password: it does not open the private key in {path}"
    if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
        return f"{where}: the private key in {path} does not belong to the certificate in {certfile}"
    return f"{where}: cannot use {path} with the certificate in {certfile}: {_reason(error)}"


def _load_authorities(context: ServerContext, settings: TlsSettings) -> None:
    try:
        mode = ssl.VerifyMode(settings.ssl_cert_reqs)
    except ValueError:
        raise ConfigError(
            f"ssl-cert-reqs: {settings.ssl_cert_reqs} is not 0 (none), 1 (optional) or 2 (required)"
        ) from None
    path = settings.ssl_ca_certs
    if mode is not ssl.CERT_NONE and not path:
        raise ConfigError(
            f"ssl-cert-reqs {int(mode)} needs ssl-ca-certs: without it no client's certificate is valid"
        )
    if path:
        try:
            if os.path.isdir(path):
                context.load_verify_locations(capath=path)
            else:
                context.load_verify_locations(cafile=path)
        except OSError as error:
            raise ConfigError(f"ssl-ca-certs: cannot use {path}: {_reason(error)}") from None
    context.demand(mode)


def _read(setting: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="latin-1")  # PEM is ASCII; what is around it can be anything
    except OSError as error:
        raise ConfigError(f"{setting}: cannot read {path}: {error.strerror or error}") from None


def _reason(error: Exception) -> str:
    """OpenSSL's reason in words."""
    if isinstance(error, ssl.SSLError):
        # Some of the module's own errors have no reason.
        reason = getattr(error, "reason", None) or str(error.args[-1] if error.args else error)
        return str(reason).partition(" (_ssl.c")[0].rstrip(".").replace("_", " ").lower()
    return getattr(error, "strerror", None) or str(error)


def _kernel_has_tls() -> bool:
    """Whether the kernel can do the encryption (kTLS). Asked for in vain, the transport would complain
    at each connection.
    """
    try:
        offered = _ULPS.read_text().split()
    except OSError:
        return False
    return "tls" in offered and _TLS_MODULE.exists() and ssl.OPENSSL_VERSION_INFO >= (3, 0, 0)


# Which context


class _Entry:
    """One certificate and the files it is read from."""

    def __init__(self, settings: TlsSettings, certfile: str, keyfile: str | None) -> None:
        self._settings, self._certfile, self._keyfile = settings, certfile, keyfile
        self._paths = [str(path) for path in (certfile, keyfile, settings.ssl_ca_certs) if path]
        self._changing: Signature | None = None
        self._seen = _signature(self._paths)
        self.context = make_context(settings, certfile, keyfile)

    def look(self) -> None:
        found = _signature(self._paths)
        if found == self._seen or found != self._changing:
            # Not loaded at first sight: certificate and key are two files, written one after the other.
            self._changing = found
            return
        self._seen = found
        try:
            self.context = make_context(self._settings, self._certfile, self._keyfile)
        except ConfigError as error:
            log.error("The certificate files have changed, but the old ones stay in use: %s", error)
        else:
            log.info("New connections get the certificate that is in %s now.", self._certfile)


class Certificates:
    """The contexts of a worker: a default, and those for certain host names (``ssl-sni``)."""

    def __init__(self, settings: TlsSettings) -> None:
        """Raises ConfigError."""
        if not settings.ssl_certfile:
            which = "ssl-keyfile" if settings.ssl_keyfile else "ssl-sni"
            raise ConfigError(f"ssl-certfile is not set, but {which} is")
        keyfile = str(settings.ssl_keyfile) if settings.ssl_keyfile else None
        self._default = _Entry(settings, str(settings.ssl_certfile), keyfile)
        self._by_name: dict[str, _Entry] = {}
        for name, certfile, own_keyfile in settings.ssl_sni or ():
            try:
                self._by_name[name.lower().rstrip(".")] = _Entry(settings, certfile, own_keyfile)
            except ConfigError as error:
                raise ConfigError(f"ssl-sni {name}: {error}") from None
        self._next_look = 0.0

    @property
    def by_name(self) -> bool:
        """Whether the host name that a client asks for can make a difference."""
        return bool(self._by_name)

    def context_for(self, name: str | None) -> ServerContext:
        """For a client that asks for this host, or for none (RFC 6066 §3): the one for exactly that name,
        else the one for ``*.`` and its parent domain, else the default.
        """
        if name is None or not self._by_name:
            return self._default.context
        name = name.lower().rstrip(".")
        entry = self._by_name.get(name) or self._by_name.get(f"*.{name.partition('.')[2]}")
        return (entry or self._default).context

    def look(self, now: float) -> None:
        """Call it often: every few seconds it looks whether a file has changed. A file that cannot be used
        leaves the certificate as it is, and is told once. Open connections keep theirs.
        """
        if now >= self._next_look:
            self._next_look = now + LOOK_EVERY_S
            for entry in self._entries():
                entry.look()

    def _entries(self) -> Iterator[_Entry]:
        yield self._default
        yield from self._by_name.values()


class Given(Certificates):
    """The one context that a program has made (``ssl_context_factory``). No file is looked at."""

    def __init__(self, context: ssl.SSLContext, *, http2: bool = False) -> None:
        """``context`` is changed into one of ours; ``http2``: it offers HTTP/2 from now on. Raises
        ConfigError if it has a callback that crashes.
        """
        if context.sni_callback is not None or context.keylog_filename is not None:
            raise ConfigError("ssl_context_factory: the context has sni_callback or keylog_filename")
        self._context: ServerContext = adopted(context, http2=http2)

    @property
    def by_name(self) -> bool:
        return False

    def context_for(self, name: str | None) -> ServerContext:
        return self._context

    def look(self, now: float) -> None:
        return


def adopted(context: ssl.SSLContext, *, http2: bool = False) -> ServerContext:
    """The same context as one of ours. Its certificate is not known, so ``info`` does not tell it. The order
    of its ciphers is its maker's.
    """
    if isinstance(context, ServerContext):
        return context
    context.__class__ = ServerContext
    assert isinstance(context, ServerContext)
    context.server_cert = None
    context.not_for_http2 = frozenset(_ciphers_for_http2(context)[1] if http2 else ())
    if http2:
        context.set_alpn_protocols(ALPN_WITH_HTTP2)
    context.cipher_numbers = {one["name"]: one["id"] & 0xFFFF for one in context.get_ciphers()}
    context.told = {}
    return context


def _signature(paths: Sequence[str]) -> Signature:
    """What changes when a file, or what a link leads to, is replaced or written."""
    found: list[tuple[int, int, int, int] | None] = []
    for path in paths:
        try:
            seen = os.stat(path)
        except OSError:
            found.append(None)
        else:
            found.append((seen.st_dev, seen.st_ino, seen.st_mtime_ns, seen.st_size))
    return tuple(found)


# What the app is told


def info(ssl_object: Any) -> dict[str, Any]:
    """A connection as the ASGI TLS extension (version 0.2) describes it. Do not change what is returned.

    ``ssl_object``: the transport's, once the handshake is over; its context is one of ours.
    """
    context = ssl_object.context
    cipher = ssl_object.cipher()
    key = (ssl_object.version(), cipher[0] if cipher else None)
    told: dict[str, Any] | None = context.told.get(key)
    if told is None:
        told = context.told[key] = {
            "server_cert": context.server_cert,
            "client_cert_chain": [],
            "client_cert_name": None,
            "client_cert_error": None,  # a certificate that is not valid ends the handshake
            "tls_version": _VERSION_NUMBERS.get(key[0] or ""),
            "cipher_suite": context.cipher_numbers.get(key[1] or ""),
        }
    chain = _client_chain(ssl_object)
    if not chain:
        return told
    return {
        **told,
        "client_cert_chain": [certificates.pem(der) for der in chain],
        "client_cert_name": certificates.subject(chain[0]),
    }


def _client_chain(ssl_object: Any) -> list[bytes]:
    """What the client sent, its own certificate first."""
    leaf = ssl_object.getpeercert(True)
    if leaf is None:
        return []
    whole = getattr(ssl_object, "get_unverified_chain", None)
    return (whole() if whole is not None else None) or [leaf]


def unfit_for_http2(ssl_object: Any) -> str | None:
    """The cipher of a connection that has come to speak HTTP/2 with one that it must not use (RFC 9113
    §9.2.2), which takes a client without any other; None: all is well.
    """
    forbidden = ssl_object.context.not_for_http2
    if not forbidden or ssl_object.selected_alpn_protocol() != "h2":
        return None
    cipher = ssl_object.cipher()
    return str(cipher[0]) if cipher and cipher[0] in forbidden else None


def failure(error: BaseException) -> str:
    """Why a handshake failed, in words; for the log."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the client's certificate is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        text = _reason(error)
        alert = text.rpartition(" alert ")[2]
        return f"the client refused it: {alert}" if " alert " in text else text
    if isinstance(error, ConnectionError | OSError):
        return "the client closed the connection"
    return type(error).__name__
