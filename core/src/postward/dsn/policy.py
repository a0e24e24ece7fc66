"""Failures of TLS policies in plain words: which policy, whose, and what it means (RFC 8461 §5, RFC 7672, RFC 8460 §4.3)."""

from __future__ import annotations

import re
from typing import Final

# As `postward.delivery` words the reply when an enforcing policy was not satisfied.
_REFUSED: Final = re.compile(r"the ([a-z0-9-]+) policy of (\S+) is not satisfied(?:: ([a-z-]+))?")
_NAMES: Final = {"sts": "MTA-STS", "tlsa": "DANE"}
_MEANINGS: Final = {
    "starttls-not-supported": "the server offered no encryption",
    "certificate-host-mismatch": "its certificate is for another name",
    "certificate-expired": "its certificate has expired",
    "certificate-not-trusted": "its certificate is from nobody who is trusted",
    "validation-failure": "the server is not one that the policy allows, or could not be verified",
    "tlsa-invalid": "its certificate does not match what is published in DNS",
    "dnssec-invalid": "the DNS records that say how to verify it are not properly signed",
    "dane-required": "its DNS records do not allow the verification that is required",
    "sts-policy-fetch-error": "the policy could not be fetched",
    "sts-policy-invalid": "the policy contains errors",
    "sts-webpki-invalid": "the web server with the policy has no good certificate",
}


def explain_policy(reply: str) -> str:
    """What a reply of ours about a policy means; empty for any other reply."""
    match = _REFUSED.search(reply)
    if match is None:
        return ""
    kind, domain, result = match.groups()
    name = _NAMES.get(kind, kind)
    why = _MEANINGS.get(result or "", "that could not be verified")
    return (
        f"{domain[:255]} has published a policy ({name}) that mail to it must only go over an encrypted connection to a "
        f"verified server. That was not possible: {why}. The message was not sent, because somebody else might have read it."
    )
