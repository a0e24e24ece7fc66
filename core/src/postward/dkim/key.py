"""Key records: what a domain publishes at `<selector>._domainkey.<domain>` (RFC 6376 §3.6.1, RFC 8301, RFC 8463)."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from postward.dkim.tags import parse_tags, without_space
from postward.errors import PostwardError

MIN_RSA_BITS: Final = 1024
MAX_RSA_BITS: Final = 8192
PublicKey = RSAPublicKey | Ed25519PublicKey


class BadKey(PostwardError):
    """A key record or a private key that cannot be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRecord:
    """A key record that was understood.

    `kind` is `rsa` or `ed25519`; `hashes` is empty when every hash may be used; `service_types` as published, `*` by default;
    `testing` and `strict` are the flags `t=y` and `t=s`.
    """

    kind: str
    key: PublicKey = field(repr=False)
    hashes: tuple[str, ...] = ()
    service_types: tuple[str, ...] = ("*",)
    testing: bool = False
    strict: bool = False

    @property
    def bits(self) -> int:
        """The size of the key in bits."""
        return self.key.key_size if isinstance(self.key, RSAPublicKey) else 256

    def serves(self, service: str) -> bool:
        """Whether the key is meant for a service: `email`, `tlsrpt` (RFC 6376 §3.6.1, RFC 8460 §3)."""
        return "*" in self.service_types or service in self.service_types


def parse_key(text: str) -> KeyRecord:
    """Read a key record. Raises `BadKey`, also for a revoked key (empty `p=`)."""
    try:
        tags = parse_tags(text)
    except ValueError as exc:
        raise BadKey(f"key record: {exc}") from None
    if tags.get("v", "DKIM1") != "DKIM1" or ("v" in tags and next(iter(tags)) != "v"):
        raise BadKey("key record: not v=DKIM1")
    if "p" not in tags:
        raise BadKey("key record: no p=")
    if not tags["p"]:
        raise BadKey("key is revoked")
    kind = tags.get("k", "rsa")
    flags = _list(tags.get("t", ""))
    return KeyRecord(
        kind=kind,
        key=_load(kind, tags["p"]),
        hashes=_list(tags.get("h", "")),
        service_types=_list(tags.get("s", "*")) or ("*",),
        testing="y" in flags,
        strict="s" in flags,
    )


def _list(value: str) -> tuple[str, ...]:
    return tuple(item for item in without_space(value).lower().split(":") if item)


def _load(kind: str, value: str) -> PublicKey:
    try:
        data = base64.b64decode(without_space(value), validate=True)
        if kind == "ed25519":
            return Ed25519PublicKey.from_public_bytes(data)
        if kind != "rsa":
            raise BadKey(f"unknown kind of key: {kind[:20]!r}")
        key = serialization.load_der_public_key(data)
    except (ValueError, TypeError, binascii.Error, UnsupportedAlgorithm):
        raise BadKey(f"not an {kind} key") from None
    if not isinstance(key, RSAPublicKey):
        raise BadKey("not an rsa key")
    if key.key_size > MAX_RSA_BITS:
        raise BadKey(f"key of {key.key_size} bits is too long")
    return key
