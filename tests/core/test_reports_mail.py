"""Report mail, report POSTs, and the addresses they go to (RFC 8460 §3, §5.3, §5.4)."""

from __future__ import annotations

import email
import email.policy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_dns import FakeDns
from postward.dkim import Signer, SigningKey, dns_record, generate, verify
from postward.http import HttpError, HttpResponse
from postward.model import Delivery, RecipientOutcome, TlsWish
from postward.names import Address, Domain
from postward.reports.container import mime_parts
from postward.reports.https import send_https
from postward.reports.mailto import send_mail
from postward.reports.mime import compose
from postward.reports.targets import BadTarget, MailTarget, WebTarget, parse_target, suppression_keys
from report_kit import NEXT, make_report

KEY = SigningKey(domain=Domain("a.example"), selector="s", key=generate("ed25519"))
SIGNER = Signer([KEY])
NAME, VALUE = dns_record(KEY)
RUA = Address.parse("tls-reports@b.example")


def test_composed_mail():
    """RFC 8460 §5.3: structure, header fields, names."""
    report = make_report()
    content = compose(report, RUA, now=NEXT)
    assert content.count(b"\n") == content.count(b"\r\n")
    assert max(map(len, content.split(b"\r\n"))) <= 78
    message = email.message_from_bytes(content, policy=email.policy.default)
    assert not message.defects
    assert message["From"] == "postmaster@a.example"
    assert message["To"] == "tls-reports@b.example"
    assert message["Subject"] == report.subject
    assert message["TLS-Required"] == "No"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["TLS-Report-Domain"] == "b.example"
    assert message["Date"].datetime.isoformat() == "2026-11-24T01:00:00+00:00"
    text, part = mime_parts(content, 100_000)
    assert (text.media_type, text.data.strip()) == ("text/plain", b"A report.")
    assert (part.media_type, part.report_type, part.filename) == (report.media_type, "tlsrpt", report.filename)
    assert part.data == report.content


def test_message_id_belongs_to_report_and_target():
    def ident(report, address):
        return email.message_from_bytes(compose(report, address, now=NEXT))["Message-ID"]

    first = ident(make_report(), RUA)
    assert first == ident(make_report(), RUA)
    assert first.endswith("@a.example>")
    assert len({first, ident(make_report("r2"), RUA), ident(make_report(), Address.parse("x@b.example"))}) == 3


def test_header_injection_is_refused():
    with pytest.raises(ValueError, match="line end"):
        compose(make_report(subject="a\r\nBcc: x@y.example"), RUA, now=NEXT)


@given(st.text(max_size=300))
def test_any_explanation_is_carried(text):
    content = compose(make_report(explanation=text), RUA, now=NEXT)
    first, second = mime_parts(content, 100_000)
    decoded = first.data.decode("utf-8")
    assert decoded.split() == text.encode("utf-8", "replace").decode().split()
    assert second.data == make_report().content


def outcome(*, delivered=True, permanent=False, reply="250 2.0.0 ok"):
    sent = []

    async def send(message):
        sent.append(message)
        item = RecipientOutcome(address=message.recipients[0], delivered=delivered, permanent=permanent, reply=reply)
        return Delivery(recipients=(item,), attempts=())

    return sent, send


async def test_report_mail_is_signed_by_the_submitter():
    """RFC 8460 §3, §5.3: d= is the submitter, the TLS-Report fields are signed, TLS trouble does not stop it."""
    sent, send = outcome()
    delivered = await send_mail(make_report(), RUA, signer=SIGNER, send=send, now=NEXT)
    assert (delivered.accepted, delivered.detail) == (True, "250 2.0.0 ok")
    (message,) = sent
    assert str(message.sender) == "postmaster@a.example"
    assert (message.wish, message.is_report) == (TlsWish.IGNORE, True)
    dns = FakeDns({(NAME, "TXT"): [VALUE]})
    (signature,) = await verify(message.content, dns, service="tlsrpt")
    assert (signature.result, signature.domain, signature.body_length) == ("pass", "a.example", False)
    changed = message.content.replace(b"TLS-Report-Domain: b", b"TLS-Report-Domain: c")
    assert (await verify(changed, dns))[0].result == "fail"


async def test_other_reports_follow_the_policies():
    sent, send = outcome()
    await send_mail(make_report(kind="aggregate"), RUA, signer=SIGNER, send=send, now=NEXT)
    assert sent[0].wish is TlsWish.FOLLOW
    assert b"TLS-Required" not in sent[0].content


async def test_refusals_keep_their_reply():
    _, send = outcome(delivered=False, permanent=True, reply="550 5.1.1\nno such user")
    delivered = await send_mail(make_report(), RUA, signer=SIGNER, send=send, now=NEXT)
    assert (delivered.accepted, delivered.permanent, delivered.detail) == (False, True, "550 5.1.1 no such user")


async def test_without_a_key_nothing_is_sent():
    sent, send = outcome()
    delivered = await send_mail(make_report(), RUA, signer=Signer([]), send=send, now=NEXT)
    assert (delivered.accepted, delivered.permanent, sent) == (False, False, [])


class Http:
    def __init__(self, *answers):
        self.answers, self.requests = list(answers), []

    async def request(self, method, host, target, **options):
        self.requests.append((method, host, target, options))
        answer = self.answers.pop(0)
        if isinstance(answer, HttpError):
            raise answer
        return HttpResponse(status=answer, headers={}, body=b"")


WEB = WebTarget(host=Domain("r.example"), port=443, path="/in?x=1")


@pytest.mark.parametrize(
    ("status", "accepted", "permanent"),
    [
        (200, True, False),
        (201, True, False),
        (204, True, False),
        (302, False, True),
        (404, False, True),
        (408, False, False),
        (429, False, False),
        (500, False, False),
        (503, False, False),
    ],
)
async def test_only_2xx_counts_as_delivered(status, accepted, permanent):
    """RFC 8460 §5.4."""
    http = Http(status)
    delivered = await send_https(make_report(), WEB, http=http)
    assert (delivered.accepted, delivered.permanent) == (accepted, permanent)
    ((method, host, path, options),) = http.requests
    assert (method, host, path) == ("POST", "r.example", "/in?x=1")
    assert options["headers"] == {"content-type": "application/tlsrpt+gzip"}
    assert options["private_addresses"] is False
    assert options["verify"] is True
    assert options["head_only"] is True


async def test_broken_certificates_are_told_and_tolerated():
    """RFC 8460 §3: certificate errors may be ignored; only they, and only after trying properly."""
    http = Http(HttpError("tls", "certificate has expired"), 200)
    delivered = await send_https(make_report(), WEB, http=http)
    assert delivered.accepted
    assert "certificate not verified: certificate has expired" in delivered.detail
    assert [options["verify"] for *_, options in http.requests] == [True, False]
    for kind, permanent in (("timeout", False), ("dns", False), ("refused-address", True)):
        http = Http(HttpError(kind, "x"), 200)
        delivered = await send_https(make_report(), WEB, http=http)
        assert (delivered.accepted, delivered.permanent, len(http.requests)) == (False, permanent, 1)


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("mailto:a@b.example", MailTarget(address=Address.parse("a@b.example"))),
        ("MAILTO:a%2Cb@B.example?subject=x", None),
        ("mailto:a%2Db@B.example?subject=x", MailTarget(address=Address.parse("a-b@b.example"))),
        ("https://r.example", WebTarget(host=Domain("r.example"), port=443, path="/")),
        ("https://r.example:8443/a%2Fb?c=d#e", WebTarget(host=Domain("r.example"), port=8443, path="/a%2Fb?c=d")),
        ("https://[::1]/x", WebTarget(host=Domain("[IPv6:::1]"), port=443, path="/x")),
        ("https://bücher.example/ü", WebTarget(host=Domain("xn--bcher-kva.example"), port=443, path="/%C3%BC")),
        ("http://r.example/", None),
        ("mailto:0", None),
        ("mailto:", None),
        ("https:///x", None),
        ("https://u:p@r.example/", None),
        ("https://r.example:99999/", None),
        ("https://r.example/a b", None),
        ("https://r.example/\r\nHost: x", None),
        ("ftp:x", None),
        ("nothing", None),
        ("", None),
    ],
)
def test_report_uris(uri, expected):
    if expected is None:
        with pytest.raises(BadTarget):
            parse_target(uri)
    else:
        assert parse_target(uri) == expected


@given(st.sampled_from(["", "https://", "mailto:", "https://r.example/"]), st.text(max_size=80))
def test_any_uri_is_read_or_refused(scheme, rest):
    uri = scheme + rest
    try:
        target = parse_target(uri)
    except BadTarget:
        assert suppression_keys(uri) == ()
        return
    assert suppression_keys(uri)
    if isinstance(target, WebTarget):
        assert target.path.isascii()
        assert not set(target.path) & set(" \r\n")
