"""Certificates for tests: an authority, and what it signs, written as the PEM files that a server reads."""

from __future__ import annotations

import datetime
import ipaddress
import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Attributes = Sequence[tuple[x509.ObjectIdentifier, str]]


def name_of(attributes: Attributes | str) -> x509.Name:
    if isinstance(attributes, str):
        attributes = [(NameOID.COMMON_NAME, attributes)]
    return x509.Name([x509.NameAttribute(kind, value) for kind, value in attributes])


@dataclass(frozen=True)
class Files:
    """A certificate (with its chain) and its key."""

    cert: Path
    key: Path

    @property
    def flags(self) -> list[str]:
        return ["--ssl-certfile", str(self.cert), "--ssl-keyfile", str(self.key)]

    @property
    def pem(self) -> str:
        """The first certificate."""
        end = "-----END CERTIFICATE-----\n"
        return self.cert.read_text().partition(end)[0] + end

    @property
    def der(self) -> bytes:
        return ssl.PEM_cert_to_DER_cert(self.pem)

    def replace_by(self, other: Files) -> None:
        """Put other files into the place of these, each in one step."""
        for mine, new in ((self.cert, other.cert), (self.key, other.key)):
            mine.with_suffix(".new").write_bytes(new.read_bytes())
            os.replace(mine.with_suffix(".new"), mine)


class Authority:
    """``Authority(tmp_path).issue("localhost")``. An intermediate one has an ``issuer``."""

    def __init__(self, folder: Path, name: str = "Test CA", *, issuer: Authority | None = None) -> None:
        self.folder = folder
        self.name = name_of(name)
        self._key = ec.generate_private_key(ec.SECP256R1())
        signer = issuer or self
        self._certificate = self._sign(
            self.name, self._key, by=signer, extension=x509.BasicConstraints(ca=True, path_length=None)
        )
        own = self._certificate.public_bytes(serialization.Encoding.PEM)
        # What a server sends along: everything between its certificate and the root.
        self._chain: bytes = own + issuer._chain if issuer is not None else b""
        self.path = folder / f"{name.replace(' ', '-')}.pem"
        self.path.write_bytes(own)

    def _sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        *,
        by: Authority,
        extension: x509.ExtensionType,
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        ca = isinstance(extension, x509.BasicConstraints)
        # Python verifies strictly since 3.13 (RFC 5280 §4.2.1).
        never = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
        usage = dict.fromkeys((*never, "encipher_only", "decipher_only"), False)
        usage |= {"digital_signature": not ca, "key_cert_sign": ca, "crl_sign": ca}
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(by._key.public_key())
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(by.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=30))
            .add_extension(extension, critical=ca)
            .add_extension(x509.KeyUsage(**usage), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(authority, critical=False)
            .sign(by._key, hashes.SHA256())
        )

    def issue(
        self,
        *hosts: str,
        subject: Attributes | str | None = None,
        file: str | None = None,
        password: str | None = None,
    ) -> Files:
        """A certificate for these hosts. ``file``: the stem of the files' names, if not the first host."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([_general(host) for host in hosts or ("client",)])
        certificate = self._sign(name_of(subject or hosts[0]), key, by=self, extension=names)
        stem = file or (hosts[0] if hosts else "client").replace("*", "any")
        files = Files(self.folder / f"{stem}.pem", self.folder / f"{stem}.key")
        files.cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + self._chain)
        lock: serialization.KeySerializationEncryption = (
            serialization.BestAvailableEncryption(password.encode())
            if password
            else serialization.NoEncryption()
        )
        files.key.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)
        )
        return files

    def client_context(self, files: Files | None = None) -> ssl.SSLContext:
        """For a client that trusts this authority, and shows this certificate."""
        context = ssl.create_default_context(cafile=str(self.path))
        if files is not None:
            context.load_cert_chain(files.cert, files.key)
        return context


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
