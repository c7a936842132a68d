"""What is wrong with a configuration: one mistake, all of them as text, and settings that exclude each other.

Rules of this file: settings are known by their attributes only, values are taken for checked. What
one value may be is ``values.py``; where mistakes are gathered is ``load.py`` and ``Config`` itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Mistake:
    """``origin`` is where it was written: "/etc/shardserve.toml:3", "env SHARDSERVE_PORT", "flag --port"."""

    origin: str
    text: str


def describe(mistakes: Iterable[Mistake]) -> str:
    """Every mistake, one to a line, as the text of a ConfigError."""
    lines = [f"{mistake.origin}: {mistake.text}" for mistake in mistakes]
    count = "1 mistake" if len(lines) == 1 else f"{len(lines)} mistakes"
    return "\n".join([f"the configuration has {count}:", *(f"  {line}" for line in lines)])


def conflicts(given: Mapping[str, Any], origins: Mapping[str, str]) -> list[Mistake]:
    """What is wrong between settings that are each valid. ``given`` has only what was set explicitly."""
    rules = (_addresses, _without_certificate, _client_certificates, _reload, _twice)
    return [Mistake(origins[attribute], text) for rule in rules for attribute, text in rule(given, origins)]


# Each rule yields the attribute that is at fault, and why.
Faults = Iterator[tuple[str, str]]


def _addresses(given: Mapping[str, Any], origins: Mapping[str, str]) -> Faults:
    if given.get("bind"):
        for attribute in ("host", "port", "uds", "fd"):
            if attribute in given:
                where = origins["bind"]
                yield attribute, f"{attribute} cannot be given together with bind ({where}); add it to bind"


def _without_certificate(given: Mapping[str, Any], origins: Mapping[str, str]) -> Faults:
    """Whoever wants clients to have certificates must not get plain HTTP instead."""
    if given.get("ssl_certfile") is None:
        for attribute in ("ssl_keyfile", "ssl_keyfile_password", "ssl_cert_reqs", "ssl_ca_certs", "ssl_sni"):
            if given.get(attribute):
                yield attribute, f"{attribute} needs ssl_certfile: without it the server speaks plain HTTP"


def _client_certificates(given: Mapping[str, Any], origins: Mapping[str, str]) -> Faults:
    if given.get("ssl_cert_reqs") and given.get("ssl_certfile") and given.get("ssl_ca_certs") is None:
        how = given["ssl_cert_reqs"]
        text = f"ssl_cert_reqs {how} needs ssl_ca_certs: without it no client certificate can be verified"
        yield "ssl_cert_reqs", text


def _reload(given: Mapping[str, Any], origins: Mapping[str, str]) -> Faults:
    if given.get("reload") and given.get("preload"):
        yield (
            "reload",
            (
                f"reload cannot be given together with preload ({origins['preload']}): "
                "what was imported once is not imported again"
            ),
        )


def _twice(given: Mapping[str, Any], origins: Mapping[str, str]) -> Faults:
    for attribute in ("static", "ssl_sni"):
        names = [entry[0] for entry in given.get(attribute, ())]
        for name in dict.fromkeys(name for name in names if names.count(name) > 1):
            yield attribute, f"{attribute} has {name} twice"
