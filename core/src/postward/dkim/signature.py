"""One DKIM-Signature field: its syntax, and whether it holds under a key (RFC 6376 §3.5, §6.1).

Pure: keys come as records, time comes as a number, nothing is raised for what a message says.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from postward.dkim import adapter
from postward.dkim.canonical import Field
from postward.dkim.key import MIN_RSA_BITS, KeyRecord
from postward.dkim.tags import parse_tags, without_space
from postward.errors import InvalidName
from postward.names import Domain

_ALGORITHMS: Final = {"rsa-sha256": "rsa", "ed25519-sha256": "ed25519"}
_BODY_LENGTH: Final = re.compile(r"[0-9]{1,76}")
_TIME: Final = re.compile(r"[0-9]{1,12}")
_CLOCK_SLACK: Final = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What one signature came to.

    `result` is a word of RFC 8601 §2.7.1; `reason` says why it is not `pass`. `body_length`: it has an `l=`, so what stands
    behind may be anybody's. `service_types` are those of the key, empty when no key was read. `value` is the start of `b=`,
    which tells signatures of one domain apart (RFC 6008).
    """

    domain: Domain | None
    selector: str
    identity: str
    algorithm: str
    result: str
    reason: str = ""
    body_length: bool = False
    service_types: tuple[str, ...] = ()
    value: str = ""


class BadSignature(Exception):
    """A signature that is decided before its key is needed."""

    def __init__(self, signature: Signature) -> None:
        super().__init__(signature.reason)
        self.signature = signature


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """A signature field that was understood: the `number`-th of its message, from 0.

    `known` carries what its result will say about it; `kind` is the kind of key that it needs.
    """

    number: int
    known: Signature
    domain: Domain
    kind: str


def parse(field: Field, number: int, *, now: int) -> Parsed:
    """Read the `number`-th signature field of a message; `now` is seconds, for `x=`. Raises `BadSignature` with the result."""
    blank = Signature(domain=None, selector="", identity="", algorithm="", result="neutral")
    try:
        tags = parse_tags(field.value.decode("ascii"))
    except ValueError as exc:
        reason = "not ASCII" if isinstance(exc, UnicodeDecodeError) else str(exc)
        raise BadSignature(replace(blank, reason=reason)) from None
    known = _identify(blank, tags)
    for tag in ("v", "a", "b", "bh", "d", "h", "s"):
        if not tags.get(tag):
            raise BadSignature(replace(known, reason=f"no {tag}="))
    domain = known.domain
    if domain is None or domain.is_literal:
        raise BadSignature(replace(known, domain=None, reason="d= is no domain"))
    if tags["v"] != "1":
        raise BadSignature(replace(known, reason="v= is not 1"))
    try:
        _canonicalization(tags.get("c", ""))
        _number(tags, "l", _BODY_LENGTH)
        _base64(tags["bh"])
        _base64(tags["b"])
        signed, expires = _number(tags, "t", _TIME), _number(tags, "x", _TIME)
    except ValueError as exc:
        raise BadSignature(replace(known, reason=str(exc))) from None
    names = tuple(name.encode() for name in without_space(tags["h"]).lower().split(":") if name)
    _refuse(known, domain, tags, names)
    if expires is not None and (expires + _CLOCK_SLACK < now or (signed is not None and expires < signed)):
        raise BadSignature(replace(known, result="permerror", reason="signature has expired"))
    return Parsed(number=number, known=known, domain=domain, kind=_ALGORITHMS[known.algorithm])


def _identify(blank: Signature, tags: dict[str, str]) -> Signature:
    """What can be said of the signature whether it is good or not."""
    try:
        domain = Domain(tags.get("d", ""))
    except InvalidName:
        domain = None
    return replace(
        blank,
        domain=domain,
        selector=without_space(tags.get("s", "")),
        identity=tags.get("i", "") or (f"@{domain}" if domain else ""),
        algorithm=tags.get("a", "").lower(),
        body_length="l" in tags,
        value=without_space(tags.get("b", ""))[:16],
    )


def _canonicalization(value: str) -> None:
    header, _, body = value.lower().partition("/")
    header, body = header or "simple", body or "simple"
    if {header, body} - {"simple", "relaxed"}:
        raise ValueError(f"unknown c={value[:30]}")


def _number(tags: dict[str, str], tag: str, pattern: re.Pattern[str]) -> int | None:
    if tag not in tags:
        return None
    if pattern.fullmatch(tags[tag]) is None:
        raise ValueError(f"{tag}= is no number")
    return int(tags[tag])


def _base64(value: str) -> None:
    try:
        base64.b64decode(without_space(value), validate=True)
    except binascii.Error:
        raise ValueError("not base64") from None


def _refuse(known: Signature, domain: Domain, tags: dict[str, str], names: Sequence[bytes]) -> None:
    if known.algorithm == "rsa-sha1":
        raise BadSignature(replace(known, result="policy", reason="rsa-sha1 is not accepted (RFC 8301)"))
    if known.algorithm not in _ALGORITHMS:
        raise BadSignature(replace(known, reason=f"unknown a={known.algorithm[:30]}"))
    if b"from" not in names:
        raise BadSignature(replace(known, result="permerror", reason="From is not signed"))
    if "dns/txt" not in without_space(tags.get("q", "dns/txt")).lower().split(":"):
        raise BadSignature(replace(known, reason="unknown q="))
    _, at, host = known.identity.rpartition("@")
    try:
        good = bool(at) and Domain(host).is_below(domain)
    except InvalidName:
        good = False
    if not good:
        raise BadSignature(replace(known, reason="i= is not below d="))


def judge(parsed: Parsed, key: KeyRecord, content: bytes, *, service: str) -> Signature:
    """Decide a signature of a message under its key (RFC 6376 §6.1.2, §6.1.3; RFC 8301 §3)."""
    known = replace(parsed.known, service_types=key.service_types)
    if key.kind != parsed.kind:
        return replace(known, result="permerror", reason=f"key is {key.kind}, signature is {parsed.kind}")
    if key.hashes and "sha256" not in key.hashes:
        return replace(known, result="permerror", reason="key does not allow sha256")
    if not key.serves(service):
        return replace(known, result="permerror", reason=f"key is not for {service}")
    if key.strict and Domain(known.identity.rpartition("@")[2]) != parsed.domain:
        return replace(known, result="permerror", reason="key wants i= to be d= exactly")
    if key.kind == "rsa" and key.bits < MIN_RSA_BITS:
        return replace(known, result="policy", reason=f"key of {key.bits} bits is too short (RFC 8301)")
    if reason := adapter.trouble(content, parsed.number, key):
        return _failed(known, key, reason)
    return replace(known, result="pass", reason="testing" if key.testing else "")


def _failed(known: Signature, key: KeyRecord, reason: str) -> Signature:
    # A signer that says it is testing must not be worse off than one that does not sign (RFC 6376 §3.6.1, t=y).
    if key.testing:
        return replace(known, result="neutral", reason=f"{reason} (testing)")
    return replace(known, result="fail", reason=reason)
