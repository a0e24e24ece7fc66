"""TLSA records (RFC 6698 §2), and which of them are usable for mail (RFC 7672 §3.1, RFC 7671 §9)."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_public_key

from postward_dane.der import public_key_info

DANE_TA: Final = 2
DANE_EE: Final = 3
CERTIFICATE: Final = 0
PUBLIC_KEY: Final = 1
FULL: Final = 0
SHA256: Final = 1
SHA512: Final = 2

MAX_RECORDS: Final = 100
STRONGEST_FIRST: Final = (SHA512, SHA256)
_DIGEST_BYTES: Final = {SHA256: 32, SHA512: 64}
_MAX_TEXT: Final = 140_000
_TEXT: Final = re.compile(r"\s*([0-9]{1,3})\s+([0-9]{1,3})\s+([0-9]{1,3})\s+([0-9A-Fa-f\s]*)")


@dataclass(frozen=True, slots=True, order=True)
class TlsaRecord:
    """One TLSA record: certificate usage, selector, matching type, and the association data."""

    usage: int
    selector: int
    matching: int
    data: bytes = field(repr=False)

    def __str__(self) -> str:
        """The presentation form as reports want it: single spaces, one unbroken hex string (RFC 8460 §4.5)."""
        return f"{self.usage} {self.selector} {self.matching} {self.data.hex()}"


def parse(text: str) -> TlsaRecord:
    """Read the presentation form (RFC 6698 §2.2). Raises `ValueError`."""
    match = _TEXT.fullmatch(text) if len(text) <= _MAX_TEXT else None
    if match is None:
        raise ValueError(f"not a TLSA record: {text[:80]!r}")
    usage, selector, matching = (int(number) for number in match.groups()[:3])
    if max(usage, selector, matching) > 255:
        raise ValueError(f"not a TLSA record, a number is larger than 255: {text[:80]!r}")
    return TlsaRecord(usage, selector, matching, bytes.fromhex("".join(match[4].split())))


def of_rdata(records: Iterable[Any]) -> tuple[TlsaRecord, ...]:
    """Records of a DNS answer, sorted, without doubles; at most `MAX_RECORDS`, usable ones first and of those DANE-EE.

    Rubbish must not crowd out what is usable: "none is usable" would end authentication.
    """
    found = {TlsaRecord(record.usage, record.selector, record.mtype, bytes(record.cert)) for record in records}
    if len(found) > MAX_RECORDS:
        found = set(sorted(found, key=lambda each: (bool(unusable(each)), each.usage != DANE_EE, each))[:MAX_RECORDS])
    return tuple(sorted(found))


def unusable(record: TlsaRecord, digests: Sequence[int] = STRONGEST_FIRST) -> str:
    """Why a record cannot be used, in words; "" when it can (RFC 6698 §4.1, RFC 7672 §3.1.3).

    `digests` are the matching types in use besides full data.
    """
    if record.usage in (0, 1):
        return "usages 0 and 1 are not for mail"
    if record.usage not in (DANE_TA, DANE_EE):
        return f"the usage {record.usage} is unknown"
    if record.selector not in (CERTIFICATE, PUBLIC_KEY):
        return f"the selector {record.selector} is unknown"
    if record.matching == FULL:
        return "" if _parses(record) else "the association data is malformed"
    length = _DIGEST_BYTES.get(record.matching)
    if length is None:
        return f"the matching type {record.matching} is unknown"
    if record.matching not in digests:
        return f"the matching type {record.matching} is turned off"
    return "" if len(record.data) == length else f"a digest of {len(record.data)} bytes, not {length}"


def usable(records: Iterable[TlsaRecord], strongest_first: Sequence[int] = STRONGEST_FIRST) -> tuple[TlsaRecord, ...]:
    """The records to match with: usable ones, of digests only the strongest (RFC 7671 §9).

    Per usage and selector, full data always stays; of the digests only those of the first matching type in
    `strongest_first` that is there.
    """
    good = [record for record in records if not unusable(record, strongest_first)]
    rank = {matching: place for place, matching in enumerate(strongest_first)}
    best: dict[tuple[int, int], int] = {}
    for record in good:
        if record.matching != FULL:
            kind = (record.usage, record.selector)
            best[kind] = min(best.get(kind, len(rank)), rank[record.matching])
    return tuple(
        record for record in good if record.matching == FULL or rank[record.matching] == best[record.usage, record.selector]
    )


def of_certificate(certificate: bytes, usage: int, selector: int, matching: int) -> TlsaRecord:
    """The record that a DER certificate matches. Raises `ValueError` for bytes that are no certificate, or unknown numbers."""
    if selector not in (CERTIFICATE, PUBLIC_KEY):
        raise ValueError(f"the selector {selector} is unknown")
    selected = certificate if selector == CERTIFICATE else public_key_info(certificate)
    return TlsaRecord(usage, selector, matching, associated(selected, matching))


def associated(selected: bytes, matching: int) -> bytes:
    """The association data of a certificate or key (RFC 6698 §2.1.3). Raises `ValueError` for an unknown matching type."""
    if matching == FULL:
        return selected
    if matching == SHA256:
        return hashlib.sha256(selected).digest()
    if matching == SHA512:
        return hashlib.sha512(selected).digest()
    raise ValueError(f"the matching type {matching} is unknown")


def _parses(record: TlsaRecord) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if record.selector == CERTIFICATE:
                x509.load_der_x509_certificate(record.data)
            else:
                load_der_public_key(record.data)
    except (ValueError, TypeError, x509.InvalidVersion, UnsupportedAlgorithm):
        return False
    return True
