"""Opening what reports come in, with limits (RFC 8460 §6.3, RFC 9990 §8.1)."""

from __future__ import annotations

import contextlib
import gzip
import io
import zipfile
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postward.reports.container import ContainerError, gunzip, mime_parts, unzip


def zipped(*files: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in files:
            archive.writestr(name, data)
    return out.getvalue()


@given(st.binary(max_size=2000))
def test_gzip_reads_back(data):
    assert gunzip(gzip.compress(data), 2000) == data
    assert unzip(zipped(("a.xml", data)), 2000) == (data,)


@given(st.binary(max_size=500))
def test_any_bytes_are_opened_or_refused(data):
    for open_it in (lambda: gunzip(data, 100), lambda: unzip(data, 100), lambda: unzip(b"PK\x03\x04" + data, 100)):
        with contextlib.suppress(ContainerError):
            assert open_it() is not None


@pytest.mark.parametrize("limit", [99_999, 10])
def test_bombs_stop_at_the_limit(limit):
    with pytest.raises(ContainerError, match=f"more than {limit} bytes"):
        gunzip(gzip.compress(b"\0" * 100_000_000), limit)
    with pytest.raises(ContainerError, match=f"more than {limit} bytes"):
        unzip(zipped(("a", b"\0" * 10_000_000)), limit)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (gzip.compress(b"x") + b"more", "more behind"),
        (gzip.compress(b"x") + gzip.compress(b"y"), "more behind"),
        (gzip.compress(b"x" * 1000)[:-9], "too early"),
        (gzip.compress(b"x")[:-8] + b"\0" * 8, "damaged"),
        (zlib.compress(b"x"), "not gzip"),
        (b"", "too early"),
    ],
)
def test_bad_gzip(data, message):
    with pytest.raises(ContainerError, match=message):
        gunzip(data, 5000)


def test_padding_behind_gzip_is_ignored():
    assert gunzip(gzip.compress(b"x") + b"\0" * 20, 10) == b"x"


def test_zip_members():
    two = zipped(("a", b"1"), ("b", b"2"))
    with pytest.raises(ContainerError, match="2 files"):
        unzip(two, 10)
    assert unzip(two, 10, members=2) == (b"1", b"2")
    with pytest.raises(ContainerError, match="more than 1 bytes"):
        unzip(two, 1, members=2)
    assert unzip(zipped(("../../etc/passwd", b"1"), ("__MACOSX/x", b"2"), ("dir/", b"")), 10) == (b"1",)
    with pytest.raises(ContainerError, match="too many files"):
        unzip(zipped(*((str(i), b"") for i in range(50))), 10)
    with pytest.raises(ContainerError, match="unusual"):
        unzip(zipped(("a", b"x" * 100), method=zipfile.ZIP_LZMA), 1000)
    with pytest.raises(ContainerError, match="damaged"):
        unzip(zipped(("a", b"x" * 100))[:-30], 1000)


MAIL = b"""Content-Type: multipart/mixed; boundary=o

--o
Content-Type: multipart/report; boundary=i; report-type=TLSRPT

--i
Content-Type: text/plain

hello
--i
Content-Type: application/tlsrpt+gzip; name="x.gz"
Content-Transfer-Encoding: base64

AAEC
--i--
--o
Content-Type: message/rfc822

Subject: inside

body
--o--
"""


def test_leaves_of_a_message():
    plain, report, attached = mime_parts(MAIL, 10_000)
    assert plain.data.strip() == b"hello"
    assert (report.media_type, report.filename, report.data) == ("application/tlsrpt+gzip", "x.gz", b"\0\1\2")
    assert report.parents == ("multipart/mixed", "multipart/report")
    assert report.report_type == "tlsrpt"
    assert (attached.media_type, attached.report_type) == ("message/rfc822", "")
    assert b"inside" in attached.data


def nested(depth: int) -> bytes:
    head = b"".join(b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (i, i) for i in range(depth))
    return head + b"Content-Type: text/plain\n\nx\n" + b"\n" * 100_000


def test_limits_of_messages():
    with pytest.raises(ContainerError, match="more than 10 bytes"):
        mime_parts(MAIL, 10)
    with pytest.raises(ContainerError, match="inside each other"):
        mime_parts(nested(20), 1 << 20)
    with pytest.raises(ContainerError, match="too many multiparts"):
        mime_parts(nested(3000), 1 << 20)
    many = b"Content-Type: multipart/mixed; boundary=b\n\n" + b"--b\n\nx\n" * 200 + b"--b--\n"
    with pytest.raises(ContainerError, match="more than 100 parts"):
        mime_parts(many, 1 << 20)


HEADS = st.sampled_from([b"", b"Content-Type: multipart/mixed; boundary=b\n\n--b\n", b"Content-Transfer-Encoding: base64\n\n"])


@given(st.binary(max_size=400), HEADS)
def test_any_bytes_are_a_message(data, head):
    with contextlib.suppress(ContainerError):
        assert len(mime_parts(head + data, 10_000)) <= 100
