"""Getting the policy file over HTTPS, and naming what went wrong as a TLS report does (RFC 8461 §3.3, RFC 8460 §4.3.2.2).

Only status 200 counts, nothing is redirected or taken from an HTTP cache, and the certificate must verify for the policy host,
also where a CNAME leads to a provider (RFC 8461 §8.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from postward.errors import PostwardError
from postward.http import HttpError
from postward.model import Failure, ResultType
from postward.names import Domain
from postward_mtasts import policy
from postward_mtasts.policy import PATH, PolicyError, StsPolicy, policy_host

if TYPE_CHECKING:
    from postward.http import HttpClient

TIME_LIMIT: Final = 60.0

_SLUGS: Final = {"dns": "dns-lookup-failed"}
_CERTIFICATE: Final = frozenset(
    {ResultType.CERTIFICATE_HOST_MISMATCH, ResultType.CERTIFICATE_EXPIRED, ResultType.CERTIFICATE_NOT_TRUSTED}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A policy and its text as served. `media_type` is printable, lower-case, without parameters; empty when none was sent."""

    policy: StsPolicy
    text: str
    media_type: str


class FetchError(PostwardError):
    """No policy could be had. `failure` is for the report; `evidence` is what was served in its place, by lines.

    `where` is the place in a file that is no policy.
    """

    def __init__(self, failure: Failure, evidence: tuple[str, ...] = (), where: PolicyError | None = None) -> None:
        super().__init__(failure.detail)
        self.failure, self.evidence, self.where = failure, evidence, where


async def fetch(http: HttpClient, domain: Domain, *, timeout: float = TIME_LIMIT) -> Fetched:
    """Get and read the policy of a domain within `timeout` seconds (RFC 8461 §3.3: a minute, and 64 KiB). Raises `FetchError`.

    The host stays that of the domain wherever its CNAME leads, and so do SNI and certificate (RFC 8461 §7.1, §8.2).

    A media type other than text/plain is recorded and not refused: RFC 8461 §3.2 only says SHOULD, and refusing it would
    leave a domain unprotected that means to be protected.
    """
    host = policy_host(domain)
    try:
        response = await http.request("GET", host, PATH, max_body=policy.MAX_BYTES, timeout=timeout)
    except HttpError as exc:
        raise FetchError(_http_failure(host, exc)) from exc
    if response.status != 200:
        detail = f"https://{host}{PATH} answered with status {response.status}"
        failure = Failure(result_type=ResultType.STS_POLICY_FETCH_ERROR, reason=f"http-status-{response.status}", detail=detail)
        raise FetchError(failure)
    said = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    media_type = "".join(letter if letter.isprintable() else "?" for letter in said)  # it is stored, logged and shown
    try:
        text = policy.decode(response.body)
        return Fetched(policy=policy.parse(text), text=text, media_type=media_type)
    except PolicyError as exc:
        detail = f"https://{host}{PATH} is no policy: {exc}"
        failure = Failure(result_type=ResultType.STS_POLICY_INVALID, reason="policy-syntax-error", detail=detail)
        raise FetchError(failure, policy.lines(response.body.decode("utf-8", "replace")), exc) from exc


def _http_failure(host: Domain, error: HttpError) -> Failure:
    """A certificate that PKIX does not accept is told apart from a handshake that got to none, such as TLS 1.0 only."""
    detail = f"https://{host}{PATH}: {error}"
    said = error.failure
    if said is None:
        reason = _SLUGS.get(error.kind, error.kind)
        return Failure(result_type=ResultType.STS_POLICY_FETCH_ERROR, reason=reason, detail=detail)
    kind = ResultType.STS_WEBPKI_INVALID if said.result_type in _CERTIFICATE else ResultType.STS_POLICY_FETCH_ERROR
    return Failure(result_type=kind, reason="+".join(filter(None, (said.result_type.value, said.reason))), detail=detail)
