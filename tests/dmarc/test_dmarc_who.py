"""Who sends as a domain, and is it the domain itself, by what the results of a record make likely."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from postward_dmarc.reading.aggregate import DkimResult, Reason, Record, SpfResult
from postward_dmarc.who import EXPLAINED, Seen, Who, related, seen


def record(
    dkim: Sequence[tuple[str, str]] = (),
    spf: Sequence[tuple[str, str]] = (),
    *,
    aligned: str = "fail",
    reasons: Sequence[str] = (),
    header_from: str = "example.com",
) -> Record:
    return Record(
        source="192.0.2.1",
        count=1,
        disposition="none",
        dkim=aligned,
        spf="fail",
        reasons=tuple(Reason(kind) for kind in reasons),
        header_from=header_from,
        envelope_from="",
        envelope_to="",
        dkim_results=tuple(DkimResult(domain, "s", result) for domain, result in dkim),
        spf_results=tuple(SpfResult(domain, "mfrom", result) for domain, result in spf),
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (record([("example.com", "pass")], aligned="pass"), Seen(Who.OURS, "example.com")),
        (record([("example.com", "pass")], [("esp.example", "pass")], aligned="pass"), Seen(Who.OURS, "esp.example")),
        (record(aligned="pass"), Seen(Who.OURS, "example.com")),
        (record([("mail.example.com", "pass")]), Seen(Who.MISALIGNED, "mail.example.com")),
        (record([], [("bounce.example.com", "pass")]), Seen(Who.MISALIGNED, "bounce.example.com")),
        (record([("example.com", "fail")], [("list.example.org", "pass")]), Seen(Who.FORWARDED, "list.example.org")),
        (record(reasons=["mailing_list"]), Seen(Who.FORWARDED, "")),
        (record(reasons=["forwarded"]), Seen(Who.FORWARDED, "")),
        (record(reasons=["local_policy"]), Seen(Who.NOBODY, "")),
        (record([("esp.example", "pass")]), Seen(Who.OTHER, "esp.example")),
        (record([("example.com", "none")], [("esp.example", "pass")]), Seen(Who.OTHER, "esp.example")),
        (record([("example.com", "permerror")]), Seen(Who.BROKEN, "")),
        (record([], [("example.com", "permerror")]), Seen(Who.BROKEN, "")),
        (record([], [("example.com", "softfail")]), Seen(Who.NOBODY, "")),
        (record([], [("example.com", "fail")]), Seen(Who.NOBODY, "")),
        (record(), Seen(Who.NOBODY, "")),
        (record([("example.com", "pass")], header_from=""), Seen(Who.MISALIGNED, "example.com")),
    ],
)
def test_kinds(given: Record, expected: Seen) -> None:
    """RFC 9990 §3.1.1.11: the results tell who stands behind a message."""
    assert seen(given, "example.com") == expected


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("example.com", "example.com", True),
        ("a.example.com", "example.com", True),
        ("example.com", "a.b.example.com", True),
        ("notexample.com", "example.com", False),
        ("com", "example.com", False),
        ("", "example.com", False),
        ("example.com", "", False),
    ],
)
def test_names_of_one_organization(first: str, second: str, expected: bool) -> None:
    assert related(first, second) is expected


def test_every_kind_is_explained() -> None:
    assert set(EXPLAINED) == set(Who)
