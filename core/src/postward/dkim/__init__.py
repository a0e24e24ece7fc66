"""DKIM: verify what others signed, sign our own (RFC 6376, RFC 8301, RFC 8463).

Signatures are verified by dkimpy behind an adapter that knows its faults; they are made with `cryptography`, whose RSA takes
a seventeenth of the time. Everything but `verify` is free of I/O.
"""

from __future__ import annotations

from postward.dkim.author import author_domain, signing_domain
from postward.dkim.canonical import BodyHasher
from postward.dkim.key import BadKey, KeyRecord, parse_key
from postward.dkim.sign import NoKey, PrivateKey, Signer, SigningKey, dns_record, generate, private_pem
from postward.dkim.signature import Signature
from postward.dkim.verify import verify

__all__ = [
    "BadKey",
    "BodyHasher",
    "KeyRecord",
    "NoKey",
    "PrivateKey",
    "Signature",
    "Signer",
    "SigningKey",
    "author_domain",
    "dns_record",
    "generate",
    "parse_key",
    "private_pem",
    "signing_domain",
    "verify",
]
