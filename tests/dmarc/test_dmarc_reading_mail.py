"""Reports in mails and archives, and failure reports, as the field packs them (RFC 9990 §3.5.2, RFC 5965, RFC 9991)."""

from __future__ import annotations

import gzip
import io
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmarc_samples import FEEDBACK, failure_mail, mail, new, old, report_mail, zipped
from postward_dmarc.reading import message as reading_message
from postward_dmarc.reading.defects import DEFECTS
from postward_dmarc.reading.message import AggregateReading, FailureReading, Found, reports_in
from postward_dmarc.reading.read import ReportError

GZ = gzip.compress(old())


def one(content: bytes) -> AggregateReading:
    [found] = reports_in(content)
    assert isinstance(found, AggregateReading), found
    assert len(found.records) == found.report.records - found.report.damaged
    return found


def messages(found: list[Found]) -> list[int | str]:
    return [each.report.messages if isinstance(each, AggregateReading) else str(each) for each in found]


@pytest.mark.parametrize(
    ("content", "defects"),
    [
        (old(), ()),
        (GZ, ()),
        (zipped(old()), ()),
        (report_mail(), ()),
        (mail(("application/x-gzip", "r.xml.gz", GZ)), ("media-type",)),
        (mail(("application/octet-stream", "r.xml.gz", GZ)), ("media-type",)),
        (mail(("application/octet-stream", "r.xml", old())), ("media-type",)),
        (mail(("application/zip", "r.zip", zipped(old()))), ()),
        (mail(("application/x-zip-compressed", "r.zip", zipped(old()))), ()),
        (mail(("application/gzip", "r.zip", zipped(old()))), ()),
        (mail(("application/zip", "r.xml.gz", GZ)), ()),
        (mail(("text/xml", "r.xml", old())), ()),
        (mail(("application/xml", "r.xml", old())), ()),
        (GZ + b"\0" * 100, ()),
        (GZ + b"trailing", ("trailing-data",)),
        (GZ + b"\x1f\x8bnothing", ("trailing-data",)),
        (gzip.compress(old()[:500]) + gzip.compress(old()[500:]), ()),
        (zipped(b"", old(), names=("__MACOSX/._r.xml", "r.xml")), ()),
        (GZ[:-8], ()),
    ],
)
def test_one_report_however_it_is_packed(content: bytes, defects: tuple[str, ...]) -> None:
    found = one(content)
    assert (found.report.records, found.report.messages) == (2, 3)
    assert [slug for slug in found.defects if slug != "ends-too-early"] == list(defects)


def test_a_mail_whose_only_part_is_the_report() -> None:
    head = b'From: a@b.example\r\nSubject: Report Domain: example.com\r\nContent-Type: application/gzip; name="r.xml.gz"\r\n'
    import base64

    content = head + b"Content-Transfer-Encoding: base64\r\n\r\n" + base64.encodebytes(GZ)
    assert one(content).report.messages == 3


def test_all_attachments_are_read_and_a_bad_one_hides_none() -> None:
    content = mail(
        ("application/gzip", "1.xml.gz", GZ),
        ("application/gzip", "2.xml.gz", b"\x1f\x8bdamaged"),
        ("application/zip", "3.zip", zipped(old(3), new())),
        ("image/png", "logo.png", b"\x89PNG"),
        ("application/gzip", "4.xml.gz", b"no gzip at all"),
    )
    assert messages(reports_in(content)) == [3, "no gzip data", 6, 12, "a part application/gzip that is none"]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "empty"),
        (b"\r\n", "empty"),
        (mail(), "no report in it"),
        (b"just text", "no report in it"),
        (GZ[:100], "gzip data ends too early"),
        (gzip.compress(GZ), "an archive inside an archive"),
        (gzip.compress(zipped(old())), "an archive inside an archive"),
        (zipped(GZ), "an archive inside an archive"),
        (zipped(zipped(old())), "an archive inside an archive"),
        (zipped(*[old()] * 21), "21 files in the zip archive"),
        (zipped(), "no report in it"),
        (zipped(old())[:-30], "no zip archive, or damaged"),
    ],
)
def test_what_holds_no_report(content: bytes, error: str) -> None:
    [found] = reports_in(content)
    assert isinstance(found, ReportError)
    assert error in str(found)


def test_bombs_stop_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 9990 §8.1."""
    monkeypatch.setattr(reading_message, "MAX_XML", 1 << 20)
    spaces = old().replace(b"</feedback>", b" " * (5 << 20) + b"</feedback>")
    for content in (gzip.compress(spaces), zipped(spaces)):
        [found] = reports_in(content)
        # The records came before the bomb, and it is a lie that nothing stands behind.
        assert isinstance(found, AggregateReading)
        assert "ends-too-early" in found.defects
    [found] = reports_in(gzip.compress(b"<?xml " + b" " * (5 << 20)))
    assert isinstance(found, ReportError)
    assert "more than" in str(found)


def test_an_archive_that_is_encrypted() -> None:
    data = bytearray(zipped(old()))
    # The flag of encryption, in the local header and in the directory.
    data[6] |= 1
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    [found] = reports_in(bytes(data))
    assert "encrypted" in str(found)


def test_ten_thousand_attachments() -> None:
    content = mail(*[("application/gzip", f"{number}.gz", GZ) for number in range(200)])
    found = reports_in(content)
    assert len(found) == 1
    assert "more than" in str(found[0])


def test_names_in_archives_are_never_paths() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("../../etc/passwd", old())
    assert one(out.getvalue()).report.messages == 3


# --- failure reports ---


@pytest.mark.parametrize(("encoding", "defects"), [("", ()), ("base64", ("arf-base64",)), ("hidden", ("arf-base64",))])
def test_a_failure_report(encoding: str, defects: tuple[str, ...]) -> None:
    """RFC 9991 §4: the fields; and from real life, a machine-readable part in base64."""
    [found] = reports_in(failure_mail(encoding=encoding))
    assert isinstance(found, FailureReading)
    report = found.report
    assert report.defects == defects
    assert (report.feedback_type, report.version, report.user_agent) == ("auth-failure", "1", "Reporter/1.0")
    assert (report.auth_failure, report.identity_alignment) == (("dmarc",), ("dkim", "spf"))
    assert (report.source_ip, report.reported_domain, report.delivery_result) == ("192.0.2.1", "example.com", "reject")
    assert report.arrival == 1_767_901_227_000_000
    assert report.incidents == 3
    assert report.mail_from == "<someone@example.com>"
    assert report.rcpt_to == ("<a@receiver.example>", "<b@receiver.example>")
    assert (report.dkim_domain, report.dkim_selector) == ("example.com", "s1")
    assert report.auth_results == ("receiver.example; dkim=fail header.d=example.com",)
    assert (report.header_from, report.subject, report.message_id) == (
        "Someone <someone@example.com>",
        "Hello",
        "<2@example.com>",
    )


@pytest.mark.parametrize(
    ("before", "after", "defects"),
    [
        ("Version: 1\r\n", "", ("arf-field-count",)),
        ("Version: 1\r\n", "Version: 1\r\nVersion: 2\r\n", ("arf-field-count",)),
        ("Auth-Failure: dmarc", "Auth-Failure: other", ("auth-failure-missing",)),
        ("Incidents: 3", "Incidents: -3", ("count-not-a-count",)),
        ("Arrival-Date: Thu, 8 Jan 2026 17:40:27 -0200", "Arrival-Date: last week", ("date-format",)),
        ("Arrival-Date: Thu, 8 Jan 2026", "Received-Date: Thu, 8 Jan 2026", ()),
        ("Source-IP: 192.0.2.1", "Source-IP: 192.0.2.1\x00\x1b[31m", ()),
    ],
)
def test_a_failure_report_that_is_odd(before: str, after: str, defects: tuple[str, ...]) -> None:
    assert before in FEEDBACK
    [found] = reports_in(failure_mail(FEEDBACK.replace(before, after)))
    assert isinstance(found, FailureReading)
    assert found.report.defects == defects
    assert set(defects) <= set(DEFECTS)
    assert found.report.source_ip.startswith("192.0.2.1")
    assert found.report.source_ip.isprintable()


def test_a_feedback_report_without_a_type() -> None:
    [found] = reports_in(failure_mail("User-Agent: x\r\n"))
    assert isinstance(found, ReportError)
    assert str(found) == "no Feedback-Type"


@settings(max_examples=150)
@given(st.data())
def test_damage_anywhere_in_a_mail(data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from([report_mail(), failure_mail(), zipped(old(), new()), GZ])))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 30))] = data.draw(st.binary(max_size=10))
    assert reports_in(bytes(content))
