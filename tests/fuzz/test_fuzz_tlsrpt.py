"""Fuzz targets of received TLS reports: whatever comes is a report or an error (RFC 8460 §4.4, §5)."""

from __future__ import annotations

from hypothesis import strategies as st

from fuzz_budget import fuzz
from postward.model import Window
from postward_tlsrpt.defects import DEFECTS
from postward_tlsrpt.message import MAX_REPORTS, reports_in
from postward_tlsrpt.own import Own, share
from postward_tlsrpt.read import Reading
from tlsrpt_samples import CABLE, CLOUD_OFFICE, LARGE_MAIL, POSTFIX, as_json, mail, plain, zipped

NOW = Window.of_day("2026-11-23").end
OWN = Own(domains=frozenset({"example.com"}))
JSON = [as_json(each) for each in (plain(), LARGE_MAIL, CLOUD_OFFICE, POSTFIX, CABLE)]
MAILS = [
    mail(zipped(plain())),
    mail(JSON[1], "application/tlsrpt+json"),
    mail(zipped(POSTFIX), top=""),
    mail(zipped(CABLE), "application/gzip", top="multipart/mixed"),
    zipped(plain()),
]
PIECES = [b'"', b"{", b"[", b"[" * 2000, b"null", b"NaN", b"1e400", b"-1", b"1" + b"0" * 30, b"9223372036854775808", b",", b":"]
PIECES += [b"\\u0000", b"\\ud800", b"\xef\xbb\xbf", b"\xff", b"\r\n", b"\n\n", b"--b1", b"--b1--", b"\x1f\x8b", b"PK\x03\x04"]
PIECES += [
    b"Content-Type: multipart/report; boundary=b1\r\n\r\n",
    b"Content-Transfer-Encoding: quoted-printable\r\n",
    b"=",
    b"\0",
]
PIECES += [b'"policies":', b'"date-range":', b'"mx-host":', b"2026-13-45T99:99:99Z", b"0001-01-01T00:00:00+23:59"]
edits = st.lists(
    st.tuples(st.integers(0, 1500), st.integers(0, 60), st.sampled_from(PIECES) | st.binary(max_size=4)), max_size=6
)


def check(content: bytes) -> None:
    """Every answer is usable, whatever was read."""
    found = reports_in(content, now=NOW)
    assert 1 <= len(found) <= MAX_REPORTS + 1
    for each in found:
        if not isinstance(each, Reading):
            assert 0 < len(str(each)) < 1000
            continue
        assert set(each.defects) <= set(DEFECTS)
        assert each.successful >= 0
        assert each.failed >= 0
        assert each.begin <= each.end
        assert len(share(each, OWN).kept) <= len(each.report.policies)


def edited(seed: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    """A good input in which some places were replaced."""
    for place, length, new in changes:
        seed = seed[:place] + new + seed[place + length :]
    return seed


def test_json_of_strangers() -> None:
    """RFC 8460 §4.4: one report or one error."""
    assert fuzz(lambda seed, changes: check(edited(seed, changes)), st.sampled_from(JSON), edits)


def test_mails_of_strangers() -> None:
    """RFC 8460 §5.3: a mail has reports, or says why there is none."""
    assert fuzz(lambda seed, changes: check(edited(seed, changes)), st.sampled_from(MAILS), edits)


def test_rubbish() -> None:
    """Octets without any form."""
    assert fuzz(check, st.binary(max_size=300) | st.lists(st.sampled_from(PIECES), max_size=40).map(b"".join))
