"""The answer cache: lifetimes and bounds (RFC 2308 §5)."""

from __future__ import annotations

from dataclasses import replace

import dns.rdata
import pytest
from hypothesis import given
from hypothesis import strategies as st

from postward.dns import Answer, DnsFailure, Status
from postward.dns.cache import AnswerCache, lifetime
from postward.names import Domain

NAME = Domain("example.com")


def answer(status: Status = Status.SECURE, ttl: int = 60) -> Answer:
    failure = DnsFailure(rcode="SERVFAIL") if status is Status.FAILED else None
    return Answer(name=NAME, rdtype="A", status=status, ttl=ttl, canonical=NAME, failure=failure)


@pytest.mark.parametrize(
    ("status", "ttl", "expected"),
    [
        (Status.SECURE, 60, 60),
        (Status.INSECURE, 86_400, 3600),
        (Status.ABSENT, 86_400, 900),
        (Status.ABSENT, 0, 0),
        (Status.FAILED, 0, 5),
    ],
)
def test_lifetimes(status: Status, ttl: int, expected: float) -> None:
    assert lifetime(answer(status, ttl)) == expected


def test_an_answer_ages_and_goes() -> None:
    cache = AnswerCache(10)
    cache.put(("example.com", "A"), answer(), 1000.0)
    found = cache.get(("example.com", "A"), 1040.5)
    assert found is not None
    assert found.ttl == 20
    assert cache.get(("example.com", "A"), 1060.0) is None
    assert len(cache) == 0


def test_an_answer_without_ttl_is_not_kept() -> None:
    cache = AnswerCache(10)
    cache.put(("example.com", "A"), answer(ttl=0), 0)
    assert len(cache) == 0


@pytest.mark.parametrize(("rdtype", "data", "kept"), [("TXT", 2000, True), ("TXT", 9000, False), ("TLSA", 9000, False)])
def test_what_is_very_large_is_not_kept(rdtype: str, data: int, kept: bool) -> None:
    """Ten thousand answers of 64 KiB are zones that strangers can make."""
    text = " ".join(f'"{"x" * 250}"' for _ in range(data // 250)) if rdtype == "TXT" else f"3 0 0 {'00' * data}"
    record = dns.rdata.from_text("IN", rdtype, text)
    cache = AnswerCache(2)
    cache.put((NAME, rdtype), replace(answer(), rdtype=rdtype, records=(record,)), 0)
    assert len(cache) == kept


def test_the_least_recently_used_goes_first() -> None:
    cache = AnswerCache(2)
    for name in ("a", "b"):
        cache.put((name, "A"), answer(), 0)
    assert cache.get(("a", "A"), 1)
    cache.put(("c", "A"), answer(), 2)
    assert cache.get(("b", "A"), 2) is None
    assert cache.get(("a", "A"), 2)


@given(st.integers(0, 5), st.lists(st.tuples(st.integers(0, 9), st.integers(0, 100)), max_size=60))
def test_it_never_outgrows_its_size(size: int, steps: list[tuple[int, int]]) -> None:
    cache, now = AnswerCache(size), 0.0
    for number, ttl in steps:
        now += 1
        cache.put((str(number), "A"), answer(ttl=ttl), now)
        assert len(cache) <= size
