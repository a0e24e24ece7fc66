"""The `_smtp._tls` TXT record (RFC 8460 §3)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postward_tlsrpt.record import MAX_RECORD, MAX_URIS, RecordError, TlsRptRecord, choose, parse

MAIL, WEB = "mailto:tls@b.example", "https://reports.b.example/v1/tlsrpt"


@pytest.mark.parametrize(
    ("text", "rua"),
    [
        (f"v=TLSRPTv1;rua={MAIL}", (MAIL,)),
        (f"v=TLSRPTv1; rua={MAIL};", (MAIL,)),
        (f"v=TLSRPTv1 ; rua={WEB} ; ", (WEB,)),
        (f"v=TLSRPTv1; rua={MAIL},{WEB}", (MAIL, WEB)),
        (f"v=TLSRPTv1;\trua={MAIL} \t,  {WEB}\t;\t", (MAIL, WEB)),
        (f"v=TLSRPTv1; rua={MAIL}; rua={WEB}", (MAIL, WEB)),
        (f"v=TLSRPTv1; new=1; rua={MAIL}", (MAIL,)),
        (f"v=TLSRPTv1; rua={MAIL},{MAIL}", (MAIL,)),
        ("v=TLSRPTv1; rua=MAILTO:tls@b.example", ("MAILTO:tls@b.example",)),
        ("v=TLSRPTv1; rua=mailto:a%2Cb%21c%3Bd@b.example", ("mailto:a%2Cb%21c%3Bd@b.example",)),
        ("v=TLSRPTv1; rua=https://b.example/?a=b", ("https://b.example/?a=b",)),
    ],
)
def test_valid_records(text: str, rua: tuple[str, ...]) -> None:
    """§3: several rua, commas, white space; `,` `!` `;` stay encoded as published."""
    assert parse(text) == TlsRptRecord(rua=rua, extensions=(("new", "1"),) if "new" in text else ())


@pytest.mark.parametrize("uri", ["ftp://b.example/", "http://b.example/", "tel:123", "mailto:tls@b.example!10m"])
def test_what_nobody_can_send_to_is_ignored(uri: str) -> None:
    """§3: only mailto and https are defined; `!` must be encoded, a size limit of DMARC does not exist here."""
    assert parse(f"v=TLSRPTv1; rua={uri},{WEB}") == TlsRptRecord(rua=(WEB,), ignored=(uri,))
    assert parse(f"v=TLSRPTv1; rua={uri}").rua == ()


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("v=TLSRPTv1;", 11),
        ("v=TLSRPTv1; ", 11),
        ("v=TLSRPTv1; new=1", 17),
        ("v=TLSRPTv1; rua=", 11),
        ("v=TLSRPTv1; rua=tls@b.example", 11),
        (f"v=TLSRPTv1; rua={MAIL},", 11),
        (f"v=TLSRPTv1; rua={MAIL} {WEB}", 11),
        (f"v=TLSRPTv1;; rua={MAIL}", 11),
        (f"v=TLSRPTv1; rua={MAIL};;", 37),
        (f"v=TLSRPTv1; rua={MAIL}; x", 37),
        (f"v=TLSRPTv1; rua={MAIL}; x=a b", 37),
        (f"v=TLSRPTv1; rua={MAIL}; x=\xe4", 37),
        (f"v=TLSRPTv1; RUA={MAIL}", 36),
    ],
)
def test_invalid_records_say_where(text: str, position: int) -> None:
    with pytest.raises(RecordError) as caught:
        parse(text)
    assert (caught.value.slug, caught.value.position) == ("record-syntax-error", position)


def test_records_have_sizes() -> None:
    with pytest.raises(RecordError, match="longer"):
        parse(f"v=TLSRPTv1; rua={MAIL}; x=" + "y" * MAX_RECORD)
    with pytest.raises(RecordError, match="addresses"):
        parse("v=TLSRPTv1; rua=" + ",".join(f"mailto:a{n}@b.example" for n in range(MAX_URIS + 1)))


@pytest.mark.parametrize("other", ["", "v=TLSRPTv1", "v=tlsrptv1; rua=mailto:a@b", "v=TLSRPTv2; x=1", "v=spf1 -all"])
def test_other_records_do_not_count(other: str) -> None:
    assert choose([other]) is None
    assert choose([other, f"v=TLSRPTv1; rua={MAIL}"]) == TlsRptRecord(rua=(MAIL,))


def test_exactly_one_must_be_left() -> None:
    """§3: otherwise the domain does not implement TLSRPT."""
    with pytest.raises(RecordError) as caught:
        choose([f"v=TLSRPTv1; rua={MAIL}", f"v=TLSRPTv1; rua={MAIL}"])
    assert caught.value.slug == "multiple-tlsrpt-records"


URI = st.builds(
    lambda scheme, rest: f"{scheme}:{rest}",
    st.sampled_from(["mailto", "https", "x-other"]),
    st.text([chr(c) for c in range(0x21, 0x7F) if chr(c) not in ",!;"], min_size=1, max_size=12),
)
SPACE = st.text(" \t", max_size=2)


@given(st.lists(st.lists(URI, min_size=1, max_size=3), min_size=1, max_size=3), SPACE, SPACE, st.booleans())
def test_what_the_grammar_makes_is_read(fields: list[list[str]], before: str, after: str, closed: bool) -> None:
    parts = ["v=TLSRPTv1", *("rua=" + f"{before},{after}".join(uris) for uris in fields)]
    record = parse(f"{before};{after}".join(parts) + (";" if closed else ""))
    expected = list(dict.fromkeys(uri for uris in fields for uri in uris))
    assert [uri for uri in expected if not uri.startswith("x-")] == list(record.rua)
    assert sorted(record.rua + record.ignored) == sorted(expected)


@given(st.text(max_size=80).map(lambda tail: f"v=TLSRPTv1;{tail}"))
def test_anything_else_is_a_record_error(text: str) -> None:
    try:
        position = len(parse(text).rua)
    except RecordError as exc:
        position = exc.position
    assert 0 <= position <= len(text)
