"""DMARC records (RFC 9989 §4.7, §4.8, §4.10.1)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postward_dmarc.record import Policy, is_dmarc, parse

RUA = "rua=mailto:a@b.example"


def test_everything_in_one_record():
    record = parse(
        "v=DMARC1; p=reject; sp=quarantine; np=none; adkim=s; aspf=s; fo=1:d:s; psd=n; t=y;"
        " rua=mailto:a@b.example, https://c.example/x%2Cy ; ruf=mailto:f@b.example; other=x"
    )
    assert record.policy is Policy.REJECT
    assert record.subdomain is Policy.QUARANTINE
    assert record.nonexistent is Policy.NONE
    assert (record.strict_dkim, record.strict_spf, record.psd, record.testing) == (True, True, "n", True)
    assert record.failure_options == ("1", "d", "s")
    assert record.rua == ("mailto:a@b.example", "https://c.example/x%2Cy")
    assert record.ruf == ("mailto:f@b.example",)
    assert record.usable
    assert record.notes == ()


def test_defaults():
    """RFC 9989 §4.7."""
    record = parse("v=DMARC1;p=none")
    assert (record.strict_dkim, record.strict_spf, record.psd, record.testing) == (False, False, "u", False)
    assert record.failure_options == ("0",)
    assert (record.rua, record.ruf, record.subdomain, record.nonexistent) == ((), (), None, None)


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("v=DMARC1", True),
        ("v = DMARC1 ; p=none", True),
        ("v=DMARC1;;", True),
        ("v=DMARC1 p=none", False),
        ("V=DMARC1; p=none", False),
        ("v=dmarc1; p=none", False),
        ("v=DMARC10; p=none", False),
        ("p=none; v=DMARC1", False),
        (" v=DMARC1; p=none", False),
        ("v=spf1 -all", False),
        ("", False),
    ],
)
def test_version_comes_first(text, good):
    """RFC 9989 §4.7: v comes first and is case-sensitive."""
    assert is_dmarc(text) is good
    assert (parse(text) is not None) is good


def test_policy_need_not_follow_the_version():
    assert parse(f"v=DMARC1; {RUA}; p=reject").policy is Policy.REJECT


@pytest.mark.parametrize("tags", ["p=bad", "sp=bad; p=reject", "np=bad; p=reject", ""])
def test_bad_policies_act_as_none_only_with_somebody_to_tell(tags):
    """RFC 9989 §4.10.1."""
    with_rua = parse(f"v=DMARC1; {tags}; {RUA}")
    assert (with_rua.usable, with_rua.own(), with_rua.inherited(exists=True)) == (True, Policy.NONE, Policy.NONE)
    assert not parse(f"v=DMARC1; {tags}").usable
    assert not parse(f"v=DMARC1; {tags}; rua=nonsense").usable


@pytest.mark.parametrize(
    ("tags", "existing", "missing"),
    [
        ("p=reject", Policy.REJECT, Policy.REJECT),
        ("p=reject; sp=none", Policy.NONE, Policy.NONE),
        ("p=reject; np=none", Policy.REJECT, Policy.NONE),
        ("p=none; sp=quarantine; np=reject", Policy.QUARANTINE, Policy.REJECT),
    ],
)
def test_inheritance(tags, existing, missing):
    """RFC 9989 §4.7: np falls back to sp, sp to p."""
    record = parse(f"v=DMARC1; {tags}")
    assert (record.inherited(exists=True), record.inherited(exists=False)) == (existing, missing)


def test_bad_values_fall_back_and_are_noted():
    record = parse(
        f"v=DMARC1; p=reject; adkim=x; aspf=rs; psd=yes; t=1; fo=0:1; {RUA}; ruf={RUA[4:]}; pct=50; ri=1; p=none; ;=;x"
    )
    assert (record.strict_dkim, record.strict_spf, record.psd, record.testing) == (False, False, "u", False)
    assert record.failure_options == ("0",)
    assert record.policy is Policy.REJECT, "the first of equal tags counts"
    assert len(record.notes) == 10


def test_failure_options_need_ruf():
    """RFC 9989 §4.7: fo is ignored without ruf."""
    assert parse("v=DMARC1; p=none; fo=1").failure_options == ("0",)


def test_obsolete_sizes_are_ignored():
    """RFC 9989 §4.8: `!10m` behind a URI is parsed and ignored."""
    record = parse("v=DMARC1; p=none; rua=mailto:a@b.example!10m,mailto:a@b.example, mailto:c@b.example!5,,")
    assert record.rua == ("mailto:a@b.example", "mailto:c@b.example")


@given(st.text(max_size=300))
def test_any_text_is_a_record_or_not(text):
    for candidate in (text, f"v=DMARC1;{text}"):
        record = parse(candidate)
        assert record is None or record.own() in Policy
