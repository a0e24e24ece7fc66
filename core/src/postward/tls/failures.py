"""The one table from TLS and certificate errors to the result types of RFC 8460 §4.3.

Three vocabularies come together here: the codes of OpenSSL's certificate verification, the alerts of TLS (RFC 8446 §6, the IANA
registry of TLS alerts), and OpenSSL's names for its own troubles. Nothing here does I/O.
"""

from __future__ import annotations

import re
import ssl
from typing import Final

from postward.errors import PostwardError
from postward.model import Failure, ResultType

_MAX_DETAIL: Final = 300

# Codes of OpenSSL's x509_vfy.h. What is not listed is trouble with the chain, and takes its reason from OpenSSL's text.
CERTIFICATE: Final[dict[int, tuple[ResultType, str]]] = {
    1: (ResultType.VALIDATION_FAILURE, "certificate-verification-failed"),
    2: (ResultType.CERTIFICATE_NOT_TRUSTED, "unknown-issuer"),
    9: (ResultType.CERTIFICATE_EXPIRED, "certificate-not-yet-valid"),
    10: (ResultType.CERTIFICATE_EXPIRED, ""),
    17: (ResultType.VALIDATION_FAILURE, "out-of-memory"),
    18: (ResultType.CERTIFICATE_NOT_TRUSTED, "self-signed-certificate"),
    19: (ResultType.CERTIFICATE_NOT_TRUSTED, "self-signed-certificate-in-chain"),
    20: (ResultType.CERTIFICATE_NOT_TRUSTED, "unknown-issuer"),
    21: (ResultType.CERTIFICATE_NOT_TRUSTED, "unknown-issuer"),
    62: (ResultType.CERTIFICATE_HOST_MISMATCH, ""),
    63: (ResultType.CERTIFICATE_HOST_MISMATCH, ""),
    64: (ResultType.CERTIFICATE_HOST_MISMATCH, ""),
    65: (ResultType.VALIDATION_FAILURE, "dane-no-match"),
    66: (ResultType.CERTIFICATE_NOT_TRUSTED, "weak-key"),
    67: (ResultType.CERTIFICATE_NOT_TRUSTED, "weak-key"),
    68: (ResultType.CERTIFICATE_NOT_TRUSTED, "weak-signature"),
}

ALERTS: Final[dict[int, str]] = {
    0: "close-notify",
    10: "unexpected-message",
    20: "bad-record-mac",
    21: "decryption-failed",
    22: "record-overflow",
    30: "decompression-failure",
    40: "handshake-failure",
    41: "no-certificate",
    42: "bad-certificate",
    43: "unsupported-certificate",
    44: "certificate-revoked",
    45: "certificate-expired",
    46: "certificate-unknown",
    47: "illegal-parameter",
    48: "unknown-ca",
    49: "access-denied",
    50: "decode-error",
    51: "decrypt-error",
    60: "export-restriction",
    70: "protocol-version",
    71: "insufficient-security",
    80: "internal-error",
    86: "inappropriate-fallback",
    90: "user-canceled",
    100: "no-renegotiation",
    109: "missing-extension",
    110: "unsupported-extension",
    111: "certificate-unobtainable",
    112: "unrecognized-name",
    113: "bad-certificate-status-response",
    114: "bad-certificate-hash-value",
    115: "unknown-psk-identity",
    116: "certificate-required",
    120: "no-application-protocol",
}

# OpenSSL's reasons for bytes that are no TLS record: plain text, or another protocol.
_NO_TLS: Final = frozenset(
    {
        "WRONG_VERSION_NUMBER",
        "HTTP_REQUEST",
        "HTTPS_PROXY_REQUEST",
        "UNKNOWN_PROTOCOL",
        "BAD_RECORD_TYPE",
        "RECORD_LAYER_FAILURE",
    }
)
_SPELLINGS: Final = {"user-cancelled": "user-canceled"}
_NUMBERS: Final = {name: number for number, name in ALERTS.items()}
_REMOTE: Final = re.compile(r"(?:SSLV3|TLSV1|TLSV13)_(?:ALERT_)?([A-Z_]+)")
_NO_SLUG: Final = re.compile(r"[^a-z0-9]+")


class TlsError(PostwardError):
    """A handshake that failed. `failure` says why, `__cause__` keeps the transport's error."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        reason = f"{failure.result_type.value} {failure.reason}".rstrip()
        super().__init__(f"{reason}: {failure.detail}" if failure.detail else reason)


def of_certificate(code: int, text: str, depth: int = 0) -> Failure:
    """The failure for an error of certificate verification; `depth` counts from the server's own certificate."""
    result_type, reason = CERTIFICATE.get(code, (ResultType.CERTIFICATE_NOT_TRUSTED, ""))
    if code not in CERTIFICATE:
        reason = slug(text) or f"x509-error-{code}"
    if code in (9, 10) and depth:
        reason = "issuer-certificate-expired" if code == 10 else "issuer-certificate-not-yet-valid"
    where = f"{text}, at depth {depth}" if depth else text
    return Failure(result_type=result_type, reason=reason, detail=one_line(where))


def of_ssl(error: ssl.SSLError) -> Failure:
    """The failure for an error of the TLS protocol, or of a verifying handshake."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return of_certificate(error.verify_code, str(error.verify_message))
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError | ssl.SSLSyscallError):
        return closed(str(error))
    reason = getattr(error, "reason", None) or ""  # not set where Python itself made the error
    if (number := alert_number(reason)) is not None:
        return _validation(f"tls-remote-alert-{number}-{ALERTS[number]}", str(error))
    if reason in _NO_TLS:
        return _validation("tls-record-header-error", str(error))
    return _validation(f"tls-local-{slug(reason) or 'error'}", str(error))


def alert_number(reason: str) -> int | None:
    """The number of the alert that the peer sent, by OpenSSL's name for it; None for trouble of our own."""
    match = _REMOTE.fullmatch(reason)
    if match is None:
        return None
    name = slug(match[1])
    return _NUMBERS.get(_SPELLINGS.get(name, name))


def closed(detail: str = "") -> Failure:
    """The failure for a peer that went away in the handshake."""
    return _validation("connection-closed-during-handshake", detail)


def timed_out(detail: str = "") -> Failure:
    """The failure for a peer that took too long."""
    return _validation("io-timeout-during-handshake", detail or "the handshake took too long")


def slug(text: str) -> str:
    """Lower-case words with hyphens, fit for `failure-reason-code`; at most 64 characters."""
    return _NO_SLUG.sub("-", text.lower()).strip("-")[:64].rstrip("-")


def one_line(text: str) -> str:
    """A text of a library as one bounded line."""
    return " ".join(text.split())[:_MAX_DETAIL]


def _validation(reason: str, detail: str) -> Failure:
    return Failure(result_type=ResultType.VALIDATION_FAILURE, reason=reason, detail=one_line(detail))
