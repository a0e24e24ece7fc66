"""What a failure in a received report means, and what its domain's owner can do about it (RFC 8460 §4.3), as data.

Written for somebody who runs the receiving side: the reporter is another server that could not send as the policy demands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Advice:
    """Two or three sentences for people: what has `happened`, and what to `do`."""

    happened: str
    do: str


RESULT_TYPES: Final[dict[str, Advice]] = {
    "starttls-not-supported": Advice(
        "The mail server did not offer STARTTLS to this sender, so the connection was not encrypted.",
        "Switch STARTTLS on at every MX host and every address of it. Where it is on, a firewall or a mail filter in between"
        " may remove it: look at what EHLO is answered from outside.",
    ),
    "certificate-host-mismatch": Advice(
        "The certificate does not name the MX host that was dialled.",
        "Get a certificate that names each MX host as it stands in the MX records and in the mx lines of the MTA-STS policy,"
        " and see that every host serves its own.",
    ),
    "certificate-expired": Advice(
        "The certificate of the mail server was out of date when the sender connected.",
        "Renew it, and reload the mail server: often the file is new and the process still serves the old one.",
    ),
    "certificate-not-trusted": Advice(
        "The certificate does not lead to an authority that the sender trusts.",
        "Use a certificate of a public authority and send its intermediate certificates along. A self-signed one is only good"
        " with DANE.",
    ),
    "validation-failure": Advice(
        "TLS failed for a reason that has no name of its own; the reason code says more.",
        "Look into the mail server's log for the time and the sender's address. Where it says that the host is not in the"
        " policy, MX records and MTA-STS policy disagree.",
    ),
    "tlsa-invalid": Advice(
        "There are TLSA records, and none of them matches the certificate or can be used.",
        "Publish the TLSA record of the key in use (3 1 1), and when keys change publish the next one first, at least two TTLs"
        " before.",
    ),
    "dnssec-invalid": Advice(
        "The sender's resolver could not validate the DNSSEC of the domain or of the MX host.",
        "Look for expired signatures and for DS records without a key; a public DNSSEC checker shows where the chain breaks.",
    ),
    "dane-required": Advice(
        "The sender sends to this host with DANE only, and found no TLSA record that DNSSEC vouches for.",
        "Publish TLSA records in a signed zone, or ask the sender why DANE is demanded.",
    ),
    "sts-policy-fetch-error": Advice(
        "The MTA-STS policy could not be fetched, although the TXT record says that there is one.",
        "See that https://mta-sts.<domain>/.well-known/mta-sts.txt answers 200 from everywhere, without a redirect, over IPv4"
        " and IPv6.",
    ),
    "sts-policy-invalid": Advice(
        "The MTA-STS policy was fetched and cannot be understood.",
        "Look for a missing version, mode, mx or max_age, and for a page of a web server in place of the policy.",
    ),
    "sts-webpki-invalid": Advice(
        "The web server of the MTA-STS policy has a certificate that does not hold.",
        "Get a certificate of a public authority for mta-sts.<domain>, and see that it is renewed.",
    ),
}
"""By result type (RFC 8460 §4.3)."""

UNKNOWN: Final = Advice(
    "The sender uses a result type that RFC 8460 does not have.",
    "The reason code and the sender's contact may say more.",
)

# The most telling first: the first fragment that a reason code holds decides.
REASONS: Final[tuple[tuple[str, str], ...]] = (
    ("extended-dns-error-6", "The resolver found bogus DNSSEC (RFC 8914)."),
    ("extended-dns-error-7", "A DNSSEC signature has expired (RFC 8914)."),
    ("extended-dns-error-8", "A DNSSEC signature is not valid yet (RFC 8914)."),
    ("extended-dns-error-9", "The DS record points to no key of the zone (RFC 8914)."),
    ("extended-dns-error-10", "A DNSSEC signature is missing (RFC 8914)."),
    ("dns-servfail", "The resolver answered SERVFAIL, as it does when DNSSEC does not validate."),
    ("self-signed", "The certificate is signed by itself."),
    ("self signed", "The certificate is signed by itself."),
    ("unable to get local issuer", "An intermediate certificate is missing."),
    ("unknown-ca", "The authority is not known to the sender, or an intermediate certificate is missing."),
    ("not-in-policy", "The MX host is in no mx line of the MTA-STS policy."),
    ("mx-mismatch", "The MX host is in no mx line of the MTA-STS policy."),
    ("handshake", "The two servers found no TLS version or cipher in common, or one of them gave up."),
    ("alert", "One side ended TLS with an alert; its name or number says why."),
    ("protocol-version", "The server is limited to a TLS version that the sender does not use any more."),
    ("redirect", "The policy is behind a redirect, which senders must not follow (RFC 8461 §3.3)."),
    ("404", "The web server has no policy at that address."),
    ("timeout", "The server did not answer in time."),
)
"""Fragments of reason codes in lower case, and what they say."""


def advice_for(result_type: str) -> Advice:
    """What a result type means."""
    return RESULT_TYPES.get(result_type, UNKNOWN)


def reason_explained(reason: str) -> str:
    """What a reason code says in plain words; empty where it is not a known one."""
    lowered = reason.lower()
    for fragment, text in sorted(REASONS, key=lambda item: -len(item[0])) if "extended-dns-error-" in lowered else REASONS:
        at = lowered.find(fragment)
        if at >= 0 and not lowered[at + len(fragment) : at + len(fragment) + 1].isdecimal():
            return text
    return ""
