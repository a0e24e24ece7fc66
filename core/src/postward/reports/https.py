"""Send a report by HTTPS POST (RFC 8460 §3, §5.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from postward.http import HttpError
from postward.model import Delivered

if TYPE_CHECKING:
    from postward.http import HttpClient, HttpResponse
    from postward.model import Report
    from postward.reports.targets import WebTarget

_TIMEOUT: Final = 120.0
_TRY_AGAIN: Final = frozenset({408, 421, 425, 429})


async def send_https(report: Report, target: WebTarget, *, http: HttpClient, private_addresses: bool = False) -> Delivered:
    """Post `report` to an endpoint. Only a 2xx answer counts as delivered, and no redirect is followed.

    When the certificate does not verify the report is posted once more without verifying, as RFC 8460 §3 allows, because a
    broken certificate may be what the report is about; `detail` says so.
    """
    try:
        try:
            return _judge(await _post(report, target, http, private_addresses, verify=True))
        except HttpError as exc:
            if exc.kind != "tls":
                raise
            answer = _judge(await _post(report, target, http, private_addresses, verify=False))
            detail = f"{answer.detail}; certificate not verified: {exc}"
            return Delivered(accepted=answer.accepted, permanent=answer.permanent, detail=detail)
    except HttpError as exc:
        return Delivered(accepted=False, permanent=exc.kind == "refused-address", detail=f"{exc.kind}: {exc}")


async def _post(report: Report, target: WebTarget, http: HttpClient, private_addresses: bool, *, verify: bool) -> HttpResponse:
    return await http.request(
        "POST",
        target.host,
        target.path,
        port=target.port,
        headers={"content-type": report.media_type},
        body=report.content,
        timeout=_TIMEOUT,
        private_addresses=private_addresses,
        verify=verify,
        head_only=True,
    )


def _judge(response: HttpResponse) -> Delivered:
    status = response.status
    permanent = 300 <= status < 500 and status not in _TRY_AGAIN
    return Delivered(accepted=200 <= status < 300, permanent=permanent, detail=f"HTTP status {status}")
