"""Notices that are built: their form, that nothing foreign changes it, and the words in them (RFC 3464, RFC 6522, RFC 6533)."""

from __future__ import annotations

import email
import email.policy
import re
from dataclasses import replace
from email.message import EmailMessage
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postward.dsn import Notice, Recipient, build, status_of
from postward.names import Address, Domain

NOW = 1_790_000_000_000_000
DAY = 86_400_000_000
JOE = Recipient(
    address=Address.parse("joe@example.org"),
    action="failed",
    status="5.1.1",
    reply="550 5.1.1 no such user",
    remote_mta="mx.example.org",
    last_attempt=NOW,
)
ORIGINAL = b"From: A <a@example.com>\r\nTo: joe@example.org\r\nMessage-ID: <1@example.com>\r\nSubject: Hi\r\n\r\nBody\r\n"
NOTICE = Notice(
    kind="failed",
    reporting_mta=Domain("mx1.example.net"),
    to=Address.parse("a@example.com"),
    recipients=(JOE,),
    date=NOW,
    arrival=NOW - 5 * DAY,
    original=ORIGINAL,
)


def read(content: bytes, *, strict: bool = True) -> EmailMessage:
    """The notice as Python's email package reads it, after the checks that hold for each."""
    assert content.count(b"\n") == content.count(b"\r\n") == content.count(b"\r")
    assert b"\0" not in content
    assert max(map(len, content.split(b"\r\n"))) <= 998
    policy = email.policy.default.clone(raise_on_defect=strict)
    return cast("EmailMessage", email.message_from_bytes(content, policy=policy))


def parts(message: EmailMessage) -> list[EmailMessage]:
    assert not message.defects
    found = cast("list[EmailMessage]", message.get_payload())
    assert len(found) == 3
    assert not any(part.defects for part in found[:2])
    return found


def text(recipient: Recipient = JOE, **changes: Any) -> str:
    content = parts(read(build(replace(NOTICE, recipients=(recipient,), **changes))))[0].get_content()
    return " ".join(content.split())


def test_the_whole_form() -> None:
    content = build(NOTICE)
    message = read(content)
    assert content.isascii()
    assert message["From"] == "Mail Delivery System <postmaster@mx1.example.net>"
    assert message["To"] == "a@example.com"
    assert message["Subject"] == "Not delivered: joe@example.org"
    assert message["Auto-Submitted"] == "auto-replied"
    assert message["In-Reply-To"] == message["References"] == "<1@example.com>"
    assert message["Date"] == "Mon, 21 Sep 2026 14:13:20 +0000"
    assert re.fullmatch(r"<[0-9a-f]{32}@mx1\.example\.net>", message["Message-ID"])
    assert message["Content-Transfer-Encoding"] is None
    assert message.get_content_type() == "multipart/report"
    assert message.get_param("report-type") == "delivery-status"
    first, second, third = parts(message)
    assert [part.get_content_type() for part in (first, second, third)] == [
        "text/plain",
        "message/delivery-status",
        "text/rfc822-headers",
    ]
    about, joe = cast("list[EmailMessage]", second.get_payload())[:2]
    assert about.items() == [("Reporting-MTA", "dns; mx1.example.net"), ("Arrival-Date", "Wed, 16 Sep 2026 14:13:20 +0000")]
    assert joe.items() == [
        ("Final-Recipient", "rfc822; joe@example.org"),
        ("Action", "failed"),
        ("Status", "5.1.1"),
        ("Remote-MTA", "dns; mx.example.org"),
        ("Diagnostic-Code", "smtp; 550 5.1.1 no such user"),
        ("Last-Attempt-Date", "Mon, 21 Sep 2026 14:13:20 +0000"),
    ]
    assert third.get_content().encode() == ORIGINAL[: ORIGINAL.index(b"\r\n\r\n") + 2]


def test_full_return() -> None:
    third = parts(read(build(replace(NOTICE, full=True))))[2]
    assert third.get_content_type() == "message/rfc822"
    (inner,) = cast("list[EmailMessage]", third.get_payload())
    assert (inner["Subject"], inner.get_content()) == ("Hi", "Body\r\n")


def test_what_the_sender_asked_for_comes_back() -> None:
    """RFC 3461 §6.3: ENVID and ORCPT, decoded."""
    joe = replace(JOE, orcpt="rfc822;j+2Bo+3De@example.org")
    second = parts(read(build(replace(NOTICE, envid="QQ+2B+3D7", recipients=(joe,)))))[1]
    about, one = cast("list[EmailMessage]", second.get_payload())[:2]
    assert about["Original-Envelope-Id"] == "QQ+=7"
    assert one["Original-Recipient"] == "rfc822; j+o=e@example.org"
    assert list(one) == ["Original-Recipient", "Final-Recipient", "Action", "Status", *list(one)[4:]]


@pytest.mark.parametrize(
    ("action", "expected"), [("delayed", "Tue, 22 Sep 2026 14:13:20 +0000"), ("failed", None), ("relayed", None)]
)
def test_only_what_is_delayed_is_tried_again(action: Any, expected: str | None) -> None:
    """RFC 3464 §2.3.9."""
    joe = replace(JOE, action=action, will_retry_until=NOW + DAY)
    second = parts(read(build(replace(NOTICE, recipients=(joe,)))))[1]
    assert cast("list[EmailMessage]", second.get_payload())[1]["Will-Retry-Until"] == expected


def test_no_diagnostic_without_a_reply_and_our_own_type_for_what_is_none() -> None:
    assert b"Diagnostic-Code" not in build(replace(NOTICE, recipients=(replace(JOE, reply=""),)))
    assert b"Diagnostic-Code: x-postward; held by hand" in build(
        replace(NOTICE, recipients=(replace(JOE, reply="held by hand"),))
    )


# --- beyond ASCII (RFC 6533) ---


def test_utf8_addresses_make_a_global_report() -> None:
    joe = replace(JOE, address=Address.parse("jörg@example.org"), orcpt="utf-8;j\\x{F6}rg@example.org")
    content = build(replace(NOTICE, to=Address.parse("ä@example.com"), recipients=(joe,)))
    message = read(content)
    assert message["Content-Transfer-Encoding"] == "8bit"
    first, second, third = parts(message)
    assert second.get_content_type() == "message/global-delivery-status"
    assert second["Content-Transfer-Encoding"] == "8bit"
    assert third.get_content_type() == "text/rfc822-headers"
    assert "Final-Recipient: utf-8; jörg@example.org\r\n".encode() in content
    assert "Original-Recipient: utf-8; jörg@example.org\r\n".encode() in content
    assert "To: ä@example.com\r\n".encode() in content
    assert "<jörg@example.org>" in first.get_content()
    assert message["Subject"] == "Not delivered: a recipient at example.org"


def test_a_utf8_reply_alone_makes_no_global_report() -> None:
    content = build(replace(NOTICE, recipients=(replace(JOE, reply="550 5.1.1 нет"),)))
    first, second, _ = parts(read(content))
    assert content.isascii()
    assert second.get_content_type() == "message/delivery-status"
    assert rb"Diagnostic-Code: smtp; 550 5.1.1 \u043d\u0435\u0442" in content
    assert "> 550 5.1.1 нет" in first.get_content()


@pytest.mark.parametrize(
    ("original", "full", "media_type", "encoding"),
    [
        ("Subject: ä\r\n\r\nx\r\n".encode(), False, "message/global-headers", "8bit"),
        ("Subject: ä\r\n\r\nx\r\n".encode(), True, "message/global", "8bit"),
        (b"Subject: \xe4\r\n\r\nx\r\n", False, "text/rfc822-headers", "quoted-printable"),
        (b"Subject: \xe4\r\n\r\nx\r\n", True, "message/rfc822", "8bit"),
        (b"Subject: a\r\n\r\n\xe4\r\n", False, "text/rfc822-headers", None),
        (b"Subject: a\r\n\r\n\xe4\r\n", True, "message/rfc822", "8bit"),
        (b"Subject: a\r\n\r\nx\r\n", True, "message/rfc822", None),
    ],
)
def test_what_is_returned_is_declared(original: bytes, full: bool, media_type: str, encoding: str | None) -> None:
    content = build(replace(NOTICE, original=original, full=full))
    message = read(content, strict=False)
    third = parts(message)[2]
    assert (third.get_content_type(), third["Content-Transfer-Encoding"]) == (media_type, encoding)
    assert message["Content-Transfer-Encoding"] == (None if content.isascii() else "8bit")
    if encoding == "quoted-printable":
        assert third.get_payload(decode=True) == b"Subject: \xe4\r\n"
    else:
        assert original[: -1 if full else original.index(b"\r\n\r\n")] in content


# --- nothing foreign changes the form ---


@pytest.mark.parametrize("full", [False, True])
def test_the_original_is_cut_at_the_end_of_a_line(full: bool) -> None:
    header = b"Subject: a\r\n" + b"X-Field: " + b"x" * 80 + b"\r\n"
    original = header + (b"\r\n" + (b"z" * 70 + b"\r\n") * 3000 if full else b"X-More: y\r\n" * 20_000)
    content = build(replace(NOTICE, original=original, full=full))
    read(content)
    kept = content[content.index(b"Subject: a\r\n") : content.rindex(b"\r\n--")]
    assert original.startswith(kept)
    assert kept.endswith(b"\r\n")
    assert 100_000 < len(kept) <= 100 * 1024


def test_the_limit_holds_for_what_is_sent() -> None:
    """Line ends that are mended make a message longer."""
    assert len(build(replace(NOTICE, original=b"A: b\n\n" + b"\n" * 90_000, full=True))) < 105_000


@pytest.mark.parametrize("full", [False, True])
def test_long_lines_are_broken(full: bool) -> None:
    original = b"Subject: " + "ä".encode() * 3000 + b"\r\n\r\n" + b"y" * 200_000
    content = build(replace(NOTICE, original=original, full=full))
    message = read(content, strict=False)
    third = parts(message)[2]
    assert third.get_content_type() == ("message/global" if full else "message/global-headers")
    assert re.sub(rb"\r\n ", b"", content).count("ä".encode()) == 3000
    content.decode()  # no character was cut


HOSTILE = st.lists(
    st.sampled_from(["\r", "\n", "\0", "\t", " ", "-", "a", ";", "ä", "\u2028", "\x85", ":", "+0D+0A", "\ud800"]),
    max_size=30,
).map("".join)


@settings(max_examples=200, deadline=None)
@given(HOSTILE, HOSTILE, HOSTILE, HOSTILE)
def test_no_reply_host_or_parameter_adds_a_field(reply: str, host: str, orcpt: str, envid: str) -> None:
    joe = replace(JOE, reply=f"550 5.1.1 x{reply}", remote_mta=f"mx{host}", orcpt=f"rfc822;{orcpt}")
    _, second, _ = parts(read(build(replace(NOTICE, recipients=(joe, joe), envid=envid)), strict=False))
    blocks = cast("list[EmailMessage]", second.get_payload())
    block = "".join(part.as_string(policy=email.policy.compat32) for part in blocks)
    names = re.findall(r"(?m)^([A-Za-z-]+): ", block)
    known = {"Reporting-MTA", "Original-Envelope-Id", "Arrival-Date", "Original-Recipient", "Final-Recipient", "Action"}
    assert set(names) <= known | {"Status", "Remote-MTA", "Diagnostic-Code", "Last-Attempt-Date"}
    assert (names.count("Final-Recipient"), names.count("Reporting-MTA"), names.count("Status")) == (2, 1, 2)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                *(b"Message-ID: <a@b>", b"Subject: x", b"Content-Type: multipart/mixed; boundary=b", b"--b", b"--", b"\r\n"),
                *(b"\r\n", b"\r", b"\n", b"\0", b" ", b"\xff", b"y" * 1500, b"\xc3\xa4" * 700, b"From x", b"."),
            ]
        ),
        max_size=20,
    ),
    st.booleans(),
)
def test_no_original_breaks_out(pieces: list[bytes], full: bool) -> None:
    message = read(build(replace(NOTICE, original=b"".join(pieces), full=full)), strict=False)
    assert len(parts(message)) == 3
    assert set(message.keys()) <= {
        *("From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "In-Reply-To", "References", "MIME-Version"),
        *("Content-Type", "Content-Transfer-Encoding"),
    }


@pytest.mark.parametrize("value", [b"<a@b>\r\n c", b"<a b>", b"<>", b"<" + b"a" * 300 + b">", b"<\xe4@b>", b"x"])
def test_a_message_id_that_is_none_is_not_repeated(value: bytes) -> None:
    message = read(build(replace(NOTICE, original=b"Message-ID: " + value + b"\r\n\r\n")), strict=False)
    assert message["In-Reply-To"] == ("<a@b>" if value.startswith(b"<a@b>") else None)


def test_boundaries_cannot_be_guessed() -> None:
    assert len({cast("str", read(build(NOTICE)).get_boundary()) for _ in range(5)}) == 5


@pytest.mark.parametrize(
    "changes",
    [
        {"recipients": ()},
        {"recipients": (replace(JOE, status="5.1"),)},
        {"recipients": (replace(JOE, status="3.1.1"),)},
        {"headers": (("X-A", "b\r\nBcc: c"),)},
        {"headers": (("X A", "b"),)},
        {"message_id": "a@b"},
        {"message_id": "<a@b>\r\nBcc: c"},
    ],
)
def test_a_caller_that_is_wrong_is_told(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"not|nobody"):
        build(replace(NOTICE, **changes))


def test_headers_of_the_caller_are_added() -> None:
    message = read(build(replace(NOTICE, headers=(("TLS-Required", "No"),), message_id="<x@mx1.example.net>")))
    assert (message["TLS-Required"], message["Message-ID"]) == ("No", "<x@mx1.example.net>")


# --- words ---


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("550 5.1.1 no such user", "There is no such address at example.org"),
        ("550 5.1.2 the domain example.org does not exist", "There is no mail domain example.org"),
        ("556 5.1.10 example.org accepts no mail (null MX)", "accepts no mail at all"),
        ("552 5.2.2 full", "The mailbox is full"),
        ("552 5.3.4 too big", "larger than the server takes"),
        ("550 5.7.1 spam", "A rule of the receiving side"),
        ("550 5.7.10 encryption needed", "An encrypted connection is required"),
        ("550 5.7.30 the server does not support REQUIRETLS", "You asked that the message only travel encrypted"),
        ("550 5.7.26 unauthenticated", "SPF, DKIM or DMARC"),
        ("550 5.7.99 no", "refused for reasons of security or policy"),
        ("554 no", "gave no code that says why"),
    ],
)
def test_common_refusals_are_explained(reply: str, expected: str) -> None:
    said = text(replace(JOE, reply=reply, status=status_of(reply, permanent=True)))
    assert expected in said
    assert f"At mx.example.org: > {reply}" in said
    assert "What you can do: " in said
    assert "{" not in said


@pytest.mark.parametrize(
    ("kind", "result", "name", "meaning"),
    [
        ("sts", "certificate-expired", "MTA-STS", "its certificate has expired"),
        ("tlsa", "tlsa-invalid", "DANE", "does not match what is published in DNS"),
        ("x-other", "validation-failure chain", "x-other", "could not be verified"),
        ("sts", "not satisfied", "MTA-STS", "could not be verified"),
    ],
)
def test_policies_are_explained(kind: str, result: str, name: str, meaning: str) -> None:
    reply = f"451 4.7.5 the {kind} policy of example.org is not satisfied: {result}"
    said = text(replace(JOE, reply=reply, status="5.7.5"))
    assert f"example.org has published a policy ({name})" in said
    assert meaning in said
    assert "It was tried for 5 days." in said
    assert "the postmaster of example.org" in said


def test_every_registered_result_type_has_words() -> None:
    from postward.dsn.policy import explain_policy
    from postward.model import ResultType

    for result in ResultType:
        said = explain_policy(f"451 4.7.5 the sts policy of a.example is not satisfied: {result.value} some-reason")
        assert "that could not be verified" not in said


@pytest.mark.parametrize(("hours", "expected"), [(0, "in time"), (1, "an hour"), (30, "30 hours"), (50, "2 days")])
def test_how_long_it_was_tried(hours: int, expected: str) -> None:
    joe = replace(JOE, reply="451 4.4.1 connection refused", status="5.4.1")
    said = text(joe, arrival=NOW - hours * 3_600_000_000 - 1)
    assert expected in said
    assert "No mail server of example.org answered" in said


def test_delayed_mail_needs_nothing_done() -> None:
    joe = replace(JOE, action="delayed", status="4.4.1", reply="451 4.4.1 refused", will_retry_until=NOW + DAY)
    said = text(joe, kind="delayed")
    assert "You need not send it again" in said
    assert "It will be tried until Tue, 22 Sep 2026 14:13:20 +0000." in said
    assert "What you can do" not in said


def test_relayed_and_many() -> None:
    joe = replace(JOE, action="relayed", status="2.0.0", reply="250 2.0.0 ok")
    content = build(replace(NOTICE, kind="relayed", recipients=(joe,) * 150))
    message = read(content)
    assert message["Subject"] == "Passed on: 150 recipients"
    said = parts(message)[0].get_content()
    assert "does not confirm" in " ".join(said.split())
    assert "… and 50 more" in said
    assert content.count(b"Final-Recipient: ") == 150
