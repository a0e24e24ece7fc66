"""Certificates from files and what people want to know of them: names, issuer, dates (RFC 7468, RFC 5280)."""

from __future__ import annotations

import re
import ssl
import warnings
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.oid import NameOID

from postward.model import MICROSECONDS
from postward_dane.der import public_key_info

MAX_FILE: Final = 1 << 20
MAX_CERTIFICATES: Final = 100
_KIND: Final = r"(?:TRUSTED |X509 )?CERTIFICATE"
_BLOCK: Final = re.compile(rf"-----BEGIN {_KIND}-----.*?-----END {_KIND}-----", re.DOTALL)
_BAD: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """A certificate in words. `expires` is microseconds UTC, 0 where it cannot be read."""

    subject: str
    issuer: str
    names: tuple[str, ...]
    expires: int
    self_issued: bool

    def to_json(self) -> dict[str, Any]:
        """What `--json` prints; `expires` in seconds since 1970."""
        return {
            "subject": self.subject,
            "issuer": self.issuer,
            "names": list(self.names),
            "expires": self.expires // MICROSECONDS or None,
        }


def certificates_of(content: bytes) -> tuple[bytes, ...]:
    """The certificates of a PEM file, or the one of a DER file, as DER. Raises `ValueError`, one line for people."""
    if content.count(b"-----BEGIN ") > MAX_CERTIFICATES:
        raise ValueError(f"it holds more than {MAX_CERTIFICATES} certificates")
    found: list[bytes] = []
    for number, block in enumerate(_BLOCK.findall(content.decode("latin-1")), 1):
        try:
            body = re.sub(r"-----(BEGIN|END) [A-Z0-9 ]+-----", r"-----\1 CERTIFICATE-----", block)
            der = ssl.PEM_cert_to_DER_cert(body)
            public_key_info(der)
        except ValueError:
            raise ValueError(f"its certificate {number} is damaged") from None
        found.append(der)
    if not found:
        try:
            public_key_info(content)
        except ValueError:
            raise ValueError("it holds no certificate, neither PEM nor DER") from None
        return (content,)
    return tuple(dict.fromkeys(found))


def read_certificates(file: Path) -> tuple[bytes, ...]:
    """The certificates of a file, DER, in its order. Raises `OSError` and `ValueError`."""
    with file.open("rb") as source:
        content = source.read(MAX_FILE + 1)
    if len(content) > MAX_FILE:
        raise ValueError("it is too large for a file with certificates")
    return certificates_of(content)


def describe(der: bytes) -> Described:
    """A certificate in words; what cannot be read of it is left out."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            certificate = x509.load_der_x509_certificate(der)
            subject, issuer = _name(certificate.subject), _name(certificate.issuer)
            expires = _microseconds(certificate.not_valid_after_utc)
            self_issued = certificate.subject == certificate.issuer
    except _BAD:
        return Described(subject="(cannot be read)", issuer="", names=(), expires=0, self_issued=False)
    return Described(subject=subject, issuer=issuer, names=_names(certificate), expires=expires, self_issued=self_issued)


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return tuple(alternatives.get_values_for_type(x509.DNSName))[:50]
    except (*_BAD, x509.ExtensionNotFound):
        return ()


def _name(name: x509.Name) -> str:
    common = [str(each.value) for each in name.get_attributes_for_oid(NameOID.COMMON_NAME)]
    return (common[0] if common else name.rfc4514_string())[:200]


def _microseconds(when: datetime) -> int:
    return int(when.timestamp()) * MICROSECONDS
