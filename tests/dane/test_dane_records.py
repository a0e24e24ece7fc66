"""TLSA records: reading them, and which of them are usable (RFC 6698 §2, RFC 7672 §3.1, RFC 7671 §9)."""

from __future__ import annotations

import hashlib
from contextlib import suppress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from postward.lab.ca import Authority, spki, tlsa
from postward_dane.der import public_key_info
from postward_dane.tlsa import MAX_RECORDS, TlsaRecord, associated, of_rdata, parse, unusable, usable

CERTIFICATE = Authority().issue(["mx.example.org"]).certificate
KEY = spki(CERTIFICATE)
DIGEST1, DIGEST2 = b"\x01" * 32, b"\x02" * 64


def test_presentation_form() -> None:
    """RFC 6698 §2.2 allows spaces in the hex; RFC 8460 §4.5 wants it unbroken, and four fields."""
    record = parse(" 3 1\t1 D2ABDE240D7CD3EE6B4B28C5 4DF034B9\n7983A1D16E8A410E4561CB106618E971 ")
    assert record == TlsaRecord(3, 1, 1, bytes.fromhex("d2abde240d7cd3ee6b4b28c54df034b97983a1d16e8a410e4561cb106618e971"))
    assert str(record) == "3 1 1 d2abde240d7cd3ee6b4b28c54df034b97983a1d16e8a410e4561cb106618e971"


def test_matching_types() -> None:
    """RFC 6698 §2.1.3: the data itself, its SHA-256, its SHA-512."""
    assert associated(KEY, 0) == KEY
    assert associated(KEY, 1) == hashlib.sha256(KEY).digest()
    assert associated(KEY, 2) == hashlib.sha512(KEY).digest()
    with pytest.raises(ValueError, match="unknown"):
        associated(KEY, 3)


@pytest.mark.parametrize(
    "text", ["", "3 1 1", "3 1 zz", "3 1 1 xyz", "256 1 1 00", "3 1 1 0", "a 1 1 00", "3 1 1 " + "00" * 80_000]
)
def test_what_is_no_record(text: str) -> None:
    with pytest.raises(ValueError):
        parse(text)


@given(st.builds(TlsaRecord, *[st.integers(0, 255)] * 3, st.binary(max_size=80)))
def test_every_record_survives_its_presentation_form(record: TlsaRecord) -> None:
    if record.data:
        assert parse(str(record)) == record


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (TlsaRecord(3, 1, 1, DIGEST1), ""),
        (TlsaRecord(3, 0, 2, DIGEST2), ""),
        (TlsaRecord(2, 0, 0, CERTIFICATE), ""),
        (TlsaRecord(3, 0, 0, CERTIFICATE), ""),
        (TlsaRecord(2, 1, 0, KEY), ""),
        (TlsaRecord(0, 1, 1, DIGEST1), "usages 0 and 1 are not for mail"),
        (TlsaRecord(1, 1, 1, DIGEST1), "usages 0 and 1 are not for mail"),
        (TlsaRecord(4, 1, 1, DIGEST1), "the usage 4 is unknown"),
        (TlsaRecord(255, 1, 1, DIGEST1), "the usage 255 is unknown"),
        (TlsaRecord(3, 2, 1, DIGEST1), "the selector 2 is unknown"),
        (TlsaRecord(3, 1, 3, DIGEST1), "the matching type 3 is unknown"),
        (TlsaRecord(3, 1, 1, DIGEST1[1:]), "a digest of 31 bytes, not 32"),
        (TlsaRecord(3, 1, 2, DIGEST1), "a digest of 32 bytes, not 64"),
        (TlsaRecord(3, 1, 1, b""), "a digest of 0 bytes, not 32"),
        (TlsaRecord(2, 0, 0, CERTIFICATE[:-1]), "the association data is malformed"),
        (TlsaRecord(2, 0, 0, CERTIFICATE + b"\0"), "the association data is malformed"),
        (TlsaRecord(2, 0, 0, KEY), "the association data is malformed"),
        (TlsaRecord(2, 1, 0, CERTIFICATE), "the association data is malformed"),
        (TlsaRecord(3, 1, 0, b""), "the association data is malformed"),
    ],
    ids=str,
)
def test_unusable_records(record: TlsaRecord, reason: str) -> None:
    """RFC 6698 §4.1: what is unknown or malformed is unusable; RFC 7672 §3.1.3: so are the PKIX usages."""
    assert unusable(record) == reason
    assert usable([record]) == (() if reason else (record,))


def test_digest_agility() -> None:
    """RFC 7671 §9: per usage and selector the strongest digest counts, and full data always."""
    weak, strong, full = TlsaRecord(3, 1, 1, DIGEST1), TlsaRecord(3, 1, 2, DIGEST2), TlsaRecord(3, 1, 0, KEY)
    other = TlsaRecord(2, 1, 1, DIGEST1)
    assert usable([weak, strong, full]) == (strong, full)
    assert usable([weak, other, strong]) == (other, strong)
    assert usable([weak, strong], strongest_first=(1, 2)) == (weak,)
    assert usable([weak]) == (weak,)


def test_a_malformed_strong_digest_does_not_displace_a_good_weak_one() -> None:
    """RFC 7671 §9: unusable records are dropped first."""
    weak, broken = TlsaRecord(3, 1, 1, DIGEST1), TlsaRecord(3, 1, 2, DIGEST1)
    assert usable([weak, broken]) == (weak,)


class Rdata:
    def __init__(self, usage: int, selector: int, mtype: int, cert: bytes) -> None:
        self.usage, self.selector, self.mtype, self.cert = usage, selector, mtype, cert


def test_records_of_an_answer_are_sorted_bounded_and_without_doubles() -> None:
    """The order of an answer is chance; reports must not differ by it. A flood must not push DANE-EE out."""
    flood = [Rdata(2, 1, 1, number.to_bytes(32, "big")) for number in range(500)]
    wanted = Rdata(3, 1, 1, DIGEST1)
    found = of_rdata([*flood, wanted, wanted])
    assert len(found) == MAX_RECORDS
    assert TlsaRecord(3, 1, 1, DIGEST1) in found
    assert list(found) == sorted(found)
    assert of_rdata(reversed([*flood, wanted])) == found


def test_rubbish_does_not_crowd_out_what_is_usable() -> None:
    """RFC 7671 §9: else enough unusable records would switch authentication off."""
    rubbish = [Rdata(3, 1, 1, number.to_bytes(4, "big")) for number in range(4000)]
    wanted = Rdata(2, 0, 1, DIGEST1)
    assert usable(of_rdata([*rubbish, wanted])) == (TlsaRecord(2, 0, 1, DIGEST1),)


@pytest.mark.parametrize("key", ["p256", "rsa", "ed25519"])
def test_the_public_key_is_cut_out_as_it_stands(key: str) -> None:
    """RFC 6698 §2.1.2."""
    der = Authority(key=key).issue(["mx.example.org"], key=key).certificate
    public = x509.load_der_x509_certificate(der).public_key()
    assert public_key_info(der) == public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert tlsa(der) == f"3 1 1 {hashlib.sha256(public_key_info(der)).hexdigest()}"


def test_a_certificate_of_version_1_has_a_key_too() -> None:
    """RFC 5280 §4.1.2.1: there the version is left out."""
    body = x509.load_der_x509_certificate(CERTIFICATE).tbs_certificate_bytes
    assert body[:1] == b"\x30"
    assert body[4:9] == bytes.fromhex("a003020102")
    inner = body[9:]
    old = b"\x30\x82" + len(inner).to_bytes(2, "big") + inner
    assert public_key_info(b"\x30\x82" + len(old).to_bytes(2, "big") + old) == KEY


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"\x30",
        b"\x30\x80" + CERTIFICATE,
        b"\x30\x84\x00\x00\x00\x08" + CERTIFICATE,
        b"\x30\x82\x01",
        b"\x31" + CERTIFICATE[1:],
        CERTIFICATE[:-200],
        KEY,
    ],
)
def test_what_is_no_certificate_has_no_key(damaged: bytes) -> None:
    with pytest.raises(ValueError, match="not a certificate"):
        public_key_info(damaged)


@given(st.integers(0, len(CERTIFICATE) - 1), st.integers(0, 255), st.booleans())
def test_damaged_certificates_have_a_key_or_none(place: int, value: int, cut: bool) -> None:
    damaged = CERTIFICATE[:place] if cut else CERTIFICATE[:place] + bytes((value,)) + CERTIFICATE[place + 1 :]
    try:
        found = public_key_info(damaged)
    except ValueError:
        return
    assert found in damaged


@given(st.binary(max_size=300))
def test_rubbish_has_a_key_or_none(data: bytes) -> None:
    with suppress(ValueError):
        assert public_key_info(data) in data
