"""Whether a chain leads from a server's certificate to a trust anchor (RFC 5280 §6), by OpenSSL, outside any handshake.

OpenSSL builds the path and checks signatures, basic constraints, path lengths and name constraints. Dates, purposes and
strength are checked here, on the path that it found: a store of OpenSSL remembers the first time it was given, and its
answer would not tell an expired certificate from an unknown issuer when both are the case.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

from cryptography import x509
from OpenSSL import crypto

from postward.model import Failure, ResultType
from postward.tls.certificates import MALFORMED, chain_trouble, load, serves_tls, signs_handshakes, weakness
from postward.tls.failures import of_certificate, one_line

_NO_CHECK_TIME: Final = 0x200000
_MAX_KNOWN_BYTES: Final = 4096
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def new_store(anchors: Sequence[bytes] = ()) -> crypto.X509Store:
    """A store of trust anchors, DER; those that cannot be read are left out. An anchor need not be self-signed."""
    store = crypto.X509Store()
    # Flags of a store are set all at once; the time flag has no name in pyOpenSSL.
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN | _NO_CHECK_TIME)
    for der in anchors:
        try:
            store.add_cert(_authority(der))
        except crypto.Error:
            continue
    return store


def check_path(chain: Sequence[bytes], anchors: Sequence[bytes], *, at: int | None = None) -> Failure | None:
    """Why a chain (DER, leaf first) does not lead to one of `anchors` (DER) at an instant; None when it does.

    Names are not checked. `at` is microseconds, None for now.
    """
    return check_path_in(new_store(anchors), chain, at=at)


def check_path_in(store: crypto.X509Store, chain: Sequence[bytes], *, at: int | None = None) -> Failure | None:
    """As `check_path`, with a store of `new_store`, which may be kept and shared."""
    if trouble := chain_trouble(chain):
        return trouble
    try:
        leaf = _native(chain[0])
    except crypto.Error:
        return _unreadable("the server's certificate is malformed")
    others = _readable(chain[1:])
    instant = _EPOCH + timedelta(microseconds=time.time_ns() // 1000 if at is None else at)
    failure = _judge(store, leaf, others, instant)
    if failure is not None and failure.result_type is ResultType.CERTIFICATE_EXPIRED:
        # One issuer may be there twice, renewed and expired (RFC 4158 §2.4): the stale one must not hide the other.
        current = [other for other in others if _in_time(other, instant)]
        if len(current) < len(others) and _judge(store, leaf, current, instant) is None:
            return None
    return failure


def _judge(store: crypto.X509Store, leaf: crypto.X509, others: Sequence[crypto.X509], instant: datetime) -> Failure | None:
    try:
        verified = crypto.X509StoreContext(store, leaf, others).get_verified_chain()
        path = [load(crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate)) for certificate in verified]
        return _time_trouble(path, instant) or _purpose_trouble(path) or _weakness(path)
    except crypto.X509StoreContextError as exc:
        code, depth, text = exc.errors
        return of_certificate(code, text, depth)
    except crypto.Error as exc:
        return _unreadable(str(exc))
    except MALFORMED as exc:
        return _unreadable(str(exc))


def _time_trouble(path: Sequence[x509.Certificate], instant: datetime) -> Failure | None:
    for depth, certificate in enumerate(path):
        if instant > certificate.not_valid_after_utc:
            return of_certificate(10, f"expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC", depth)
        if instant < certificate.not_valid_before_utc:
            return of_certificate(9, f"not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC", depth)
    return None


def _purpose_trouble(path: Sequence[x509.Certificate]) -> Failure | None:
    below_anchor = path[:-1] or path
    for depth, certificate in enumerate(below_anchor):
        if not serves_tls(certificate) or (depth == 0 and not signs_handshakes(certificate)):
            reason, detail = "unsuitable-certificate-purpose", f"the certificate at depth {depth} is not for TLS servers"
            return Failure(result_type=ResultType.CERTIFICATE_NOT_TRUSTED, reason=reason, detail=detail)
    return None


def _weakness(path: Sequence[x509.Certificate]) -> Failure | None:
    for depth, certificate in enumerate(path):
        if reason := weakness(certificate, signed=depth < len(path) - 1):
            detail = f"the certificate at depth {depth}"
            return Failure(result_type=ResultType.CERTIFICATE_NOT_TRUSTED, reason=reason, detail=detail)
    return None


def _native(der: bytes) -> crypto.X509:
    return crypto.load_certificate(crypto.FILETYPE_ASN1, der)


def _authority(der: bytes) -> crypto.X509:
    """A certificate above a server's own: a few authorities stand in most chains, and reading one takes 20 µs."""
    return _known_authority(der) if len(der) <= _MAX_KNOWN_BYTES else _native(der)


@lru_cache(maxsize=256)
def _known_authority(der: bytes) -> crypto.X509:
    return _native(der)


def _readable(chain: Sequence[bytes]) -> list[crypto.X509]:
    found = []
    for der in chain:
        try:
            found.append(_authority(der))
        except crypto.Error:  # rubbish behind the certificate of the server harms only itself
            continue
    return found


def _in_time(certificate: crypto.X509, instant: datetime) -> bool:
    try:
        parsed = load(crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate))
        return parsed.not_valid_before_utc <= instant <= parsed.not_valid_after_utc
    except MALFORMED:
        return False


def _unreadable(detail: str) -> Failure:
    return Failure(result_type=ResultType.CERTIFICATE_NOT_TRUSTED, reason="malformed-certificate", detail=one_line(detail))
