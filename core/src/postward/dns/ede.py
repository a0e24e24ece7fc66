"""Extended DNS errors: the registered names as slugs, and their texts made harmless (RFC 8914 §4, §5.2)."""

from __future__ import annotations

import unicodedata
from typing import Final

NAMES: Final[dict[int, str]] = {
    0: "other-error",
    1: "unsupported-dnskey-algorithm",
    2: "unsupported-ds-digest-type",
    3: "stale-answer",
    4: "forged-answer",
    5: "dnssec-indeterminate",
    6: "dnssec-bogus",
    7: "signature-expired",
    8: "signature-not-yet-valid",
    9: "dnskey-missing",
    10: "rrsigs-missing",
    11: "no-zone-key-bit-set",
    12: "nsec-missing",
    13: "cached-error",
    14: "not-ready",
    15: "blocked",
    16: "censored",
    17: "filtered",
    18: "prohibited",
    19: "stale-nxdomain-answer",
    20: "not-authoritative",
    21: "not-supported",
    22: "no-reachable-authority",
    23: "network-error",
    24: "invalid-data",
    25: "signature-expired-before-valid",
    26: "too-early",
    27: "unsupported-nsec3-iterations-value",
    28: "unable-to-conform-to-policy",
    29: "synthesized",
    30: "invalid-query-type",
}

DNSSEC: Final = frozenset({1, 2, 5, 6, 7, 8, 9, 10, 11, 12, 25, 27})
"""The codes that say validation itself failed."""

_MAX_TEXT: Final = 200


def slug(code: int) -> str:
    """`extended-dns-error-7-signature-expired`; codes without a registered name keep the number alone."""
    name = NAMES.get(code)
    return f"extended-dns-error-{code}-{name}" if name else f"extended-dns-error-{code}"


def clean(text: str) -> str:
    """EXTRA-TEXT as one printable line of at most 200 characters: it comes from the network (RFC 8914 §6)."""
    kept = "".join(" " if unicodedata.category(char)[0] in "CZ" else char for char in text[: 4 * _MAX_TEXT])
    return " ".join(kept.split())[:_MAX_TEXT]
