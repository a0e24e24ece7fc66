"""The `_mta-sts` TXT record (RFC 8461 §3.1)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postward_mtasts.record import MAX_RECORD, RecordError, StsRecord, choose, parse

ALNUM = st.text("abcxyzABCXYZ0123456789", min_size=1, max_size=32)
VALUE = st.text([chr(c) for c in range(0x21, 0x7F) if chr(c) not in "=;"], min_size=1, max_size=20)
SPACE = st.text(" \t", max_size=3)


@pytest.mark.parametrize(
    ("text", "identifier"),
    [
        ("v=STSv1; id=20160831085700Z;", "20160831085700Z"),
        ("v=STSv1;id=1", "1"),
        ("v=STSv1 ; id=1", "1"),
        ("v=STSv1;\tid=1 ;\t", "1"),
        ("v=STSv1; id=1  ", "1"),
        ("v=STSv1; new=x; id=1", "1"),
        ("v=STSv1; id=first; id=second", "first"),
        ("v=STSv1; id=first; id=not-valid", "first"),
        (f"v=STSv1; id={'a' * 32}", "a" * 32),
    ],
)
def test_valid_records(text: str, identifier: str) -> None:
    """RFC 8461 §3.1: other order free, first of duplicates, white space around semicolons."""
    assert parse(text).id == identifier


def test_unknown_fields_are_kept_in_order_and_the_first_counts() -> None:
    """RFC 8461 §3.2: supersets are accepted, unknown fields ignored."""
    record = parse("v=STSv1; b.x=2; id=1; a=1; b.x=3; ID=9")
    assert record == StsRecord(id="1", extensions=(("b.x", "2"), ("a", "1"), ("ID", "9")))


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("v=STSv1;", 8),
        ("v=STSv1; ", 9),
        ("v=STSv1; id=", 12),
        ("v=STSv1; id=a-b", 12),
        (f"v=STSv1; id={'a' * 33}", 12),
        ("v=STSv1; id", 9),
        ("v=STSv1;; id=1", 8),
        ("v=STSv1; id=1;;", 14),
        ("v=STSv1; id=1 x=2", 14),
        ("v=STSv1; id=1; \xe9=2", 15),
        ("v=STSv1; id=1; x=\xe9", 17),
        ("v=STSv1; -x=1; id=1", 9),
        ("v=STSv1; id=1\n", 13),
    ],
)
def test_invalid_records_say_where(text: str, position: int) -> None:
    """RFC 8461 §3.1: US-ASCII, the version first, semicolons between the fields, an id of 1 to 32 letters and digits."""
    with pytest.raises(RecordError) as caught:
        parse(text)
    assert (caught.value.slug, caught.value.position) == ("record-syntax-error", position)


def test_a_record_has_a_size() -> None:
    with pytest.raises(RecordError, match="longer"):
        parse("v=STSv1; id=1; " + "x" * MAX_RECORD)


@pytest.mark.parametrize(
    "text", ["", "v=STSv1", "v=stsv1; id=1", "V=STSv1; id=1", " v=STSv1; id=1", "v=STSv12; id=1", "v=spf1"]
)
def test_other_records_do_not_count(text: str) -> None:
    """RFC 8461 §3.1: RRs that do not begin with `v=STSv1;` are discarded."""
    assert choose([text]) is None
    assert choose([text, "v=STSv1; id=2"]) == StsRecord(id="2")


def test_exactly_one_must_be_left() -> None:
    """RFC 8461 §3.1: several records are as no available policy, even equal ones, even broken ones."""
    for other in ("v=STSv1; id=1", "v=STSv1; id=2", "v=STSv1; broken"):
        with pytest.raises(RecordError) as caught:
            choose(["v=STSv1; id=1", other])
        assert caught.value.slug == "multiple-mta-sts-records"
    assert choose([]) is None


@given(ALNUM, st.lists(st.tuples(ALNUM, VALUE), max_size=4), SPACE, SPACE, st.booleans())
def test_what_the_grammar_makes_is_read(
    identifier: str, fields: list[tuple[str, str]], before: str, after: str, closed: bool
) -> None:
    fields = [(name, value) for name, value in fields if name != "id"]
    delimiter = f"{before};{after}"
    text = delimiter.join(["v=STSv1", *(f"{n}={v}" for n, v in fields), f"id={identifier}"]) + (delimiter if closed else "")
    first: dict[str, str] = {}
    for name, value in fields:
        first.setdefault(name, value)
    assert parse(text) == StsRecord(id=identifier, extensions=tuple(first.items()))


@given(st.text(max_size=80).map(lambda tail: f"v=STSv1;{tail}"))
def test_anything_else_is_a_record_error(text: str) -> None:
    try:
        value, limit = len(parse(text).id), 32
    except RecordError as exc:
        value, limit = exc.position, len(text)
    assert 0 <= value <= limit
