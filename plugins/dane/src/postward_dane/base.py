"""Where the TLSA records of a mail host are, and which names its certificate may have (RFC 7672 §2.2.2, §3.2.2)."""

from __future__ import annotations

from postward.errors import InvalidName
from postward.model import Destination, MxHost, Security
from postward.names import Domain


def base_domains(mx: MxHost) -> tuple[Domain, ...]:
    """The TLSA base domains to try in this order; the first with a secure TLSA RRset decides (RFC 7672 §2.2.2). Empty: no DANE.

    There is none for an address (RFC 7672 §2.2). A host whose addresses are insecure is not asked, because broken name servers
    answer TLSA with errors there. Behind a CNAME the last name comes first, when the whole chain is secure; a secure CNAME into
    an unsigned zone leaves the name that it stands at. Names in between never count.
    """
    if mx.name.is_literal:
        return ()
    alias = mx.canonical is not None and mx.canonical != mx.name
    if mx.security is Security.SECURE:
        return (mx.canonical, mx.name) if alias and mx.canonical else (mx.name,)
    return (mx.name,) if alias and mx.alias_security is Security.SECURE else ()


def reference_names(destination: Destination, mx: MxHost, base: Domain) -> tuple[Domain, ...]:
    """The names of which the server's certificate must have one, for usage DANE-TA (RFC 7672 §3.2.2); first the base domain.

    The next-hop domain, and what its CNAMEs lead to, count only when the MX records are secure. A host that was not
    found by MX is named by whoever asked for it, so that name counts too.
    """
    names = [base]
    if not destination.from_mx:
        names.append(mx.name)
    elif destination.security is Security.SECURE:
        names.append(destination.domain)
        names += [destination.canonical] if destination.canonical else []
    return tuple(dict.fromkeys(names))


def tlsa_name(base: Domain, port: int) -> Domain | None:
    """The owner of the TLSA records of a TCP service (RFC 6698 §3, RFC 7672 §2.2.3); None for a base too long to have any."""
    try:
        return Domain(f"_{port}._tcp.{base}")
    except InvalidName:
        return None
