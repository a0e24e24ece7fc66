"""Fetching the policy (RFC 8461 §3.3) and naming what went wrong (RFC 8460 §4.3.2.2)."""

import pytest

from plugin_rig import FakeHttp
from postward.http import HttpError
from postward.model import Failure, Mode, ResultType
from postward.names import Domain
from postward_mtasts.fetch import FetchError, fetch

DOMAIN = Domain("b.example")
POLICY = b"version: STSv1\nmode: testing\nmx: mx.b.example\nmax_age: 10\n"
FETCH, INVALID, WEBPKI = ResultType.STS_POLICY_FETCH_ERROR, ResultType.STS_POLICY_INVALID, ResultType.STS_WEBPKI_INVALID


async def fetch_page(page: bytes | int | HttpError) -> FetchError:
    http = FakeHttp()
    http.pages["mta-sts.b.example"] = page
    with pytest.raises(FetchError) as caught:
        await fetch(http, DOMAIN)
    return caught.value


async def test_the_request() -> None:
    """RFC 8461 §3.2 the URL; §3.3 one minute and 64 KiB; the certificate is verified."""
    http = FakeHttp()
    http.headers = {"content-type": "Text/Plain; charset=utf-8"}
    http.pages["mta-sts.b.example"] = POLICY
    fetched = await fetch(http, DOMAIN)
    assert http.requests == ["GET https://mta-sts.b.example/.well-known/mta-sts.txt"]
    assert http.options == {"max_body": 65536, "timeout": 60}
    assert (fetched.policy.mode, fetched.text, fetched.media_type) == (Mode.TESTING, POLICY.decode(), "text/plain")


@pytest.mark.parametrize("status", [201, 203, 204, 206, 301, 302, 304, 307, 404, 500])
async def test_only_status_200_counts(status: int) -> None:
    """RFC 8461 §3.3: any other status, redirects among them, is no policy."""
    error = await fetch_page(status)
    assert (error.failure.result_type, error.failure.reason) == (FETCH, f"http-status-{status}")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("dns", "dns-lookup-failed"),
        ("no-address", "no-address"),
        ("connect", "connect"),
        ("timeout", "timeout"),
        ("too-large", "too-large"),
        ("protocol", "protocol"),
        ("refused-address", "refused-address"),
    ],
)
async def test_transport_errors(kind: str, reason: str) -> None:
    error = await fetch_page(HttpError(kind, "it broke"))
    assert (error.failure.result_type, error.failure.reason) == (FETCH, reason)
    assert "it broke" in error.failure.detail


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (Failure(result_type=ResultType.CERTIFICATE_EXPIRED), "certificate-expired"),
        (Failure(result_type=ResultType.CERTIFICATE_NOT_TRUSTED, reason="self-signed"), "certificate-not-trusted+self-signed"),
        (Failure(result_type=ResultType.CERTIFICATE_HOST_MISMATCH), "certificate-host-mismatch"),
    ],
)
async def test_certificate_errors(failure: Failure, reason: str) -> None:
    """RFC 8460 §4.3.2.2: sts-webpki-invalid, with the cause as reason."""
    error = await fetch_page(HttpError("tls", "bad certificate", failure))
    assert (error.failure.result_type, error.failure.reason) == (WEBPKI, reason)


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (Failure(result_type=ResultType.VALIDATION_FAILURE, reason="x"), "validation-failure+x"),
        (None, "tls"),
    ],
)
async def test_a_handshake_that_came_to_no_certificate(failure: Failure | None, reason: str) -> None:
    """RFC 8460 §4.3.2.2: TLS 1.0 only, plain text or a hang-up say nothing about PKIX; the policy could not be retrieved."""
    error = await fetch_page(HttpError("tls", "no TLS", failure))
    assert (error.failure.result_type, error.failure.reason) == (FETCH, reason)


@pytest.mark.parametrize("page", [b"", b"<html>\nfine</html>", POLICY.replace(b"STSv1", b"STSv2"), POLICY + b"\xff\n"])
async def test_a_page_that_is_no_policy(page: bytes) -> None:
    """RFC 8460 §4.3.2.2: sts-policy-invalid."""
    error = await fetch_page(page)
    assert (error.failure.result_type, error.failure.reason) == (INVALID, "policy-syntax-error")


async def test_what_was_served_is_evidence() -> None:
    """RFC 8460 §4.5: the policy as declared, errors included."""
    assert (await fetch_page(b"version: STSv2\nmode: x")).evidence == ("version: STSv2", "mode: x")
    assert (await fetch_page(b"version: STSv1\nx: \xff\n")).evidence == ("version: STSv1", "x: \N{REPLACEMENT CHARACTER}")


async def test_a_media_type_can_be_shown() -> None:
    """A header may hold what steers a terminal; the type is stored, logged and printed."""
    http = FakeHttp()
    http.headers = {"content-type": "text/\x7f\x9b31mplain ; x"}
    http.pages["mta-sts.b.example"] = POLICY
    assert (await fetch(http, DOMAIN)).media_type == "text/??31mplain"
