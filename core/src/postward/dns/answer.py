"""What a DNS question came to, in four states.

"Failed" never reads as "absent": an answer that could not be had or not be trusted (SERVFAIL, bogus, timeout) must hold mail
back where a proven absence would let it go (RFC 7672 §2.1.2). A zone whose parent vouches for another key is failed, one that
the parent does not vouch for at all is insecure; the resolver tells which (RFC 4035 §5.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from postward.dns import ede
from postward.model import Security
from postward.names import Domain

if TYPE_CHECKING:
    from collections.abc import Sequence


class Status(StrEnum):
    """The four states of an answer."""

    SECURE = "secure"
    INSECURE = "insecure"
    ABSENT = "absent"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsFailure:
    """Why a lookup failed.

    `rcode` is the text of the response code (`SERVFAIL`), or `TIMEOUT`, `NETWORK`, `MALFORMED`, `LAME`, `LOOP`. `ede` are
    the extended errors (RFC 8914 §4), code and text; the text comes from the network and is not to be trusted. `detail` is one
    line for people.
    """

    rcode: str
    ede: tuple[tuple[int, str], ...] = ()
    detail: str = ""

    @property
    def slug(self) -> str:
        """A short reason for `failure-reason-code`, such as `extended-dns-error-7-signature-expired` or `dns-servfail`.

        Of several extended errors, the first that speaks of DNSSEC is taken: it is the cause, the others are circumstances.
        """
        codes = [code for code, _ in self.ede]
        chosen = next((code for code in codes if code in ede.DNSSEC), codes[0] if codes else None)
        return f"dns-{self.rcode.lower()}" if chosen is None else ede.slug(chosen)

    @property
    def about_dnssec(self) -> bool:
        """Whether an extended error says that validation failed. False proves nothing: many resolvers send none."""
        return any(code in ede.DNSSEC for code, _ in self.ede)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The answer to one question.

    `authenticated` is the AD bit as far as it is trusted; it also tells a proven absence from an insecure one. `records`
    are dnspython rdata of the asked type, in the order of the answer. `canonical` is the owner at the end of the CNAMEs.
    `ttl` is seconds, the smallest of the chain. `failure` is set exactly when `status` is FAILED.
    """

    name: Domain
    rdtype: str
    status: Status
    authenticated: bool = False
    records: tuple[Any, ...] = ()
    canonical: Domain
    nxdomain: bool = False
    ttl: int = 0
    failure: DnsFailure | None = None

    @property
    def security(self) -> Security:
        """Whether this answer, positive or negative, was validated."""
        return Security.SECURE if self.authenticated else Security.INSECURE

    @property
    def found(self) -> bool:
        """Whether there are records."""
        return self.status in (Status.SECURE, Status.INSECURE)

    @property
    def texts(self) -> tuple[str, ...]:
        """The TXT records, the strings of each joined without space (RFC 8460 §3, RFC 8461 §3.1); bytes as Latin-1."""
        return tuple(b"".join(record.strings).decode("latin-1") for record in self.records)


class Resolver(Protocol):
    """The DNS seam. Implementations never raise for what the network or a name server did."""

    async def query(self, name: Domain | str, rdtype: str) -> Answer:
        """Ask one question, following CNAMEs. Equal questions under way at once are asked once."""

    async def addresses(self, name: Domain) -> tuple[Answer, Answer]:
        """Ask for A and AAAA side by side, in this order."""

    @property
    def validating(self) -> bool | None:
        """What the self-test found: whether the resolver validates DNSSEC; None while unknown."""

    @property
    def problems(self) -> Sequence[str]:
        """What the self-test found wrong, for people."""
