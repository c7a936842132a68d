"""Between the client and us: proxies in front, and TLS."""

from __future__ import annotations

from dataclasses import dataclass

from ..kinds import ForwardedFields, Secret, SniEntry, TrustedPeers
from ..setting import setting
from ..values import Choice, FilePath, Integer, Many, Switch, Text


@dataclass(frozen=True, init=False, repr=False, eq=False)
class Proxies:
    """What is believed of what a proxy says."""

    __slots__ = ()

    # fmt: off
    proxy_headers: bool = setting(
        True, Switch(), uvicorn=True,
        help="Believe what a trusted proxy says of its client, in the fields that forwarded-fields names.",
    )
    forwarded_allow_ips: str | None = setting(
        None, TrustedPeers(), uvicorn=True, fallback_env=("FORWARDED_ALLOW_IPS",), unset="127.0.0.1,::1",
        help="Which proxies are trusted: addresses, networks (10.0.0.0/8), unix for peers on Unix sockets, "
        "* for anybody; commas between them.",
    )
    forwarded_fields: str = setting(
        "x-forwarded-for,x-forwarded-proto", ForwardedFields(),
        help="Which fields of a trusted proxy are read: those that it sets or deletes in every request. Also "
        "x-forwarded-host, x-forwarded-port and x-forwarded-prefix; or forwarded, instead of the others.",
    )
    proxy_protocol: str = setting(
        "off", Choice(("off", "auto", "v1", "v2")),
        help="Each connection must come from a trusted proxy and begin with a PROXY protocol header of this "
        "version; auto takes either.",
    )
    # fmt: on


@dataclass(frozen=True, init=False, repr=False, eq=False)
class TLS:
    """HTTPS."""

    __slots__ = ()

    # fmt: off
    ssl_certfile: str | None = setting(
        None, FilePath(), uvicorn=True,
        help="Serve HTTPS with this certificate chain (PEM).",
    )
    ssl_keyfile: str | None = setting(
        None, FilePath(), uvicorn=True, unset="in the certificate file",
        help="The private key of the certificate (PEM).",
    )
    ssl_keyfile_password: str | None = setting(
        None, Secret(), uvicorn=True,
        help="The password of the private key. Everybody can read a command line: use the variable.",
    )
    ssl_version: int = setting(
        17, Integer(0, 2**31 - 1), uvicorn=True,
        help="Accepted, as 17 in Uvicorn; the lowest version that is spoken has a setting of its own.",
    )
    ssl_minimum_version: str = setting(
        "TLSv1.2", Choice(("TLSv1.2", "TLSv1.3")),
        # RFC 8996 forbids 1.0 and 1.1.
        help="The lowest version of TLS that is spoken.",
    )
    ssl_cert_reqs: int = setting(
        0, Integer(0, 2), uvicorn=True,
        help="Ask clients for a certificate: 0 no, 1 optional, 2 required.",
    )
    ssl_ca_certs: str | None = setting(
        None, FilePath(), uvicorn=True,
        help="Client certificates must come from one of these authorities (PEM).",
    )
    ssl_ciphers: str | None = setting(
        None, Text(), uvicorn=True, unset="those of OpenSSL",
        help="Ciphers of TLS 1.2, in the words of OpenSSL.",
    )
    ssl_sni: tuple[tuple[str, str, str | None], ...] = setting(
        (), Many(SniEntry(), ","),
        help="Another certificate for clients that ask for this host name, which may be *.example.org. "
        "Repeatable.",
    )
    # fmt: on
