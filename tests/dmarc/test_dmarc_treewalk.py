"""The tree walk (RFC 9989 §4.10)."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postward.names import Domain
from postward_dmarc.questions import Lookup
from postward_dmarc.treewalk import Walk, names, walk


def run(start: str, records: dict[str, str | list[str]], failed: str = "") -> tuple[Walk, list[str]]:
    asker, asked = walk(Domain(start)), []
    try:
        question = next(asker)
        while True:
            assert question.rdtype == "TXT"
            name = question.name.removeprefix("_dmarc.")
            asked.append(name)
            texts = records.get(name, [])
            texts = [texts] if isinstance(texts, str) else texts
            question = asker.send(Lookup(failed="dns-servfail") if name == failed else Lookup(texts=tuple(texts)))
    except StopIteration as stop:
        return stop.value, asked


P = "v=DMARC1; p=none"


def test_thirteen_labels_are_eight_queries():
    """RFC 9989 §4.10: the name, then its right-most 7, 6, 5, 4, 3, 2, 1 labels."""
    name = "a.b.c.d.e.f.g.h.i.j.k.example.com"
    _, asked = run(name, {})
    assert asked == [name, *(".".join(name.split(".")[-n:]) for n in range(7, 0, -1))]
    assert len(asked) == 8


@pytest.mark.parametrize("labels", [1, 2, 7, 8, 9, 30])
def test_number_of_queries(labels):
    assert len(run(".".join("abcdefghijklmnopqrstuvwxyzabcd"[:labels]), {})[1]) == min(labels, 8)


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=40))
def test_names_are_ancestors_longest_first(labels):
    start = Domain(".".join(labels))
    found = names(start)
    assert found[0] == start
    assert len(found) <= 8
    assert found[-1] == start.labels[-1]
    assert all(start.is_below(name) for name in found)
    assert all(len(a.labels) > len(b.labels) for a, b in pairwise(found))


@pytest.mark.parametrize(
    ("start", "records", "organizational", "policy_domain", "queries"),
    [
        ("example.com", {"example.com": P}, "example.com", "example.com", 2),
        ("a.example.com", {"example.com": P}, "example.com", "example.com", 3),
        # The record with the fewest labels, not the nearest one.
        ("a.b.example.com", {"b.example.com": P, "example.com": P}, "example.com", "example.com", 4),
        ("a.b.example.com", {"a.b.example.com": P, "example.com": P}, "example.com", "a.b.example.com", 4),
        # psd=n ends the walk and wins.
        ("a.b.example.com", {"b.example.com": f"{P}; psd=n", "example.com": P}, "b.example.com", "b.example.com", 2),
        ("b.example.com", {"b.example.com": f"{P}; psd=n", "example.com": P}, "b.example.com", "b.example.com", 1),
        # psd=y: one label below it, whose record applies, or else the PSD's own.
        ("a.example.bank", {"bank": f"{P}; psd=y", "example.bank": P}, "example.bank", "example.bank", 3),
        ("a.example.bank", {"bank": f"{P}; psd=y"}, "example.bank", "bank", 3),
        ("a.b.example.co.uk", {"co.uk": f"{P}; psd=y", "b.example.co.uk": P}, "example.co.uk", "co.uk", 4),
        ("bank", {"bank": f"{P}; psd=y"}, "bank", "bank", 1),
        ("co.uk", {"co.uk": f"{P}; psd=y", "uk": P}, "co.uk", "co.uk", 1),
        ("a.example.com", {}, "a.example.com", None, 3),
        # Several records at a name count as none, records of other versions do not count.
        (
            "a.example.com",
            {"a.example.com": [P, P], "example.com": ["v=spf1", P, "v=DMARC2; p=none"]},
            "example.com",
            "example.com",
            3,
        ),
    ],
)
def test_organizational_domain_and_policy(start, records, organizational, policy_domain, queries):
    """RFC 9989 §4.10.1, §4.10.2."""
    found, asked = run(start, records)
    assert found.organizational == organizational
    assert (found.policy[0] if found.policy else None) == policy_domain
    assert len(asked) == queries


def test_a_record_beyond_the_walk_is_not_seen():
    """RFC 9989 §5.1.8: of long names only the own record and the last seven labels count."""
    name = "a.b.c.d.e.f.g.h.example.com"
    found, _ = run(name, {"b.c.d.e.f.g.h.example.com": P, "d.e.f.g.h.example.com": P})
    assert [domain for domain, _ in found.found] == ["d.e.f.g.h.example.com"]


def test_a_failed_query_concludes_nothing():
    """RFC 9989 §5.3.6."""
    found, asked = run("a.example.com", {"a.example.com": P}, failed="example.com")
    assert found.failed == "dns-servfail"
    assert asked == ["a.example.com", "example.com"]
    assert found.own is not None
