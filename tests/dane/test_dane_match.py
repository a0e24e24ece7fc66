"""Matching chains with TLSA records (RFC 7671 §5, RFC 7672 §3)."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from postward.lab.ca import CLIENT_AUTH, DAY, Authority, self_signed, spki, tlsa
from postward.model import PASSED, Failure, ResultType, Verdict
from postward.names import Domain
from postward_dane import match
from postward_dane.match import MAX_ANCHORS, judge
from postward_dane.tlsa import parse

NOW = time.time_ns() // 1000
HOST = Domain("mx.example.org")
OTHER = Domain("other.example.org")
ROOT = Authority("Root")
MIDDLE = ROOT.subordinate("Middle")
LOWER = MIDDLE.subordinate("Lower")
LEAF = LOWER.issue([HOST])
STALE = LOWER.issue([OTHER], not_before=NOW - 9 * DAY, not_after=NOW - DAY)
STRANGER = Authority("Stranger")


def verdict(chain: Sequence[bytes], *records: str, names: Sequence[Domain] = (HOST,), common_name: bool = False) -> Verdict:
    return judge([parse(text) for text in records], chain, names, at=NOW, common_name=common_name)


def said(found: Verdict) -> tuple[str, str]:
    assert found.failure is not None
    assert not found.passed
    return found.failure.result_type.value, found.failure.reason


NO_MATCH = ("validation-failure", "dane-no-match")
SELECTORS = [(selector, matching) for selector in (0, 1) for matching in (0, 1, 2)]


@pytest.mark.parametrize(("selector", "matching"), SELECTORS)
def test_dane_ee_looks_at_the_leaf_alone(selector: int, matching: int) -> None:
    """RFC 7672 §3.1.1, RFC 7671 §5.1: any name, any date, any issuer, and whatever else is in the chain."""
    record = tlsa(STALE.certificate, 3, selector, matching)
    assert verdict(STALE.chain, record) == PASSED
    assert verdict([STALE.certificate, b"rubbish"] + [b"x"] * 90, record) == PASSED
    assert said(verdict(LEAF.chain, record)) == NO_MATCH
    assert said(verdict((LEAF.certificate, STALE.certificate), record)) == NO_MATCH


def test_dane_ee_takes_a_certificate_for_clients_too() -> None:
    """RFC 7671 §5.1: nothing of the certificate but the match counts."""
    issued = ROOT.issue([HOST], eku=CLIENT_AUTH)
    assert verdict(issued.chain, tlsa(issued.certificate)) == PASSED


@pytest.mark.parametrize(("selector", "matching"), SELECTORS)
@pytest.mark.parametrize("anchor", ["root", "middle", "lower"])
def test_dane_ta_matches_anything_above_the_leaf(anchor: str, selector: int, matching: int) -> None:
    """RFC 7671 §5.2: an anchor in the chain, be it the root, or in the middle, or next to the leaf."""
    certificate = {"root": ROOT.root, "middle": MIDDLE.certificate, "lower": LOWER.certificate}[anchor]
    chain = (*LEAF.chain, ROOT.root)
    assert verdict(chain, tlsa(certificate, 2, selector, matching)) == PASSED
    assert verdict((chain[0], *reversed(chain[1:])), tlsa(certificate, 2, selector, matching)) == PASSED


@pytest.mark.parametrize(("selector", "matching"), SELECTORS)
def test_an_anchor_that_was_not_sent(selector: int, matching: int) -> None:
    """RFC 7671 §5.2.2, §5.2.3: whole certificates and whole keys count from DNS, digests cannot."""
    found = verdict(LEAF.chain, tlsa(ROOT.root, 2, selector, matching))
    if matching == 0:
        assert found == PASSED
    else:
        assert said(found) == NO_MATCH


def test_a_whole_key_right_above_the_leaf() -> None:
    """RFC 7671 §5.2.3, with nothing in the chain but the leaf."""
    leaf = ROOT.issue([HOST])
    assert verdict(leaf.chain, tlsa(ROOT.root, 2, 1, 0)) == PASSED
    rsa = Authority("RSA", key="rsa")
    assert verdict(rsa.issue([HOST]).chain, tlsa(rsa.root, 2, 1, 0)) == PASSED
    edwards = Authority("Ed", key="ed25519")
    assert verdict(edwards.issue([HOST]).chain, tlsa(edwards.root, 2, 1, 0)) == PASSED
    assert said(verdict(leaf.chain, tlsa(STRANGER.root, 2, 1, 0))) == NO_MATCH


def test_a_key_vouches_only_for_what_it_signed() -> None:
    """RFC 7671 §5.2.3: a false certificate with the name of the authority does not help."""
    false = Authority("Root")
    assert said(verdict(false.issue([HOST]).chain, tlsa(ROOT.root, 2, 1, 0))) == NO_MATCH


def test_the_leaf_is_nobodys_trust_anchor() -> None:
    """RFC 7671 §5.2: an authority issued the certificate; OpenSSL says no match as well."""
    issued = self_signed([HOST])
    assert said(verdict(issued.chain, tlsa(issued.certificate, 2, 1, 1))) == NO_MATCH
    assert said(verdict(issued.chain, tlsa(issued.certificate, 2, 0, 1))) == NO_MATCH
    for kind in SELECTORS:
        assert said(verdict((*LEAF.chain, LEAF.certificate), tlsa(LEAF.certificate, 2, *kind))) == NO_MATCH


def test_a_matching_anchor_that_did_not_issue_the_leaf() -> None:
    """The server put the published authority beside a chain of its own."""
    chain = (*STRANGER.issue([HOST]).chain, ROOT.root)
    assert said(verdict(chain, tlsa(ROOT.root, 2, 0, 1)))[0] == "certificate-not-trusted"


@pytest.mark.parametrize(
    ("chain", "expected"),
    [
        (LOWER.issue([OTHER]).chain, ("certificate-host-mismatch", "")),
        (STALE.chain, ("certificate-expired", "")),
        (LOWER.issue([HOST], not_before=NOW + DAY).chain, ("certificate-expired", "certificate-not-yet-valid")),
        (
            MIDDLE.subordinate("Old", not_after=NOW - DAY).issue([HOST]).chain,
            ("certificate-expired", "issuer-certificate-expired"),
        ),
        (LOWER.issue([HOST], eku=CLIENT_AUTH).chain, ("certificate-not-trusted", "unsuitable-certificate-purpose")),
    ],
)
def test_dane_ta_checks_dates_names_and_purpose(chain: Sequence[bytes], expected: tuple[str, str]) -> None:
    """RFC 7672 §3.1.2: DANE-TA MUST check names and dates; each trouble keeps its own result type (RFC 8460 §4.3)."""
    assert said(verdict(chain, tlsa(MIDDLE.certificate, 2, 0, 1))) == expected


def test_dane_ta_obeys_the_constraints_of_the_anchor() -> None:
    """RFC 7671 §5.2.1."""
    narrow = Authority("Wide").subordinate("Narrow", permitted=["example.com"])
    chain = narrow.issue([HOST]).chain
    assert said(verdict(chain, tlsa(narrow.certificate, 2, 0, 1))) == ("certificate-not-trusted", "permitted-subtree-violation")
    flat = Authority("Flat", path_length=0)
    below = flat.subordinate("Below").issue([HOST], with_root=True)
    assert said(verdict(below.chain, tlsa(flat.root, 2, 0, 1)))[0] == "certificate-not-trusted"


def test_any_reference_name_is_enough() -> None:
    """RFC 7672 §3.2.2."""
    record = tlsa(LOWER.certificate, 2, 1, 1)
    assert verdict(LEAF.chain, record, names=(OTHER, HOST)) == PASSED
    assert said(verdict(LEAF.chain, record, names=(OTHER,))) == ("certificate-host-mismatch", "")
    assert verdict(LOWER.issue(["*.example.org"]).chain, record) == PASSED


def test_the_common_name_counts_only_where_allowed() -> None:
    """RFC 7672 §3.2.3; RFC 9525 has abolished it."""
    chain = LOWER.issue([], cn=HOST).chain
    record = tlsa(LOWER.certificate, 2, 1, 1)
    assert said(verdict(chain, record)) == ("certificate-host-mismatch", "")
    assert verdict(chain, record, common_name=True) == PASSED


def test_any_one_record_is_enough() -> None:
    """RFC 7672 §3.2: EE or TA, whichever matches; those that do not are no objection."""
    wrong_ee, wrong_ta = tlsa(STALE.certificate, 3, 1, 1), tlsa(STRANGER.root, 2, 0, 1)
    right_ee, right_ta = tlsa(LEAF.certificate, 3, 1, 1), tlsa(LOWER.certificate, 2, 0, 1)
    assert verdict(LEAF.chain, wrong_ee, wrong_ta, right_ee) == PASSED
    assert verdict(LEAF.chain, wrong_ee, wrong_ta, right_ta) == PASSED
    assert said(verdict(LEAF.chain, wrong_ee, wrong_ta)) == NO_MATCH


def test_one_good_anchor_of_several_is_enough() -> None:
    """An expired authority that is also published does not spoil the path that ends below it."""
    key = ec.generate_private_key(ec.SECP256R1())
    old_root = Authority("Old", key=key, not_after=NOW - DAY)
    middle = old_root.subordinate("Good")
    chain = middle.issue([HOST], with_root=True).chain
    records = (tlsa(old_root.root, 2, 0, 1), tlsa(middle.certificate, 2, 0, 1))
    assert verdict(chain, *records) == PASSED
    assert verdict(chain, *reversed(records)) == PASSED
    assert said(verdict(chain, records[0])) == ("certificate-expired", "issuer-certificate-expired")


def test_the_failure_that_came_closest_is_told() -> None:
    """A name mismatch under one anchor says more than no path to another."""
    chain = (*LOWER.issue([OTHER]).chain, STRANGER.root)
    assert (
        said(verdict(chain, tlsa(STRANGER.root, 2, 0, 1), tlsa(LOWER.certificate, 2, 0, 1)))[0] == "certificate-host-mismatch"
    )


def test_local_roots_play_no_part() -> None:
    """RFC 7671 §5.2: only the published anchor counts; the system's own authorities do not."""
    assert said(verdict(LEAF.chain, tlsa(STRANGER.root, 2, 0, 0))) == NO_MATCH
    assert said(verdict((*LEAF.chain, ROOT.root), tlsa(STRANGER.root, 2, 0, 0))) == NO_MATCH


@pytest.mark.parametrize(
    "chain", [(), (b"",), (b"rubbish",), (b"\x30\x80",) * 5, (LEAF.certificate, *[LOWER.certificate] * 60)]
)
def test_hostile_chains_are_a_verdict(chain: Sequence[bytes]) -> None:
    records = (
        tlsa(STALE.certificate, 3, 1, 1),
        tlsa(ROOT.root, 2, 1, 0),
        tlsa(ROOT.root, 2, 0, 0),
        tlsa(STRANGER.root, 2, 0, 1),
    )
    assert not verdict(chain, *records).passed


def test_a_chain_without_end_is_too_long_for_dane_ta() -> None:
    chain = (LEAF.certificate, *[LOWER.certificate] * 60)
    for record in (tlsa(LOWER.certificate, 2, 0, 1), tlsa(STRANGER.root, 2, 1, 0)):
        assert said(verdict(chain, record))[1] == "certificate-chain-too-long"


@pytest.mark.parametrize("selector", [0, 1])
def test_records_without_end_cost_bounded_work(selector: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever publishes a hundred authorities does not make us try a hundred paths, or a hundred keys on every certificate."""
    work = []

    def count(*arguments: object, **_: object) -> Failure:
        work.append(arguments)
        return Failure(result_type=ResultType.CERTIFICATE_NOT_TRUSTED, reason="unknown-issuer")

    monkeypatch.setattr(match, "check_path", count)
    monkeypatch.setattr(match, "_signed_by", lambda *arguments: work.append(arguments))
    records = [tlsa(Authority(f"Number {number}").root, 2, selector, 0) for number in range(30)]
    assert said(verdict(LEAF.chain, *records)) == NO_MATCH
    assert len(work) == MAX_ANCHORS * (1 if selector == 0 else len(LEAF.chain))


def test_at_most_so_many_paths_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Authorities from the chain and from DNS together."""
    tried = []

    def count(*arguments: object, **_: object) -> Failure:
        tried.append(arguments)
        return Failure(result_type=ResultType.CERTIFICATE_NOT_TRUSTED, reason="unknown-issuer")

    monkeypatch.setattr(match, "check_path", count)
    records = [tlsa(Authority(f"Number {number}").root, 2, 0, 0) for number in range(MAX_ANCHORS)]
    records += [tlsa(certificate, 2, 0, 1) for certificate in LEAF.chain[1:]]
    assert not verdict(LEAF.chain, *records).passed
    assert len(tried) == MAX_ANCHORS


def test_a_certificate_without_a_readable_key_matches_no_key() -> None:
    """Not even the digest of nothing."""
    assert said(verdict((b"rubbish",), f"3 1 1 {hashlib.sha256(b'').hexdigest()}")) == NO_MATCH


def test_the_key_of_another_kind_of_record_is_compared_as_it_stands() -> None:
    assert verdict(LEAF.chain, f"3 1 0 {spki(LEAF.certificate).hex()}") == PASSED
    assert said(verdict(LEAF.chain, f"3 1 0 {spki(LOWER.certificate).hex()}")) == NO_MATCH
