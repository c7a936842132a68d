"""The subject of a certificate as text, beside the cryptography package's, and what is no certificate."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from shardserve.net import certificates
from tests.helpers.certificates import Attributes, Authority, name_of

# Everything that RFC 4514 §3 has a short name for.
KINDS = [
    NameOID.COMMON_NAME,
    NameOID.LOCALITY_NAME,
    NameOID.STATE_OR_PROVINCE_NAME,
    NameOID.ORGANIZATION_NAME,
    NameOID.ORGANIZATIONAL_UNIT_NAME,
    NameOID.STREET_ADDRESS,
    NameOID.DOMAIN_COMPONENT,
    NameOID.USER_ID,
]


def subject_of(authority: Authority, attributes: Attributes | str) -> str:
    return certificates.subject(authority.issue("client", subject=attributes).der)


def test_the_last_part_comes_first(authority: Authority) -> None:
    attributes = [
        (NameOID.COUNTRY_NAME, "DE"),
        (NameOID.ORGANIZATION_NAME, "Example"),
        (NameOID.COMMON_NAME, "alice"),
    ]
    assert subject_of(authority, attributes) == "CN=alice,O=Example,C=DE"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("Smith, Ann", r"CN=Smith\, Ann"),
        ('a"b+c;d<e>f\\g', r"CN=a\"b\+c\;d\<e\>f\\g"),
        (" both ends ", r"CN=\ both ends\ "),
        (" ", r"CN=\ "),
        ("#1", r"CN=\#1"),
        ("a#=b", "CN=a#=b"),
        ("Lučić", "CN=Lučić"),
        ("a\nb\x00c", "CN=a\nb\\00c"),
    ],
)
def test_what_has_a_meaning_is_escaped(authority: Authority, value: str, text: str) -> None:
    assert subject_of(authority, value) == text


def test_a_type_without_a_name_is_hexadecimal(authority: Authority) -> None:
    attributes = [(x509.ObjectIdentifier("1.2.3.4"), "x"), (NameOID.EMAIL_ADDRESS, "a@example.org")]
    assert subject_of(authority, attributes) == "emailAddress=a@example.org,1.2.3.4=#0c0178"


@given(
    values=st.lists(
        st.tuples(st.sampled_from(KINDS), st.text(min_size=1, max_size=20).filter(str.strip)),
        min_size=1,
        max_size=4,
    )
)
def test_it_is_what_another_implementation_says(values: Attributes) -> None:
    name = x509.Name([x509.NameAttribute(kind, value, _ASN1Type.UTF8String) for kind, value in values])
    assert certificates.subject(certificate_with(name.public_bytes())) == name.rfc4514_string()


@pytest.mark.parametrize("kind", [_ASN1Type.PrintableString, _ASN1Type.BMPString, _ASN1Type.IA5String])
def test_the_other_kinds_of_text(kind: _ASN1Type) -> None:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "alice", kind)])
    assert certificates.subject(certificate_with(name.public_bytes())) == "CN=alice"


def test_parts_with_several_attributes() -> None:
    pair = x509.RelativeDistinguishedName(
        [x509.NameAttribute(NameOID.COMMON_NAME, "a"), x509.NameAttribute(NameOID.USER_ID, "b")]
    )
    found = certificates.subject(certificate_with(x509.Name([pair]).public_bytes()))
    assert set(found.split("+")) == {"CN=a", "UID=b"}


def test_an_empty_subject() -> None:
    assert certificates.subject(certificate_with(x509.Name([]).public_bytes())) == ""


@given(data=st.binary(max_size=300))
def test_what_is_no_certificate_is_an_error_and_no_crash(data: bytes) -> None:
    with pytest.raises(ValueError):
        certificates.subject(data)


def test_a_certificate_that_is_cut_off_anywhere(authority: Authority) -> None:
    der = authority.issue("client").der
    for end in range(len(der)):
        with pytest.raises(ValueError):
            certificates.subject(der[:end])


@given(at=st.integers(0, 120), value=st.integers(0, 255))
def test_a_certificate_with_a_wrong_byte(at: int, value: int) -> None:
    whole = bytearray(certificate_with(name_of("alice").public_bytes()))
    whole[at % len(whole)] = value
    try:
        certificates.subject(bytes(whole))
    except ValueError:
        return


def test_the_first_certificate_of_a_file(tmp_path: Path) -> None:
    root = Authority(tmp_path)
    files = Authority(tmp_path, "Between", issuer=root).issue("localhost")
    text = "a remark\n" + files.cert.read_text()
    assert text.count("BEGIN CERTIFICATE") == 2
    found = certificates.first_pem(text)
    assert found is not None
    assert x509.load_pem_x509_certificate(found.encode()).subject == name_of("localhost")
    assert certificates.first_pem("no certificate") is None
    assert certificates.pem(files.der) == files.pem


def certificate_with(subject: bytes) -> bytes:
    """As much of a certificate as is looked at."""
    return _element(0x30, _element(0x30, b"\xa0\x03\x02\x01\x02" + b"\x30\x00" * 4 + subject))


def _element(tag: int, content: bytes) -> bytes:
    return bytes([tag, 0x82]) + len(content).to_bytes(2, "big") + content
