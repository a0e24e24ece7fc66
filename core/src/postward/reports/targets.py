"""Report addresses: the `mailto:` and `https:` URIs that domains publish (RFC 8460 §3, RFC 9989 §4.7, RFC 6068)."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from postward.errors import InvalidName, PostwardError
from postward.names import Address, Domain

_MAX_URI = 2048


class BadTarget(PostwardError):
    """A URI that no report can be sent to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MailTarget:
    """A mailbox. Header fields in the URI are ignored (RFC 6068 §4 warns of them)."""

    address: Address


@dataclass(frozen=True, slots=True, kw_only=True)
class WebTarget:
    """An HTTPS endpoint. `path` is the path with the query, in the form that goes into the request line."""

    host: Domain
    port: int
    path: str


def parse_target(uri: str) -> MailTarget | WebTarget:
    """Read a report URI. Raises `BadTarget`, also for schemes that nobody sends reports to."""
    scheme, colon, rest = uri.strip().partition(":")
    if not colon or len(uri) > _MAX_URI or any(ord(char) < 0x21 for char in rest):
        raise BadTarget(f"not a URI: {uri[:80]!r}")
    try:
        if scheme.lower() == "mailto":
            return MailTarget(address=Address.parse(unquote(rest.partition("?")[0], errors="strict")))
        if scheme.lower() == "https":
            return _web(uri)
    except (InvalidName, ValueError):
        raise BadTarget(f"not a report address: {uri[:80]!r}") from None
    raise BadTarget(f"unknown scheme: {scheme[:20]!r}")


def _web(uri: str) -> WebTarget:
    parts = urlsplit(uri.strip())
    if not parts.hostname or "@" in parts.netloc:
        raise ValueError(uri)
    host = f"[ipv6:{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    path = quote(parts.path or "/", safe="/%!$&'()*+,;=:@~")
    query = quote(parts.query, safe="/%!$&'()*+,;=:@~?")
    return WebTarget(host=Domain(host), port=parts.port or 443, path=f"{path}?{query}" if query else path)


def suppression_keys(uri: str) -> tuple[str, ...]:
    """What a suppression of this target may be entered under: the address and its domain, or the host."""
    try:
        target = parse_target(uri)
    except BadTarget:
        return ()
    if isinstance(target, WebTarget):
        return (str(target.host),)
    return str(target.address).lower(), str(target.address.domain)
