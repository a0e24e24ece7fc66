"""A small HTTPS client on our own seams: one request, one answer, nothing followed, nothing cached.

Streams come from `net`, names from `dns`, and certificates are judged by the same table as those of mail servers, so a
policy host and an MX host fail in the same words (RFC 8461 §3.3, RFC 8460 §5.4).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from postward.errors import PostwardError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from postward.model import Failure
    from postward.names import Domain


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpResponse:
    """Status, headers with lower-case names (first of each), and the whole body."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


class HttpError(PostwardError):
    """No answer, or none that may be used.

    `kind` is one of `dns`, `no-address` (the name does not exist or has no address), `connect`, `tls`, `timeout`, `too-large`,
    `protocol`, `refused-address`; for `tls`, `failure` says what was wrong with the certificate or handshake.
    """

    def __init__(self, kind: str, detail: str, failure: Failure | None = None) -> None:
        super().__init__(detail)
        self.kind, self.failure = kind, failure


class HttpClient(Protocol):
    """The HTTPS seam."""

    async def request(
        self,
        method: str,
        host: Domain,
        target: str,
        *,
        port: int = 443,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        max_body: int = 65536,
        timeout: float = 60,
        private_addresses: bool = True,
        verify: bool = True,
    ) -> HttpResponse:
        """Make one request to `https://host:port` `target` (path and query).

        The certificate must verify for `host` by DNS-ID unless `verify` is False; SNI is `host`. `max_body` is bytes,
        more is an error; `timeout` is seconds for everything. With `private_addresses` False, only addresses reachable in
        the public internet are dialled. Raises `HttpError`.
        """
