"""The table of failures (RFC 8460 §4.3): codes, alerts and reasons, without any handshake."""

from __future__ import annotations

import errno
import ssl
from itertools import pairwise

import pytest
import trio

from postward.errors import PostwardError
from postward.model import Failure, ResultType
from postward.tls import TlsError, classify
from postward.tls.failures import ALERTS, alert_number, of_certificate, of_ssl, slug


@pytest.mark.parametrize(
    ("code", "depth", "result_type", "reason"),
    [
        (10, 0, "certificate-expired", ""),
        (10, 1, "certificate-expired", "issuer-certificate-expired"),
        (9, 0, "certificate-expired", "certificate-not-yet-valid"),
        (9, 2, "certificate-expired", "issuer-certificate-not-yet-valid"),
        (18, 0, "certificate-not-trusted", "self-signed-certificate"),
        (19, 1, "certificate-not-trusted", "self-signed-certificate-in-chain"),
        (20, 0, "certificate-not-trusted", "unknown-issuer"),
        (21, 0, "certificate-not-trusted", "unknown-issuer"),
        (2, 1, "certificate-not-trusted", "unknown-issuer"),
        (47, 0, "certificate-not-trusted", "permitted-subtree-violation"),
        (9999, 0, "certificate-not-trusted", "permitted-subtree-violation"),
        (62, 0, "certificate-host-mismatch", ""),
        (64, 0, "certificate-host-mismatch", ""),
        (65, 0, "validation-failure", "dane-no-match"),
        (66, 0, "certificate-not-trusted", "weak-key"),
        (1, 0, "validation-failure", "certificate-verification-failed"),
    ],
)
def test_certificate_codes(code: int, depth: int, result_type: str, reason: str) -> None:
    failure = of_certificate(code, "permitted subtree violation", depth)
    assert (failure.result_type.value, failure.reason) == (result_type, reason)


def test_a_code_without_a_text_still_has_a_reason() -> None:
    assert of_certificate(9999, "").reason == "x509-error-9999"


@pytest.mark.parametrize(
    ("reason", "number"),
    [
        ("TLSV1_ALERT_PROTOCOL_VERSION", 70),
        ("SSLV3_ALERT_HANDSHAKE_FAILURE", 40),
        ("SSLV3_ALERT_CERTIFICATE_EXPIRED", 45),
        ("TLSV1_ALERT_UNKNOWN_CA", 48),
        ("TLSV1_UNRECOGNIZED_NAME", 112),
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", 116),
        ("TLSV1_ALERT_USER_CANCELLED", 90),
        ("TLSV1_ALERT_NO_APPLICATION_PROTOCOL", 120),
        ("SSLV3_ROLLBACK_ATTACK", None),
        ("NO_SHARED_CIPHER", None),
        ("", None),
    ],
)
def test_alerts_by_openssl_name(reason: str, number: int | None) -> None:
    assert alert_number(reason) == number


OPENSSL_ALERTS = """
SSLV3_ALERT_BAD_CERTIFICATE SSLV3_ALERT_BAD_RECORD_MAC SSLV3_ALERT_CERTIFICATE_EXPIRED SSLV3_ALERT_CERTIFICATE_REVOKED
SSLV3_ALERT_CERTIFICATE_UNKNOWN SSLV3_ALERT_DECOMPRESSION_FAILURE SSLV3_ALERT_HANDSHAKE_FAILURE SSLV3_ALERT_ILLEGAL_PARAMETER
SSLV3_ALERT_NO_CERTIFICATE SSLV3_ALERT_UNEXPECTED_MESSAGE SSLV3_ALERT_UNSUPPORTED_CERTIFICATE
TLSV13_ALERT_CERTIFICATE_REQUIRED TLSV13_ALERT_MISSING_EXTENSION TLSV1_ALERT_ACCESS_DENIED TLSV1_ALERT_DECODE_ERROR
TLSV1_ALERT_DECRYPTION_FAILED TLSV1_ALERT_DECRYPT_ERROR TLSV1_ALERT_EXPORT_RESTRICTION TLSV1_ALERT_INAPPROPRIATE_FALLBACK
TLSV1_ALERT_INSUFFICIENT_SECURITY TLSV1_ALERT_INTERNAL_ERROR TLSV1_ALERT_NO_RENEGOTIATION TLSV1_ALERT_PROTOCOL_VERSION
TLSV1_ALERT_RECORD_OVERFLOW TLSV1_ALERT_UNKNOWN_CA TLSV1_ALERT_USER_CANCELLED TLSV1_UNSUPPORTED_EXTENSION
TLSV1_CERTIFICATE_UNOBTAINABLE TLSV1_UNRECOGNIZED_NAME TLSV1_BAD_CERTIFICATE_STATUS_RESPONSE TLSV1_BAD_CERTIFICATE_HASH_VALUE
"""


def test_every_alert_of_openssl_is_known() -> None:
    """Every name that OpenSSL has for an alert leads to a number of the IANA registry, and each to another."""
    names = OPENSSL_ALERTS.split()
    numbers = {alert_number(name) for name in names}
    assert None not in numbers
    assert len(numbers) == len(names)


def make(reason: str, kind: type[ssl.SSLError] = ssl.SSLError) -> ssl.SSLError:
    error = kind(1, f"[SSL: {reason}] something (_ssl.c:1007)")
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (make("TLSV1_ALERT_PROTOCOL_VERSION"), "tls-remote-alert-70-protocol-version"),
        (make("TLSV13_ALERT_CERTIFICATE_REQUIRED"), "tls-remote-alert-116-certificate-required"),
        (make("WRONG_VERSION_NUMBER"), "tls-record-header-error"),
        (make("NO_SHARED_CIPHER"), "tls-local-no-shared-cipher"),
        (make("UNSUPPORTED_PROTOCOL"), "tls-local-unsupported-protocol"),
        (ssl.SSLError("strange"), "tls-local-error"),
        (make("", ssl.SSLEOFError), "connection-closed-during-handshake"),
        (make("", ssl.SSLZeroReturnError), "connection-closed-during-handshake"),
    ],
)
def test_protocol_errors(error: ssl.SSLError, reason: str) -> None:
    failure = of_ssl(error)
    assert (failure.result_type, failure.reason) == (ResultType.VALIDATION_FAILURE, reason)


def test_a_verifying_handshake_is_classified_by_its_code() -> None:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = 62, "Hostname mismatch"
    assert of_ssl(error).result_type is ResultType.CERTIFICATE_HOST_MISMATCH


def chained(*errors: BaseException) -> BaseException:
    for outer, inner in pairwise(errors):
        outer.__cause__ = inner
    return errors[0]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (chained(trio.BrokenResourceError(), make("TLSV1_ALERT_UNKNOWN_CA")), "tls-remote-alert-48-unknown-ca"),
        (chained(PostwardError("lost"), trio.BrokenResourceError(), make("NO_SHARED_CIPHER")), "tls-local-no-shared-cipher"),
        (chained(trio.BrokenResourceError(), make("", ssl.SSLEOFError)), "connection-closed-during-handshake"),
        (
            chained(trio.BrokenResourceError(), ConnectionResetError(errno.ECONNRESET, "reset")),
            "connection-closed-during-handshake",
        ),
        (trio.BrokenResourceError(), "connection-closed-during-handshake"),
        (trio.TooSlowError(), "io-timeout-during-handshake"),
        (TimeoutError(errno.ETIMEDOUT, "timed out"), "io-timeout-during-handshake"),
        (TlsError(Failure(result_type=ResultType.VALIDATION_FAILURE, reason="kept")), "kept"),
    ],
)
def test_classify_walks_the_causes(error: BaseException, reason: str) -> None:
    failure = classify(error)
    assert failure is not None
    assert failure.reason == reason


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("x"), trio.ClosedResourceError(), FileNotFoundError()])
def test_classify_leaves_other_trouble_alone(error: BaseException) -> None:
    assert classify(error) is None


def test_classify_survives_a_circle_of_causes() -> None:
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    assert classify(one) is None


def test_reasons_are_slugs_and_details_one_bounded_line() -> None:
    """RFC 8460 §4.4: `failure-reason-code` is a short code."""
    assert slug("  CA md too weak (SHA-1)!  ") == "ca-md-too-weak-sha-1"
    assert len(slug("x" * 500)) == 64
    failure = of_ssl(ssl.SSLError(1, "many\nlines " * 500))
    assert "\n" not in failure.detail
    assert len(failure.detail) <= 300
    assert all(slug(name) == name for name in ALERTS.values())


def test_the_text_of_a_tls_error_is_one_line() -> None:
    failure = Failure(result_type=ResultType.VALIDATION_FAILURE, reason="tls-record-header-error", detail="wrong version")
    assert str(TlsError(failure)) == "validation-failure tls-record-header-error: wrong version"
    assert str(TlsError(Failure(result_type=ResultType.CERTIFICATE_EXPIRED))) == "certificate-expired"
