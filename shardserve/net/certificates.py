"""X.509 certificates, as far as a server looks into them: PEM, and the subject's name as text.

Rules of this file: pure functions. Certificates are verified by OpenSSL; what is read here comes out of ones
that it has accepted. A certificate that is not what RFC 5280 says is a ValueError, never a crash.
"""

from __future__ import annotations

import re
import ssl

_SEQUENCE, _SET, _OID, _VERSION = 0x30, 0x31, 0x06, 0xA0
# How the text types of ASN.1 (RFC 5280 §4.1.2.4) are encoded, by their tags.
_TEXT = {
    0x0C: "utf-8",
    0x12: "ascii",
    0x13: "ascii",
    0x14: "latin-1",
    0x16: "ascii",
    0x1C: "utf-32-be",
    0x1E: "utf-16-be",
}
# RFC 4514 §3, and the two others that certificates of clients have. All else is dotted decimal.
_NAMES = {
    "2.5.4.3": "CN",
    "2.5.4.7": "L",
    "2.5.4.8": "ST",
    "2.5.4.10": "O",
    "2.5.4.11": "OU",
    "2.5.4.6": "C",
    "2.5.4.9": "STREET",
    "0.9.2342.19200300.100.1.25": "DC",
    "0.9.2342.19200300.100.1.1": "UID",
    "2.5.4.5": "serialNumber",
    "1.2.840.113549.1.9.1": "emailAddress",
}
_SPECIAL = re.compile(r'["+,;<>\\]')
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\n?", re.DOTALL)


def pem(der: bytes) -> str:
    """One certificate as PEM text."""
    return ssl.DER_cert_to_PEM_cert(der)


def first_pem(text: str) -> str | None:
    """The first certificate of a PEM file, the server's own; None if there is none."""
    found = _PEM.search(text)
    return found[0] if found else None


def subject(der: bytes) -> str:
    """The subject of a DER certificate as RFC 4514 writes it: ``CN=client,O=Example``. Raises ValueError."""
    _, certificate, _ = _element(der, _SEQUENCE)
    _, fields, _ = _element(certificate, _SEQUENCE)
    if fields[:1] == bytes([_VERSION]):
        _, _, fields = _element(fields)
    for _ in range(4):  # serialNumber, signature, issuer, validity
        _, _, fields = _element(fields)
    _, names, _ = _element(fields, _SEQUENCE)
    # RFC 4514 §2.1: the last one first.
    return ",".join(reversed([_relative_name(one) for one in _elements(names, _SET)]))


def _relative_name(data: bytes) -> str:
    parts = []
    for attribute in _elements(data, _SEQUENCE):
        _, oid, value = _element(attribute, _OID)
        name = _dotted(oid)
        parts.append(f"{_NAMES.get(name, name)}={_value(value, named=name in _NAMES)}")
    return "+".join(parts)


def _value(encoded: bytes, *, named: bool) -> str:
    """RFC 4514 §2.4: text if the type has a name and the value is text, else its encoding in hexadecimal."""
    tag, content, _ = _element(encoded)
    if not named or tag not in _TEXT:
        return f"#{encoded.hex()}"
    # UnicodeDecodeError is a ValueError.
    text = _SPECIAL.sub(r"\\\g<0>", content.decode(_TEXT[tag])).replace("\0", "\\00")
    if text[:1] in ("#", " "):
        text = "\\" + text
    if text.endswith(" ") and text != "\\ ":
        text = text[:-1] + "\\ "
    return text


def _dotted(oid: bytes) -> str:
    """X.690 §8.19."""
    numbers, number = [], 0
    for byte in oid:
        number = number << 7 | byte & 0x7F
        if byte < 0x80:
            numbers.append(number)
            number = 0
    if not numbers:
        raise ValueError("an empty object identifier")
    first = min(numbers[0] // 40, 2)
    return ".".join(map(str, [first, numbers[0] - 40 * first, *numbers[1:]]))


def _elements(data: bytes, tag: int) -> list[bytes]:
    found = []
    while data:
        _, content, data = _element(data, tag)
        found.append(content)
    return found


def _element(data: bytes, tag: int | None = None) -> tuple[int, bytes, bytes]:
    """The tag and content of the DER element at the start, and what is behind it. Raises ValueError."""
    if len(data) < 2 or (tag is not None and data[0] != tag):
        raise ValueError("not a certificate")
    begin, length = 2, data[1]
    if length >= 0x80:
        begin += length & 0x7F
        if not 2 < begin <= 6:
            raise ValueError("a length that no certificate has")
        length = int.from_bytes(data[2:begin], "big")
    if begin + length > len(data):
        raise ValueError("a certificate that is cut off")
    return data[0], data[begin : begin + length], data[begin + length :]
