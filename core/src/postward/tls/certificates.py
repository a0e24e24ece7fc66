"""Reading the certificates of a peer, who may have put anything into them, and matching their names.

Names are DNS-IDs only (RFC 9525 §6.3, RFC 8461 §4.2): a wildcard is a whole left-most label and stands for one label; the
common name counts only where a caller asks for it (RFC 7672 §3.2.3).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from postward.model import Failure, ResultType
from postward.names import Domain

MAX_CERTIFICATES: Final = 20
MAX_CHAIN_BYTES: Final = 256 * 1024
_MIN_RSA_BITS: Final = 2048
_MIN_EC_BITS: Final = 224
_WEAK_DIGESTS: Final = frozenset({"md5", "sha1"})

# What `cryptography` raises for certificates that it cannot make sense of, at loading or at the first look at a field.
MALFORMED: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


def chain_trouble(chain: Sequence[bytes]) -> Failure | None:
    """Why a chain is not even looked at: there is none, or it is so long that it would cost too much."""
    if not chain:
        return Failure(result_type=ResultType.VALIDATION_FAILURE, reason="no-certificate")
    size = sum(len(certificate) for certificate in chain)
    if len(chain) > MAX_CERTIFICATES or size > MAX_CHAIN_BYTES:
        detail = f"{len(chain)} certificates of {size} bytes"
        return Failure(result_type=ResultType.VALIDATION_FAILURE, reason="certificate-chain-too-long", detail=detail)
    return None


def load(der: bytes) -> x509.Certificate:
    """Read a DER certificate. Raises one of `MALFORMED`; fields that are read later may do so too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about oddities of certificates that are not ours to mend
        return x509.load_der_x509_certificate(der)


def names_match(certificate: x509.Certificate, name: Domain, *, common_name: bool = False) -> bool:
    """Whether a certificate is for `name`.

    Address literals match by iPAddress. `common_name` lets the CN count where there is no dNSName at all.
    A certificate whose names cannot be read matches nothing.
    """
    try:
        alternatives = _alternatives(certificate)
        if name.is_literal:
            return name.ip in alternatives.get_values_for_type(x509.IPAddress) if alternatives else False
        patterns = alternatives.get_values_for_type(x509.DNSName) if alternatives else []
        if not patterns and common_name:
            attributes = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
            patterns = [attribute.value for attribute in attributes if isinstance(attribute.value, str)]
    except MALFORMED:
        return False
    return any(_covers(pattern.lower(), name) for pattern in patterns)


def check_names(certificate: bytes, names: Sequence[Domain], *, common_name: bool = False) -> Failure | None:
    """Why a DER certificate is for none of `names`; None when it is for one of them."""
    try:
        leaf = load(certificate)
    except MALFORMED as exc:
        return Failure(result_type=ResultType.CERTIFICATE_NOT_TRUSTED, reason="malformed-certificate", detail=str(exc)[:200])
    if any(names_match(leaf, name, common_name=common_name) for name in names):
        return None
    wanted = ", ".join(names)
    return Failure(result_type=ResultType.CERTIFICATE_HOST_MISMATCH, detail=f"the certificate is not for {wanted}"[:300])


def _alternatives(certificate: x509.Certificate) -> x509.SubjectAlternativeName | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None


def _covers(pattern: str, name: Domain) -> bool:
    if not pattern.startswith("*."):
        return pattern == name
    rest = pattern[2:]
    # `*.org` would stand for everybody; no authority issues it, and OpenSSL does not match it either.
    return "." in rest and name.partition(".")[2] == rest


def serves_tls(certificate: x509.Certificate) -> bool:
    """Whether a certificate may be, or vouch for, a TLS server (RFC 5280 §4.2.1.12). Raises one of `MALFORMED`."""
    try:
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return ExtendedKeyUsageOID.SERVER_AUTH in usages or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in usages


def signs_handshakes(certificate: x509.Certificate) -> bool:
    """Whether the key usage of a server's certificate allows TLS at all (RFC 5280 §4.2.1.3). Raises one of `MALFORMED`."""
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return usage.digital_signature or usage.key_encipherment or usage.key_agreement


def weakness(certificate: x509.Certificate, *, signed: bool) -> str:
    """Why a certificate is too weak to prove anything, as a slug; "" when it is not. Raises one of `MALFORMED`.

    The bounds are those of OpenSSL's security level 2, 112 bits. `signed` says whether its signature is relied upon.
    """
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey | dsa.DSAPublicKey) and key.key_size < _MIN_RSA_BITS:
        return "weak-key"
    if isinstance(key, ec.EllipticCurvePublicKey) and key.key_size < _MIN_EC_BITS:
        return "weak-key"
    digest = certificate.signature_hash_algorithm if signed else None
    return "weak-signature" if digest is not None and digest.name in _WEAK_DIGESTS else ""
