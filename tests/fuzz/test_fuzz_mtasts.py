"""Fuzz targets of MTA-STS: whatever comes from DNS or a policy host is read or is one error (RFC 8461 §3.1, §3.2)."""

# ruff: noqa: PT017 - a target says as much about an error as about an answer
from __future__ import annotations

from hypothesis import strategies as st

from fuzzing import fuzz
from postward.http import HttpResponse
from postward.model import Failure, Mode, ResultType, Severity
from postward.names import Domain
from postward_mtasts import cache, policy, record, show
from postward_mtasts.checks import Seen, findings
from postward_mtasts.fetch import Fetched, FetchError
from postward_mtasts.policy import PolicyError
from postward_mtasts.record import RecordError

NOW = 1_795_521_600_000_000
DOMAIN = Domain("b.example")
RECORDS = (
    "v=STSv1; id=20160831085700Z;",
    "v=STSv1;id=a;x=y",
    "v=STSv1 ; x.y-z_=1 ; id=Ab ;\t",
    "v=STSv1; id=a; id=b",
    "v=spf1",
)
POLICIES = (
    b"version: STSv1\r\nmode: enforce\r\nmx: mail.example.com\r\nmx: *.example.net\r\nmax_age: 604800\r\n",
    "mode:none\nversion:STSv1\nmax_age:1\nnew: ü x y".encode(),
    b"version: STSv1\nmode: testing\nmode: none\nmax_age: 31557600\nmx: a.b\nmx:c-d.e \n",
    b"<!DOCTYPE html>\n<html></html>\n",
    b"HTTP/1.1 200 OK\r\n\r\n",
)
PIECES = [
    b"version",
    b"mode",
    b"max_age",
    b"mx",
    b":",
    b": ",
    b"STSv1",
    b"enforce",
    b"*.",
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b"\xff",
]
PIECES += [b"\xc3\xbc", b"\xef\xbb\xbf", b"9999999999", b"-1", b" ", b"\t", b"x" * 300, b"mx: a\n" * 50, b"\xed\xa0\x80"]

octets = st.binary(max_size=300) | st.lists(st.sampled_from(PIECES) | st.binary(max_size=3), max_size=40).map(b"".join)
edits = st.lists(st.tuples(st.integers(0, 120), st.integers(0, 8), st.sampled_from(PIECES) | st.binary(max_size=4)), max_size=5)


def edited(seed: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    """A good input in which some places were replaced."""
    for place, length, new in changes:
        seed = seed[:place] + new + seed[place + length :]
    return seed


bodies = octets | st.builds(edited, st.sampled_from(POLICIES), edits)
texts = bodies.map(lambda body: body.decode("latin-1")) | st.builds(
    lambda seed, changes: edited(seed.encode("latin-1"), changes).decode("latin-1"), st.sampled_from(RECORDS), edits
)


def meant(text: str) -> bool:
    """Whether it begins as a record of MTA-STS does."""
    return text.startswith("v=STSv1") and text[7:].lstrip(" \t").startswith(";")


def test_record() -> None:
    def target(text: str) -> None:
        try:
            read = record.parse(text)
        except RecordError as exc:
            assert 0 <= exc.position <= len(text)
            assert "\n" not in str(exc)
        else:
            again = "; ".join([f"v=STSv1; id={read.id}", *(f"{name}={value}" for name, value in read.extensions)])
            assert record.parse(again) == read

    fuzz(texts, target)


def test_records() -> None:
    def target(several: list[str]) -> None:
        try:
            chosen = record.choose(several)
        except RecordError as exc:
            assert exc.slug in ("multiple-mta-sts-records", "record-syntax-error")
        else:
            assert (chosen is None) == (not any(map(meant, several)))

    fuzz(st.lists(texts, max_size=4), target)


def test_policy() -> None:
    def target(body: bytes) -> None:
        try:
            text = policy.decode(body)
            read = policy.parse(text)
        except PolicyError as exc:
            assert 0 <= exc.line <= body.count(b"\n") + 1
            assert (exc.line == 0) == (exc.column == 0)
            assert "\n" not in str(exc)
            return
        assert 0 <= read.max_age <= policy.MAX_AGE
        assert read.mx or read.mode is Mode.NONE
        shown = policy.parse("\n".join(policy.lines(text)))
        assert (shown.mode, shown.max_age, shown.mx) == (read.mode, read.max_age, read.mx), "reports say what acts"
        entry = cache.fetched(None, DOMAIN, "1", text, NOW, chance=0.5)
        assert NOW < entry.due <= max(entry.expires, NOW) + cache.DAY
        applied = cache.apply(entry)
        assert (applied is None) == (read.mode is Mode.NONE)

    fuzz(bodies, target)


def test_lines() -> None:
    def target(text: str) -> None:
        shown = policy.lines(text)
        assert len(shown) <= 200
        assert all(len(line) <= 500 and "\n" not in line and "\x1b" not in line for line in shown)

    fuzz(st.text(max_size=2000) | texts, target)


def test_findings() -> None:
    """Whatever a domain publishes, looking at it says something and can be shown."""

    def target(given: tuple[list[str], bytes, str, list[str]]) -> None:
        several, body, media_type, hosts = given
        error = None
        chosen = None
        try:
            chosen = record.choose(several)
        except RecordError as exc:
            error = exc
        fetched, failed = None, None
        response = HttpResponse(status=200, headers={}, body=body)
        try:
            text = policy.decode(response.body)
            fetched = Fetched(policy=policy.parse(text), text=text, media_type=media_type)
        except PolicyError as exc:
            failure = Failure(result_type=ResultType.STS_POLICY_INVALID, reason="policy-syntax-error", detail=str(exc))
            failed = FetchError(failure, policy.lines(body.decode("utf-8", "replace")), exc)
        seen = Seen(
            domain=DOMAIN,
            texts=tuple(several),
            record=chosen,
            record_error=error,
            fetched=fetched,
            fetch_error=failed,
            hosts=tuple(map(Domain, hosts)),
        )
        found = findings(seen, None, None, DOMAIN, NOW)
        assert found
        assert all(finding.why for finding in found if finding.severity is not Severity.OK)
        show.seen_json(seen, found)

    hosts = st.from_regex(r"[a-z0-9]{1,8}(\.[a-z0-9]{1,8}){1,3}", fullmatch=True)
    fuzz(st.tuples(st.lists(texts, max_size=3), bodies, st.text(max_size=20), st.lists(hosts, max_size=4)), target)
