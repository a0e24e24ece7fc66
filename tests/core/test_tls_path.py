"""Paths to trust anchors, judged outside the handshake (RFC 5280 §6, RFC 8461 §4.2)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from postward.errors import ConfigError
from postward.lab.ca import CLIENT_AUTH, DAY, Authority, Issued, self_signed
from postward.model import PASSED, Failure, ResultType, Verdict
from postward.names import Domain
from postward.tls import TrustStore, check_path
from postward.tls.certificates import MAX_CERTIFICATES

NOW = time.time_ns() // 1000
HOST = Domain("mx.example.org")
ROOT = Authority("Root")
MIDDLE = ROOT.subordinate("Middle")
STRANGER = Authority("Stranger", intermediate=True)
OTHER_KEY = ec.generate_private_key(ec.SECP256R1())


def trust(*anchors: Authority) -> TrustStore:
    return TrustStore(_no_roots(), extra=[anchor.root for anchor in anchors or (ROOT,)])


def _no_roots() -> Path:
    """A bundle with one root that nothing here depends on, so that the system's plays no part."""
    return _EMPTY


@pytest.fixture(scope="module", autouse=True)
def _bundle(tmp_path_factory: pytest.TempPathFactory) -> None:
    global _EMPTY
    _EMPTY = tmp_path_factory.mktemp("ca") / "bundle.pem"
    _EMPTY.write_bytes(Authority("Nobody").root_pem)


def judge(issued: Issued, *, at: int | None = None, name: Domain = HOST) -> Verdict:
    return trust().verify(issued.chain, name, at=at)


def said(verdict: Verdict) -> tuple[str, str]:
    assert verdict.failure is not None
    return verdict.failure.result_type.value, verdict.failure.reason


@pytest.mark.parametrize("key", ["p256", "rsa", "ed25519"])
@pytest.mark.parametrize("authority", [ROOT, MIDDLE])
@pytest.mark.parametrize("with_root", [False, True])
def test_good_chains(key: str, authority: Authority, with_root: bool) -> None:
    assert judge(authority.issue([HOST], key=key, with_root=with_root)) == PASSED


def test_a_critical_san_with_an_empty_subject_passes() -> None:
    """RFC 5280 §4.2.1.6: such certificates are ordinary, and stricter libraries refuse them."""
    issued = ROOT.issue([HOST], cn="")
    parsed = x509.load_der_x509_certificate(issued.certificate)
    assert parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).critical
    assert judge(issued) == PASSED


@pytest.mark.parametrize(
    ("issued", "expected"),
    [
        (ROOT.issue([HOST], not_after=NOW - DAY, not_before=NOW - 9 * DAY), ("certificate-expired", "")),
        (ROOT.issue([HOST], not_before=NOW + DAY), ("certificate-expired", "certificate-not-yet-valid")),
        (
            ROOT.subordinate("Old", not_after=NOW - DAY).issue([HOST]),
            ("certificate-expired", "issuer-certificate-expired"),
        ),
        (self_signed([HOST]), ("certificate-not-trusted", "self-signed-certificate")),
        (STRANGER.issue([HOST], with_root=True), ("certificate-not-trusted", "self-signed-certificate-in-chain")),
        (STRANGER.issue([HOST]), ("certificate-not-trusted", "unknown-issuer")),
        (ROOT.issue(["other.example.org"]), ("certificate-host-mismatch", "")),
        (ROOT.issue([], cn=HOST), ("certificate-host-mismatch", "")),
        (ROOT.issue([HOST], eku=CLIENT_AUTH), ("certificate-not-trusted", "unsuitable-certificate-purpose")),
        (ROOT.issue([HOST], key=rsa.generate_private_key(65537, 1024)), ("certificate-not-trusted", "weak-key")),
        (
            ROOT.subordinate("Narrow", permitted=["example.com"]).issue([HOST]),
            ("certificate-not-trusted", "permitted-subtree-violation"),
        ),
        (
            ROOT.subordinate("Short", path_length=0).subordinate("Too deep").issue([HOST]),
            ("certificate-not-trusted", "path-length-constraint-exceeded"),
        ),
        (
            STRANGER.issue(["other.example.org"], not_after=NOW - DAY, not_before=NOW - 9 * DAY),
            ("certificate-not-trusted", "unknown-issuer"),
        ),
        (
            ROOT.issue(["other.example.org"], not_after=NOW - DAY, not_before=NOW - 9 * DAY),
            ("certificate-expired", ""),
        ),
    ],
    ids=lambda value: "-".join(value).strip("-") if isinstance(value, tuple) else "",
)
def test_bad_chains(issued: Issued, expected: tuple[str, str]) -> None:
    """RFC 8460 §4.3.1: each fault has its own result type; of several, trust goes before dates, and dates before names."""
    assert said(judge(issued)) == expected


def test_a_leaf_signed_by_a_leaf_is_refused() -> None:
    """RFC 5280 §4.2.1.9: only a CA certificate vouches for others."""
    middle = ROOT.issue(["attacker.example"], key=OTHER_KEY)
    false = Authority.__new__(Authority)
    false._adopt(middle.certificate, OTHER_KEY, ROOT.root, middle.chain)
    assert said(judge(false.issue([HOST])))[0] == "certificate-not-trusted"


def test_missing_intermediate() -> None:
    assert said(trust().verify(MIDDLE.issue([HOST]).chain[:1], HOST)) == ("certificate-not-trusted", "unknown-issuer")


def test_rubbish_behind_the_leaf_and_any_order_do_no_harm() -> None:
    """RFC 8446 §4.4.2: be prepared for extraneous certificates and arbitrary orderings behind the first."""
    leaf, middle = MIDDLE.issue([HOST]).chain
    assert trust().verify([leaf, STRANGER.certificate, b"rubbish", middle, middle], HOST) == PASSED


def test_the_instant_decides_and_not_the_first_one_asked_about() -> None:
    """A store of OpenSSL keeps the first time that it was given."""
    issued = ROOT.issue([HOST], not_before=NOW - DAY, not_after=NOW + DAY)
    store = trust()
    assert store.verify(issued.chain, HOST, at=NOW) == PASSED
    assert said(store.verify(issued.chain, HOST, at=NOW + 2 * DAY)) == ("certificate-expired", "")
    assert said(store.verify(issued.chain, HOST, at=NOW - 2 * DAY))[1] == "certificate-not-yet-valid"
    assert store.verify(issued.chain, HOST) == PASSED
    expired = ROOT.issue([HOST], not_before=NOW - 9 * DAY, not_after=NOW - DAY)
    assert store.verify(expired.chain, HOST, at=NOW - 2 * DAY) == PASSED


def test_a_key_that_must_not_be_used_for_tls() -> None:
    """RFC 5280 §4.2.1.3: key usage without anything that TLS does."""
    own = x509.load_der_x509_certificate(ROOT.issue([HOST]).certificate)
    usage = x509.KeyUsage(False, True, False, False, False, False, False, False, False)
    builder = x509.CertificateBuilder(
        None, own.subject, OTHER_KEY.public_key(), 8, own.not_valid_before_utc, own.not_valid_after_utc
    ).add_extension(usage, critical=True)
    failure = check_path([ROOT._sign(builder)], [ROOT.root])
    assert failure is not None
    assert failure.reason == "unsuitable-certificate-purpose"


def test_a_small_curve_is_too_weak() -> None:
    small = ROOT.issue([HOST], key=ec.generate_private_key(ec.SECP192R1()))
    assert said(judge(small)) == ("certificate-not-trusted", "weak-key")


def test_a_renewed_issuer_counts_beside_its_expired_self() -> None:
    """RFC 4158 §2.4: several certificates of one issuer may be sent."""
    key = ec.generate_private_key(ec.SECP256R1())
    stale = ROOT.subordinate("Renewed", key=key, not_after=NOW - DAY)
    fresh = ROOT.subordinate("Renewed", key=key)
    leaf = fresh.issue([HOST]).certificate
    assert trust().verify([leaf, stale.certificate, fresh.certificate], HOST) == PASSED
    assert trust().verify([leaf, fresh.certificate, stale.certificate], HOST) == PASSED
    assert said(trust().verify([leaf, stale.certificate], HOST))[0] == "certificate-expired"


def test_an_issuer_for_other_purposes_does_not_vouch_for_servers() -> None:
    """RFC 5280 §4.2.1.12, as browsers read it for authorities."""
    mail_only = ROOT.subordinate("Mail only", eku=[ExtendedKeyUsageOID.EMAIL_PROTECTION])
    assert said(judge(mail_only.issue([HOST]))) == ("certificate-not-trusted", "unsuitable-certificate-purpose")


def test_a_sha1_signature_is_too_weak() -> None:
    """RFC 9155: SHA-1 no longer proves anything."""
    root = Authority("RSA", key="rsa")
    certificate = x509.load_der_x509_certificate(root.issue([HOST]).certificate)
    # Nothing here signs certificates with SHA-1 any more, so the algorithm is put in by hand: 1.2.840.113549.1.1.11 and .5.
    sha256, sha1 = bytes.fromhex("2a864886f70d01010b"), bytes.fromhex("2a864886f70d010105")
    body = certificate.tbs_certificate_bytes
    assert isinstance(root.key, rsa.RSAPrivateKey)
    forged = body.replace(sha256, sha1)
    signature = root.key.sign(forged, padding.PKCS1v15(), hashes.SHA1())
    whole = certificate.public_bytes(serialization.Encoding.DER)
    der = whole.replace(body, forged).replace(sha256, sha1).replace(certificate.signature, signature)
    failure = check_path([der], [root.root])
    assert failure is not None
    assert failure.reason == "weak-signature"


@pytest.mark.parametrize(
    ("chain", "reason"),
    [
        ((), "no-certificate"),
        ((b"rubbish",), "malformed-certificate"),
        ((b"",), "malformed-certificate"),
        ((b"\x30\x82\xff\xff",), "malformed-certificate"),
        (MIDDLE.issue([HOST]).chain * (MAX_CERTIFICATES // 2) + (MIDDLE.certificate,), "certificate-chain-too-long"),
        ((*MIDDLE.issue([HOST]).chain, b"x" * 300_000), "certificate-chain-too-long"),
    ],
)
def test_hostile_chains_are_a_verdict(chain: Sequence[bytes], reason: str) -> None:
    verdict = trust().verify(chain, HOST)
    assert not verdict.passed
    assert said(verdict)[1] == reason


def test_issuers_in_a_circle_end() -> None:
    """Two authorities that vouch for each other lead nowhere, in bounded time."""
    one, two = Authority("One"), Authority("Two")
    one_by_two = two._sign(_cross(one))
    two_by_one = one._sign(_cross(two))
    leaf = one.issue([HOST]).certificate
    assert said(trust().verify([leaf, one_by_two, two_by_one] * 6, HOST))[0] == "certificate-not-trusted"


def _cross(authority: Authority) -> x509.CertificateBuilder:
    own = x509.load_der_x509_certificate(authority.certificate)
    builder = x509.CertificateBuilder(
        None, own.subject, authority.key.public_key(), 9, own.not_valid_before_utc, own.not_valid_after_utc
    )
    return builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)


LEAF = MIDDLE.issue([HOST]).chain


@given(st.integers(0, len(LEAF[0]) - 1), st.integers(0, 255), st.booleans())
def test_a_damaged_certificate_is_a_verdict_and_never_passes(place: int, value: int, cut: bool) -> None:
    """Whatever a server sends, there is a verdict; and a certificate with one changed byte has a broken signature."""
    damaged = LEAF[0][:place] if cut else LEAF[0][:place] + bytes((value,)) + LEAF[0][place + 1 :]
    verdict = trust().verify((damaged, *LEAF[1:]), HOST)
    assert verdict.passed is (damaged == LEAF[0])


def test_an_anchor_need_not_be_self_signed() -> None:
    assert check_path(MIDDLE.issue([HOST]).chain[:1], [MIDDLE.certificate]) is None
    issued = self_signed([HOST])
    assert check_path(issued.chain, [issued.certificate]) is None


def test_unreadable_anchors_are_left_out() -> None:
    failure = check_path(LEAF, [b"rubbish"])
    assert isinstance(failure, Failure)
    assert check_path(LEAF, [b"rubbish", ROOT.root]) is None


def test_the_ca_file_alone_is_trusted(tmp_path: Path) -> None:
    file = tmp_path / "roots.pem"
    file.write_bytes(ROOT.root_pem)
    assert TrustStore(file).verify(LEAF, HOST) == PASSED
    assert not TrustStore(file).verify(STRANGER.issue([HOST]).chain, HOST).passed


def test_a_ca_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tls\.ca_file: the CA file cannot be read: .*missing.pem"):
        TrustStore(tmp_path / "missing.pem").load()
    empty = tmp_path / "empty.pem"
    empty.write_text("no certificates here\n")
    with pytest.raises(ConfigError, match="holds no certificates"):
        TrustStore(empty).verify(LEAF, HOST)


def test_without_any_roots_the_verdict_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("postward.tls.trust._system_bundle", lambda: None)
    verdict = TrustStore().verify(LEAF, HOST)
    assert verdict.failure is not None
    assert (verdict.failure.result_type, verdict.failure.reason) == (ResultType.CERTIFICATE_NOT_TRUSTED, "no-system-roots")
