"""The policy file (RFC 8461 §3.2)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postward.model import Mode
from postward_mtasts.policy import MAX_AGE, MAX_BYTES, PolicyError, StsPolicy, decode, lines, parse

EXAMPLE = (
    "version: STSv1\r\nmode: enforce\r\nmx: mail.example.com\r\n"
    "mx: *.example.net\r\nmx: backupmx.example.com\r\nmax_age: 604800\r\n"
)


def test_the_example_of_the_rfc() -> None:
    """RFC 8461 §3.2."""
    expected = StsPolicy(mode=Mode.ENFORCE, max_age=604800, mx=("mail.example.com", "*.example.net", "backupmx.example.com"))
    assert parse(EXAMPLE) == parse(EXAMPLE.replace("\r\n", "\n")) == parse(EXAMPLE.removesuffix("\r\n")) == expected


def test_white_space_order_and_empty_lines_do_not_matter() -> None:
    """RFC 8461 §3.2 grammar: `*WSP` behind the colon and at the end; the version need not come first."""
    text = "max_age:\t 9 \t\nmx:a.example\n\nmode:   testing\nversion:STSv1\n\n"
    assert parse(text) == StsPolicy(mode=Mode.TESTING, max_age=9, mx=("a.example",))


def test_the_first_of_duplicates_counts_and_unknown_fields_are_kept() -> None:
    """RFC 8461 §3.2: "only the first value is considered", except for mx."""
    text = EXAMPLE + "mode: none\nmax_age: x\nversion: STSv2\nnew: a \xfc b\nnew: c\nMode: none\n"
    read = parse(text)
    assert (read.mode, read.max_age) == (Mode.ENFORCE, 604800)
    assert read.extensions == (("new", "a \xfc b"), ("Mode", "none"))


def test_an_extension_may_hold_any_utf8() -> None:
    """RFC 8461 §3.2 grammar: UTF8-2 to UTF8-4, which is more than letters; supersets must be accepted."""
    read = parse(EXAMPLE + "new: a\x85b\u2028\U0001f600\n")
    assert read.extensions == (("new", "a\x85b\u2028\U0001f600"),)
    assert lines("new: \x85\x9b31m") == ("new: \N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}31m",)


def test_max_age_is_a_year_at_most() -> None:
    """RFC 8461 §3.2: maximum 31557600; larger values are taken as that."""
    assert parse(EXAMPLE.replace("604800", "9999999999")).max_age == MAX_AGE == 31557600
    assert parse(EXAMPLE.replace("604800", "0")).max_age == 0


def test_mode_none_needs_no_mx() -> None:
    """RFC 8461 §3.2: mx is required unless the mode is none."""
    assert parse("version: STSv1\nmode: none\nmax_age: 86400\n").mode is Mode.NONE
    with pytest.raises(PolicyError, match="without any mx"):
        parse("version: STSv1\nmode: testing\nmax_age: 86400\n")


def test_patterns_are_lower_case_a_labels() -> None:
    """RFC 8461 §3.2: A-labels, `*.` once and in front."""
    text = EXAMPLE.replace("mail.example.com", "MAIL.XN--bcher-kva.example")
    assert parse(text).mx[0] == "mail.xn--bcher-kva.example"


@pytest.mark.parametrize(
    ("old", "new", "line", "column"),
    [
        ("STSv1", "STSv2", 1, 10),
        ("version: STSv1\r\n", "", 0, 0),
        ("enforce", "Enforce", 2, 7),
        ("enforce", "report", 2, 7),
        ("mode: enforce", "mode:\t  enforced", 2, 9),
        ("mode: enforce\r\n", "", 0, 0),
        ("mode:", "mode", 2, 5),
        ("mode:", " mode:", 2, 1),
        ("mode:", "mode :", 2, 5),
        ("mode:", "m" * 33 + ":", 2, 33),
        ("enforce", "", 2, 6),
        ("max_age: 604800\r\n", "", 0, 0),
        ("604800", "-1", 6, 10),
        ("604800", "1.5", 6, 10),
        ("604800", "12345678901", 6, 10),
        ("604800", "\u0661", 6, 10),
        ("mail.example.com", "*.*.example.com", 3, 5),
        ("mail.example.com", "*", 3, 5),
        ("mail.example.com", "*.", 3, 5),
        ("mail.example.com", "a*.example.com", 3, 5),
        ("mail.example.com", ".example.com", 3, 5),
        ("mail.example.com", "b\xfccher.example", 3, 5),
        ("mail.example.com", "mail.example.com.", 3, 5),
        ("mail.example.com", "[192.0.2.1]", 3, 5),
        ("mail.example.com", "a.example b.example", 3, 5),
        ("mail.example.com", "a.example,b.example", 3, 5),
        ("mail.example.com", "mail.example.com\rmx: evil.example", 3, 21),
        ("mail.example.com", "mail.example.com\0", 3, 21),
        ("mode: enforce\r\n", "mode: enforce\r\n<html>\r\n", 3, 1),
    ],
)
def test_errors_name_the_place(old: str, new: str, line: int, column: int) -> None:
    """RFC 8461 §3.2: what is not of the grammar is no policy; the operator sees where."""
    with pytest.raises(PolicyError) as caught:
        parse(EXAMPLE.replace(old, new, 1))
    assert (caught.value.line, caught.value.column) == (line, column)
    assert not line or f"line {line}, column {column}: " in str(caught.value)


def test_bytes_that_are_no_text() -> None:
    """RFC 8461 §3.2: a policy is UTF-8 text, of at most 64 KiB (§3.3)."""
    with pytest.raises(PolicyError) as caught:
        decode(EXAMPLE.encode() + b"x: \xc3\xbc\xff\n")
    assert (caught.value.line, caught.value.column) == (7, 5)
    with pytest.raises(PolicyError, match="larger"):
        decode(b"x" * (MAX_BYTES + 1))
    for charset in ("utf-16", "utf-16-le", "utf-32"):
        with pytest.raises(PolicyError):
            parse(decode(EXAMPLE.encode(charset)))
    with pytest.raises(PolicyError) as caught:
        parse(decode(EXAMPLE.encode("utf-8-sig")))
    assert (caught.value.line, caught.value.column) == (1, 1), "a byte order mark is not of the grammar"


def test_counts_are_limited() -> None:
    with pytest.raises(PolicyError, match="patterns"):
        parse(EXAMPLE + "".join(f"mx: a{n}.example\n" for n in range(1000)))
    with pytest.raises(PolicyError, match="lines"):
        parse("\n" * 3000)


def test_lines_are_those_declared_errors_included() -> None:
    """RFC 8460 §4.5: "as declared", each line its own item."""
    assert lines(EXAMPLE)[:3] == ("version: STSv1", "mode: enforce", "mx: mail.example.com")
    assert lines("vresion: STSv1\nmx:  a.example \nlast") == ("vresion: STSv1", "mx:  a.example", "last")
    assert lines("") == ()


def test_lines_of_a_web_page_stay_bearable() -> None:
    shown = lines("<html>\0\x1b[31m" + "x" * 10_000 + "\n" + "<br>\n" * 10_000)
    assert shown[0].startswith("<html>\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}[31m")
    assert len(shown) == 200
    assert max(map(len, shown)) == 500


@given(st.text(max_size=200) | st.text("version:STSv1\r\nmodeax_g=*. \t<", max_size=200))
def test_any_text_is_a_policy_or_an_error(text: str) -> None:
    try:
        value, limit, column = parse(text).max_age, MAX_AGE, 0
    except PolicyError as exc:
        value, limit, column = exc.line, text.count("\n") + 1, exc.column
    assert 0 <= column <= len(text) + 1
    assert 0 <= value <= limit
    assert all("\n" not in line for line in lines(text))


HOST = st.from_regex(r"(\*\.)?[a-z0-9]{1,8}(\.[a-z0-9]{1,8}){1,3}", fullmatch=True)


@given(st.sampled_from(list(Mode)), st.integers(0, MAX_AGE), st.lists(HOST, min_size=1, max_size=5, unique=True), st.randoms())
def test_what_the_grammar_makes_is_read(mode: Mode, max_age: int, mx: list[str], random) -> None:
    written = ["version: STSv1", f"mode: {mode}", f"max_age: {max_age}"]
    for pattern in mx:
        written.insert(random.randint(0, len(written)), f"mx:{random.choice(['', ' ', chr(9)])}{pattern}")
    text = "".join(line + random.choice(["", " "]) + random.choice(["\n", "\r\n"]) for line in written)
    read = parse(text)
    assert (read.mode, read.max_age, sorted(read.mx)) == (mode, max_age, sorted(mx))
