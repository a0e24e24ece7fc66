"""The record by which a mail host asks for reports about itself (RFC 8460 §1.1, §3).

Who sends under DANE finds it at the name of the MX host, which is the policy domain there, whatever domains have mail here.
"""

from __future__ import annotations

from collections.abc import Sequence

from postward.model import DnsRecord
from postward.names import Domain
from postward_tlsrpt import record


def usable(uri: str) -> str:
    """The URI, if a record can hold it and reports can go there. Raises `ValueError`."""
    try:
        found = record.parse(f"v=TLSRPTv1; rua={uri}")
    except record.RecordError as exc:
        raise ValueError(str(exc)) from None
    if found.rua != (uri,):
        raise ValueError("not one mailto: or https: URI; `,`, `;` and `!` in it are written %2C, %3B and %21")
    return uri


def records(domain: Domain, hostname: Domain, uris: Sequence[str]) -> Sequence[DnsRecord]:
    """What the owner of `domain` should publish about the host `hostname` below it; nothing where no URIs are configured."""
    if not uris or not hostname.is_below(domain):
        return ()
    text = f"v=TLSRPTv1; rua={','.join(uris)}"
    return (
        DnsRecord(
            name=Domain(f"_smtp._tls.{hostname}"),
            rdtype="TXT",
            # A string in a TXT record has 255 octets at most (RFC 1035 §3.3.14); readers join several.
            value=" ".join(f'"{text[start : start + 255]}"' for start in range(0, len(text), 255)),
            why="Senders that use DANE report about the mail host itself, whatever domains have their mail there.",
        ),
    )
