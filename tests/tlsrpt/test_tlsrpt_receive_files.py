"""Reports in mails, files, mailboxes and directories (RFC 8460 §5.3, §6), and `postward tlsrpt parse`."""

from __future__ import annotations

import gzip
import io
import json
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postward.model import Window
from postward.reports.container import mime_parts
from postward_tlsrpt import parse_command
from postward_tlsrpt.message import MAX_MAIL, reports_in
from postward_tlsrpt.quick import quick
from postward_tlsrpt.read import Reading, ReportError
from postward_tlsrpt.sources import sources
from tlsrpt_samples import CABLE, as_json, mail, plain, zipped

NOW = Window.of_day("2026-11-23").end
GOOD = zipped(plain())


def one(content: bytes, **options: Any) -> Reading:
    (found,) = reports_in(content, now=NOW, **options)
    assert isinstance(found, Reading), found
    return found


def refused(content: bytes) -> str:
    (found,) = reports_in(content, now=NOW)
    assert isinstance(found, ReportError), found
    return str(found)


@pytest.mark.parametrize(
    ("content", "defects"),
    [
        (mail(GOOD), ()),
        (mail(GOOD).replace(b"\r\n", b"\n"), ()),
        (mail(as_json(plain()), "application/tlsrpt+json"), ()),
        (mail(GOOD, top=""), ()),
        (mail(GOOD, "application/tlsrpt"), ("media-type",)),
        (mail(GOOD, "application/octet-stream"), ("media-type",)),
        (mail(GOOD, "application/gzip", top="multipart/mixed"), ("media-type", "structure")),
        (mail(GOOD, "application/json", top=""), ("media-type",)),
        (mail(as_json(plain())), ("content-type",)),
        (mail(GOOD, "application/tlsrpt+json"), ("content-type",)),
        (mail(GOOD, top="multipart/mixed"), ("structure",)),
        (mail(GOOD, top="multipart/report"), ("structure",)),
        (mail(GOOD, top='multipart/report; report-type="TLSRPT"'), ()),
        (mail(GOOD, "APPLICATION/TLSRPT+GZIP"), ()),
        (mail(GOOD, extra="TLS-Report-Submitter: other.example\r\n"), ("submitter-disagrees",)),
        (mail(GOOD, extra="TLS-Report-Submitter: Company-X.example\r\n"), ()),
        (GOOD, ()),
        (as_json(plain()), ()),
        (b" \r\n" + as_json(plain()), ()),
    ],
)
def test_a_report_is_found_wherever_it_is(content: bytes, defects: tuple[str, ...]) -> None:
    """RFC 8460 §5.3, §6.2, §6.4, and what the field does instead."""
    reading = one(content)
    assert (reading.failed, reading.defects) == (303, defects)


def test_a_zip_is_opened_and_said() -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("../../etc/report.json", as_json(plain()))
    assert one(packed.getvalue()).defects == ("media-type",)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"  \n", "empty"),
        (b"From: a@b.example\r\n\r\nHello.\r\n", "there is no TLS report in this message"),
        (mail(b"<feedback/>", "application/gzip"), "there is no TLS report in this message"),
        (mail(b"\x1f\x8bbroken"), "not gzip, or damaged"),
        (mail(GOOD[:-20]), "gzip data ends too early"),
        (mail(GOOD + GOOD), "more behind the gzip data"),
        (mail(gzip.compress(GOOD)), "not JSON"),
        (gzip.compress(b"\0" * (21 << 20)), "when decompressed"),
        (b"From: a@b.example\r\n\r\n" + b"x" * MAX_MAIL, "message of more than"),
    ],
)
def test_what_is_none_says_why(content: bytes, reason: str) -> None:
    """RFC 8460 §6.3: bombs, several members and gzip in gzip are refused."""
    assert reason in refused(content)


def forwarding(content: bytes, boundary: bytes) -> bytes:
    """A mail with another one attached."""
    head = b"From: me@example.com\r\nContent-Type: multipart/mixed; boundary=%s\r\n\r\n" % boundary
    return head + b"--%s\r\nContent-Type: message/rfc822\r\n\r\n%s\r\n--%s--\r\n" % (boundary, content, boundary)


def test_a_forwarded_report_is_read_from_files_alone() -> None:
    """RFC 8460 §3: whoever forwards a report cannot vouch for it."""
    content = forwarding(mail(GOOD), b"one")
    assert one(content, attached=True).defects == ("forwarded",)
    assert refused(content) == "there is no TLS report in this message"
    deeper = forwarding(content, b"two")
    (found,) = reports_in(deeper, now=NOW, attached=True)
    assert isinstance(found, ReportError)


def test_every_report_of_a_message_counts_and_a_bad_one_hides_none() -> None:
    part = mail(GOOD).partition(b"--b1\r\n")[2].partition(b"--b1\r\n")[2].partition(b"\r\n--b1--")[0]
    bad = part.replace(b"H4sI", b"AAAA")
    content = mail(GOOD).replace(b"--b1--", b"--b1\r\n" + bad + b"\r\n--b1\r\n" + part + b"\r\n--b1--")
    kinds = [type(found) for found in reports_in(content)]
    assert kinds == [Reading, ReportError, Reading]


def test_what_a_report_is_about_is_taken_from_header_or_file_name() -> None:
    """RFC 8460 §5.1, §5.3: for policies that name no domain."""
    assert one(mail(GOOD)).about == "example.com"
    assert one(mail(GOOD, extra="TLS-Report-Domain: Other.example\r\n")).about == "other.example"
    assert one(GOOD, filename="/tmp/a.example!b.example!1!2.json.gz").about == "b.example"
    assert one(GOOD, filename="/tmp/report.json.gz").about == ""


SHAPES = st.builds(
    mail,
    st.sampled_from([GOOD, as_json(plain()), as_json(CABLE)]),
    st.sampled_from(["application/tlsrpt+gzip", "application/tlsrpt+json", "text/plain"]),
    top=st.sampled_from(
        ['multipart/report; report-type="tlsrpt"', "multipart/report;\r\n\treport-type=tlsrpt", "multipart/mixed"]
    ),
)


@settings(max_examples=100, deadline=None)
@given(
    SHAPES,
    st.integers(0, 2000),
    st.sampled_from([b"", b"\r\n", b"--b1\r\n", b" ", b'"', b"Content-Type: text/plain\r\n", b"\0"]),
)
def test_the_quick_reader_sees_what_the_whole_one_sees(content: bytes, at: int, noise: bytes) -> None:
    """It may give up, and must never see anything else."""
    mangled = content[:at] + noise + content[at:]
    known = quick(mangled)
    if known is not None:
        parts = [part for part in mime_parts(mangled, MAX_MAIL) if part.media_type.startswith("application/tlsrpt")]
        assert [(part.media_type, part.data.rstrip()) for part in parts] == [(known.media_type, known.data.rstrip())]


def test_the_quick_reader_knows_the_usual_form() -> None:
    assert quick(mail(GOOD)) is not None
    assert quick(mail(GOOD, top="multipart/mixed")) is None


# --- files ---


def tree(folder: Path) -> None:
    """A Maildir, an mbox, single files, and things that are none."""
    for part in ("cur", "new", "tmp", ".Sent/cur", ".Sent/new"):
        (folder / "Maildir" / part).mkdir(parents=True)
    (folder / "Maildir" / "new" / "1.host").write_bytes(mail(GOOD))
    (folder / "Maildir" / "cur" / "2.host:2,S").write_bytes(mail(GOOD))
    (folder / "Maildir" / "tmp" / "3.host").write_bytes(b"half")
    (folder / "Maildir" / ".Sent" / "cur" / "4.host").write_bytes(b"bad")
    (folder / "Maildir" / "dovecot.index").write_bytes(b"index")
    box = b"".join(b"From x@y.example Mon Nov 23 00:00:00 2026\n" + each + b"\n\n" for each in (mail(GOOD), b"bad", mail(GOOD)))
    (folder / "box.mbox").write_bytes(box)
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "report.json").write_bytes(as_json(plain()))
    (folder / "deep" / ".hidden").write_bytes(b"hidden")


def test_mailboxes_and_directories_are_walked(tmp_path: Path) -> None:
    tree(tmp_path)
    found = {(str(Path(each.file).relative_to(tmp_path)), each.message) for each in sources([str(tmp_path)], io.BytesIO())}
    assert found == {
        ("Maildir/new/1.host", None),
        ("Maildir/cur/2.host:2,S", None),
        ("Maildir/.Sent/cur/4.host", None),
        ("box.mbox", 1),
        ("box.mbox", 2),
        ("box.mbox", 3),
        ("deep/er/report.json", None),
    }


def test_standard_input_is_a_file_or_an_mbox() -> None:
    assert [each.message for each in sources(["-"], io.BytesIO(GOOD))] == [None]
    assert [each.message for each in sources(["-"], io.BytesIO(b"From x\n" + mail(GOOD) + b"\nFrom y\nbad\n"))] == [1, 2]


def test_files_that_cannot_be_read_are_said(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * (MAX_MAIL + 1))
    names = [str(tmp_path / "missing"), str(tmp_path / "large"), "nul\0l"]
    assert [bool(each.error) for each in sources(names, io.BytesIO())] == [True] * 3


def test_a_message_of_an_mbox_that_is_too_large_hides_no_other() -> None:
    box = b"From a\n" + b"x" * 70 + b"\n" + (b"y" * 1023 + b"\n") * (16 << 10) + b"\nFrom b\nsmall\n"
    first, second = sources(["-"], io.BytesIO(box))
    assert "larger" in first.error
    assert second.content == b"small\n"


def parse(capsys: pytest.CaptureFixture[str], *paths: Path, strict: bool = False) -> tuple[int, list[dict[str, Any]]]:
    code = parse_command.run(parse_command.lines([str(path) for path in paths], NOW, strict=strict), parse_command._Json())
    return code, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_the_json_is_what_scripts_rely_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The contract: these fields, each of its type."""
    file = tmp_path / "report.eml"
    file.write_bytes(mail(as_json(CABLE), "application/tlsrpt+json"))
    assert parse(capsys, file) == (
        0,
        [
            {
                "file": str(file),
                "kind": "tls",
                "ok": True,
                "error": None,
                "org": "Cable Company",
                "report_id": "2026112300_cable_17",
                "begin": 1795392000,
                "end": 1795478399,
                "policies": 1,
                "successful": 1,
                "failed": 2,
                "failures": {"validation-failure": 2},
                "defects": ["draft-name", "mx-host-not-array", "null-value"],
            }
        ],
    )


def test_one_bad_report_never_stops_a_batch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree(tmp_path)
    code, lines = parse(capsys, tmp_path / "box.mbox", tmp_path / "missing", tmp_path / "deep")
    assert code == 1
    assert [(line["ok"], line.get("message")) for line in lines] == [
        (True, 1),
        (False, 2),
        (True, 3),
        (False, None),
        (True, None),
    ]
    assert [line["error"] is None for line in lines] == [line["ok"] for line in lines]
    assert lines[1]["failures"] == {}


def test_strict_takes_a_defect_for_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "report.json"
    file.write_bytes(as_json(CABLE))
    assert parse(capsys, file)[0] == 0
    code, (line,) = parse(capsys, file, strict=True)
    assert (code, line["ok"]) == (1, False)
    assert "draft-name" in line["error"]


def test_a_table_is_shown_and_its_defects_are_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "report.json"
    file.write_bytes(as_json(CABLE))
    assert parse_command.run(parse_command.lines([str(file)], NOW), parse_command._Table()) == 0
    shown = capsys.readouterr().out
    for text in ("Cable Company", "2026-11-23", "2 validation-failure", "1 reports", "draft-name: A field has"):
        assert text in shown


def test_a_large_mbox_takes_the_memory_of_one_message() -> None:
    one_mail = b"From x\n" + mail(GOOD) + b"\n"

    class Endless(io.RawIOBase):
        """An mbox of many messages that is nowhere in memory."""

        left, rest = 5000, b""

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            if not self.rest and self.left:
                self.rest, self.left = one_mail, self.left - 1
            piece, self.rest = self.rest[: len(buffer)], self.rest[len(buffer) :]
            buffer[: len(piece)] = piece
            return len(piece)

    stream = io.BufferedReader(Endless())
    tracemalloc.start()
    try:
        count = sum(1 for _ in sources(["-"], stream))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 5000
    assert peak < 1 << 20
