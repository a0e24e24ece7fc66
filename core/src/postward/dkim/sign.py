"""Sign messages with DKIM (RFC 6376 §5), by RSA and Ed25519 keys side by side (RFC 8301 §3.2, RFC 8463).

Always relaxed/relaxed, never `l=` (RFC 8460 §3). Every field of the list that is there is signed, and From once more than it
is there, so that nobody can add a second one.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from postward.dkim import canonical
from postward.dkim.canonical import BodyHasher, Field, split_message
from postward.dkim.key import MIN_RSA_BITS, BadKey
from postward.errors import PostwardError
from postward.model import MICROSECONDS
from postward.names import Domain

PrivateKey = RSAPrivateKey | Ed25519PrivateKey

SIGNED: Final = (
    *("from", "sender", "reply-to", "subject", "date", "message-id", "to", "cc", "mime-version", "content-type"),
    *("content-transfer-encoding", "content-id", "content-description", "resent-date", "resent-from", "resent-sender"),
    *("resent-to", "resent-cc", "resent-message-id", "in-reply-to", "references", "list-id", "list-help", "list-post"),
    *("list-unsubscribe", "list-unsubscribe-post", "list-subscribe", "list-owner", "list-archive", "auto-submitted"),
)
_SIGNED: Final = frozenset(name.encode() for name in SIGNED)
_LINE: Final = 72
_PADDING: Final = padding.PKCS1v15()
_PREHASHED: Final = Prehashed(hashes.SHA256())


class NoKey(PostwardError):
    """There is no key to sign for this domain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """A private key, and where its public half is published."""

    domain: Domain
    selector: str
    key: PrivateKey = field(repr=False)

    @classmethod
    def load(cls, domain: Domain, selector: str, pem: bytes) -> SigningKey:
        """Read an unencrypted PEM key, RSA of at least 1024 bits or Ed25519. Raises `BadKey`."""
        try:
            key = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise BadKey(f"DKIM key {selector} of {domain}: not an unencrypted PEM private key") from None
        if not isinstance(key, RSAPrivateKey | Ed25519PrivateKey):
            raise BadKey(f"DKIM key {selector} of {domain}: neither RSA nor Ed25519")
        if isinstance(key, RSAPrivateKey) and key.key_size < MIN_RSA_BITS:
            raise BadKey(f"DKIM key {selector} of {domain}: {key.key_size} bits are too few (RFC 8301 §3.2)")
        Domain(f"{selector}._domainkey.{domain}")
        return cls(domain=domain, selector=selector, key=key)

    @property
    def algorithm(self) -> str:
        """The value of `a=`."""
        return "rsa-sha256" if isinstance(self.key, RSAPrivateKey) else "ed25519-sha256"

    def sign(self, digest: bytes) -> bytes:
        """Sign a SHA-256 digest."""
        if isinstance(self.key, RSAPrivateKey):
            return self.key.sign(digest, _PADDING, _PREHASHED)
        return self.key.sign(digest)


class Signer:
    """Signs for the domains that it has keys of."""

    def __init__(self, keys: Sequence[SigningKey]) -> None:
        self._keys: dict[Domain, list[SigningKey]] = {}
        for key in keys:
            self._keys.setdefault(key.domain, []).append(key)

    @property
    def domains(self) -> frozenset[Domain]:
        """The domains that can be signed for."""
        return frozenset(self._keys)

    def keys(self, domain: Domain) -> tuple[SigningKey, ...]:
        """The keys of a domain, in configuration order."""
        return tuple(self._keys.get(domain, ()))

    def sign(self, message: bytes, domain: Domain, *, headers: Sequence[str] = (), at: int | None = None) -> bytes:
        """The message with one signature in front for each key of `domain`; `d=` is `domain` exactly.

        `headers` are signed in addition, once per field that is there and once more. `at` is the instant for `t=`.
        Raises `NoKey`, and `ValueError` for a message without From.
        """
        fields, body = split_message(message)
        return self._head(fields, BodyHasher(body).digest(), domain, headers, at) + message

    def head(
        self, header: bytes, body_digest: bytes, domain: Domain, *, headers: Sequence[str] = (), at: int | None = None
    ) -> bytes:
        """The signature fields to put in front of a message that is not in memory, one for each key of `domain`.

        `header` is its header section with CRLF lines, `body_digest` that of a `BodyHasher`; the rest is as with `sign`.
        """
        return self._head(canonical.fields_of(header), body_digest, domain, headers, at)

    def _head(
        self, fields: Sequence[Field], body_digest: bytes, domain: Domain, headers: Sequence[str], at: int | None
    ) -> bytes:
        keys = self._keys.get(domain)
        if not keys:
            raise NoKey(f"no DKIM key for {domain}")
        names, listed = _names(tuple(field.name for field in fields), tuple(headers))
        digest = hashlib.sha256()
        for chosen in canonical.choose(fields, names):
            digest.update(canonical.header(chosen, relaxed=True) + b"\r\n")
        seconds = (time.time_ns() // 1000 if at is None else at) // MICROSECONDS
        return b"".join(_field(key, listed, body_digest, digest.copy(), seconds) for key in keys)


@lru_cache(maxsize=64)
def _names(there: tuple[bytes, ...], extra: tuple[str, ...]) -> tuple[tuple[bytes, ...], str]:
    """The names to sign, and how `h=` lists them. Mails of one program have the same fields again and again."""
    added = [name.lower().encode("ascii") for name in extra]
    wanted = _SIGNED.union(added) if added else _SIGNED
    if b"from" not in there:
        raise ValueError("a message without From cannot be signed")
    again = dict.fromkeys(name for name in added if name != b"from")
    names = (*(name for name in there if name in wanted), b"from", *again)
    return names, _fold([name.decode() for name in names])


def _field(key: SigningKey, listed: str, body_digest: bytes, digest: hashlib._Hash, seconds: int) -> bytes:
    head = f"DKIM-Signature: v=1; a={key.algorithm}; c=relaxed/relaxed; d={key.domain};\r\n\ts={key.selector}; t={seconds};"
    start = f"{head}\r\n\th={listed};\r\n\tbh={base64.b64encode(body_digest).decode()};\r\n\tb=".encode()
    digest.update(canonical.header(Field(b"dkim-signature", start), relaxed=True))
    value = base64.b64encode(key.sign(digest.digest()))
    lines = [value[i : i + _LINE] for i in range(0, len(value), _LINE)]
    return start + b"\r\n\t ".join(lines) + b"\r\n"


def _fold(names: Sequence[str]) -> str:
    lines, line = [], ""
    for name in names:
        if line and len(line) + len(name) > _LINE:
            lines.append(line)
            line = ""
        line += f"{name}:"
    return "\r\n\t ".join([*lines, line]).removesuffix(":")


def generate(kind: Literal["rsa", "ed25519"]) -> PrivateKey:
    """Make a new private key: RSA of 2048 bits, or Ed25519."""
    return rsa.generate_private_key(65537, 2048) if kind == "rsa" else Ed25519PrivateKey.generate()


def private_pem(key: PrivateKey) -> bytes:
    """A private key as unencrypted PKCS #8 PEM, to be kept in a file that only its owner reads."""
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def dns_record(key: SigningKey, services: Sequence[str] = ("*",)) -> tuple[Domain, str]:
    """The name and the value, in presentation form, of the TXT record to publish for a key.

    A signature on TLS reports wants `services` of `("email", "tlsrpt")` or the default: with `tlsrpt` alone, ordinary mail
    checks ignore the key (RFC 6376 §3.6.1).
    """
    public = key.key.public_key()
    if isinstance(public, rsa.RSAPublicKey):
        kind = "rsa"
        data = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    else:
        kind, data = "ed25519", public.public_bytes_raw()
    service = "" if tuple(services) == ("*",) else f"s={':'.join(services)}; "
    text = f"v=DKIM1; k={kind}; {service}p={base64.b64encode(data).decode()}"
    strings = [text[i : i + 255] for i in range(0, len(text), 255)]
    return Domain(f"{key.selector}._domainkey.{key.domain}"), " ".join(f'"{string}"' for string in strings)
