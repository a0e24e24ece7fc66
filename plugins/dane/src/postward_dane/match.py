"""Whether a server's certificates match its TLSA records (RFC 7672 §3, RFC 7671 §5).

Any one matching record is enough (RFC 7672 §3.2). A failure says the closest that a record came: a trust anchor that matched,
but whose server has another name, says more than "no match".
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from postward.model import PASSED, Failure, ResultType, Verdict
from postward.names import Domain
from postward.tls import check_names, check_path
from postward_dane.der import public_key_info
from postward_dane.tlsa import CERTIFICATE, DANE_EE, DANE_TA, FULL, TlsaRecord, associated

MAX_CHAIN: Final = 20
MAX_ANCHORS: Final = 20
MAX_SIGNATURES: Final = 60
"""Signatures checked with bare keys, for one verdict: with keys of 16,384 bits each takes more than a millisecond."""

NO_MATCH: Final = "dane-no-match"
# A whole certificate from DNS that has nothing to do with the chain did not match, just as its digest would not.
_NO_PATH: Final = frozenset({"unknown-issuer", "self-signed-certificate", "self-signed-certificate-in-chain"})
_CLOSEST_FIRST: Final = (
    ResultType.CERTIFICATE_HOST_MISMATCH,
    ResultType.CERTIFICATE_EXPIRED,
    ResultType.CERTIFICATE_NOT_TRUSTED,
    ResultType.VALIDATION_FAILURE,
)


def judge(
    records: Sequence[TlsaRecord],
    chain: Sequence[bytes],
    names: Sequence[Domain],
    *,
    at: int | None = None,
    common_name: bool = False,
) -> Verdict:
    """Judge a chain (DER, leaf first) by usable records.

    DANE-EE matches the leaf and looks at nothing else, neither names nor dates (RFC 7672 §3.1.1). DANE-TA wants a path to
    the trust anchor, valid at `at` (microseconds, None for now), and one of `names` in the leaf; the local roots play no
    part (RFC 7671 §5.2, RFC 7672 §3.1.2). `common_name` lets the CN count where there is no dNSName (RFC 7672 §3.2.3).
    """
    if not chain:
        return Verdict.fail(ResultType.VALIDATION_FAILURE, "no-certificate")
    if any(record.usage == DANE_EE and _Certificate(chain[0]).matches(record) for record in records):
        return PASSED
    authorities = [record for record in records if record.usage == DANE_TA]
    if authorities and len(chain) > MAX_CHAIN:
        return Verdict.fail(ResultType.VALIDATION_FAILURE, "certificate-chain-too-long", f"{len(chain)} certificates")
    failures: list[Failure] = []
    for count, anchor in enumerate(_anchors(authorities, chain)):
        if count == MAX_ANCHORS:
            break
        trouble = check_path(chain, (anchor,), at=at) or check_names(chain[0], names, common_name=common_name)
        if trouble is None:
            return PASSED
        if anchor in chain or trouble.reason not in _NO_PATH:
            failures.append(trouble)
    if not failures:
        return Verdict.fail(ResultType.VALIDATION_FAILURE, NO_MATCH, f"no certificate matches any of {len(records)} records")
    return Verdict(passed=False, failure=min(failures, key=lambda failure: _CLOSEST_FIRST.index(failure.result_type)))


@dataclass(frozen=True)
class _Certificate:
    """One certificate in the forms that records speak of, each made once."""

    der: bytes

    @cached_property
    def key(self) -> bytes:
        """The public key, DER; empty for a certificate that cannot be read."""
        try:
            return public_key_info(self.der)
        except ValueError:
            return b""

    def matches(self, record: TlsaRecord) -> bool:
        selected = self.der if record.selector == CERTIFICATE else self.key
        return bool(selected) and associated(selected, record.matching) == record.data


def _anchors(records: Sequence[TlsaRecord], chain: Sequence[bytes]) -> Iterator[bytes]:
    """The certificates that DANE-TA records make trust anchors, each once.

    The leaf is nobody's authority, also where the server sends it twice. A whole certificate counts though the server did not
    send it (RFC 7671 §5.2.2); so does a whole key, which makes every certificate that it signed the end of the path (RFC 7671
    §5.2.3).
    """
    seen: set[bytes] = set()
    above = [der for der in chain[1:] if der != chain[0]]
    for der in above:
        certificate = _Certificate(der)
        if der not in seen and any(certificate.matches(record) for record in records):
            seen.add(der)
            yield der
    keys = {_Certificate(der).key for der in above}
    left = iter(range(MAX_SIGNATURES))
    for record in [record for record in records if record.matching == FULL][:MAX_ANCHORS]:
        if record.selector == CERTIFICATE:
            # A leaf that is published as a whole is still no authority.
            found = [record.data] if record.data != chain[0] else []
        elif record.data in keys:
            found = []  # the certificate is there, and its constraints count (RFC 7671 §5.2.1)
        else:
            found = [der for der in chain if next(left, None) is not None and _signed_by(der, record.data)]
        for der in found:
            if der not in seen:
                seen.add(der)
                yield der


def _signed_by(certificate: bytes, key: bytes) -> bool:
    """Whether a key (SubjectPublicKeyInfo, DER) made the signature of a DER certificate."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parsed = x509.load_der_x509_certificate(certificate)
            public = load_der_public_key(key)
            signature, signed = parsed.signature, parsed.tbs_certificate_bytes
            parameters, digest = parsed.signature_algorithm_parameters, parsed.signature_hash_algorithm
        match public:
            case rsa.RSAPublicKey() if digest and isinstance(parameters, padding.PKCS1v15 | padding.PSS):
                public.verify(signature, signed, parameters, digest)
            case ec.EllipticCurvePublicKey() if isinstance(parameters, ec.ECDSA):
                public.verify(signature, signed, parameters)
            case ed25519.Ed25519PublicKey() | ed448.Ed448PublicKey():
                public.verify(signature, signed)
            case _:
                return False
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, x509.InvalidVersion):
        return False
    return True
