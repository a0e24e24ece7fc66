"""Notices that are read: ours come back as they were, those of others as far as they go, anything else as one error."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postward.dsn import Notice, NotStatusReport, Recipient, RecipientStatus, StatusReport, build, parse, status_of
from postward.names import Address, Domain

SECOND = 1_000_000
LETTERS = "abcXYZ09.+='-_/"
SHORT = st.text(alphabet=LETTERS + "äж", min_size=1, max_size=8).filter(
    lambda text: text.strip(".") == text and ".." not in text
)
HOST = st.sampled_from(["mx.example.org", "[192.0.2.1]", "xn--bcher-kva.example"])
LOCAL = st.one_of(SHORT, st.sampled_from(['"a b;c"', '"a\\\\x{41}"', '"ä\\\\x{41}"', '"a  b"', "a;b", "&{}~#"]))
INSTANT = st.integers(1, 4_000_000_000).map(lambda seconds: seconds * SECOND)
SOMETIME = st.one_of(st.just(0), INSTANT)
WORDS = st.lists(st.text(alphabet=LETTERS + ';:<>()"\\', min_size=1, max_size=120), min_size=1, max_size=30).map(" ".join)


def xtext(text: str) -> str:
    return "".join(chr(octet) if 33 <= octet <= 126 and octet not in b"+=" else f"+{octet:02X}" for octet in text.encode())


@st.composite
def recipients(draw: st.DrawFn) -> tuple[Recipient, RecipientStatus]:
    address = Address(draw(LOCAL), draw(HOST.map(Domain)))
    action = draw(st.sampled_from(["failed", "delayed", "delivered", "relayed", "expanded"]))
    status = f"{draw(st.sampled_from('245'))}.{draw(st.integers(0, 999))}.{draw(st.integers(0, 999))}"
    original = draw(st.one_of(st.just(""), SHORT.map(lambda text: f"{text}@old.example")))
    kind = "rfc822" if original.isascii() else "utf-8"
    encoded = xtext(original) if kind == "rfc822" else "".join(c if c.isascii() else f"\\x{{{ord(c):X}}}" for c in original)
    reply = draw(st.one_of(st.just(""), WORDS.map("550 5.1.1 {}".format)))
    last, until = draw(SOMETIME), draw(SOMETIME)
    remote = draw(st.one_of(st.just(""), HOST))
    given = Recipient(
        address=address,
        action=action,  # type: ignore[arg-type]
        status=status,
        reply=reply,
        orcpt=f"{kind};{encoded}" if original else "",
        remote_mta=remote,
        last_attempt=last,
        will_retry_until=until,
    )
    expected = RecipientStatus(
        recipient=str(address),
        action=action,
        status=status,
        original=original,
        remote_mta=remote,
        diagnostic=reply,
        last_attempt=last,
        will_retry_until=until if action == "delayed" else 0,
    )
    return given, expected


@settings(max_examples=300, deadline=None)
@given(st.lists(recipients(), min_size=1, max_size=4), SHORT, SOMETIME, INSTANT, st.booleans(), st.booleans())
def test_ours_come_back(
    pairs: list[tuple[Recipient, RecipientStatus]], envid: str, arrival: int, date: int, full: bool, lf: bool
) -> None:
    content = build(
        Notice(
            kind="failed",
            reporting_mta=Domain("mx1.example.net"),
            to=Address.parse("a@example.com"),
            recipients=tuple(given for given, _ in pairs),
            date=date,
            arrival=arrival,
            envid=xtext(envid),
            original=b"Subject: x\r\nMessage-ID: <1@example.com>\r\n\r\nbody\r\n",
            full=full,
        )
    )
    assert parse(content.replace(b"\r\n", b"\n") if lf else content) == StatusReport(
        reporting_mta="mx1.example.net",
        envelope_id=envid,
        arrival=arrival,
        message_id="<1@example.com>",
        recipients=tuple(expected for _, expected in pairs),
    )


POSTFIX = b"""\
Date: Wed, 25 Nov 2026 10:00:00 +0000 (UTC)
From: MAILER-DAEMON@mx.example.org (Mail Delivery System)
Subject: Undelivered Mail Returned to Sender
To: reports@example.net
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status;
\tboundary="4CFn.1/mx.example.org"
Content-Transfer-Encoding: 8bit

This is a MIME-encapsulated message.

--4CFn.1/mx.example.org
Content-Description: Notification
Content-Type: text/plain; charset=utf-8

I'm sorry to have to inform you that your message could not be delivered.

--4CFn.1/mx.example.org
Content-Description: Delivery report
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.example.org
X-Postfix-Queue-ID: 4CFn
X-Postfix-Sender: rfc822; reports@example.net
Arrival-Date: Wed, 25 Nov 2026 09:59:59 +0000 (UTC)

Final-Recipient: rfc822; rua@example.com
Original-Recipient: rfc822;rua@example.com
Action: failed
Status: 5.1.1
Remote-MTA: dns; mail.example.com
Diagnostic-Code: smtp; 550 5.1.1 <rua@example.com>: Recipient address rejected:
    User unknown

--4CFn.1/mx.example.org
Content-Description: Undelivered Message Headers
Content-Type: text/rfc822-headers

Return-Path: <reports@example.net>
Message-ID:
 <abc@example.net>

--4CFn.1/mx.example.org--
"""


def test_postfix() -> None:
    report = parse(POSTFIX)
    assert report == parse(POSTFIX.replace(b"\n", b"\r\n"))
    assert (report.reporting_mta, report.message_id) == ("mx.example.org", "<abc@example.net>")
    assert report.arrival == 1_795_600_799 * SECOND
    (one,) = report.recipients
    assert (one.recipient, one.action, one.status, one.remote_mta) == ("rua@example.com", "failed", "5.1.1", "mail.example.com")
    assert " ".join(one.diagnostic.split()) == "550 5.1.1 <rua@example.com>: Recipient address rejected: User unknown"


def bounce(status: str, head: str = "Content-Type: message/delivery-status\n") -> bytes:
    return f"Content-Type: multipart/report; boundary=b\n\n--b\n\nSorry.\n--b\n{head}\n{status}\n--b--\n".encode()


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        # no block about the message; comments behind action and status; brackets
        (
            "Final-Recipient: RFC822; <a@b.example>\nAction: Failed (gone)\nStatus: 5.1.1 (bad destination)",
            ("a@b.example", "failed", "5.1.1"),
        ),
        ("Reporting-MTA: x\n\nFinal-recipient: a@b.example\nstatus: 4.4.7", ("a@b.example", "delayed", "4.4.7")),
        ("Original-Recipient: rfc822;a@b.example\nAction: failed", ("a@b.example", "failed", "5.0.0")),
        ("Final-Recipient: rfc822;a@b.example\nAction: delivered\nStatus: ok", ("a@b.example", "delivered", "2.0.0")),
        ("\n\n \nFinal-Recipient: rfc822;a\nStatus: 1.2.3.4 5.2.2", ("a", "failed", "5.2.2")),
        ("Final-Recipient: utf-8; j\\x{F6}@b.example\nStatus: 5.1.1", ("jö@b.example", "failed", "5.1.1")),
    ],
)
def test_what_others_get_wrong(status: str, expected: tuple[str, str, str]) -> None:
    (one,) = parse(bounce(status)).recipients
    assert (one.recipient, one.action, one.status) == expected


def test_encodings_and_nesting() -> None:
    body = "RmluYWwtUmVjaXBpZW50OiByZmM4MjI7IGFAYi5leGFtcGxlClN0YXR1czogNS4xLjEK"
    head = "Content-Type: message/delivery-status\nContent-Transfer-Encoding: base64\n"
    inner = bounce(body, head)
    outer = b'Content-Type: multipart/mixed;\n boundary="a\\"a"\n\n--a"a\n' + inner + b'--a"a--\n'
    assert [one.recipient for one in parse(outer).recipients] == ["a@b.example"]


def test_no_report_is_one_error() -> None:
    message = b"Content-Type: message/delivery-status\n\nFinal-Recipient: x"
    for content in (b"", b"\r\n", b"Subject: a\r\n\r\nFinal-Recipient: rfc822;a\r\nStatus: 5.1.1\r\n", message, bounce("")):
        with pytest.raises(NotStatusReport):
            parse(content)


def test_sizes_are_bounded() -> None:
    many = "\n\n".join(f"Final-Recipient: rfc822; {number}@b.example\nStatus: 5.1.1" for number in range(3000))
    assert len(parse(bounce(many)).recipients) == 1000
    (one,) = parse(bounce("Final-Recipient: rfc822; a\nStatus: 5.1.1\nDiagnostic-Code: smtp; " + "x" * 9000)).recipients
    assert len(one.diagnostic) < 2001
    large = bounce("Final-Recipient: rfc822; a\nStatus: 5.1.1").replace(b"\n--b--", b"\n--b\n\n" + b"x" * (8 << 20))
    assert parse(large).recipients[0].recipient == "a"
    with pytest.raises(NotStatusReport):
        parse(large.replace(b"Sorry.", b"x" * (1 << 20)))
    for flood in (b"--b\n" * 250_000, b"\n" * (1 << 20), b" \n" * (1 << 19), b"\n ".join([b""] * 300_000)):
        with contextlib.suppress(NotStatusReport):
            parse(b"Content-Type: multipart/report; boundary=b\n\n" + flood)


PIECES = [
    *(b"Content-Type: multipart/report; boundary=b", b"Content-Type: message/delivery-status", b"\n", b"\n\n", b"\r\n", b"--b"),
    *(b"--b--", b"Final-Recipient: rfc822;a", b"Action: failed", b"Status: 5.1.1", b"\0", b"\xff", b":", b";", b" ", b"="),
    *(
        b"Arrival-Date: 99 Foo 99999 99:99",
        b"Content-Transfer-Encoding: base64",
        b"Reporting-MTA: dns; x",
        b"Last-Attempt-Date:",
    ),
]


@settings(max_examples=500, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.lists(st.sampled_from(PIECES), max_size=40).map(b"".join)))
def test_nothing_else_is_raised(content: bytes) -> None:
    with contextlib.suppress(NotStatusReport):
        parse(content)


@pytest.mark.parametrize(
    "value", ["Mon, 1 Jan 99999 00:00:00 +0000", f"1 Jan 2026 00:00:00 +{'9' * 30}", "x", "", "\0", "1 2 3"]
)
def test_bad_dates_are_no_dates(value: str) -> None:
    (one,) = parse(bounce(f"Final-Recipient: rfc822;a\nStatus: 5.1.1\nLast-Attempt-Date: {value}")).recipients
    assert one.last_attempt == 0


@pytest.mark.parametrize(
    ("reply", "permanent", "expected"),
    [
        ("550 5.1.1 no", True, "5.1.1"),
        ("550-5.1.1 no", True, "5.1.1"),
        ("451 4.4.1 refused", False, "4.4.1"),
        ("451 4.4.1 refused", True, "5.4.1"),
        ("250 2.1.5 ok", False, "2.1.5"),
        ("250 ok", True, "2.0.0"),
        ("550 no", True, "5.0.0"),
        ("552 full", True, "5.2.2"),
        ("556 null MX", True, "5.1.10"),
        ("550 5.1.1.1 no", True, "5.0.0"),
        ("550 5.1000.1 no", True, "5.0.0"),
        ("no reply", True, "5.0.0"),
        ("", False, "4.0.0"),
    ],
)
def test_status_of_a_reply(reply: str, permanent: bool, expected: str) -> None:
    assert status_of(reply, permanent=permanent) == expected
