"""Aggregate reports from the field: what they say, and what is passed over and recorded (RFC 9990 §3.1)."""

from __future__ import annotations

import re
from collections.abc import Callable
from xml.parsers import expat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmarc_samples import RECORD, new, old, records
from postward_dmarc.reading.aggregate import Aggregate, DkimResult, Reason, Record, SpfResult
from postward_dmarc.reading.defects import DEFECTS
from postward_dmarc.reading.mend import mend
from postward_dmarc.reading.read import MAX_COUNT, ReportError, read
from postward_dmarc.reading.xml import MAX_DEPTH, MAX_TOKEN

DAY = 1_767_225_600_000_000


def reading(data: bytes, size: int = 1 << 16) -> tuple[Aggregate, list[Record]]:
    found: list[Record] = []
    report = read([data[at : at + size] for at in range(0, len(data), size)], found.append)
    assert report.records - report.damaged == len(found)
    assert report.messages == sum(record.count for record in found)
    assert set(report.defects) <= set(DEFECTS)
    return report, found


def prefixed(data: bytes) -> bytes:
    """The same with all elements in a namespace that has a prefix, as some libraries write it."""
    named = data.replace(b"<feedback", b'<feedback xmlns:ns0="urn:ietf:params:xml:ns:dmarc-2.0"')
    return re.sub(rb"<(/?)(?=\w)", rb"<\1ns0:", named)


def test_a_report_of_the_old_schema() -> None:
    """RFC 7489 appendix C: no namespace, no version, pct, no selector order."""
    report, (first, second) = reading(old())
    assert (report.org, report.email, report.report_id) == (
        "big-mailbox.example",
        "noreply-dmarc@big-mailbox.example",
        "13987654321098765432",
    )
    assert (report.begin, report.end) == (DAY, DAY + 86_399_000_000)
    policy = report.policy
    assert (policy.domain, policy.p, policy.sp, policy.np, policy.adkim, policy.aspf, policy.pct) == (
        "example.com", "reject", "quarantine", "reject", "r", "s", "100",
    )  # fmt: skip
    assert (report.records, report.messages, report.defects) == (2, 3, ())
    assert (first.source, first.count, first.disposition, first.dkim, first.spf) == ("192.0.2.1", 1, "none", "pass", "fail")
    assert first.passed
    assert first.header_from == "example.com"
    assert first.dkim_results == (DkimResult("example.com", "s1", "pass"),)
    assert first.spf_results == (SpfResult("bounce.example.com", "mfrom", "softfail"),)
    assert second.count == 2


def test_a_report_of_the_new_schema() -> None:
    """RFC 9990 §3.1.1: namespace, languages, new elements, extensions that are ignored."""
    report, [record] = reading(new())
    assert (report.version, report.generator, report.contact) == ("1.0", "Postward 1", "see our pages")
    assert report.errors == ("one of your rua could not be verified",)
    assert (report.policy.testing, report.policy.discovery_method, report.policy.fo) == ("y", "treewalk", "1:d")
    assert report.defects == ()
    assert record.count == 12, "an element of an extension has the same name"
    assert record.source == "2001:db8::25"
    assert record.reasons == (Reason("mailing_list", "list & friends"), Reason("policy_test_mode"))
    assert not record.passed
    assert (record.envelope_from, record.envelope_to) == ("lists.example.org", "receiver.example")
    assert [each.human for each in record.dkim_results] == ["body changed", ""]


@pytest.mark.parametrize("size", [1, 7, 100])
@pytest.mark.parametrize("make", [old, new])
def test_however_it_is_cut(make: Callable[[], bytes], size: int) -> None:
    assert reading(make(), size) == reading(make())


@pytest.mark.parametrize(
    ("change", "defects"),
    [
        (lambda data: data.replace(b"<feedback>", b'<feedback xmlns="http://dmarc.org/dmarc-xml/0.1">'), ()),
        (lambda data: data.replace(b"<feedback>", b'<feedback xmlns="http://dmarc.org/dmarc-xml/0.2">'), ()),
        (lambda data: data.replace(b"<feedback>", b'<feedback xmlns="urn:elsewhere">'), ("namespace",)),
        (lambda data: prefixed(data), ()),
        (lambda data: b"\xef\xbb\xbf" + data, ()),
        (lambda data: b"\r\n\r\n  " + data, ()),
        (lambda data: data.replace(b"\n", b"\r\n"), ()),
        (lambda data: data.replace(b'encoding="UTF-8"', b'encoding="ISO-8859-1"'), ()),
        (lambda data: data.replace(b'encoding="UTF-8"', b'encoding="windows-1252"'), ()),
        (lambda data: data.replace(b'encoding="UTF-8"', b'encoding="no-such-thing"'), ("encoding",)),
        (lambda data: data.decode().replace("UTF-8", "UTF-16").encode("utf-16"), ()),
        (lambda data: data.replace(b"<policy_published>", b"<!-- a comment --><policy_published>"), ()),
        (lambda data: data.replace(b"<org_name>big-mailbox.example<", b"<org_name><![CDATA[big-mailbox.example]]><"), ()),
        (lambda data: data.replace(b">pass<", b">PASS<"), ("result-case",)),
        (lambda data: data.replace(b">softfail<", b"> softfail\n<"), ()),
        (lambda data: data.replace(b"<spf>fail</spf>", b"<spf>fail</spf><reason></reason>"), ("reason-empty",)),
        (lambda data: data.replace(b"<spf>fail</spf>", b"<spf>fail</spf><reason><type/></reason>"), ("reason-empty",)),
        (lambda data: data.replace(b"big-mailbox.example</org_name>", b"big-mailbox.example\x01</org_name>"), ("characters",)),
        (lambda data: data.replace(b"</extra_contact_info>", b"\xff</extra_contact_info>"), ("encoding",)),
        (lambda data: data.replace(b"<begin>1767225600", b"<begin>1767225600.0"), ("date-format",)),
        (lambda data: data.replace(b"<begin>1767225600", b"<begin>1767225600000"), ("date-format",)),
        (lambda data: data.replace(b"<begin>1767225600", b"<begin>2026-01-01T00:00:00Z"), ("date-format",)),
        (lambda data: data.replace(b"<begin>1767225600", b"<begin>2026-01-01 00:00:00"), ("date-format",)),
        (lambda data: data.replace(b"<version>", b"<version>"), ()),
        (lambda data: data.replace(b"</row>", b"<unknown><deep>1</deep></unknown></row>"), ()),
    ],
)  # fmt: skip
def test_what_the_field_does_changes_nothing_that_is_said(change: Callable[[bytes], bytes], defects: tuple[str, ...]) -> None:
    plain, plain_records = reading(old())
    report, found = reading(change(old()))
    assert report.defects == defects
    assert found == plain_records
    assert (report.begin, report.end, report.report_id, report.policy) == (
        plain.begin,
        plain.end,
        plain.report_id,
        plain.policy,
    )


@pytest.mark.parametrize(
    ("before", "after", "defect"),
    [
        ("<count>1</count>", "<count>-1</count>", "count-not-a-count"),
        ("<count>1</count>", f"<count>{10**30}</count>", "count-not-a-count"),
        ("<count>1</count>", f"<count>{MAX_COUNT + 1}</count>", "count-not-a-count"),
        ("<count>1</count>", "<count>many</count>", "count-not-a-count"),
        ("<count>1</count>", "<count>١</count>", "count-not-a-count"),
        ("<count>1</count>", "", "count-not-a-count"),
        ("192.0.2.1<", "not an address<", "source-not-an-address"),
        ("<source_ip>192.0.2.1</source_ip>", "", "source-not-an-address"),
        ("<disposition>none<", "<disposition>softfail<", "disposition-unknown"),
        ("<disposition>none</disposition>", "", "disposition-unknown"),
        ("<dkim>pass</dkim>", "<dkim>maybe</dkim>", "result-unknown"),
        ("<dkim>pass</dkim>", "<dkim/>", "result-missing"),
        ("<result>softfail<", "<result>hardfail<", "result-unknown"),
        ("<header_from>example.com</header_from>", "", "header-from-missing"),
        ("<header_from>example.com<", "<header_from>not a domain!<", "domain-not-a-domain"),
        ("<spf>fail</spf>", "<spf>fail</spf><reason>local policy</reason>", "structure"),
        ("<spf>fail</spf>", "<spf>fail</spf><reason><type>because</type></reason>", "reason-unknown"),
        ("<identifiers><header_from>example.com</header_from></identifiers>", "<identifiers>x</identifiers>", "structure"),
        ("<selector>s1<", f"<selector>{'x' * 2000}<", "long-text"),
    ],
)
def test_a_record_that_is_odd_is_kept(before: str, after: str, defect: str) -> None:
    """A defect is recorded, a record is never dropped."""
    text = old().decode()
    assert before in text
    report, found = reading(text.replace(before, after, 1).encode())
    assert defect in report.defects
    assert len(found) == 2
    assert found[1] == reading(old())[1][1]
    assert 0 <= found[0].count <= 1


@pytest.mark.parametrize(
    ("before", "after", "defect"),
    [
        ("<org_name>big-mailbox.example</org_name>", "", "org-name-missing"),
        ("<report_id>13987654321098765432</report_id>", "<report_id/>", "report-id-missing"),
        ("<begin>1767225600</begin>", "", "period-missing"),
        ("<begin>1767225600<", "<begin>yesterday<", "period-missing"),
        ("<begin>1767225600<", "<begin>1767325600<", "period-reversed"),
        ("<end>1767311999<", "<end>1777311999<", "period-long"),
        ("<p>reject<", "<p>refuse<", "policy-unknown"),
        ("<domain>example.com</domain><adkim>", "<domain>.</domain><adkim>", "domain-not-a-domain"),
    ],
)
def test_odd_metadata_is_passed_over(before: str, after: str, defect: str) -> None:
    text = old().decode()
    assert before in text
    report, found = reading(text.replace(before, after, 1).encode())
    assert defect in report.defects
    assert len(found) == 2
    assert report.begin <= report.end


def test_metadata_may_stand_behind_the_records() -> None:
    text = old().decode()
    metadata = text[text.index("<report_metadata>") : text.index("</policy_published>") + len("</policy_published>")]
    report, found = reading(text.replace(metadata, "").replace("</feedback>", f"{metadata}</feedback>").encode())
    assert (report.org, report.policy.domain, len(found), report.defects) == ("big-mailbox.example", "example.com", 2, ())


@pytest.mark.parametrize("size", [1 << 16, 50])
@pytest.mark.parametrize(
    "stray",
    [
        '<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema" targetNamespace="http://dmarc.org/dmarc-xml/0.1">',
        "<row>",
        "</nothing>",
        "a < b",
        "&nbsp;",
    ],
)
@pytest.mark.parametrize("where", ["<report_metadata>", "<policy_published>", "<record>"])
def test_stray_tags_cost_no_record(stray: str, where: str, size: int) -> None:
    text = old(5).decode()
    report, found = reading(text.replace(where, stray + where, 1).encode(), size)
    assert report.defects == ("not-well-formed",)
    assert found == reading(old(5))[1]
    assert (report.org, report.policy.domain, report.damaged) == ("big-mailbox.example", "example.com", 0)


@pytest.mark.parametrize("size", [1 << 16, 50])
def test_a_record_that_is_broken_is_counted(size: int) -> None:
    text = old(5).decode().replace("<count>3</count>", "<count>3</count><x>&#00;</x>")
    report, found = reading(text.encode(), size)
    assert [record.count for record in found] == [1, 2, 4, 5]
    assert (report.records, report.damaged) == (5, 1)
    assert report.defects == ("not-well-formed", "record-damaged")


@pytest.mark.parametrize("size", [1 << 16, 50])
@pytest.mark.parametrize(
    "broken",
    [
        "<count>3</cuont>",
        "<count>3</count><note>we filter <hard> & fast</note>",
        "<br><count>3</count>",
        "<count>3</count><id><4711@mail.example></id>",
        "<count>3</count><x>&copy;</x>",
    ],
)
def test_a_broken_record_is_mended(broken: str, size: int) -> None:
    text = old(5).decode().replace("<count>3</count>", broken)
    report, found = reading(text.encode(), size)
    assert [record.count for record in found] == [1, 2, 3, 4, 5]
    assert report.defects[0] == "not-well-formed"
    assert found[2].header_from == "example.com"


@pytest.mark.parametrize(
    ("org", "read_as"),
    [
        ("A & B Mail", "A & B Mail"),
        ("A &amp; B", "A & B"),
        ("Mail <eu>", "Mail"),
        ("1 < 2 > 0", "1 < 2 > 0"),
        ("a&nbsp;b", "a&nbsp;b"),
    ],
)
def test_text_that_was_not_escaped_stays_text(org: str, read_as: str) -> None:
    text = old(2).decode()
    report, found = reading(re.sub("<org_name>[^<]*", "<org_name>" + org, text).encode())
    assert (report.org, report.report_id, len(found)) == (read_as, "13987654321098765432", 2)


@given(
    st.lists(
        st.sampled_from([b"<a>", b"</a>", b"<b x='1'>", b"</b>", b"<c/>", b"&", b"&amp;", b"<", b">", b"text", b"</record>"])
    )
)
def test_whatever_is_mended_is_well_formed(pieces: list[bytes]) -> None:
    whole = mend(b"<record>" + b"".join(pieces) + b"</record>")
    if whole.count(b"<") <= 24:
        expat.ParserCreate().Parse(b"<all>" + whole + b"</all>", True)


@pytest.mark.parametrize("size", [1 << 16, 50])
def test_what_ends_too_early_is_read_as_far_as_it_goes(size: int) -> None:
    text = old(3).decode()
    report, found = reading(text[: text.rindex("<auth_results>")].encode(), size)
    assert [record.count for record in found] == [1, 2]
    assert report.defects == ("ends-too-early", "record-damaged")
    assert report.damaged == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b" \n ", "empty"),
        (b"hello", "no XML"),
        (b"<html><body>404</body></html>", "its root is 'html'"),
        (b"<feedback></feedback>", "neither metadata nor a record"),
        (b'<?xml version="1.0"?><!DOCTYPE feedback [<!ENTITY a "b">]><feedback/>', "document type"),
        (b'<!DOCTYPE feedback SYSTEM "file:///etc/passwd"><feedback/>', "document type"),
        (b"<feedback>" + b"<a>" * 30_000, f"more than {MAX_DEPTH} elements inside"),
        (b"<feedback><record>" + b"<a/>" * 60_000, "fields in a section"),
        (b"<feedback><!--" + b"x" * (MAX_TOKEN + 200_000), "without an end"),
        (b"<feedback a='" + b"x" * (MAX_TOKEN + 200_000), "without an end"),
    ],
)
def test_what_is_no_report(data: bytes, message: str) -> None:
    """RFC 9990 §8.1: entities, nesting and size."""
    with pytest.raises(ReportError, match=re.escape(message)):
        reading(data)


def test_a_text_without_end_takes_no_memory() -> None:
    text = old().decode().replace("big-mailbox.example</org_name>", "x" * 3_000_000 + "</org_name>")
    report, found = reading(text.encode())
    assert report.defects == ("long-text",)
    assert len(report.org) == 1000
    assert len(found) == 2


words = st.sampled_from(["none", "pass", "fail", "quarantine", "reject", "softfail", "PASS", "", "x", "<", "&"])


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.integers(0, 10**13), words, words, words, st.text(max_size=20)), max_size=8),
    st.integers(1, 200),
)
def test_counts_are_kept_whatever_stands_beside_them(rows: list[tuple[int, str, str, str, str]], size: int) -> None:
    """Records in, the same number of records out, with their counts."""
    from xml.sax.saxutils import escape

    body = "".join(
        RECORD.replace("<disposition>none", f"<disposition>{escape(disposition)}")
        .replace("<dkim>pass", f"<dkim>{escape(dkim)}")
        .replace("<spf>fail", f"<spf>{escape(spf)}")
        .replace("s1", escape(selector))
        .format(ip="192.0.2.1", count=count)
        if "{" not in selector and "}" not in selector
        else RECORD.format(ip="192.0.2.1", count=count)
        for count, disposition, dkim, spf, selector in rows
    )
    text = old(0).decode().replace("</feedback>", f"{body}</feedback>")
    report, found = reading(text.encode("utf-8", "replace"), size)
    assert report.records == len(rows)
    assert [record.count for record in found] == [count if count <= MAX_COUNT else 0 for count, *_ in rows]


@settings(max_examples=200)
@given(st.data())
def test_damage_anywhere_never_raises_anything_else(data: st.DataObject) -> None:
    text = bytearray(data.draw(st.sampled_from([old(3), new()])))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at : at + data.draw(st.integers(0, 30))] = data.draw(st.binary(max_size=10))
    try:
        report, found = reading(bytes(text), data.draw(st.integers(1, 500)))
    except ReportError:
        return
    assert report.records >= len(found)


def test_many_records() -> None:
    report, found = reading(old(0).replace(b"</feedback>", records(3000).encode() + b"</feedback>"))
    assert (report.records, report.messages) == (3000, 3000 * 3001 // 2)
    assert len(found) == 3000
